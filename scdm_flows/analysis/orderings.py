"""Collinear antiferromagnetic orders of a layer, in its cell and in the three cells of twice its area. Pure.

With one magnetic atom a cell these are the row-wise orders; with two on a honeycomb Neel, zigzag and stripy
(doi:10.1103/PhysRevB.91.235425). Orders that a symmetry operation of the layer or a reversal of all moments turns into
each other are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.bands import MAGNETIC_MOMENT

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

Matrix = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
Signs = NDArray[np.int64]
ITSELF: Matrix = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
# rows are the vectors of a doubled cell, by the vectors of the cell; then where along them its second copy begins
DOUBLED: tuple[tuple[Matrix, tuple[int, int]], ...] = (
    (((2, 0, 0), (0, 1, 0), (0, 0, 1)), (1, 0)),
    (((1, 0, 0), (0, 2, 0), (0, 0, 1)), (0, 1)),
    (((1, 1, 0), (-1, 1, 0), (0, 0, 1)), (1, 1)),
)
MOST_IN_CELL, MOST_IN_DOUBLED = 8, 4  # magnetic atoms of the cell up to which all orders are looked at
COPIES = tuple(product((0, 1), repeat=2))  # of the cell in a cell of 2 x 2, in which every order here repeats
SYMPREC = 0.05  # angstrom
SAME_PLACE = 0.3  # angstrom


@dataclass(frozen=True)
class Ordering:
    """supercell: rows are its vectors by the cell's; signs: (4, n) of the cell's atoms in ``COPIES``, 0 or +-1."""

    supercell: Matrix
    signs: tuple[tuple[int, ...], ...]

    @property
    def cells(self) -> int:
        """Cells of the layer in one of the order."""
        return abs(round(float(np.linalg.det(np.array(self.supercell)))))


def magnetic_sites(structure: Structure) -> NDArray[np.bool_]:
    """(n,) which atoms are magnetic: with at least half of the largest moment, and 0.1 Bohr magnetons.

    Moments are the site property ``magmom``. What lies below is what magnetic atoms induce on their neighbours.
    """
    moments = np.abs([float(m or 0.0) for m in structure.site_properties.get("magmom") or [0.0] * len(structure)])
    found: NDArray[np.bool_] = (moments > MAGNETIC_MOMENT) & (moments > moments.max(initial=0.0) / 2)
    return found


def antiferromagnetic_orderings(structure: Structure, most: int) -> list[Ordering]:
    """Orders in which the moments of every element cancel, other than the layer's own; small cells first.

    Those with more antiparallel nearest neighbours come before others of the same cell.

    Parameters
    ----------
    structure
        The layer with the moments of its atoms; without moments there is no order.
    most
        How many at most.
    """
    magnetic = magnetic_sites(structure)
    if not magnetic.any():
        return []
    permutations = _permutations(structure)
    own = np.where(magnetic, np.sign([float(m or 0.0) for m in structure.site_properties["magmom"]]), 0).astype(int)
    seen = {_canonical(np.tile(own, (len(COPIES), 1)), permutations)}
    found = []
    for supercell, signs in _patterns(structure, magnetic):
        name = _canonical(signs, permutations)
        if name in seen:
            continue
        seen.add(name)
        found.append(Ordering(supercell, tuple(tuple(int(s) for s in row) for row in signs)))
    pairs = _neighbours(structure, magnetic)
    found.sort(key=lambda order: (order.cells, -_antiparallel(order, pairs)))  # stable: of equals the first
    return found[:most]


def ordered(structure: Structure, ordering: Ordering) -> Structure:
    """The layer in the cell of an order, each atom with its own moment's size and the order's sign.

    Atoms that are not magnetic have the moment 0. The images of an atom are kept together.
    """
    sizes = np.abs([float(m or 0.0) for m in structure.site_properties["magmom"]])
    plain = structure.copy()
    plain.add_site_property("magmom", [float(k) for k in range(len(structure))])  # who it was
    made: Structure = plain.make_supercell(np.array(ordering.supercell), to_unit_cell=True, in_place=False)
    frac = structure.lattice.get_fractional_coords(made.cart_coords)
    numbers = [int(site.properties["magmom"]) for site in made]
    moments = []
    for number, place in zip(numbers, frac, strict=True):
        copy = np.rint(place - structure.frac_coords[number])[:2].astype(int) % 2
        moments.append(float(sizes[number] * ordering.signs[COPIES.index((int(copy[0]), int(copy[1])))][number]))
    made.add_site_property("magmom", moments)
    made.properties = dict(structure.properties)
    return made


def ferromagnetic(structure: Structure) -> Structure:
    """The layer with all moments up."""
    up = structure.copy()
    up.add_site_property("magmom", [abs(float(m or 0.0)) for m in structure.site_properties["magmom"]])
    return up


def _patterns(structure: Structure, magnetic: NDArray[np.bool_]) -> Iterator[tuple[Matrix, Signs]]:
    """Cells and signs (4, n) of all orders that are looked at; many are one by symmetry."""
    sites = np.flatnonzero(magnetic)
    kinds = [structure[int(site)].specie for site in sites]
    if len(sites) <= MOST_IN_CELL:
        for row in _cancelling(kinds, 1):
            yield ITSELF, _spread(len(structure), sites, row, row)
    rowwise = [np.array([[1] * len(sites), [-1] * len(sites)])]
    for supercell, second in DOUBLED:
        both = _cancelling(kinds, 2) if len(sites) <= MOST_IN_DOUBLED else iter(rowwise)
        for rows in both:
            one, other = np.reshape(rows, (2, len(sites)))
            yield supercell, _spread(len(structure), sites, one, other, second)


def _cancelling(kinds: Sequence[Any], copies: int) -> Iterator[Signs]:
    """Signs (copies * n,), the first +, whose sum over the atoms of each element is 0."""
    elements = [[k == kind for k in kinds] * copies for kind in dict.fromkeys(kinds)]
    for rest in product((1, -1), repeat=copies * len(kinds) - 1):
        signs = np.array((1, *rest))
        if not any(signs[np.array(of)].sum() for of in elements):
            yield signs


def _spread(n: int, sites: NDArray[np.int64], one: Signs, other: Signs, second: tuple[int, int] = (0, 0)) -> Signs:
    """(4, n) signs in ``COPIES``; second: the copies whose coordinates along it sum to an odd number have ``other``."""
    found = np.zeros((len(COPIES), n), dtype=int)
    for row, copy in zip(found, COPIES, strict=True):
        row[sites] = other if np.dot(copy, second) % 2 else one
    return found


def _permutations(structure: Structure) -> NDArray[np.int64]:
    """(m, 4 n): where each atom of the 2 x 2 cell goes by the operations of the layer and its translations."""
    import spglib

    frac, matrix = np.array(structure.frac_coords), np.array(structure.lattice.matrix)
    cell: Any = (matrix, frac, [site.specie.Z for site in structure])
    symmetry = spglib.get_symmetry(cell, symprec=SYMPREC)
    operations = [(np.eye(3), np.zeros(3))]
    if symmetry is not None:
        operations += list(zip(symmetry["rotations"], symmetry["translations"], strict=True))
    places = np.concatenate([frac + [*copy, 0] for copy in COPIES])
    kinds = np.tile([site.specie.Z for site in structure], len(COPIES))
    found = set()
    for rotation, translation in operations:
        moved = places @ np.array(rotation).T + translation
        for copy in COPIES:
            apart = (moved + [*copy, 0])[:, None] - places[None]
            apart -= np.rint(apart / [2, 2, 1]) * [2, 2, 1]
            distance = np.linalg.norm(apart @ matrix, axis=-1) + 1e3 * (kinds[:, None] != kinds[None])
            goes = distance.argmin(axis=1)
            if distance.min(axis=1).max() < SAME_PLACE and len(set(goes)) == len(goes):
                found.add(tuple(goes.tolist()))
    return np.array(sorted(found))


def _canonical(signs: Signs, permutations: NDArray[np.int64]) -> tuple[int, ...]:
    """The same for all orders that are one."""
    images = signs.ravel()[permutations]
    return max(map(tuple, np.concatenate([images, -images]).tolist()))


def _neighbours(structure: Structure, magnetic: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """(atom, its neighbour, number of the neighbour's copy) of the shortest distances between magnetic atoms."""
    sites = np.flatnonzero(magnetic)
    frac, matrix = np.array(structure.frac_coords), np.array(structure.lattice.matrix)
    pairs = []
    for i, j in product(sites, repeat=2):
        for shift in product(range(-2, 3), repeat=2):
            length = float(np.linalg.norm((frac[j] - frac[i] + [*shift, 0]) @ matrix))
            if length > SAME_PLACE:
                pairs.append((length, int(i), int(j), COPIES.index((shift[0] % 2, shift[1] % 2))))
    nearest = min(length for length, *_ in pairs)
    return [(i, j, copy) for length, i, j, copy in pairs if length < nearest + SAME_PLACE]


def _antiparallel(ordering: Ordering, pairs: Sequence[tuple[int, int, int]]) -> int:
    """Antiparallel pairs of nearest neighbours that the atoms of every copy have."""
    signs, count = ordering.signs, 0
    for number, (p, q) in enumerate(COPIES):
        for i, j, copy in pairs:
            r, s = COPIES[copy]
            count += signs[number][i] * signs[COPIES.index(((p + r) % 2, (q + s) % 2))][j] < 0
    return count
