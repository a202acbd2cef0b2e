"""Energy above the convex hull of a set of phases, as a linear programme. Pure: numbers in, numbers out.

For a composition x (atom fractions) the hull energy is the smallest ``sum_i w_i e_i`` over weights w_i >= 0 of the
phases with ``sum_i w_i x_i = x``; the weights are the decomposition (Bartel et al., npj Comput. Mater. 6, 97 (2020),
doi:10.1038/s41524-020-00362-y).

The programme has one equation an element, and the elements themselves are a solution to begin with, so the simplex
method (Dantzig) needs no first phase and its tableau is as high as the chemical system is large: a few steps of a few
vector products. General solvers spend their time on setting up. What is optimal for one composition is a facet of the
hull, which answers every other composition in it and is a step from its neighbours, so many are solved together.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from scdm_flows.errors import ReferenceDataError

Array = NDArray[np.float64]
Name = TypeVar("Name")
Facets = tuple[Array, list[list[int]], Array]  # (m,) energies, (m, k) phases at the corners and their weights
LIMIT = 100.0  # eV/atom: no total energy of matter per atom is larger in magnitude
TOLERANCE = 1e-11  # eV/atom: a phase that would lower the hull by less is not taken in
SHARE = 1e-6  # of the atoms: a phase of less is no product of a decomposition
DIGITS = 12  # of heights (eV/atom) and shares: the last digits depend on what else was asked
INSIDE = 1e-10  # a weight that is less below 0 is rounding: the composition lies in the facet
LARGEST_GAIN_STEPS = 200  # pivots by the largest gain; later ones by Bland's rule, which cannot cycle
PIVOTS = 50  # until a tableau is computed anew, so that rounding does not add up


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


class HullResult(NamedTuple):
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

    @cached_property
    def names(self) -> list[str]:
        """'name formula' of each phase."""
        return [f"{p.name} {p.formula}".strip() for p in self.phases]

    def decompose(self, target: Array, without: Sequence[int] = ()) -> tuple[float, dict[int, float]]:
        """Hull energy of a composition relative to the elements (eV/atom), and phase -> fraction of atoms.

        target: (k,) atom fractions; without: phases that do not compete. The corners always do.
        """
        (energy,), (corners,), (weights,) = self._solve(np.array(target, dtype=float)[None], without)
        return float(energy), _products(corners, weights.tolist(), range(len(self.phases)))

    def _solve(self, targets: Array, without: Sequence[int]) -> Facets:
        """The facets in which compositions (m, k) lie; energies in eV/atom relative to the elements."""
        left_out = set(without).difference(self.corners.tolist())
        matrix, formation, elements = self.matrix, self.formation, self.corners.tolist()
        if left_out:
            numbers = [i for i in range(len(self.phases)) if i not in left_out]
            matrix, formation = matrix[numbers], formation[numbers]
            elements = [numbers.index(i) for i in elements]
        try:
            energies, corners, weights = _Tableau(matrix, formation, elements, targets).solve()
        except ArithmeticError:
            raise ReferenceDataError(
                f"the hull of {'-'.join(self.elements)} could not be solved; report this system"
            ) from None
        if left_out:
            corners = [[numbers[i] for i in facet] for facet in corners]
        return energies, corners, np.round(weights, DIGITS)

    def place(self, fractions: Mapping[str, float], energy_per_atom: float, without: Sequence[int] = ()) -> HullResult:
        """Where a composition of this energy (eV/atom) lies; its elements are some of the system's."""
        return self.place_all([fractions], [energy_per_atom], without)[0]

    def place_all(
        self,
        fractions: Sequence[Mapping[str, float]],
        energies_per_atom: Sequence[float],
        without: Sequence[int] = (),
    ) -> list[HullResult]:
        """Where compositions of these energies (eV/atom) lie, as ``place`` says it of each, but quicker."""
        if not fractions:
            return []
        for energy in energies_per_atom:
            check_energy("the composition", energy)
        targets = np.array([[one.get(e, 0.0) for e in self.elements] for one in fractions], dtype=float)
        targets /= targets.sum(1, keepdims=True)
        hulls, corners, weights = self._solve(targets, without)
        formation = np.array(energies_per_atom, dtype=float) - targets @ self.elemental
        above = np.round(formation - hulls, DIGITS)
        n, names = len(self.phases) - len(without), self.names
        return [
            HullResult(height, own, _products(facet, shares, names), n)
            for height, own, facet, shares in zip(
                above.tolist(), formation.tolist(), corners, weights.tolist(), strict=True
            )
        ]


class _Tableau:
    """The simplex tableau of one hull and many compositions (Dantzig).

    Its columns are the ``n`` phases and then the ``m`` compositions, each as weights of the phases of the basis, and
    below those how far the column's energy lies above the plane through the basis: 0 for the energies of compositions,
    so that this is the hull energy with the other sign. No phase lies below the plane of a facet.

    The first composition is reached from the elements, by taking in the phase that lies lowest (the simplex method);
    the others from facet to facet, by giving up a phase of negative weight for the one whose plane is nearest (the dual
    simplex method). Each facet answers all compositions that lie in it.
    """

    def __init__(self, matrix: Array, formation: Array, corners: list[int], targets: Array) -> None:
        self.n, self.k = matrix.shape
        self.corners = corners
        self.columns = np.zeros((self.k + 1, self.n + len(targets)))
        self.columns[:-1, : self.n], self.columns[-1, : self.n] = matrix.T, formation
        self.columns[:-1, self.n :] = targets.T

    def solve(self) -> Facets:
        """The facets in which the compositions lie."""
        self._from_corners(0)
        energies, weights = -self.table[-1, self.n :], self.table[:-1, self.n :].T.copy()
        corners = [self.basis] * len(energies)
        if len(energies) == 1:
            return energies, corners, weights
        left, at = np.arange(len(energies)), 0
        while len(left):
            now = self.table[:, self.n :][:, left]
            lowest = now[:-1].min(0)
            inside = lowest >= -INSIDE
            inside[at] = True  # whatever the rounding
            found, basis = left[inside], self.basis.copy()
            energies[found], weights[found] = -now[-1, inside], now[:-1, inside].T
            for i in found.tolist():
                corners[i] = basis
            left, lowest = left[~inside], lowest[~inside]
            if len(left):
                at = int(lowest.argmax())  # the nearest
                self._towards(int(left[at]))
        return energies, corners, weights

    def _from_corners(self, composition: int) -> None:
        """The facet of a composition, from the elements."""
        self.basis, self.table, self.pivots = list(self.corners), self.columns.copy(), 0
        for step in range(100 * LARGEST_GAIN_STEPS):
            above = self.table[-1, : self.n]
            enters = int(above.argmin()) if step < LARGEST_GAIN_STEPS else int(np.argmax(above < -TOLERANCE))
            if above[enters] >= -TOLERANCE:
                return
            shares, weights = self.table[:-1, enters].tolist(), self.table[:-1, self.n + composition].tolist()
            ratios = [w / d if d > 1e-12 else math.inf for w, d in zip(weights, shares, strict=True)]
            self._pivot(ratios.index(min(ratios)), enters)
        raise ArithmeticError

    def _towards(self, composition: int) -> None:
        """To the facet of a composition from another facet."""
        for _ in range(LARGEST_GAIN_STEPS):
            weights = self.table[:-1, self.n + composition].tolist()
            lowest = min(weights)
            if lowest >= -INSIDE:
                return
            leaves = weights.index(lowest)
            row, above = self.table[leaves, : self.n], self.table[-1, : self.n]
            (choice,) = (row < -1e-9).nonzero()
            if not len(choice):
                break
            self._pivot(leaves, int(choice[(above[choice] / row[choice]).argmax()]))
        self._from_corners(composition)  # rounding, or a cycle among phases of equal energy

    def _pivot(self, leaves: int, enters: int) -> None:
        """Phase ``enters`` takes the place ``leaves`` of the basis."""
        self.basis[leaves] = enters
        self.pivots += 1
        if self.pivots == PIVOTS:
            self._renew()
            return
        column = self.table[:, enters].copy()
        row = self.table[leaves] / column[leaves]
        self.table -= column[:, None] * row
        self.table[leaves] = row

    def _renew(self) -> None:
        """The table from the basis alone, without the rounding of earlier steps."""
        basis = np.zeros((self.k + 1, self.k + 1))
        basis[:, :-1], basis[-1, -1] = self.columns[:, self.basis], 1.0
        self.table = np.linalg.solve(basis, self.columns)
        self.pivots = 0


def _products(corners: list[int], weights: list[float], names: Sequence[Name]) -> dict[Name, float]:
    return {names[i]: w for i, w in zip(corners, weights, strict=True) if w > SHARE}


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
