"""What the distances between a crystal and its reconstruction compare: local environments and X-ray reflections.

Structures are cached by their content (``Key``), so a crystal that is compared many times is analysed once.

Fingerprints and orbital field matrices are computed here and not by matminer. On the nine pairs that Wei et al.
tabulate, matminer 0.10.1 with pymatgen 2026.10 gives the CrystalNN distances to all four decimals, as this file does,
but no distance of orbital field matrices (0.11 to 0.30 off): it takes valence shells in the order of pymatgen's later
releases. It needs pandas below 3, and would find CrystalNN's neighbours once for each of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure

from scdm_models.errors import StructureError

Array = NDArray[np.float64]
# A structure as the caches know it: rows of the lattice, fractional coordinates, atomic numbers.
Key = tuple[bytes, bytes, tuple[int, ...]]
_DECIMALS = 9  # structures that agree to these are one in the caches; rounding of rotations is some 1e-15
# The motifs of coordination numbers 9 to 12 have no shapes of their own in pymatgen (12: the cuboctahedron).
_BOND_ORDERS = ("q2", "q4", "q6")
# pymatgen credits the far-pole contribution of these to the last parameter of a call, so they are called last.
_FAR_POLE = {
    *("tri_bipyr", "sq_bipyr", "pent_bipyr", "hex_bipyr"),
    *("oct_max", "sq_plan_max", "hex_plan_max", "see_saw_rect"),
}


def cache_key(structure: Structure) -> Key:
    """What the caches know the structure by; ``StructureError`` for what is no ordered crystal."""
    if len(structure) == 0:
        raise StructureError("the structure has no atoms; a crystal needs at least one")
    if not structure.is_ordered:
        raise StructureError(f"{structure.formula} has sites of partial occupancy; give an ordered structure")
    matrix, frac = np.array(structure.lattice.matrix), np.array(structure.frac_coords)
    if not (np.isfinite(matrix).all() and np.isfinite(frac).all()):
        raise StructureError("coordinates or lattice hold a value that is not a finite number; repair the structure")
    if abs(np.linalg.det(matrix)) < 1e-3:
        raise StructureError("the cell has no volume; repair the lattice")
    # adding 0 makes -0 the same as 0
    arrays = [(np.round(a, _DECIMALS) + 0.0).tobytes() for a in (matrix, frac)]
    return arrays[0], arrays[1], tuple(int(site.specie.Z) for site in structure)


def arrays_of(key: Key) -> tuple[Array, Array, NDArray[np.int64]]:
    """(3, 3) lattice rows, (n, 3) fractional coordinates, (n,) atomic numbers."""
    matrix, frac = (np.frombuffer(part).reshape(-1, 3).copy() for part in key[:2])
    return matrix, frac, np.array(key[2])


def structure_of(key: Key) -> Structure:
    """The structure of a key; its cell and coordinates are rounded to 1e-9."""
    matrix, frac, numbers = arrays_of(key)
    return Structure(Lattice(matrix), [Element.from_Z(int(z)) for z in numbers], frac)


@lru_cache(maxsize=512)
def reflections(key: Key) -> tuple[Array, Array]:
    """(m,) angles 2 theta, degrees, and (m,) intensities, the strongest 100."""
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    pattern = XRDCalculator("CuKa").get_pattern(structure_of(key), scaled=True, two_theta_range=(0, 90))
    return np.array(pattern.x, dtype=float), np.array(pattern.y, dtype=float)


@lru_cache(maxsize=128)
def _valence(number: int) -> Array:
    """(32,) one-hot valence configuration: s1 s2 p1 ... p6 d1 ... d10 f1 ... f14 (Lam Pham et al., section 2)."""
    shells = sorted(
        (int(n), "spdf".index(str(letter)), int(count))
        for n, letter, count in Element.from_Z(number).full_electronic_structure
    )
    outermost = shells[-1][0]
    vector = np.zeros(32)
    for n, azimuthal, count in shells:
        if n == outermost or (n == outermost - 1 and azimuthal >= 2) or (n == outermost - 2 and azimuthal == 3):
            vector[2 * azimuthal**2 + count - 1] = 1
    return vector


def site_ofm(number: int, numbers: NDArray[np.int64], weights: Array, distances: Array) -> Array:
    """(32, 32) orbital field matrix of a site, 1/bohr (Lam Pham et al., doi:10.1080/14686996.2017.1378060).

    The sum over the neighbours of weight / distance times the outer product of the valence configurations; shells are
    ordered by (n, l), as in the pymatgen of the benchmark: the order of its later releases makes core shells valence
    shells.

    Parameters
    ----------
    number
        Atomic number of the site.
    numbers, weights, distances
        (m,) atomic numbers of the neighbours, their weights and distances, angstrom.
    """
    from scipy.constants import value

    # The benchmark's featurizer takes the angstrom of X-ray wavelengths, longer by 1.5e-5: the fourth decimal.
    bohr = value("Bohr radius") / value("Angstrom star")
    others = np.array([_valence(int(z)) for z in numbers])
    return np.outer((weights / distances * bohr) @ others, _valence(number))


@lru_cache(maxsize=24)
def _order_parameters(coordination: int) -> tuple[int, list[tuple[list[int], Any]]]:
    """Number of order parameters of a coordination number, and calculators with the places they fill."""
    from pymatgen.core.local_env import CN_OPT_PARAMS, LocalStructOrderParams

    motifs: list[tuple[Any, ...]] = (
        [("sgl_bd",)] if coordination == 1 else [tuple(m) for m in CN_OPT_PARAMS.get(coordination, {}).values()]
    )
    if 9 <= coordination <= 12:
        motifs += [(name,) for name in _BOND_ORDERS]
    far = [i for i, motif in enumerate(motifs) if motif[0] in _FAR_POLE]
    near = [i for i in range(len(motifs)) if i not in far]
    groups = [group for group in (near + far[:1], *([i] for i in far[1:])) if group]
    return len(motifs), [
        (
            group,
            LocalStructOrderParams(
                [motifs[i][0] for i in group], [motifs[i][1] if len(motifs[i]) > 1 else None for i in group]
            ),
        )
        for group in groups
    ]


def _fingerprint(site: Any, weights: Mapping[int, float], neighbours: Mapping[int, list[dict[str, Any]]]) -> Array:
    """(61,) coordination weights and weighted order parameters of a site."""
    parts = []
    for coordination in range(1, 25):
        size, groups = _order_parameters(coordination)
        weight = weights.get(coordination, 0.0)
        values = np.zeros(1 + size)
        if weight:
            values[0] = 1
            sites = [site, *(entry["site"] for entry in neighbours[coordination])]
            for places, calculator in groups:
                found = calculator.get_order_parameters(sites, 0, indices_neighs=list(range(1, len(sites))))
                values[1 + np.array(places)] = [value or 0.0 for value in found]
        parts.append(weight * values)
    return np.concatenate(parts)


def _equivalent_sites(structure: Structure) -> NDArray[np.int64]:
    """(n,) for each site the first one that symmetry carries onto it; rounding aside their environments are one."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    try:
        return np.array(SpacegroupAnalyzer(structure, symprec=1e-4).get_symmetry_dataset().equivalent_atoms)
    except SymmetryUndeterminedError:
        return np.arange(len(structure))


@lru_cache(maxsize=512)
def environments(key: Key) -> tuple[Array, Array]:
    """(n, 61) CrystalNN fingerprints and (n, 1024) orbital field matrices of the sites, with CrystalNN's neighbours.

    The 61 numbers of a site: the weight of each coordination number 1 to 24 and, up to 12, the order parameters of its
    motifs times that weight (Zimmermann and Jain, doi:10.1039/c9ra07755c). Neighbours are geometric: no radii, no
    electronegativities.
    """
    from pymatgen.core.local_env import CrystalNN

    structure = structure_of(key)
    crystalnn = CrystalNN(distance_cutoffs=None, x_diff_weight=0)
    fingerprints, matrices = np.zeros((len(structure), 61)), np.zeros((len(structure), 1024))
    labels = _equivalent_sites(structure)
    for label in np.unique(labels):
        site = structure[int(label)]
        data = crystalnn.get_nn_data(structure, int(label))
        numbers = np.array([entry["site"].specie.Z for entry in data.all_nninfo])
        distances = np.array([np.linalg.norm(entry["site"].coords - site.coords) for entry in data.all_nninfo])
        weights = np.array([entry["weight"] for entry in data.all_nninfo])
        fingerprints[labels == label] = _fingerprint(site, data.cn_weights, data.cn_nninfo)
        matrices[labels == label] = site_ofm(site.specie.Z, numbers, weights, distances).ravel()
    return fingerprints, matrices
