"""Places candidates on the hull of the references and among each other. Pure.

Only a candidate below the references' hull can change the place of another, so each is placed on that hull first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scdm_flows.documents.hull import HullPoint
from scdm_flows.thermo.hull import Phase, PhaseSystem

logger = logging.getLogger(__name__)

MAX_POINTS = 400
MAX_DRAWN_ELEMENTS = 5
NOTHING: Mapping[str, str] = {}
SAME_COMPOSITION = 1e-6  # atom fractions that differ by less are one composition


@dataclass(frozen=True)
class Placed:
    """A candidate on the hull of the references.

    e_above_hull, formation_energy_per_atom: eV/atom.
    """

    phase: Phase
    e_above_hull: float
    formation_energy_per_atom: float
    decomposition: dict[str, float]


@dataclass(frozen=True)
class Place:
    """A candidate among references and rivals, eV/atom.

    e_above_hull, decomposition: against the hull of all others. e_above_same_composition: above the lowest other phase
    of the same composition, None where there is none; below it where negative. computed_competitors: names of the
    candidates in ``decomposition``.
    """

    e_above_hull: float
    decomposition: dict[str, float]
    e_above_same_composition: float | None
    computed_competitors: tuple[str, ...] = ()


def place(system: PhaseSystem, candidates: Sequence[Phase]) -> list[Placed]:
    """The candidates on the hull of the references."""
    hulls = system.place_all([c.fractions for c in candidates], [c.energy_per_atom for c in candidates])
    return [
        Placed(own, hull.e_above_hull, hull.formation_energy_per_atom, hull.decomposition)
        for own, hull in zip(candidates, hulls, strict=True)
    ]


def compete(
    placed: Sequence[Placed], references: PhaseSystem, lower: Sequence[Phase], equal: Mapping[str, str] = NOTHING
) -> list[Place]:
    """The places of the candidates of a chemical system.

    placed: its candidates; lower: all candidates below the references' hull that may compete, of the system and its
    subsystems, (those among ``placed`` do not compete with themselves). A layer of an element never becomes the
    element's reference, so it competes with nothing: else it would lift all compounds of the element.

    equal: name -> name of the group of candidates that are one layer, as of several campaigns; they are no rivals.
    """
    lower = [phase for phase in lower if len(phase.fractions) > 1]
    if not lower:
        return [Place(one.e_above_hull, one.decomposition, _above_same(one.phase, references, ())) for one in placed]
    everything = PhaseSystem(references.elements, [*references.phases, *lower])
    at = {phase.name: len(references.phases) + i for i, phase in enumerate(lower)}
    groups: dict[str, list[int]] = {}
    for name, index in at.items():
        groups.setdefault(equal.get(name, name), []).append(index)
    alone = {one.phase.name: groups.get(equal.get(one.phase.name, one.phase.name), []) for one in placed}
    among = {one.phase.name: one for one in place(everything, [p.phase for p in placed if not alone[p.phase.name]])}
    found = []
    for one in placed:
        own, without = one.phase, alone[one.phase.name]
        hull = everything.place(own.fractions, own.energy_per_atom, without) if without else among[own.name]
        computed = tuple(phase.name for phase in lower if f"{phase.name} {phase.formula}" in hull.decomposition)
        same = _above_same(own, everything, without)
        found.append(Place(hull.e_above_hull, hull.decomposition, same, computed))
    return found


def _above_same(own: Phase, system: PhaseSystem, without: Sequence[int]) -> float | None:
    same = np.abs(system.matrix - system.target(own.fractions)).max(1) < SAME_COMPOSITION
    same[list(without)] = False
    if not same.any():
        return None
    formation = own.energy_per_atom - float(system.target(own.fractions) @ system.elemental)
    return float(formation - system.formation[same].min())


def points(elements: Sequence[str], references: Sequence[Phase], candidates: Sequence[Phase]) -> list[HullPoint]:
    """The phases of a chemical system with their formation energies, those on the hull marked.

    Candidates of one element are on no hull, see ``compete``.
    Of more than ``MAX_POINTS`` phases, elements, candidates, those on the hull, and the lowest others are
    kept.
    """
    phases = [*references, *candidates]
    lowest = {e: min(p.energy_per_atom for p in references if set(p.fractions) == {e}) for e in elements}
    x = np.array([[p.fractions.get(e, 0.0) for e in elements] for p in phases])
    formation = np.array([p.energy_per_atom for p in phases]) - x @ np.array([lowest[e] for e in elements])
    fit = np.array([i < len(references) or len(p.fractions) > 1 for i, p in enumerate(phases)])
    on_hull = lower_hull(x[fit], formation[fit])
    stable = None
    if on_hull is not None:
        stable = np.zeros(len(phases), dtype=bool)
        stable[fit] = on_hull
    order = sorted(
        range(len(phases)),
        key=lambda i: (
            i < len(references) and len(phases[i].fractions) > 1 and not (stable is not None and stable[i]),
            formation[i],
        ),
    )
    return [
        HullPoint(
            name=phases[i].name,
            formula=phases[i].formula,
            candidate=i >= len(references),
            energy_per_atom=phases[i].energy_per_atom,
            formation_energy_per_atom=float(formation[i]),
            stable=None if stable is None else bool(stable[i]),
        )
        for i in order[:MAX_POINTS]
    ]


def lower_hull(x: np.ndarray[Any, Any], formation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Which points lie at corners of the lower convex hull; None where that is not worked out.

    x: (n, n_elements) atom fractions; formation: (n,) eV/atom, 0 for the stable elements.
    """
    n_elements = x.shape[1]
    stable = np.zeros(len(x), dtype=bool)
    if n_elements == 1:
        stable[int(np.argmin(formation))] = True
        return stable
    if n_elements > MAX_DRAWN_ELEMENTS:
        return None
    from scipy.spatial import ConvexHull, QhullError

    # only what is not above the elements' plane can be stable; a far point above closes the hull, so that all
    # other corners are of the lower hull
    rows = np.flatnonzero(formation <= 1e-9)
    top = np.append(np.full(n_elements - 1, 1 / n_elements), 10.0)
    cloud = np.vstack([np.column_stack([x[rows][:, 1:], formation[rows]]), top])
    try:
        corners = ConvexHull(cloud).vertices
    except QhullError as error:
        logger.warning("the corners of a hull were not found: %s", str(error).splitlines()[0])
        return None
    stable[rows[[k for k in corners if k < len(rows)]]] = True
    return stable
