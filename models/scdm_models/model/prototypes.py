"""Geometries to begin from: the training crystals, looked up by what occupies which Wyckoff positions.

A skeleton of the same layer group and letters as some training crystals takes the geometry of the nearest of them:
elements replaced, cell and heights scaled by the sizes of the elements. The reverse chain then begins there and not
at pure noise, at ``START`` (as SDEdit begins, arXiv:2108.01073), and takes it to the skeleton's own geometry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.core import Element
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scdm_models.model.elements import MAX_Z
from scdm_models.symmetry.encoding import LayerCrystal, Site
from scdm_models.symmetry.lattice import covalent_radii
from scdm_models.symmetry.normalizer import letter_permutations
from scdm_models.symmetry.tables import layer_group

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
START = 0.35  # the time at which the reverse chain takes over; no noise is added to the prototype
# of the distance between two elements: log of the radii's ratio, Pauling electronegativity, and another group
RADIUS, ELECTRONEGATIVITY, GROUP = 2.0, 1.0, 0.3
UNKNOWN_ELECTRONEGATIVITY = 1.8
CONSIDERED = 32  # prototypes whose sites are matched one by one; the others' least distance is larger
NEIGHBOURS = 3  # prototypes of each crystal that the sizes are fitted on
FLAT_ANGSTROM = 0.25  # layers with root mean square heights below say nothing of sizes
ROBUST, RIDGE, ROUNDS = 0.05, 0.03, 6  # of the fit: errors beyond ROBUST (in the log) count less and less
_TENSORS = ("groups", "counts", "lattices", "elements", "letters", "places", "sizes")


@cache
def element_distances() -> Array:
    """(MAX_Z, MAX_Z) dimensionless distance of two elements as they replace each other; 0 on the diagonal."""
    elements = [Element.from_Z(z) for z in range(1, MAX_Z + 1)]
    size = _log_radii()
    values = [e.data.get("X") for e in elements]
    pull = np.array([x if isinstance(x, int | float) else UNKNOWN_ELECTRONEGATIVITY for x in values], dtype=float)
    group = np.array([min(e.group, 18) for e in elements])
    other = (group[:, None] != group[None]).astype(float)
    found: Array = (
        RADIUS * np.abs(size[:, None] - size[None])
        + ELECTRONEGATIVITY * np.abs(pull[:, None] - pull[None])
        + GROUP * other
    )
    return found


@cache
def _log_radii() -> Array:
    """(MAX_Z,) log of the covalent radii in angstrom."""
    return np.log(covalent_radii(np.arange(1, MAX_Z + 1)))


@dataclass(frozen=True)
class Prototypes:
    """Training crystals as arrays, P crystals with S sites together.

    groups, counts: (P,) layer group and number of sites; lattices: (P, 3) a, b in angstrom and gamma in degrees;
    elements, letters: (S,) atomic number, and index of the position in its group; places: (S, 3) ``Site.xyz``;
    sizes: (2, MAX_Z) log of the elements' sizes in the plane and across it.
    """

    groups: Tensor
    counts: Tensor
    lattices: Tensor
    elements: Tensor
    letters: Tensor
    places: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, crystals: Sequence[LayerCrystal]) -> Prototypes:
        """Those of a training set; of equally near ones the first is taken, so give the most stable first."""
        sites = [(crystal.group.index(s.letter), s) for crystal in crystals for s in crystal.sites]
        plain = cls(
            torch.tensor([c.layer_group for c in crystals], dtype=torch.uint8),
            torch.tensor([len(c.sites) for c in crystals], dtype=torch.uint8),
            torch.tensor([c.lattice for c in crystals], dtype=torch.float32),
            torch.tensor([s.element for _, s in sites], dtype=torch.uint8),
            torch.tensor([index for index, _ in sites], dtype=torch.uint8),
            torch.tensor([s.xyz for _, s in sites], dtype=torch.float32),
            torch.tensor(np.stack([_log_radii()] * 2), dtype=torch.float32),
        )
        return plain.with_sizes(plain.fitted_sizes())

    @classmethod
    def none(cls) -> Prototypes:
        """No prototypes: every chain begins at noise."""
        return cls.of([])

    def with_sizes(self, sizes: Array) -> Prototypes:
        """The same crystals with other (2, MAX_Z) sizes."""
        tensors = {**self.tensors(), "sizes": torch.tensor(sizes, dtype=torch.float32)}
        return Prototypes(**tensors)

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""
        return {name: getattr(self, name) for name in _TENSORS}

    def __len__(self) -> int:
        return len(self.groups)

    def crystal(self, number: int) -> LayerCrystal:
        """One of them."""
        begin, end = self._ends[number : number + 2]
        group = layer_group(int(self.groups[number]))
        a, b, gamma = self.lattices[number].double().tolist()
        sites = [
            Site(int(self.elements[k]), group.positions[int(self.letters[k])].letter, _triple(self.places[k]))
            for k in range(begin, end)
        ]
        return LayerCrystal(group.number, (a, b, gamma), tuple(sites))

    @cached_property
    def _ends(self) -> list[int]:
        return [0, *np.cumsum(self.counts.numpy(), dtype=int).tolist()]

    @cached_property
    def _members(self) -> dict[tuple[int, ...], tuple[Ints, Ints, Ints]]:
        """Group and sorted letters -> numbers (m,) of the crystals, elements (m, K) and order (m, K) of their sites."""
        found: dict[tuple[int, ...], list[tuple[int, Ints, Ints]]] = defaultdict(list)
        elements, letters = self.elements.numpy().astype(int), self.letters.numpy().astype(int)
        for number, group in enumerate(self.groups.tolist()):
            own = slice(self._ends[number], self._ends[number + 1])
            order = np.argsort(letters[own], kind="stable")
            found[(group, *letters[own][order].tolist())].append((number, elements[own][order], order))
        return {
            key: (np.array([n for n, _, _ in rows]), np.array([e for _, e, _ in rows]), np.array([o for *_, o in rows]))
            for key, rows in found.items()
        }

    def nearest(self, skeleton: LayerCrystal) -> LayerCrystal | None:
        """The skeleton with the geometry of its nearest prototype; None where no crystal has its letters.

        skeleton: its lattice and places are not looked at. The sites stay in their order; another origin or other axes
        may give them other letters (``symmetry.normalizer``), those of the prototype.
        """
        for crystal, _ in self.near(skeleton, 1):
            return crystal
        return None

    def near(
        self, skeleton: LayerCrystal, n: int, other_systems: bool = False
    ) -> Iterator[tuple[LayerCrystal, tuple[int, list[int]]]]:
        """The skeleton with the geometries of its ``n`` nearest prototypes, and which these are.

        other_systems: only prototypes of another chemical system. The second of each pair is the prototype's number
        and the index of its site for each site of the skeleton.
        """
        for number, sites in self._nearest(skeleton, n, other_systems):
            yield self._scaled(skeleton, number, sites), (number, sites)

    def _nearest(self, skeleton: LayerCrystal, n: int, other_systems: bool) -> list[tuple[int, list[int]]]:
        group = skeleton.group
        letters = np.array([group.index(s.letter) for s in skeleton.sites])
        namings = {tuple(names[k] for k in letters) for names in letter_permutations(group.number)}
        found: dict[int, tuple[float, list[int]]] = {}
        for named in namings:
            for total, number, sites in self._named(skeleton, np.array(named), n, other_systems):
                if number not in found or total < found[number][0]:
                    found[number] = total, sites
        order = sorted(found, key=lambda number: (round(found[number][0], 9), number))
        return [(number, found[number][1]) for number in order[:n]]

    def _named(
        self, skeleton: LayerCrystal, letters: Ints, n: int, other_systems: bool
    ) -> Iterator[tuple[float, int, list[int]]]:
        """The same for one naming of the letters: distance, number of the prototype, and its sites."""
        order = np.argsort(letters, kind="stable")
        own, letters = np.array([s.element for s in skeleton.sites])[order], letters[order]
        members = self._members.get((skeleton.layer_group, *letters.tolist()))
        if members is None:
            return
        numbers, elements, orders = members
        if other_systems:
            there = np.isin(elements, own).all(1) & np.array([np.isin(own, row).all() for row in elements])
            numbers, elements, orders = numbers[~there], elements[~there], orders[~there]
        weight = np.array([skeleton.group.positions[i].multiplicity for i in letters], dtype=float)
        pairs = element_distances()[own[None, :, None] - 1, elements[:, None, :] - 1] * weight[:, None]
        pairs = np.where(letters[:, None] == letters[None], pairs, np.inf)
        least = pairs.min(2).sum(1)
        back = np.argsort(order)
        blocks = [np.flatnonzero(letters == letter) for letter in np.unique(letters)]
        for row in np.argsort(least, kind="stable")[: max(CONSIDERED, n)].tolist():
            into, total = np.zeros(len(own), dtype=int), 0.0
            for block in blocks:
                if len(block) == 1:  # nothing to choose
                    into[block] = block
                    total += float(pairs[row, block[0], block[0]])
                    continue
                costs = pairs[row][np.ix_(block, block)]
                first, second = linear_sum_assignment(costs)
                into[block[first]] = block[second]
                total += float(costs[first, second].sum())
            yield total / weight.sum(), int(numbers[row]), orders[row][into][back].tolist()

    def _scaled(self, skeleton: LayerCrystal, number: int, sites: list[int]) -> LayerCrystal:
        """The skeleton with the geometry of a prototype. sites: of the prototype, for each site of the skeleton."""
        prototype = self.crystal(number)
        plane, across = np.exp(self.sizes.double().numpy() @ _change(skeleton, prototype, sites))
        a, b, gamma = prototype.lattice
        moved = []
        for site, k in zip(skeleton.sites, sites, strict=True):
            x, y, z = prototype.sites[k].xyz
            moved.append(Site(site.element, prototype.sites[k].letter, (x, y, z * float(across))))
        return LayerCrystal(skeleton.layer_group, (a * float(plane), b * float(plane), gamma), tuple(moved))

    def fitted_sizes(self) -> Array:
        """(2, MAX_Z) log sizes that best scale the crystals into each other: least squares, robust, from the radii."""
        rows: list[list[Array]] = [[], []]
        changes: list[list[float]] = [[], []]
        for number in range(len(self)):
            crystal = self.crystal(number)
            for _, (other, sites) in self.near(crystal, NEIGHBOURS, other_systems=True):
                prototype = self.crystal(other)
                change = _change(crystal, prototype, sites)
                rows[0].append(change)
                changes[0].append(0.5 * float(np.log(_area(crystal) / _area(prototype))))
                weight = _weights(crystal)
                mine = np.abs([s.xyz[2] for s in crystal.sites])
                theirs = np.abs([prototype.sites[k].xyz[2] for k in sites])
                if (weight @ theirs**2) > FLAT_ANGSTROM**2:
                    rows[1].append(change)
                    ratio = (weight @ (mine * theirs)) / (weight @ theirs**2)
                    changes[1].append(float(np.clip(np.log(max(ratio, 1e-3)), -0.5, 0.5)))
        return np.stack([_robust(np.array(r), np.array(c)) for r, c in zip(rows, changes, strict=True)])


def _robust(rows: Array, change: Array) -> Array:
    """(MAX_Z,) log sizes near the radii's, with ``rows @ sizes`` near ``change``."""
    start = _log_radii()
    if not len(rows):
        return start
    move: Array = np.zeros(MAX_Z)
    for _ in range(ROUNDS):
        left = change - rows @ (start + move)
        weighted = rows / (1 + (left / ROBUST) ** 2)[:, None]
        matrix, target = weighted.T @ rows + RIDGE * np.eye(MAX_Z), weighted.T @ (change - rows @ start)
        move = np.asarray(np.linalg.solve(matrix, target), dtype=float)
    fitted: Array = start + move
    return fitted


def _change(skeleton: LayerCrystal, prototype: LayerCrystal, sites: Sequence[int]) -> Array:
    """(MAX_Z,) atom fractions of the skeleton minus those of the prototype, which its sites replace."""
    found = np.zeros(MAX_Z)
    for weight, site, k in zip(_weights(skeleton), skeleton.sites, sites, strict=True):
        found[site.element - 1] += weight
        found[prototype.sites[k].element - 1] -= weight
    return found


def _weights(crystal: LayerCrystal) -> Array:
    """(K,) share of the atoms on each site."""
    group = crystal.group
    found = np.array([group.positions[group.index(s.letter)].multiplicity for s in crystal.sites], dtype=float)
    share: Array = found / found.sum()
    return share


def _area(crystal: LayerCrystal) -> float:
    a, b, gamma = crystal.lattice
    return float(a * b * np.sin(np.deg2rad(gamma)))


def _triple(values: Tensor) -> tuple[float, float, float]:
    x, y, z = values.double().tolist()
    return x, y, z
