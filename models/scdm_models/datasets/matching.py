"""Equality of layers: what pymatgen's StructureMatcher does, adapted to slabs.

With its defaults that matcher scales the vacuum into the comparison: at c >= 20 angstrom it calls 1H- and
1T-MoS2 the same, and the same layer at two values of c different. Here

- c is the thickness plus 3.4 angstrom, the volume is not scaled, lattice tolerances are 10 % and 4 degrees;
- cells are made primitive in the plane only: in three dimensions the double layer of AA graphene would become
  the single layer;
- heights must agree before anything else is tried: across a gap of 3.4 angstrom the sheets of a layer could
  else be paired in another order (Se-Ga-Ga-Se with Ga-Se-Se-Ga, measured in twelve pairs of 2dMatPedia);
- only layers of one formula are compared at all.

A layer, its mirror images and its in-plane supercells are the same layer.

The tolerances are measured (``benchmarks/novelty.py --grid``), on 1,000 layers of C2DB and 2DMatPedia whose atoms moved
by up to 0.15 angstrom and whose cells were stretched by up to 3 % and enlarged, and on the 2,256 pairs of C2DB's layers
of one formula whose energies differ by more than 20 meV/atom. With ``ltol`` 0.1 and 4 degrees:

    stol    recognised    kept apart
    0.08       98.2 %        99.6 %
    0.10       99.9 %        99.4 %
    0.12      100.0 %        98.8 %
    0.15      100.0 %        98.1 %
    0.20      100.0 %        97.5 %

At 0.1 an ``ltol`` of 0.06 recognises 98.6 %, of 0.08 and 0.12 as many as 0.1 does. A strain of 3 % turns a right angle
by up to 3.4 degrees. What is not kept apart are mostly slight distortions in a larger cell, such as ReS2's ground
state and its 1T' form.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from scdm_models.datasets.grouping import components, possible
from scdm_models.datasets.pairing import Layer, Tolerance, displacement, paired
from scdm_models.errors import StructureError
from scdm_models.processes import pool
from scdm_models.symmetry.lattice import gauss_reduced, oriented

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]
T = TypeVar("T")
INTERLAYER_ANGSTROM = 3.4
TRANSLATION_TOLERANCE_ANGSTROM = 0.25
ANGLE_TOLERANCE_DEGREES = 4.0
# Work is counted in layers prepared (about 0.5 ms). Starting two processes takes some 3 s: 10,000 samples in all their
# formulas took 3.5 s in one process and 4.7 s in two.
WORTH_PROCESSES = 12000
PAIRS_PER_LAYER = 0.02  # work on one pair of a formula
_NEIGHBOURS = np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)], dtype=float)


def _nearest(delta: Array) -> Array:
    """In-plane fractional differences to [-1/2, 1/2]; heights untouched."""
    out = delta.copy()
    out[..., :2] -= np.round(out[..., :2])
    return out


def _reduced_plane(vectors: Array, area: float) -> Array | None:
    """(2, 2) the two shortest of the (m, 2) lattice vectors that span a cell of this area, right-handed.

    None where no two do: vectors that are no lattice, because only some of its translations hold.
    """
    vectors = vectors[np.argsort(np.round((vectors**2).sum(1), 6), kind="stable")]
    first = next(v for v in vectors if v @ v > 1e-6)
    for second in vectors:
        cross = first[0] * second[1] - first[1] * second[0]
        if abs(abs(cross) - area) < 1e-3 * area:
            return np.array([first, second if cross > 0 else -second])
    return None


def primitive_in_plane(
    numbers: NDArray[np.int64], frac: Array, plane: Array, c: float, tolerance: float = TRANSLATION_TOLERANCE_ANGSTROM
) -> tuple[NDArray[np.int64], Array, Array]:
    """The same layer in its smallest in-plane cell, with the shortest a and b; c stays.

    Parameters
    ----------
    numbers, frac, plane, c
        Slab with c along z, as ``oriented`` gives it: (n,) atomic numbers, (n, 3), (2, 2) and angstrom.
    tolerance
        Largest mismatch of an atom under an in-plane translation, angstrom.

    Returns
    -------
        Atomic numbers, fractional coordinates, and plane.
    """
    reduced = gauss_reduced(plane)
    xyz = np.column_stack([frac[:, :2] @ plane @ np.linalg.inv(reduced), frac[:, 2] * c])
    plane = reduced
    elements, counts = np.unique(numbers, return_counts=True)
    if np.gcd.reduce(counts) == 1:
        return numbers, np.column_stack([xyz[:, :2] % 1.0, xyz[:, 2] / c]), plane
    rare = np.flatnonzero(numbers == elements[int(np.argmin(counts))])
    same = numbers[:, None] == numbers[None, :]

    def maps_onto_itself(shift: Array) -> bool:
        delta = _nearest(xyz[:, None] + np.append(shift, 0.0) - xyz[None])
        squared = ((delta[..., :2] @ plane) ** 2).sum(-1) + delta[..., 2] ** 2
        return bool(np.where(same, squared, np.inf).min(1).max() < tolerance**2)

    shifts = [(xyz[j] - xyz[rare[0]])[:2] for j in rare[1:] if abs(xyz[j, 2] - xyz[rare[0], 2]) < tolerance]
    found = [shift for shift in shifts if maps_onto_itself(shift)]
    order = len(found) + 1
    if order > 1 and np.all(counts % order == 0):
        # every translation of a group of this order is a multiple of 1 / order of the cell's vectors
        exact = np.vstack([np.zeros(2), np.round(np.array(found) * order) / order])
        vectors = (exact[:, None] + _NEIGHBOURS[None]).reshape(-1, 2) @ plane
        smaller = _reduced_plane(vectors, abs(float(np.linalg.det(plane))) / order)
        if smaller is not None:
            inside = xyz.copy()
            inside[:, :2] = xyz[:, :2] @ plane @ np.linalg.inv(smaller)
            delta = _nearest(inside[:, None] - inside[None])
            squared = ((delta[..., :2] @ smaller) ** 2).sum(-1) + delta[..., 2] ** 2
            near = same & (squared < (2 * tolerance) ** 2)
            keep = np.array([not near[i, :i].any() for i in range(len(xyz))])
            if keep.sum() * order == len(xyz):  # else the translations hold only roughly: compare the cell as it is
                plane, xyz, numbers = smaller, inside[keep], numbers[keep]
    return numbers, np.column_stack([xyz[:, :2] % 1.0, xyz[:, 2] / c]), plane


def supercells(layer: Layer, k: int) -> Iterator[Layer]:
    """The different in-plane supercells of ``k`` cells, each with its shortest a and b.

    There is one for each Hermite normal form: rows (p, q) and (0, r) with p r = k and 0 <= q < r. The copies of an
    atom follow each other.
    """
    for p in (p for p in range(1, k + 1) if k % p == 0):
        r = k // p
        copies = np.array([[i, j] for i in range(p) for j in range(r)], dtype=float)
        plane = (layer.frac[:, None, :2] + copies).reshape(-1, 2) @ layer.plane
        heights = np.repeat(layer.frac[:, 2], k)
        for q in range(r):
            reduced = gauss_reduced(np.array([[p, q], [0, r]]) @ layer.plane)
            frac = np.column_stack([(plane @ np.linalg.inv(reduced)) % 1.0, heights])
            yield Layer(np.repeat(layer.numbers, k), frac, reduced, layer.c)


def _layer(structure: Structure, slab: tuple[Array, Array]) -> Layer:
    """The layer of a structure and what ``oriented`` gives of it."""
    (lattice, frac), numbers = slab, np.array([site.specie.Z for site in structure])
    c = float(lattice[2, 2])
    return Layer(*primitive_in_plane(numbers, frac, lattice[:2, :2], c), c)


def _of_each(structures: Sequence[Structure], numbers: Iterable[int], take: Callable[[int], T]) -> dict[int, T]:
    """What ``take`` gives for the structures of these numbers, without those that are no layers or break a library."""
    found = {}
    for i in numbers:
        try:
            found[i] = take(i)
        except StructureError:
            continue
        except Exception as error:  # a structure can break a library in ways nobody lists
            logger.warning("a structure of %s is not compared: %s", structures[i].composition.reduced_formula, error)
    return found


class LayerMatcher:
    """Compares layers.

    Parameters
    ----------
    stol
        Largest distance of an atom from its partner, in units of (volume / atom)^(1/3) with c = thickness +
        3.4 angstrom (0.1 is 0.2 to 0.35 angstrom).
    ltol
        Relative tolerance of the lattice lengths; the angle's is 4 degrees.
    """

    def __init__(self, stol: float = 0.1, ltol: float = 0.1) -> None:
        if not (stol > 0 and ltol > 0):
            raise StructureError(f"stol={stol:g} and ltol={ltol:g} must be > 0; 0.1 and 0.1 suit layers")
        self.stol, self.ltol = stol, ltol
        self.tolerance = Tolerance(ltol, ANGLE_TOLERANCE_DEGREES, stol)

    @staticmethod
    def layer(structure: Structure) -> Layer:
        """The layer as it is compared: in-plane primitive cell, c = thickness + 3.4 angstrom.

        Raises
        ------
        StructureError
            If the structure is no layer.
        """
        return _layer(structure, oriented(structure, INTERLAYER_ANGSTROM))

    def fit(self, first: Structure, second: Structure) -> bool:
        """Whether two layers are the same; the order of the two does not matter.

        Raises
        ------
        StructureError
            If one of two structures of the same formula is no layer.
        """
        if first.composition.reduced_formula != second.composition.reduced_formula:
            return False
        return self.same(self.layer(first), self.layer(second))

    def displacement(self, first: Layer, second: Layer) -> float | None:
        """Root mean square distance of the paired atoms, angstrom, after the best superposition; None where the layers
        differ.

        The superposition is in the mean of the two in-plane cells, so strain does not count. Where one holds k times as
        many atoms as the other, all in-plane supercells of k of the smaller one are tried: a supercell whose atoms
        moved is not reduced to its primitive cell.
        """
        if len(first.numbers) > len(second.numbers):
            first, second = second, first
        k, rest = divmod(len(second.numbers), len(first.numbers))
        if rest or np.any(np.repeat(first.numbers, k) != second.numbers):
            return None
        found = []
        for cell in [first] if k == 1 else supercells(first, k):
            if not possible(cell, second, self.tolerance):
                return None  # sizes and heights are those of every supercell
            found.append(displacement(cell, second, self.tolerance, copies=k))
        return min((value for value in found if value is not None), default=None)

    def same(self, first: Layer, second: Layer) -> bool:
        """``fit`` for layers that are prepared, in either order; False for other formulas.

        False also for other numbers of atoms in the primitive cell: ``displacement`` compares distorted layers in
        larger cells.
        """
        return possible(first, second, self.tolerance) and paired(first, second, self.tolerance)

    def group(self, structures: Sequence[Structure], processes: int = 1) -> list[list[int]]:
        """Indices of equal layers, each group in input order and groups by their first member.

        Groups are those of comparing all pairs: the connected components of ``fit``, so they do not depend on the
        order of the input. Tolerances make equality no equivalence; a chain of equal pairs is one group. A structure
        that is no layer, or that breaks a library, equals nothing and stays alone.

        Layer groups are not asked, because they hide duplicates: among 1,000 SCDM and 1,000 UnSCDM samples 548 pairs
        have one formula, 14 of these are equal, 12 of them between the two models, and none has the same layer group at
        a symprec of 1e-3 angstrom.

        Parameters
        ----------
        structures
            Layers; those of one reduced formula are compared.
        processes
            Worker processes, >= 1. They are spawned, and only where there is enough to compare.
        """
        if processes < 1:
            raise StructureError(f"processes={processes} must be >= 1")
        buckets: dict[str, list[int]] = defaultdict(list)
        alone: list[list[int]] = []
        for i, structure in enumerate(structures):
            try:
                formula = structure.composition.reduced_formula
            except Exception as error:  # a structure can break a library in ways nobody lists
                logger.warning("structure %d is not compared: %s", i, error)
                alone.append([i])
            else:
                buckets[formula].append(i)
        alone += [members for members in buckets.values() if len(members) == 1]
        several = [members for members in buckets.values() if len(members) > 1]
        chunks = _shared_out(several, processes if sum(map(_work, several)) >= WORTH_PROCESSES else 1)
        jobs = [[[structures[i] for i in members] for members in chunk] for chunk in chunks]
        if len(jobs) < 2:
            found = [self._group_all(job) for job in jobs]
        else:
            with pool(len(jobs)) as workers:
                found = list(workers.map(self._group_all, jobs))
        for chunk, groups in zip(chunks, found, strict=True):
            for members, parts in zip(chunk, groups, strict=True):
                alone += [[members[k] for k in part] for part in parts]
        return sorted(alone)

    def _group_all(self, buckets: list[list[Structure]]) -> list[list[list[int]]]:
        """The groups within each bucket of one formula."""
        return [self._group(bucket) for bucket in buckets]

    def _group(self, structures: list[Structure]) -> list[list[int]]:
        slabs = _of_each(structures, range(len(structures)), lambda i: oriented(structures[i], INTERLAYER_ANGSTROM))
        c = {i: float(lattice[2, 2]) for i, (lattice, _) in slabs.items()}
        # what no other is as high as equals nothing, so that it need not be prepared
        neighbours = itertools.pairwise(sorted(c, key=c.__getitem__))
        near = {i for pair in neighbours if c[pair[1]] < c[pair[0]] * (1 + self.ltol) for i in pair}
        layers = _of_each(structures, sorted(near), lambda i: _layer(structures[i], slabs[i]))
        names = list(layers)
        groups = [[i] for i in range(len(structures)) if i not in layers]
        return groups + [
            [names[k] for k in part] for part in components(list(layers.values()), self.tolerance, self.same)
        ]


def _work(bucket: Sequence[int]) -> float:
    return len(bucket) + PAIRS_PER_LAYER * len(bucket) ** 2


def _shared_out(buckets: Sequence[list[int]], shares: int) -> list[list[list[int]]]:
    """The buckets in at most ``shares`` lists of about the same work, the largest buckets first."""
    lists: list[list[list[int]]] = [[] for _ in range(shares)]
    loads = [0.0] * shares
    for bucket in sorted(buckets, key=len, reverse=True):
        k = loads.index(min(loads))
        lists[k].append(bucket)
        loads[k] += _work(bucket)
    return [share for share in lists if share]
