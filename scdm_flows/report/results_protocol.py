"""The generator beside its baselines and peers by a protocol, from what was measured. Pure: cards in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from scdm_flows.query.words import number
from scdm_flows.report.evaluation import side_by_side
from scdm_flows.report.figures import published
from scdm_flows.report.markdown import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from scdm_flows.report.study import Study

META = "sun_0.1"
SHARES = {
    "one_layer": "one connected layer",
    "unique": "unique",
    "new": "new",
    "stable_0.1": "surrogate E_hull ≤ 0.1 eV/atom",
    META: "MetaS.U.N.: one of each, new, ≤ 0.1",
    "sun_0.05": "the same, ≤ 0.05",
    "sun_phonon": "MetaS.U.N. with stable surrogate phonons",
}


def section(study: Study, show: Callable[..., str]) -> Iterator[str]:
    """The section of the results page; nothing where the protocol's numbers are of other models than the study's."""
    whole = (study.models or {}).get("protocol")
    if whole is None:
        return
    models = whole["models"]
    if not models or models[0]["model_id"] not in {c.model_id for c in study.candidates}:
        return
    yield f"## Beside baselines and peers (protocol {whole['protocol']['name']})"
    yield (
        "Is it the model that finds them? Of the same model's samples, drawn apart from the study, and of what stands "
        "beside them: known layers drawn again, UnSCDM, the model's skeletons with random coordinates, and scaled "
        "copies of the nearest known layers. The model's own geometries begin at its nearest training crystal "
        "([docs/training.md](training.md)). All are relaxed and judged alike, by surrogate energies "
        "([docs/evaluation.md](evaluation.md)). Shares of all samples with their 95 % interval:"
    )
    rows = [[text, *(_cell(m["measures"].get(name)) for m in models)] for name, text in SHARES.items()]
    rows.append(["MetaS.U.N. in 1,000 raw draws", *(_cell(m["per_1000_draws"].get(META), 1, "") for m in models)])
    yield table(["", *(f"{_name(m)}, n = {m['n']}" for m in models)], rows)
    yield _said(models)
    yield show("protocol.svg", published(side_by_side(models)), "the protocol's measures side by side")


def _name(model: Mapping[str, Any]) -> str:
    return f"`{model['label']}`" if model["kind"] != "baseline" else str(model["label"])


def _cell(found: Mapping[str, float] | None, unit: float = 100, sign: str = " %") -> str:
    if found is None:
        return "–"
    value, low, high = (unit * found[key] for key in ("value", "low", "high"))
    digits = 1 if sign else 0
    return f"{number(value, digits)}{sign} ({number(low, digits)} to {number(high, digits)})"


def _said(models: list[Mapping[str, Any]]) -> str:
    """Which of the others the first model is above or below by MetaS.U.N., their intervals apart."""
    own, *others = ((_name(m), m["measures"][META]) for m in models)
    above = [name for name, found in others if own[1]["low"] > found["high"]]
    below = [name for name, found in others if own[1]["high"] < found["low"]]
    rest = [name for name, _ in others if name not in above and name not in below]
    parts = [f"above {' and '.join(above)}"] * bool(above) + [f"below {' and '.join(below)}"] * bool(below)
    parts += [f"not to be told from {', '.join(rest)}, as the intervals overlap"] * bool(rest)
    return f"By MetaS.U.N. {own[0]} is {'; '.join(parts)}."
