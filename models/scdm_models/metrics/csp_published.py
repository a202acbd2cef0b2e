"""The published distances between a crystal and its reconstruction: what CSPBenchMetrics prints, to four decimals.

Definitions of Wei et al., Comput. Mater. Sci. 235, 112802 (2024), doi:10.1016/j.commatsci.2024.112802. Sites are points
in space in the order and at the coordinates of the file: moving an atom by a lattice vector, exchanging two like atoms
or choosing another cell changes the numbers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pymatgen.core import Structure

from scdm_models.errors import StructureError
from scdm_models.metrics.csp_features import Array, Key, cache_key, environments, reflections, site_ofm, structure_of

# The constants of CSPBenchMetrics and of point-cloud-utils, which it calls.
SINKHORN_EPSILON = 1e-3  # angstrom
SINKHORN_ITERATIONS = 100
SINKHORN_STOP = 1e-3  # angstrom, sum over the atoms of the change of a potential
XRD_GRID_DEGREES = np.linspace(0.0, 90.0, 901)
XRD_BANDWIDTH = 0.01  # of the standard deviation of the reflections' angles


def sinkhorn_distance(original: Structure, reconstructed: Structure) -> float:
    """Cost of moving the sites of one structure onto those of the other, angstrom; elements are not looked at.

    Every atom weighs one and the costs are summed. Transport with an entropy of 1e-3 angstrom, stopped after 100
    iterations, usually unconverged: the plan does not move whole atoms, so the value can lie below the true cost.

    Raises
    ------
    StructureError
        If the numbers of atoms differ.

    References
    ----------
    Cuturi, Adv. Neural Inf. Process. Syst. 26 (2013).
    """
    from scipy.spatial.distance import cdist

    _same_size(original, reconstructed)
    return _sinkhorn(cdist(original.cart_coords, reconstructed.cart_coords))


def superpose_distance(original: Structure, reconstructed: Structure) -> float:
    """Root mean square distance of the atoms after the best superposition, angstrom.

    Sites are paired in their order, whatever their elements, after the best proper rotation, translation and uniform
    scale (Umeyama, doi:10.1109/34.88573).

    Raises
    ------
    StructureError
        If the numbers of atoms differ.
    """
    _same_size(original, reconstructed)
    _same_size(original, reconstructed)
    a, b = (np.array(s.cart_coords) - np.mean(s.cart_coords, axis=0) for s in (original, reconstructed))
    u, stretch, vt = np.linalg.svd(b.T @ a)
    proper = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    square = float((b**2).sum())
    scale = float(stretch @ proper) / square if square > 0 else 1.0
    return float(np.sqrt(((a - scale * b @ (u * proper) @ vt) ** 2).sum(1).mean()))


def crystalnn_distance(original: Structure, reconstructed: Structure) -> float:
    """Distance of the local environments: CrystalNN coordination weights and order parameters; no unit.

    Mean, standard deviation, minimum and maximum over the sites of each of the 61 numbers of
    ``csp_features.environments``; Euclidean norm of the difference.

    References
    ----------
    Zimmermann and Jain, RSC Adv. 10, 6063 (2020), doi:10.1039/c9ra07755c.
    """
    a, b = (
        np.concatenate([f.mean(0), f.std(0), f.min(0), f.max(0)])
        for f in (environments(cache_key(s))[0] for s in (original, reconstructed))
    )
    return float(np.linalg.norm(a - b))


def xrd_distance(original: Structure, reconstructed: Structure) -> float:
    """Distance of the powder patterns (Cu K-alpha, 2 theta from 0 to 90 degrees); no unit.

    Density of the reflections, each counted int(10 I) times at a strongest intensity of 100, broadened with a
    bandwidth that follows from their spread; Euclidean norm of the difference over 901 points.
    """
    a, b = (_pattern(*reflections(cache_key(s))) for s in (original, reconstructed))
    return float(np.linalg.norm(a - b))


def ofm_distance(original: Structure, reconstructed: Structure) -> float:
    """Distance of the orbital field matrices (32 x 32, Frobenius norm), 1/bohr.

    Mean over the sites of a 3 x 3 x 3 supercell; neighbours within 13 angstrom, faces that are open towards a wider
    vacuum dropped, nearest images taken for neighbours. The matrix of a site is that of ``csp_features.site_ofm``.

    References
    ----------
    Lam Pham et al., Sci. Technol. Adv. Mater. 18, 756 (2017), doi:10.1080/14686996.2017.1378060.
    """
    a, b = (_ofm(cache_key(s)) for s in (original, reconstructed))
    return float(np.linalg.norm(a - b))


def _same_size(original: Structure, reconstructed: Structure) -> None:
    cache_key(original), cache_key(reconstructed)
    if len(original) != len(reconstructed):
        raise StructureError(
            f"the structures have {len(original)} and {len(reconstructed)} atoms, the same number is required; "
            "compare equal cells"
        )


def _sinkhorn(cost: Array) -> float:
    """Sum of cost times plan after Sinkhorn's iterations with unit masses; u first, then v, as the source does."""
    from scipy.special import logsumexp

    u, v = np.zeros(len(cost)), np.zeros(len(cost))
    for _ in range(SINKHORN_ITERATIONS):
        before = u, v
        u = -SINKHORN_EPSILON * logsumexp((v - cost) / SINKHORN_EPSILON, axis=1)
        v = -SINKHORN_EPSILON * logsumexp((u[:, None] - cost) / SINKHORN_EPSILON, axis=0)
        if max(np.abs(u - before[0]).sum(), np.abs(v - before[1]).sum()) < SINKHORN_STOP:
            break
    return float((cost * np.exp((u[:, None] + v - cost) / SINKHORN_EPSILON)).sum())


def _pattern(angles: Array, intensities: Array) -> Array:
    """(901,) density per degree; what scipy's gaussian_kde gives for the repeated angles, without repeating them."""
    counts = np.trunc(intensities * 10)
    n = counts.sum()
    mean = (counts @ angles) / n
    variance = (counts @ (angles - mean) ** 2) / (n - 1)
    if not variance > 0:
        raise StructureError(f"the pattern has {len(angles)} reflections below 90 degrees, at least 2 are required")
    width = XRD_BANDWIDTH * np.sqrt(variance)
    kernels = np.exp(-0.5 * ((XRD_GRID_DEGREES[:, None] - angles) / width) ** 2)
    density: Array = kernels @ counts / (n * width * np.sqrt(2 * np.pi))
    return density


@lru_cache(maxsize=512)
def _ofm(key: Key) -> Array:
    """(32, 32) mean over the sites."""
    from pymatgen.core.local_env import VoronoiNN
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    supercell = structure_of(key) * (3, 3, 3)
    voronoi = VoronoiNN(allow_pathological=True, compute_adj_neighbors=False)
    total = np.zeros((32, 32))
    for same in SpacegroupAnalyzer(supercell).get_symmetrized_structure().equivalent_indices:
        site = supercell[same[0]]
        found = voronoi.get_nn_info(supercell, same[0])
        numbers = np.array([entry["site"].specie.Z for entry in found])
        distances = np.array([site.distance(entry["site"]) for entry in found])
        weights = np.array([entry["weight"] for entry in found])
        total += len(same) * site_ofm(site.specie.Z, numbers, weights, distances)
    return total / len(supercell)
