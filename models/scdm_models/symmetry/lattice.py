"""The standard orientation of slabs (c along z, a along x, centred), and whether atoms form one layer.

Geometry of cells and bonded components only: no symmetry, no model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from scdm_models.errors import NotALayerError, StructureError

Array = NDArray[np.float64]
# Widest empty gap below which a crystal counts as bulk. Measured: all but one of the 9,944 entries of
# 2dMatPedia and C2DB have at least 7.0 angstrom (the one is a bulk crystal), 99.6 % of 25,985 bulk phases of
# the Materials Project less than 5 (the rest hold slabs and molecules); van der Waals gaps end near 4.
MIN_VACUUM_ANGSTROM = 5.0
SHORTER = 1e-3  # by how much of their length the vectors of a cell have to become shorter, or it stays
DEFAULT_VACUUM_ANGSTROM = 20.0
# Bonded: closer than this times the sum of the covalent radii. Measured: at 1.3 99.7 % of C2DB's layers and
# 90.5 % of 2dMatPedia's are one component in two dimensions (96.4 and 84.7 % at 1.2; 100 and 93.5 % at 1.4,
# where van der Waals contacts of Te begin to count).
BOND_FACTOR = 1.3
_RADII: Array | None = None


def covalent_radii(numbers: NDArray[np.int64]) -> Array:
    """Covalent radii, angstrom (Cordero et al., Dalton Trans. 2832 (2008), doi:10.1039/b801115j, through
    ASE).
    """
    global _RADII
    if _RADII is None:
        from ase.data import covalent_radii as table

        _RADII = np.array(table, dtype=float)
    radii: Array = _RADII[numbers]
    return radii


def _largest_gaps(frac: Array) -> tuple[list[float], list[float]]:
    """Largest empty interval of each column of fractional coordinates on the circle: length, and where it begins."""
    z = np.sort(frac % 1.0, axis=0)
    gaps = np.concatenate([z[1:], z[:1] + 1.0]) - z
    k = gaps.argmax(0), np.arange(frac.shape[1])
    return gaps[k].tolist(), z[k].tolist()


def _heights(matrix: Array) -> Array:
    """(3,) distances between the faces of the cell, angstrom: 1 / |reciprocal vector|."""
    heights: Array = 1.0 / np.linalg.norm(np.linalg.inv(matrix), axis=0)
    return heights


def slab_thickness(structure: Structure) -> float:
    """Distance between the outermost atoms along the normal of a and b, angstrom; a slab across the boundary
    is joined.
    """
    gaps, _ = _largest_gaps(np.array(structure.frac_coords))
    return float((1.0 - gaps[2]) * _heights(structure.lattice.matrix)[2])


def vacuum_thickness(structure: Structure) -> float:
    """Distance between the slab and its image along the normal of a and b, angstrom."""
    return float(_largest_gaps(np.array(structure.frac_coords))[0][2] * _heights(structure.lattice.matrix)[2])


def area_per_atom(slab: Structure) -> float:
    """In-plane area over the number of atoms of a slab as ``orient_slab`` gives it, angstrom^2."""
    return abs(float(np.linalg.det(slab.lattice.matrix[:2, :2]))) / len(slab)


def _checked_arrays(structure: Structure) -> tuple[Array, Array]:
    """Lattice rows and fractional coordinates; ``StructureError`` for what is no crystal."""
    if len(structure) == 0:
        raise StructureError("the structure has no atoms; a layer needs at least one")
    frac, matrix = (
        np.array(structure.frac_coords, dtype=float),
        np.array(structure.lattice.matrix, dtype=float),
    )
    if not (np.isfinite(frac).all() and np.isfinite(matrix).all()):
        raise StructureError("coordinates or lattice hold a value that is not a finite number; repair the file")
    volume = abs(float(np.linalg.det(matrix)))
    if volume < 1e-3:
        raise StructureError(f"the cell volume {volume:g} angstrom^3 must be > 0; repair the lattice")
    return matrix, frac


def orient_slab(structure: Structure, vacuum: float | None = DEFAULT_VACUUM_ANGSTROM) -> Structure:
    """The same layer with c along +z, perpendicular to a and b, a along x, centred at fractional z = 1/2.

    The layer is what the two lattice vectors other than the vacuum's span, so a tilted c is replaced by the
    normal and no distance within the layer changes. The rotation is proper. Sites keep their order; oxidation
    states and site properties are not carried over.

    Parameters
    ----------
    structure
        A slab; the vacuum may lie along any of the three lattice vectors (the widest gap decides).
    vacuum
        c becomes the thickness plus this, angstrom, > 0; None keeps the empty gap of the input.

    Raises
    ------
    StructureError
        If there are no atoms, a coordinate is not finite, or the cell has no volume.
    NotALayerError
        If no lattice direction has an empty gap of 5 angstrom (a bulk crystal).

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> graphene = Structure(Lattice.hexagonal(2.46, 12), ["C", "C"], [[0, 0, 0], [1 / 3, 2 / 3, 0]])
    >>> orient_slab(graphene, vacuum=15).lattice.c
    15.0
    """
    lattice, frac = oriented(structure, vacuum)
    return Structure(Lattice(lattice), [site.specie for site in structure], frac)


def oriented(structure: Structure, vacuum: float | None) -> tuple[Array, Array]:
    """``orient_slab`` as arrays, which takes half of the time: (3, 3) lattice, (n, 3) fractional coordinates."""
    if vacuum is not None and not vacuum > 0:
        raise StructureError(f"vacuum={vacuum:g} angstrom must be > 0; 20 separates the images of a layer")
    matrix, frac = _checked_arrays(structure)
    heights = _heights(matrix)
    lengths, starts = _largest_gaps(frac)
    gaps = [length * height for length, height in zip(lengths, heights.tolist(), strict=True)]
    axis = 2 if gaps[2] > max(gaps[:2]) - 1e-6 else int(np.argmax(gaps))  # c where it is as good
    if gaps[axis] < MIN_VACUUM_ANGSTROM:
        raise NotALayerError(
            f"the widest empty gap is {gaps[axis]:.1f} angstrom, a layer needs at least "
            f"{MIN_VACUUM_ANGSTROM:g}: this is a bulk crystal; give a slab with vacuum"
        )
    order = [(axis + 1) % 3, (axis + 2) % 3, axis]  # cyclic: keeps the handedness
    matrix, frac = matrix[order], frac[:, order]
    frac[:, 2] = (frac[:, 2] - starts[axis] - 1e-9) % 1.0  # the slab is now the upper end of [0, 1)
    (ax, ay, az), (bx, by, bz) = matrix[0], matrix[1]
    normal = np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
    normal /= np.sqrt(normal @ normal)
    x = matrix[0] / np.sqrt(matrix[0] @ matrix[0])
    y = np.array(
        [
            normal[1] * x[2] - normal[2] * x[1],
            normal[2] * x[0] - normal[0] * x[2],
            normal[0] * x[1] - normal[1] * x[0],
        ]
    )
    frame = np.array([x, y, normal]).T  # columns are the new axes
    cart = frac @ matrix @ frame
    thickness = float(np.ptp(cart[:, 2]))
    c = thickness + (vacuum if vacuum is not None else gaps[axis])
    lattice = np.zeros((3, 3))
    lattice[:2, :2] = (matrix[:2] @ frame)[:, :2]
    lattice[0, 1] = 0.0
    lattice[2, 2] = c
    plane = (cart[:, :2] @ np.linalg.inv(lattice[:2, :2])) % 1.0
    plane[plane >= 1.0] = 0.0  # -1e-17 % 1.0 is 1.0
    height = 0.5 + (cart[:, 2] - (cart[:, 2].max() + cart[:, 2].min()) / 2) / c
    return lattice, np.column_stack([plane, height])


def gauss_reduced(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 2) the shortest basis of the plane's lattice (Lagrange-Gauss reduction), right-handed."""
    a, b = plane
    for _ in range(200):
        if b @ b < a @ a:
            a, b = b, a
        b = b - np.round((a @ b) / (a @ a)) * a
        if b @ b >= a @ a - 1e-9:
            break
    return np.array([a, b if a[0] * b[1] - a[1] * b[0] > 0 else -b])


def prepare_slab(structure: Structure, vacuum: float = DEFAULT_VACUUM_ANGSTROM) -> Structure:
    """The layer as everything is computed of it: ``orient_slab``, the shortest a and b, atoms of an element together.

    Elements keep the order in which they first come, atoms that of their element, and magnetic moments their atom.

    A skewed cell is the same crystal, and has a mesh of k-points that is fine along one direction and coarse along
    another. Cells whose vectors are the shortest already stay as they are.

    Parameters
    ----------
    structure
        A slab in any orientation; its ``magmom`` (Bohr magnetons, one number a site) is kept where every site has one.
    vacuum
        c becomes the thickness plus this, angstrom.
    """
    slab = orient_slab(structure, vacuum)
    plane = np.array(slab.lattice.matrix[:2, :2])
    reduced = gauss_reduced(plane)
    if np.linalg.norm(reduced, axis=1).sum() < np.linalg.norm(plane, axis=1).sum() * (1 - SHORTER):
        angle = np.arctan2(reduced[0, 1], reduced[0, 0])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        lattice = np.zeros((3, 3))
        lattice[:2, :2] = reduced @ turn
        lattice[0, 1], lattice[2, 2] = 0.0, slab.lattice.c
        frac = np.array(slab.frac_coords)
        frac[:, :2] = (frac[:, :2] @ plane @ np.linalg.inv(reduced)) % 1.0
        frac[:, :2][frac[:, :2] >= 1.0] = 0.0  # -1e-17 % 1.0 is 1.0
        slab = Structure(Lattice(lattice), slab.species, frac)
    moments = structure.site_properties.get("magmom", [])
    if moments and all(isinstance(moment, int | float) for moment in moments):
        slab.add_site_property("magmom", [float(moment) for moment in moments])
    first = {specie: slab.species.index(specie) for specie in set(slab.species)}
    grouped = sorted(range(len(slab)), key=lambda site: first[slab.species[site]])
    return slab if grouped == list(range(len(slab))) else Structure.from_sites([slab[site] for site in grouped])


def layer_dimensionality(structure: Structure) -> list[int]:
    """Dimensionality (0-3) of each bonded component, by the rank of the lattice translations it connects.

    Atoms closer than ``BOND_FACTOR`` times the sum of their covalent radii are bonded; components as in
    Larsen et al., Phys. Rev. Materials 3, 034003 (2019), doi:10.1103/PhysRevMaterials.3.034003. 1H-MoS2 gives
    ``[2]``, its bilayer ``[2, 2]``, diamond ``[3]``, a molecule ``[0]``.

    pymatgen's ``get_structure_components``, which is behind ``get_dimensionality_larsen``, gives the same for the same
    bonds on all 9,944 entries of C2DB and 2dMatPedia and on 2,000 of them with moved atoms and strained cells, in 23
    times the time (23 against 1.0 ms a layer): it is the second opinion of the tests.
    """
    radii = covalent_radii(np.array([site.specie.Z for site in structure]))
    first, second, images, distances = structure.get_neighbor_list(float(2 * radii.max() * BOND_FACTOR))
    bonded = distances < BOND_FACTOR * (radii[first] + radii[second])
    edges: dict[int, list[tuple[int, tuple[int, int, int]]]] = {}
    for i, j, (u, v, w) in zip(
        first[bonded].tolist(), second[bonded].tolist(), images[bonded].astype(int).tolist(), strict=True
    ):
        edges.setdefault(i, []).append((j, (u, v, w)))
    found: dict[int, tuple[int, int, int]] = {}  # lattice vector that carries an atom to its component's first copy
    ranks = []
    for start in range(len(structure)):
        if start in found:
            continue
        found[start] = (0, 0, 0)
        cycles: set[tuple[int, int, int]] = set()
        stack = [start]
        while stack:
            i = stack.pop()
            u, v, w = found[i]
            for j, (p, q, r) in edges.get(i, []):
                offset = (u + p, v + q, w + r)
                known = found.setdefault(j, offset)
                if known is offset:
                    stack.append(j)
                elif known != offset:
                    cycles.add((offset[0] - known[0], offset[1] - known[1], offset[2] - known[2]))
        ranks.append(int(np.linalg.matrix_rank(np.array(list(cycles)))) if cycles else 0)
    return ranks


def is_one_layer(structure: Structure) -> bool:
    """Whether all atoms belong to one bonded component that extends in exactly two dimensions."""
    return layer_dimensionality(structure) == [2]
