"""Ranks candidates by a sum of named terms, so that every score can be taken apart. Pure.

Terms (weights in ``WEIGHTS``): stability falls linearly from 1 at E_hull <= 0 to 0 at 0.6 eV/atom (the paper's
window); dynamics is 1 for phonon-stable, 0 for unstable and 1/2 where unknown (nothing is pretended: the candidate
says null, and ranks between the two); novelty is 1 for structures absent from the training data; symmetry is the
share of the layer group's point-group order among 24. Ties go by candidate_id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scdm_models.symmetry import layer_group

WINDOW = 0.6  # eV/atom, the paper's
WEIGHTS = {"stability": 0.6, "dynamics": 0.3, "novelty": 0.07, "symmetry": 0.03}
BINS = (0.0, 0.05, 0.1, 0.2, 0.6)


@dataclass(frozen=True)
class RankInput:
    """What ranking needs of a candidate; e_above_hull in eV/atom, None where not yet known."""

    candidate_id: str
    e_above_hull: float | None
    dynamically_stable: bool | None
    novel: bool | None
    layer_group: int | None


@dataclass(frozen=True)
class RankResult:
    """Rank (1 is best; None where E_hull is unknown), score and its terms."""

    candidate_id: str
    rank: int | None
    score: float | None
    terms: dict[str, float]


def window_bin(e_above_hull: float) -> str:
    """The E_hull bin: ``<= 0``, ``<= 0.05``, ... ``<= 0.6`` or ``> 0.6`` eV/atom."""
    for edge in BINS:
        if e_above_hull <= edge:
            return f"<= {edge:g}"
    return f"> {BINS[-1]:g}"


def terms(candidate: RankInput) -> dict[str, float] | None:
    """Weighted terms of the score; None where E_hull is not known."""
    if candidate.e_above_hull is None:
        return None
    half = 0.5  # unknown lies between no and yes

    def answer(flag: bool | None) -> float:
        return half if flag is None else float(flag)

    group = candidate.layer_group
    order = 0.0
    if group is not None:
        tables = layer_group(group)
        order = tables.general.multiplicity / (2 if tables.centred else 1) / 24
    values = {
        "stability": min(1.0, max(0.0, 1 - candidate.e_above_hull / WINDOW)),
        "dynamics": answer(candidate.dynamically_stable),
        "novelty": answer(candidate.novel),
        "symmetry": order,
    }
    return {name: WEIGHTS[name] * value for name, value in values.items()}


def rank(candidates: Iterable[RankInput]) -> list[RankResult]:
    """Results in rank order; those without a known E_hull follow, unranked, by candidate_id."""
    scored, unknown = [], []
    for candidate in candidates:
        parts = terms(candidate)
        if parts is None:
            unknown.append(RankResult(candidate.candidate_id, None, None, {}))
        else:
            scored.append((round(sum(parts.values()), 9), candidate.candidate_id, parts))
    scored.sort(key=lambda item: (-item[0], item[1]))
    ranked = [RankResult(name, k, score, parts) for k, (score, name, parts) in enumerate(scored, 1)]
    return ranked + sorted(unknown, key=lambda r: r.candidate_id)
