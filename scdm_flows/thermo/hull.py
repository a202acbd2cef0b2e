"""Energy above the convex hull of a set of phases, as a linear programme. Pure: numbers in, numbers out.

For a composition x (atom fractions) the hull energy is the smallest ``sum_i w_i e_i`` over weights w_i >= 0 of the
phases with ``sum_i w_i x_i = x``; the weights are the decomposition (Bartel et al., npj Comput. Mater. 6, 97 (2020),
doi:10.1038/s41524-020-00362-y).

The programme has one equation an element, and the elements themselves are a solution to begin with, so the simplex
method (Dantzig) needs no first phase and its basis is a matrix as small as the chemical system: a few steps of a few
vector products. General solvers spend their time on setting up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scdm_flows.errors import ReferenceDataError

Array = NDArray[np.float64]
LIMIT = 100.0  # eV/atom: no total energy of matter per atom is larger in magnitude
TOLERANCE = 1e-11  # eV/atom: a phase that would lower the hull by less is not taken in
LARGEST_GAIN_STEPS = 200  # pivots by the largest gain; later ones by Bland's rule, which cannot cycle


@dataclass(frozen=True)
class Phase:
    """A phase: its name, atom fractions summing to 1, and energy in eV/atom."""

    name: str
    fractions: Mapping[str, float]
    energy_per_atom: float
    formula: str = ""

    @classmethod
    def from_formula(cls, name: str, formula: str, energy_per_atom: float) -> Phase:
        """A phase of a formula such as ``Mo1S2``; ``ReferenceDataError`` where it is none."""
        try:
            fractions = _fractions(formula)
        except (ValueError, KeyError, TypeError):
            raise ReferenceDataError(f"{formula!r} of phase {name} is not a chemical formula") from None
        return cls(name, dict(fractions), energy_per_atom, formula)


@lru_cache(maxsize=100_000)
def _fractions(formula: str) -> dict[str, float]:
    """Atom fractions by element; remembered, as pymatgen reads a formula in some 0.1 ms and phases come again."""
    from pymatgen.core import Composition

    composition = Composition(formula)
    if not composition:
        raise ValueError(formula)
    return {str(e): float(x) for e, x in composition.fractional_composition.items()}


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


class PhaseSystem:
    """The phases of one chemical system, ready for many questions.

    Parameters
    ----------
    elements
        The system's elements.
    phases
        Its phases; those with other elements are ignored.

    Raises
    ------
    ReferenceDataError
        If an energy is not a number or absurd, or an element has no elemental phase.
    """

    def __init__(self, elements: Sequence[str], phases: Sequence[Phase]) -> None:
        self.elements = tuple(sorted(set(elements)))
        known = set(self.elements)
        self.phases = [p for p in phases if known.issuperset(p.fractions)]
        lowest: dict[str, int] = {}
        for i, phase in enumerate(self.phases):
            check_energy(phase.name, phase.energy_per_atom)
            if len(phase.fractions) == 1:
                (element,) = phase.fractions
                if element not in lowest or phase.energy_per_atom < self.phases[lowest[element]].energy_per_atom:
                    lowest[element] = i
        missing = [e for e in self.elements if e not in lowest]
        if missing:
            raise ReferenceDataError(f"no elemental reference phase for {', '.join(missing)}; add one to the phases")
        self.corners = np.array([lowest[e] for e in self.elements])
        self.matrix = np.array([[p.fractions.get(e, 0.0) for e in self.elements] for p in self.phases])  # (n, k)
        energy = np.array([p.energy_per_atom for p in self.phases])
        self.elemental = energy[self.corners]  # (k,) eV/atom
        # relative to the elements, so that those of the corners are 0
        self.formation: Array = energy - self.matrix @ self.elemental

    def with_energies(self, formation: Array) -> PhaseSystem:
        """The same phases at other energies: (n,) eV/atom relative to the elements, 0 for those."""
        other = copy.copy(self)
        other.formation = np.asarray(formation, dtype=float)
        return other

    def target(self, fractions: Mapping[str, float]) -> Array:
        """(k,) atom fractions of a composition, normalised."""
        amounts = np.array([fractions.get(e, 0.0) for e in self.elements], dtype=float)
        return np.asarray(amounts / amounts.sum(), dtype=float)

    def decompose(self, target: Array, without: Sequence[int] = ()) -> tuple[float, dict[int, float]]:
        """Hull energy of a composition relative to the elements (eV/atom), and phase -> fraction of atoms.

        target: (k,) atom fractions; without: phases that do not compete. The corners always do.
        """
        formation = self.formation
        if len(without):
            formation = formation.copy()
            formation[list(set(without) - set(self.corners.tolist()))] = np.inf
        basis, inverse = self.corners.copy(), np.eye(len(self.elements))
        weights = np.array(target, dtype=float)
        for step in range(100 * LARGEST_GAIN_STEPS):
            gain = formation - self.matrix @ (formation[basis] @ inverse)
            enters = int(gain.argmin()) if step < LARGEST_GAIN_STEPS else int(np.argmax(gain < -TOLERANCE))
            if gain[enters] >= -TOLERANCE:
                break
            direction = self.matrix[enters] @ inverse.T
            ratio = np.full(len(weights), np.inf)
            np.divide(weights, direction, out=ratio, where=direction > 1e-12)
            leaves = int(ratio.argmin())
            weights -= ratio[leaves] * direction
            weights[leaves] = ratio[leaves]
            basis[leaves] = enters
            row = inverse[leaves] / direction[leaves]
            inverse -= np.outer(direction, row)
            inverse[leaves] = row
        else:
            raise ReferenceDataError(f"the hull of {'-'.join(self.elements)} could not be solved; report this system")
        products = {int(i): float(w) for i, w in zip(basis, weights, strict=True) if w > 1e-6}
        return float(weights @ formation[basis]), products

    def place(self, fractions: Mapping[str, float], energy_per_atom: float, without: Sequence[int] = ()) -> HullResult:
        """Where a composition of this energy (eV/atom) lies; its elements are some of the system's."""
        check_energy("the composition", energy_per_atom)
        target = self.target(fractions)
        hull, products = self.decompose(target, without)
        formation = energy_per_atom - float(target @ self.elemental)
        named = {f"{self.phases[i].name} {self.phases[i].formula}".strip(): w for i, w in products.items()}
        return HullResult(formation - hull, formation, named, len(self.phases) - len(without))


def check_energy(name: str, energy: float) -> None:
    """Nothing, or ``ReferenceDataError`` where an energy (eV/atom) is no number or that of no matter."""
    if not math.isfinite(energy) or abs(energy) > LIMIT:
        raise ReferenceDataError(
            f"energy {energy} eV/atom of {name} must be a number within +-{LIMIT:g}; check the run"
        )


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
    check_energy("the composition", energy_per_atom)
    return PhaseSystem([e for e, n in fractions.items() if n > 0], phases).place(fractions, energy_per_atom)
