"""Energy above the convex hull of a set of phases, as a linear programme. Pure: numbers in, numbers out.

For a composition x (atom fractions) the hull energy is the smallest ``sum_i w_i e_i`` over weights w_i >= 0 of the
phases with ``sum_i w_i x_i = x``; the weights are the decomposition (Bartel et al., npj Comput. Mater. 6, 97 (2020),
doi:10.1038/s41524-020-00362-y).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from scdm_flows.errors import ReferenceDataError

LIMIT = 100.0  # eV/atom: no total energy of matter per atom is larger in magnitude
_TERM = re.compile(r"([A-Z][a-z]?)([0-9.]*)")


@dataclass(frozen=True)
class Phase:
    """A phase: its name, atom fractions summing to 1, and energy in eV/atom."""

    name: str
    fractions: Mapping[str, float]
    energy_per_atom: float
    formula: str = ""

    @classmethod
    def from_formula(cls, name: str, formula: str, energy_per_atom: float) -> Phase:
        """A phase of a plain formula such as ``Mo1S2``."""
        counts: dict[str, float] = {}
        for element, number in _TERM.findall(formula):
            counts[element] = counts.get(element, 0.0) + (float(number) if number else 1.0)
        total = sum(counts.values())
        if not total:
            raise ReferenceDataError(f"{formula!r} of phase {name} is not a chemical formula")
        return cls(name, {e: n / total for e, n in counts.items()}, energy_per_atom, formula)


@dataclass(frozen=True)
class HullResult:
    """Where a composition lies.

    e_above_hull: eV/atom above the hull of the *other* phases; negative if the composition would lie below it, that
    is, if it is a new stable phase by that much. formation_energy_per_atom: relative to the lowest elemental phases.
    decomposition: competing phases 'name formula' -> fraction of atoms. n_phases: how many phases competed.
    """

    e_above_hull: float
    formation_energy_per_atom: float
    decomposition: dict[str, float]
    n_phases: int


def energy_above_hull(fractions: Mapping[str, float], energy_per_atom: float, phases: Sequence[Phase]) -> HullResult:
    """Energy of a composition above the hull of ``phases``.

    Parameters
    ----------
    fractions
        Element -> amount; normalised here.
    energy_per_atom
        eV/atom, in the same scheme as the phases.
    phases
        Competing phases; those with other elements are ignored.

    Raises
    ------
    ReferenceDataError
        If an energy is not a number or absurd, or an element has no elemental phase.
    """
    total = sum(fractions.values())
    amounts = {e: n / total for e, n in fractions.items() if n > 0}
    elements = sorted(amounts)
    inside = [p for p in phases if set(p.fractions) <= set(elements)]
    for name, energy in [
        ("the composition", energy_per_atom),
        *((p.name, p.energy_per_atom) for p in inside),
    ]:
        if not math.isfinite(energy) or abs(energy) > LIMIT:
            raise ReferenceDataError(
                f"energy {energy} eV/atom of {name} must be a number within +-{LIMIT:g}; check the run"
            )
    lowest: dict[str, float] = {}
    for phase in inside:
        if len(phase.fractions) == 1:
            element = next(iter(phase.fractions))
            lowest[element] = min(lowest.get(element, math.inf), phase.energy_per_atom)
    missing = [e for e in elements if e not in lowest]
    if missing:
        raise ReferenceDataError(f"no elemental reference phase for {', '.join(missing)}; add one to the phases")
    matrix = np.array([[p.fractions.get(e, 0.0) for p in inside] for e in elements])
    # energies relative to the elements keep the programme well scaled
    relative = np.array([p.energy_per_atom - sum(x * lowest[e] for e, x in p.fractions.items()) for p in inside])
    target = np.array([amounts[e] for e in elements])
    solution = linprog(relative, A_eq=matrix, b_eq=target, bounds=(0, None), method="highs")
    if not solution.success:
        raise ReferenceDataError(f"the hull of {'-'.join(elements)} could not be solved ({solution.message})")
    formation = energy_per_atom - sum(x * lowest[e] for e, x in amounts.items())
    products = {f"{p.name} {p.formula}".strip(): float(w) for p, w in zip(inside, solution.x, strict=True) if w > 1e-6}
    return HullResult(float(formation - solution.fun), float(formation), products, len(inside))
