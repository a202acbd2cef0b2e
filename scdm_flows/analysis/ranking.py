"""Ranks candidates by named, weighted terms, so that every score can be taken apart, and by Pareto fronts. Pure.

Each term is between 0 and 1; a score is ``sum(weight * term) / sum(weight)``:

stability  falls linearly from 1 at E_hull <= 0 to 0 at 0.6 eV/atom (the paper's window); at most half for a
           layer outside what the energy model has learned from
dynamics   1 for phonon-stable, 0 for unstable
novelty    1 for relaxed structures that equal no known layer
prototype  distance to the nearest known prototype: the share of occupied Wyckoff positions not in common
symmetry   order of the layer group's point group over 24
gap        1 within the target range of band gaps, falling to 0 at 1 eV from it; only where there is a target; the
           predicted gap stands in for one that is not computed yet

What is not known counts half, between no and yes, and is named: nothing is pretended. Ties go by candidate_id.

The first Pareto front holds the candidates that no other equals or beats in every term and beats in one; the next holds
those that only the first front's beat, and so on. Terms of weight 0 do not count there either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.config import WINDOW_EV, ObjectiveConfig
from scdm_models.symmetry import layer_group

WEIGHTS: dict[str, float] = ObjectiveConfig().model_dump(exclude={"gap_ev"})
BINS = (0.0, 0.05, 0.1, 0.2, WINDOW_EV)
UNKNOWN = 0.5
GAP_SLOPE_EV = 1.0
FRONTS = 5  # Pareto fronts that are told apart


@dataclass(frozen=True)
class Objective:
    """What a campaign is to find.

    weights: term -> weight >= 0; gap: (lowest, highest) target band gap, eV, or None.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    gap: tuple[float, float] | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Objective:
        """The objective of a campaign's stored configuration."""
        given = ObjectiveConfig.model_validate(config.get("objective") or {})
        return cls(given.model_dump(exclude={"gap_ev"}), given.gap_ev)


@dataclass(frozen=True)
class RankInput:
    """What ranking needs of a candidate; None where it is not known. e_above_hull: eV/atom; band_gap: eV; extrapolated:
    whether the energy model knows no such layer; stable_probability, predicted_band_gap (eV): stand in for
    dynamically_stable and band_gap until these are known."""

    candidate_id: str
    e_above_hull: float | None
    dynamically_stable: bool | None
    novel: bool | None
    layer_group: int | None
    prototype_distance: float | None = None
    band_gap: float | None = None
    extrapolated: bool | None = None
    stable_probability: float | None = None
    predicted_band_gap: float | None = None


@dataclass(frozen=True)
class RankResult:
    """Rank (1 is best; None where E_hull is unknown), score, its parts by term, the terms that are guesses, and the
    Pareto front (1 is the best; None beyond the last that is told apart)."""

    candidate_id: str
    rank: int | None
    score: float | None
    terms: dict[str, float]
    unknown: tuple[str, ...] = ()
    front: int | None = None


def window_bin(e_above_hull: float) -> str:
    """The E_hull bin: ``<= 0``, ``<= 0.05``, ... ``<= 0.6`` or ``> 0.6`` eV/atom."""
    for edge in BINS:
        if e_above_hull <= edge:
            return f"<= {edge:g}"
    return f"> {BINS[-1]:g}"


def terms(candidate: RankInput, objective: Objective) -> dict[str, float | None] | None:
    """Each term of weight > 0, between 0 and 1, None where it is not known; None without an energy above hull."""
    if candidate.e_above_hull is None:
        return None
    group, symmetry = candidate.layer_group, None
    if group is not None:
        tables = layer_group(group)
        symmetry = tables.general.multiplicity / (2 if tables.centred else 1) / 24
    gap = None
    known_gap = candidate.predicted_band_gap if candidate.band_gap is None else candidate.band_gap
    if objective.gap is not None and known_gap is not None:
        low, high = objective.gap
        away = max(low - known_gap, known_gap - high, 0.0)
        gap = max(0.0, 1 - away / GAP_SLOPE_EV)

    def answer(flag: bool | None) -> float | None:
        return None if flag is None else float(flag)

    most = UNKNOWN if candidate.extrapolated else 1.0
    values = {
        "stability": min(most, max(0.0, 1 - candidate.e_above_hull / WINDOW_EV)),
        "dynamics": candidate.stable_probability
        if candidate.dynamically_stable is None
        else answer(candidate.dynamically_stable),
        "novelty": answer(candidate.novel),
        "prototype": candidate.prototype_distance,
        "symmetry": symmetry,
        "gap": gap,
    }
    return {name: value for name, value in values.items() if objective.weights.get(name, 0.0) > 0}


def rank(candidates: Iterable[RankInput], objective: Objective | None = None) -> list[RankResult]:
    """Results in rank order; those without a known E_hull follow, unranked, by candidate_id."""
    objective = objective or Objective()
    scored: list[tuple[float, str, dict[str, float | None]]] = []
    unknown: list[RankResult] = []
    total = sum(objective.weights.values())
    for candidate in candidates:
        parts = terms(candidate, objective)
        if parts is None:
            unknown.append(RankResult(candidate.candidate_id, None, None, {}))
            continue
        score = sum(objective.weights[name] * _value(value) for name, value in parts.items()) / total
        scored.append((round(score, 9), candidate.candidate_id, parts))
    scored.sort(key=lambda item: (-item[0], item[1]))
    fronts = pareto_fronts(np.array([[_value(v) for v in parts.values()] for _, _, parts in scored]))
    ranked = [
        RankResult(
            name,
            place,
            score,
            {term: objective.weights[term] * _value(value) / total for term, value in parts.items()},
            tuple(term for term, value in parts.items() if value is None),
            front or None,
        )
        for place, ((score, name, parts), front) in enumerate(zip(scored, fronts.tolist(), strict=True), 1)
    ]
    return ranked + sorted(unknown, key=lambda r: r.candidate_id)


def _value(term: float | None) -> float:
    return UNKNOWN if term is None else term


def pareto_fronts(values: NDArray[np.float64], fronts: int = FRONTS) -> NDArray[np.int64]:
    """(n,) the Pareto front of each row, 1 the best; 0 beyond the last.

    values: (n, m) to be maximised. A row dominates another if it is nowhere smaller and somewhere larger.
    """
    found = np.zeros(len(values), dtype=np.int64)
    if not len(values):
        return found
    unique, inverse = np.unique(values, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    level = np.zeros(len(unique), dtype=np.int64)
    left = np.lexsort(unique.T[::-1])[::-1]  # no row can dominate one before it
    for front in range(1, fronts + 1):
        chosen: list[int] = []
        kept = np.empty((0, unique.shape[1]))
        rest: list[int] = []
        for row in left.tolist():
            # equal rows were made one, so nowhere smaller is enough
            if len(kept) and bool((kept >= unique[row]).all(1).any()):
                rest.append(row)
                continue
            chosen.append(row)
            kept = np.vstack([kept, unique[row]])
        level[chosen] = front
        left = np.array(rest, dtype=np.int64)
        if not len(left):
            break
    return level[inverse]


def why(own: RankResult, before: RankResult | None) -> list[str]:
    """Why a candidate stands where it does, in words: its parts, and what sets it apart from the one ``before`` it."""
    if own.rank is None or own.score is None:
        return ["not ranked: its energy above hull is not known, or it was rejected, failed or is a duplicate"]
    lines = [f"rank {own.rank}: score {own.score:.3f} = {' + '.join(f'{v:.3f} {t}' for t, v in own.terms.items())}"]
    if own.unknown:
        lines.append(f"not known, counted half: {', '.join(own.unknown)}")
    if before is not None:
        gains = {term: before.terms.get(term, 0.0) - value for term, value in own.terms.items()}
        largest = sorted((x for x in gains.items() if abs(x[1]) > 5e-4), key=lambda x: -abs(x[1]))
        parts = [f"{gain:+.3f} {term}" for term, gain in largest]
        lines.append(f"{before.candidate_id} is before it: {', '.join(parts) or 'a tie, by its id'}")
    return lines
