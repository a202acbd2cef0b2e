"""The page that sets SCDM beside UnSCDM: reconstruction (paper, Fig. 4) and energies above hull (Fig. 5)."""

from __future__ import annotations

from contextvars import Context
from typing import Any

import numpy as np
import pymongo
from dash import Dash, Input, Output, dcc, html
from numpy.typing import NDArray

from scdm_flows.config import WINDOW_EV
from scdm_flows.errors import ScdmError
from scdm_flows.query import CandidateDB
from scdm_flows.query.words import number
from scdm_flows.report.cards import RESULTS, card
from scdm_flows.report.evaluation import DISTANCES
from scdm_flows.report.paper import BY_GENERATOR
from scdm_flows.server.pages import figures, parts
from scdm_flows.server.pages.parts import section, table
from scdm_flows.server.security import ALL_CANDIDATES_SECONDS

GENERATORS = ("scdm", "unscdm")
LEVELS = (0.0, 0.1, 0.2, WINDOW_EV)  # eV/atom
_PROMOTED = "Each is a candidate of another campaign once more, chosen for a low energy."
DEFINITIONS = {"published": "as published", "periodic": "periodic: the same for every choice of cell"}


def measured() -> dict[str, Any] | None:
    """The reconstruction part of the packaged models' results; None where the file is not installed."""
    return (card(RESULTS) or {}).get("reconstruction")


def page(query: CandidateDB) -> list[Any]:
    """The page; ``register`` fills the part that follows the chosen campaigns."""
    names = [c.name for c in query.campaigns()]
    chosen = dcc.Dropdown(id="compare-campaigns", options=names, multi=True, placeholder="all campaigns")
    return [
        html.H1("SCDM and UnSCDM"),
        html.P(
            "SCDM generates with the symmetry of a layer group, UnSCDM is the same model without it: what the "
            "symmetry is worth."
        ),
        html.Div(
            [
                html.Section(
                    [
                        html.H2("Energy above hull of generated candidates (paper, Fig. 5)"),
                        html.Div(
                            [html.Label("Campaigns", htmlFor="compare-campaigns"), chosen], className="field narrow"
                        ),
                        html.Div("…", id="compare-energies"),
                    ],
                    className="card wide",
                ),
                *_reconstruction(),
            ],
            className="cards",
        ),
    ]


def register(app: Dash, query: CandidateDB) -> None:
    """Let the page answer."""

    @app.callback(Output("compare-energies", "children"), Input("compare-campaigns", "value"))
    def show(campaigns: list[str] | None) -> Any:
        try:
            # in a context of its own: within the limit of the other pages it could only be shorter
            return Context().run(_patiently, query, campaigns or None)
        except ScdmError as error:
            return parts.error_notice(error)


def _patiently(query: CandidateDB, campaigns: list[str] | None) -> list[Any]:
    with pymongo.timeout(ALL_CANDIDATES_SECONDS):
        return energies(query, campaigns)


def energies(query: CandidateDB, campaigns: list[str] | None) -> list[Any]:
    """Distributions and counts below each level, by generator, of chosen campaigns or of all.

    Without promoted candidates: they are there as they were generated, and were chosen for low energies.
    """
    stored = query.columns(["generator", "e_above_hull", "surrogate", "promoted_from"], campaign=campaigns)
    generated = stored["promoted_from"] == ""
    found = {name: values[generated] for name, values in stored.items()}
    promoted = int((~generated).sum())
    values: dict[str, NDArray[np.float64]] = {}
    totals: dict[str, int] = {}
    for generator in [*GENERATORS, *sorted(set(found["generator"].tolist()) - set(GENERATORS))]:
        own = found["generator"] == generator
        totals[generator] = int(own.sum())
        energy = found["e_above_hull"][own]
        if (~np.isnan(energy)).any():
            values[generator] = energy[~np.isnan(energy)]
    rows = [
        (
            generator,
            f"{total:,}",
            f"{len(values.get(generator, ())):,}",
            *(_share(values.get(generator), level, total) for level in LEVELS),
            _paper(generator),
        )
        for generator, total in totals.items()
        if total
    ]
    if not rows:
        if promoted:
            return [parts.notice("All candidates of this choice were promoted.", _PROMOTED, kind="")]
        return [parts.notice("No candidates are stored for this choice.", kind="")]
    levels = [f"E_hull ≤ {level:g}" for level in LEVELS]
    shown: list[Any] = []
    if values:
        shown.append(parts.graph(figures.e_hull(values), "distribution of the energy above hull by generator", 400))
    else:
        shown.append(html.P("None of them has an energy yet.", className="soft"))
    absent = [g for g in GENERATORS if not totals[g]]
    if absent:
        shown.append(
            html.P(f"No candidate of {' and '.join(absent)} is stored, so there is nothing beside.", className="soft")
        )
    columns = ["generator", "candidates", "with energy", *levels, f"paper, DFT, ≤ {WINDOW_EV:g}"]
    said = f"{_kind(found)}; shares are of all generated candidates of the generator, levels in eV/atom."
    if promoted:
        said += f" {promoted:,} promoted candidate{'s are' if promoted > 1 else ' is'} left out. {_PROMOTED}"
    return [*shown, table(columns, rows), html.P(said, className="soft small")]


def _kind(found: dict[str, NDArray[Any]]) -> str:
    """Which energies there are, in words."""
    surrogate = found["surrogate"][~np.isnan(found["e_above_hull"])] == 1
    predicted, computed = int(surrogate.sum()), int((~surrogate).sum())
    if predicted and computed:
        return f"E_hull of {predicted:,} from {parts.SURROGATE}, of {computed:,} from DFT: choose campaigns of one kind"
    return f"E_hull from {parts.SURROGATE}" if predicted else "E_hull from DFT"


def _share(values: NDArray[np.float64] | None, level: float, total: int) -> str:
    count = 0 if values is None else int((values <= level).sum())
    return f"{count:,} ({100 * count / total:.1f} %)"


def _paper(generator: str) -> str | None:
    if generator not in BY_GENERATOR:
        return None
    samples, window = (BY_GENERATOR[generator][step] for step in ("generated", "in_window"))
    return f"{window} of {samples:,} ({100 * window / samples:.2f} %)"


def _reconstruction() -> list[Any]:
    title = "Reconstruction of held-out layers (paper, Fig. 4)"
    found = measured()
    if found is None:
        text = "The measured distances are not installed; `scdm reconstruct` measures them."
        return [section(title, html.P(text, className="soft"), wide=True)]
    shown: list[Any] = [
        html.P(
            f"Medians over {found['n']} layers that no model was trained on: noised to t*, denoised, compared with the "
            "original; smaller is better. The baseline has its coordinates perturbed by 15 %. Energies are surrogate "
            "ones (CHGNet).",
        )
    ]
    for key, words in DEFINITIONS.items():
        medians = found[key]
        shown += [
            html.H3(f"Distances {words}"),
            html.Div(
                [
                    parts.graph(figures.distances(medians, k, name), f"{name}, {words}", 230)
                    for k, name in DISTANCES.items()
                ],
                className="small-graphs",
            ),
            html.Details(
                [
                    html.Summary("numbers"),
                    table(
                        ["", *DISTANCES.values()],
                        [(kind, *(number(values[k]) for k in DISTANCES)) for kind, values in medians.items()],
                    ),
                ]
            ),
        ]
    return [section(title, *shown, wide=True)]
