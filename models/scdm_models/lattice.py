"""The slab contract: c along z, a along x, one slab in the middle of its cell. Owns geometry of cells, no symmetry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from scdm_models.errors import NotALayerError, StructureError

MIN_VACUUM_ANGSTROM = 5.0
DEFAULT_VACUUM_ANGSTROM = 20.0
BOND_FACTOR = 1.25  # bonded: closer than this times the sum of the covalent radii
_RADII: NDArray[np.float64] | None = None


def covalent_radii(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Covalent radii, angstrom (Cordero et al., Dalton Trans. 2832 (2008), doi:10.1039/b801115j, through ASE)."""
    global _RADII
    if _RADII is None:
        from ase.data import covalent_radii as table

        _RADII = np.array(table, dtype=float)
    return _RADII[numbers]


def _largest_gap(frac: NDArray[np.float64]) -> tuple[float, float]:
    """Largest empty interval of fractional coordinates on the circle: (length, coordinate where it begins)."""
    z = np.sort(frac % 1.0)
    gaps = np.diff(np.append(z, z[0] + 1.0))
    k = int(np.argmax(gaps))
    return float(gaps[k]), float(z[k])


def slab_thickness(structure: Structure) -> float:
    """Distance between the outermost atoms along the normal of a and b, angstrom; a slab across the boundary is joined."""
    gap, _ = _largest_gap(np.array(structure.frac_coords)[:, 2])
    return (1.0 - gap) * _height(structure, 2)


def vacuum_thickness(structure: Structure) -> float:
    """Distance between the slab and its image along the normal of a and b, angstrom."""
    return _largest_gap(np.array(structure.frac_coords)[:, 2])[0] * _height(structure, 2)


def _height(structure: Structure, axis: int) -> float:
    matrix = np.array(structure.lattice.matrix)
    others = [matrix[k] for k in range(3) if k != axis]
    return float(abs(np.linalg.det(matrix)) / np.linalg.norm(np.cross(*others)))


def orient_slab(structure: Structure, vacuum: float | None = DEFAULT_VACUUM_ANGSTROM) -> Structure:
    """The same layer with c along +z, perpendicular to a and b, a along x, centred at fractional z = 1/2.

    Parameters
    ----------
    structure
        A slab; the vacuum may lie along any of the three lattice vectors.
    vacuum
        c becomes the thickness plus this, angstrom; None keeps the height of the cell.

    Raises
    ------
    StructureError
        If there are no atoms or a coordinate is not finite.
    NotALayerError
        If no direction has 5 angstrom of vacuum (bulk), or more than one has (wire, molecule).
    """
    if len(structure) == 0:
        raise StructureError("the structure has no atoms; a layer needs at least one")
    frac = np.array(structure.frac_coords, dtype=float)
    if not (np.isfinite(frac).all() and np.isfinite(structure.lattice.matrix).all()):
        raise StructureError("coordinates or lattice are not finite numbers; repair the file")
    if abs(structure.lattice.volume) < 1e-3:
        raise StructureError(f"the cell volume {structure.lattice.volume:g} angstrom^3 must be > 0; repair the lattice")
    gaps = [_largest_gap(frac[:, k])[0] * _height(structure, k) for k in range(3)]
    axis = int(np.argmax(gaps))
    if gaps[axis] < MIN_VACUUM_ANGSTROM:
        raise NotALayerError(
            f"the largest empty gap is {gaps[axis]:.1f} angstrom, a layer needs at least {MIN_VACUUM_ANGSTROM:g}: "
            "this is a bulk crystal; give a slab with vacuum"
        )
    order = [(axis + 1) % 3, (axis + 2) % 3, axis]  # cyclic: keeps the handedness
    matrix, frac = np.array(structure.lattice.matrix)[order], frac[:, order]
    if np.linalg.det(matrix) < 0:
        matrix[2], frac[:, 2] = -matrix[2], -frac[:, 2]
    gap, start = _largest_gap(frac[:, 2])
    frac[:, 2] = (frac[:, 2] - start - 1e-9) % 1.0  # the slab is now the upper end of [0, 1)
    cart = frac @ matrix
    a, b = matrix[0], matrix[1]
    x = a / np.linalg.norm(a)
    normal = np.cross(a, b)
    normal /= np.linalg.norm(normal)
    frame = np.array([x, np.cross(normal, x), normal])
    cart, plane = cart @ frame.T, np.array([a, b]) @ frame.T
    z = cart[:, 2]
    thickness = float(z.max() - z.min())
    c = thickness + vacuum if vacuum is not None else thickness + gap * _height(structure, axis)
    lattice = np.zeros((3, 3))
    lattice[:2, :2] = plane[:, :2]
    lattice[2, 2] = c
    cart[:, 2] = z - (z.max() + z.min()) / 2 + c / 2
    oriented = Structure(Lattice(lattice), structure.species, cart, coords_are_cartesian=True)
    return Structure(oriented.lattice, oriented.species, oriented.frac_coords % 1.0)


def layer_dimensionality(structure: Structure) -> list[int]:
    """Dimensionality (0-3) of each bonded component, by the rank of the lattice translations it connects.

    Atoms closer than 1.25 times the sum of their covalent radii are bonded; components as in Larsen et al.,
    Phys. Rev. Materials 3, 034003 (2019), doi:10.1103/PhysRevMaterials.3.034003.
    """
    numbers = np.array([s.specie.Z for s in structure])
    radii = covalent_radii(numbers)
    first, second, images, distances = structure.get_neighbor_list(float(2 * radii.max() * BOND_FACTOR))
    bonded = distances < BOND_FACTOR * (radii[first] + radii[second])
    edges: dict[int, list[tuple[int, tuple[int, int, int]]]] = {}
    for i, j, image in zip(first[bonded], second[bonded], images[bonded], strict=True):
        edges.setdefault(int(i), []).append((int(j), (int(image[0]), int(image[1]), int(image[2]))))
    found: dict[int, NDArray[np.int64]] = {}
    ranks = []
    for start in range(len(structure)):
        if start in found:
            continue
        found[start] = np.zeros(3, dtype=int)
        cycles, stack = [], [start]
        while stack:
            i = stack.pop()
            for j, image in edges.get(i, []):
                offset = found[i] + np.array(image)
                if j not in found:
                    found[j] = offset
                    stack.append(j)
                elif np.any(offset != found[j]):
                    cycles.append(offset - found[j])
        ranks.append(int(np.linalg.matrix_rank(np.array(cycles))) if cycles else 0)
    return ranks


def is_one_layer(structure: Structure) -> bool:
    """Whether all atoms belong to one component that extends in exactly two dimensions."""
    return layer_dimensionality(structure) == [2]
