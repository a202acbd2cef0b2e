"""Symmetry encoding of a layer: structure -> asymmetric unit on Wyckoff positions, exactly reversible.

A crystal is its layer group G, the free in-plane lattice parameters of G's family, and one entry for each occupied
orbit: element, Wyckoff letter and the representative point, from which the tabulated operations make the atoms.
``symmetrize`` brings any slab into the standard setting; ``encode`` and ``decode`` convert between the two forms.

Conventions: conventional cell of the standard setting with a along x and c along z; heights in angstrom above the
plane z = 0 that the operations reversing z leave in place (for groups without such operations the mean height of
the atoms is 0). Pymatgen structures carry the primitive cell with that plane at fractional z = 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure

from scdm_models.errors import StructureError, SymmetryError
from scdm_models.symmetry.detect import moyo_layer_dataset
from scdm_models.symmetry.normalizer import canonical
from scdm_models.symmetry.tables import LayerGroup, first_points, layer_group, wrap

Array = NDArray[np.float64]
DEFAULT_VACUUM_ANGSTROM = 20.0
MAX_ATOMS = 40


@dataclass(frozen=True)
class Site:
    """One occupied orbit.

    Parameters
    ----------
    element
        Atomic number.
    letter
        Wyckoff letter in the crystal's layer group.
    xyz
        Representative point: x, y in fractions of the conventional cell in [0, 1), z in angstrom. It lies on the
        first point of the tabulated position.
    """

    element: int
    letter: str
    xyz: tuple[float, float, float]


@dataclass(frozen=True)
class LayerCrystal:
    """A layer as its asymmetric unit.

    Parameters
    ----------
    layer_group
        1 to 80.
    lattice
        In-plane conventional cell as (a, b, gamma), angstrom and degrees; the family fixes some of the three.
    sites
        Occupied orbits.
    """

    layer_group: int
    lattice: tuple[float, float, float]
    sites: tuple[Site, ...]

    @property
    def group(self) -> LayerGroup:
        """The layer group's tables."""
        return layer_group(self.layer_group)

    @property
    def n_atoms(self) -> int:
        """Atoms in the primitive cell."""
        total = sum(self.group.positions[self.group.index(s.letter)].multiplicity for s in self.sites)
        return total // 2 if self.group.centred else total

    @property
    def template(self) -> str:
        """Wyckoff template: group number and sorted letters, without elements, such as ``78:a-e``.

        Of the letters that another origin or other axes would give, those that come first.
        """
        group = self.group
        named = canonical(self.layer_group, ((group.index(s.letter), 0) for s in self.sites))
        return f"{self.layer_group}:" + "-".join(group.positions[index].letter for index, _ in named)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "layer_group": self.layer_group,
            "lattice": list(self.lattice),
            "sites": [[s.element, s.letter, *s.xyz] for s in self.sites],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LayerCrystal:
        """The crystal of ``to_dict``."""
        sites = tuple(Site(int(e), str(w), (float(x), float(y), float(z))) for e, w, x, y, z in data["sites"])
        a, b, gamma = data["lattice"]
        return cls(int(data["layer_group"]), (float(a), float(b), float(gamma)), sites)


@dataclass(frozen=True)
class SymmetrizedLayer:
    """A structure brought onto its layer group.

    Parameters
    ----------
    crystal
        The asymmetric unit.
    structure
        ``decode(crystal)``.
    symprec
        Tolerance of the group search, angstrom.
    max_displacement
        Largest distance any atom moved in becoming symmetric, angstrom (in the symmetrised lattice).
    """

    crystal: LayerCrystal
    structure: Structure
    symprec: float
    max_displacement: float

    @property
    def layer_group(self) -> int:
        """The layer group number."""
        return self.crystal.layer_group


def in_plane_matrix(a: float, b: float, gamma: float) -> Array:
    """(2, 2) rows a, b in angstrom with a along x; gamma in degrees (paper, Eq. 1, in the plane)."""
    angle = np.deg2rad(gamma)
    return np.array([[a, 0.0], [b * np.cos(angle), b * np.sin(angle)]])


def family_lattice(group: LayerGroup, matrix: Array) -> tuple[float, float, float]:
    """(a, b, gamma) closest to the (2, 2) rows ``matrix`` that the group's family allows; the area is kept."""
    a, b = (float(np.linalg.norm(row)) for row in matrix)
    area = abs(float(np.linalg.det(matrix)))
    if group.family == "hexagonal":
        side = float(np.sqrt(area * 2 / np.sqrt(3)))
        return side, side, 120.0
    if group.family == "square":
        side = float(np.sqrt(area))
        return side, side, 90.0
    if group.family == "rectangular":
        scale = float(np.sqrt(area / (a * b)))
        return a * scale, b * scale, 90.0
    return a, b, float(np.rad2deg(np.arccos(np.dot(matrix[0], matrix[1]) / (a * b))))


def _permutations(group: LayerGroup, matrix: Array, xyz: Array, numbers: NDArray[np.int64]) -> tuple[Any, Array, float]:
    """Which atom each operation takes atom i to, (n_ops, n); the images; and the largest mismatch in angstrom.

    xyz: (n, 3) in-plane fractions and heights in angstrom.
    """
    general = group.general
    images = np.einsum("kij,nj->kni", general.rotations, xyz) + general.translations[:, None, :]
    delta = wrap(images[:, :, None, :] - xyz[None, None, :, :])  # (ops, n, n, 3)
    cart = delta[..., :2] @ matrix
    squared = (cart**2).sum(-1) + delta[..., 2] ** 2
    squared = np.where(numbers[None, :, None] == numbers[None, None, :], squared, np.inf)
    perm = squared.argmin(-1)
    worst = float(np.sqrt(squared.min(-1).max()))
    return perm, images, worst


def _average(group: LayerGroup, xyz: Array, perm: NDArray[np.int64]) -> Array:
    """(n, 3) positions averaged over the group: mean of g^-1 applied to the atom that g takes i to."""
    general = group.general
    inverse = np.linalg.inv(general.rotations)
    target = xyz[perm] - general.translations[:, None, :]  # (ops, n, 3)
    back = np.einsum("kij,knj->kni", inverse, target)
    averaged: Array = xyz + wrap(back - xyz[None]).mean(0)
    return averaged


def _assign(group: LayerGroup, xyz: Array, numbers: NDArray[np.int64], perm: NDArray[np.int64]) -> tuple[Site, ...]:
    """The occupied orbits of symmetric positions; ``SymmetryError`` if an orbit fits no position."""
    sites, done = [], np.zeros(len(xyz), dtype=bool)
    families = first_points(group.number)
    residual, shift = families.distances(xyz)
    for start in range(len(xyz)):
        if done[start]:
            continue
        members = np.unique(perm[:, start])
        done[members] = True
        fitting = [i for i, position in enumerate(group.positions) if position.multiplicity == len(members)]
        nearest = residual[fitting][:, members].min(1)
        if not fitting or nearest.min() > 1e-2:
            element = Element.from_Z(int(numbers[start])).symbol
            raise SymmetryError(
                f"an orbit of {len(members)} {element} atoms fits no Wyckoff position of layer group {group.number} "
                f"({group.symbol}); the cell is not in the standard setting or atoms overlap"
            )
        index = fitting[int(np.argmax(nearest < nearest.min() + 1e-6))]  # the first of equally good ones
        target = xyz[members] - families.translation[index] + shift[index, members]
        parameters = target @ families.inverse[index].T
        # among equally good representatives take the first in a fixed order, so that encoding is reproducible
        order = np.lexsort((*np.round(parameters % 1.0, 6).T[::-1], np.round(residual[index, members], 6)))
        x, y, z = families.matrix[index] @ parameters[order[0]] + families.translation[index]
        sites.append(
            Site(int(numbers[start]), group.positions[index].letter, (float(x) % 1.0, float(y) % 1.0, float(z)))
        )
    return tuple(sorted(sites, key=lambda s: (s.letter, s.element, s.xyz)))


def _encode_standard(
    number: int, matrix: Array, xyz: Array, numbers: NDArray[np.int64], tolerance: float
) -> tuple[LayerCrystal, Array]:
    """Crystal and averaged positions of a cell in the standard setting of layer group ``number``."""
    group = layer_group(number)
    lattice = family_lattice(group, matrix)
    metric = in_plane_matrix(*lattice)
    if not group.reverses_z:
        xyz = xyz - np.array([0.0, 0.0, xyz[:, 2].mean()])
    perm, _, worst = _permutations(group, metric, xyz, numbers)
    if worst > tolerance:
        raise SymmetryError(
            f"operations of layer group {number} ({group.symbol}) miss the atoms by {worst:.4f} angstrom, "
            f"allowed {tolerance:g}; raise symprec or choose another group"
        )
    if np.any(np.sort(perm, axis=1) != np.arange(len(xyz))):
        raise SymmetryError("two atoms are mapped onto one; atoms overlap within the tolerance")
    averaged = _average(group, xyz, perm)
    crystal = LayerCrystal(number, lattice, _assign(group, averaged, numbers, perm))
    return crystal, averaged


def symmetrize(structure: Structure, symprec: float = 0.1) -> SymmetrizedLayer:
    """The structure brought exactly onto the layer group found at ``symprec``.

    Parameters
    ----------
    structure
        Slab with c perpendicular to a and b.
    symprec
        Tolerance in angstrom, > 0; the paper's data need about 0.1.

    Raises
    ------
    SymmetryError
        If no layer group fits or an orbit fits no Wyckoff position.
    """
    dataset = moyo_layer_dataset(structure, symprec)
    basis = np.array(dataset.std_cell.basis, dtype=float).reshape(3, 3)
    frac = np.array(dataset.std_cell.positions, dtype=float)
    numbers = np.array(dataset.std_cell.numbers)
    xyz = np.column_stack([frac[:, :2], frac[:, 2] * basis[2, 2]])
    if basis[2, 2] < 0:
        raise SymmetryError("the standardised cell is left-handed; report this structure")
    crystal, _ = _encode_standard(int(dataset.number), basis[:2, :2], xyz, numbers, max(symprec, 1e-3) * 3)
    result = decode(crystal)
    moved = _displacement(structure, dataset, crystal)
    return SymmetrizedLayer(crystal, result, symprec, moved)


def _displacement(structure: Structure, dataset: Any, crystal: LayerCrystal) -> float:
    """Largest distance from an input atom, carried to the standard frame, to its symmetrised place (angstrom)."""
    from scdm_models.symmetry.detect import _centred

    lattice, frac, _ = _centred(structure)
    frac[:, 2] -= 0.5
    linear = np.array(dataset.std_linear, dtype=float)
    shift = np.array(dataset.std_origin_shift, dtype=float)
    standard = (frac - shift) @ np.linalg.inv(linear).T
    c = float(np.linalg.norm(lattice[2])) * float(np.sign(linear[2, 2]))
    standard[:, 2] = standard[:, 2] * abs(c)
    atoms, elements = expand(crystal)
    numbers = np.array([int(s.specie.Z) for s in structure])
    matrix = in_plane_matrix(*crystal.lattice)
    if not crystal.group.reverses_z:
        standard[:, 2] -= standard[:, 2].mean()
    delta = wrap(standard[:, None, :] - atoms[None, :, :])
    squared = ((delta[..., :2] @ matrix) ** 2).sum(-1) + delta[..., 2] ** 2
    squared = np.where(numbers[:, None] == elements[None, :], squared, np.inf)
    return float(np.sqrt(squared.min(1).max()))


def expand(crystal: LayerCrystal) -> tuple[Array, NDArray[np.int64]]:
    """All atoms of the conventional cell: (n, 3) in-plane fractions and heights (angstrom); (n,) atomic numbers."""
    group, families = crystal.group, first_points(crystal.layer_group)
    blocks, numbers = [], []
    for site in crystal.sites:
        index = group.index(site.letter)
        blocks.append(group.positions[index].orbit(families.parameters(index, np.array(site.xyz))))
        numbers += [site.element] * group.positions[index].multiplicity
    return np.concatenate(blocks), np.array(numbers, dtype=np.int64)


_CENTRED_PRIMITIVE = np.array([[0.5, -0.5], [0.5, 0.5]])  # rows: primitive vectors in units of a, b


def decode(crystal: LayerCrystal, vacuum: float = DEFAULT_VACUUM_ANGSTROM) -> Structure:
    """The primitive-cell structure of the crystal.

    Parameters
    ----------
    crystal
        Asymmetric unit.
    vacuum
        c is the slab's thickness plus this, angstrom.

    Raises
    ------
    StructureError
        If the crystal has no sites.
    """
    if not crystal.sites:
        raise StructureError("a crystal without sites has no structure; give at least one site")
    xyz, numbers = expand(crystal)
    matrix = in_plane_matrix(*crystal.lattice)
    if crystal.group.centred:
        primitive = _CENTRED_PRIMITIVE @ matrix
        plane = xyz[:, :2] @ np.linalg.inv(_CENTRED_PRIMITIVE)
        keep = _first_of_each(np.column_stack([plane, xyz[:, 2]]), numbers)
        xyz, numbers = np.column_stack([plane, xyz[:, 2]])[keep], numbers[keep]
        a, b = (float(np.linalg.norm(row)) for row in primitive)
        gamma = float(np.rad2deg(np.arccos(np.clip(primitive[0] @ primitive[1] / (a * b), -1, 1))))
        matrix = in_plane_matrix(a, b, gamma)
    half = float(np.abs(xyz[:, 2]).max())
    c = 2 * half + vacuum
    lattice = np.zeros((3, 3))
    lattice[:2, :2] = matrix
    lattice[2, 2] = c
    frac = np.column_stack([xyz[:, :2] % 1.0, 0.5 + xyz[:, 2] / c])
    return Structure(Lattice(lattice), [_element(int(z)) for z in numbers], frac)


@cache
def _element(z: int) -> Element:
    return Element.from_Z(z)


def _first_of_each(frac: Array, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of one atom of each pair that the centring translation relates (they coincide in the primitive cell)."""
    n = len(frac)
    delta = np.abs(wrap(frac[:, None, :] - frac[None, :, :])).max(-1)
    same = (delta < 1e-6) & (numbers[:, None] == numbers[None, :])
    keep = np.array([not same[i, :i].any() for i in range(n)])
    chosen: NDArray[np.int64] = np.flatnonzero(keep)
    if 2 * len(chosen) != n:
        raise StructureError(
            f"atoms coincide: {n} atoms of the centred cell reduce to {len(chosen)} instead of {n // 2}"
        )
    return chosen


def _standard_frame(structure: Structure, number: int) -> tuple[Array, Array, NDArray[np.int64]]:
    """The conventional cell of a structure that ``decode`` made: (2, 2) rows, (n, 3) positions, (n,) numbers."""
    group = layer_group(number)
    matrix = np.array(structure.lattice.matrix)[:2, :2]
    frac = np.array(structure.frac_coords)
    c = float(structure.lattice.matrix[2, 2])
    xyz = np.column_stack([frac[:, :2], (frac[:, 2] - 0.5) * c])
    numbers = np.array([int(s.specie.Z) for s in structure], dtype=np.int64)
    if group.centred:
        matrix = np.linalg.inv(_CENTRED_PRIMITIVE) @ matrix
        plane = xyz[:, :2] @ _CENTRED_PRIMITIVE
        first = np.column_stack([plane, xyz[:, 2]])
        xyz = np.concatenate([first, first + np.array([0.5, 0.5, 0.0])])
        numbers = np.concatenate([numbers, numbers])
    return matrix, xyz, numbers


def _has_family_shape(group: LayerGroup, matrix: Array, tolerance: float) -> bool:
    """Whether the cell already has the shape of the group's family, within ``tolerance`` angstrom."""
    ideal = in_plane_matrix(*family_lattice(group, matrix))
    gram, ideal_gram = matrix @ matrix.T, ideal @ ideal.T
    return bool(np.abs(gram - ideal_gram).max() < 2 * tolerance * np.sqrt(np.trace(gram)))


def encode(structure: Structure, symprec: float = 1e-3, number: int | None = None) -> LayerCrystal:
    """The asymmetric unit of a symmetric slab.

    A structure already in the standard setting (as ``decode`` writes it) keeps its frame, so that
    ``decode(encode(s))`` is ``s``; any other is standardised first.

    Parameters
    ----------
    structure
        Slab with c perpendicular to a and b.
    symprec
        Tolerance in angstrom, > 0.
    number
        Layer group to encode in; the detected one when absent. A subgroup of the full symmetry is possible where
        the structure is in that group's standard setting (1 always is).

    Raises
    ------
    SymmetryError
        If no group fits, or the structure does not have the one asked for.
    """
    group_number = number if number is not None else int(moyo_layer_dataset(structure, symprec).number)
    group = layer_group(group_number)
    matrix, xyz, numbers = _standard_frame(structure, group_number)
    if _has_family_shape(group, matrix, symprec):
        try:
            return _encode_standard(group_number, matrix, xyz, numbers, symprec)[0]
        except SymmetryError:
            if number is not None:
                raise
    if number is not None:
        raise SymmetryError(
            f"the cell does not have the shape of layer group {group_number} ({group.symbol}, {group.family}); "
            "standardise it with symmetrize() first"
        )
    return symmetrize(structure, symprec).crystal


def without_symmetry(crystal: LayerCrystal) -> LayerCrystal:
    """The crystal in layer group p1: its primitive cell with every atom general (the paper's control, UnSCDM)."""
    return _encode_standard(1, *_standard_frame(decode(crystal), 1), 1e-3)[0]


def max_site_distance(first: Structure, second: Structure) -> float:
    """Largest distance between equal atoms of two structures in one frame, angstrom; inf where they cannot pair.

    The lattices' in-plane rows must agree within the returned number too; c may differ.
    """
    one, two = (_standard_frame(s, 1) for s in (first, second))
    if len(one[2]) != len(two[2]):
        return float("inf")
    delta = wrap(one[1][:, None, :] - two[1][None, :, :])
    squared = ((delta[..., :2] @ one[0]) ** 2).sum(-1) + delta[..., 2] ** 2
    squared = np.where(one[2][:, None] == two[2][None, :], squared, np.inf)
    if len(np.unique(squared.argmin(1))) != len(one[2]):
        return float("inf")
    return max(float(np.sqrt(squared.min(1).max())), float(np.abs(one[0] - two[0]).max()))
