"""The periodic distances between a crystal and its reconstruction: converged, and alike in every description of it.

Cell, origin, order of the sites, vacuum and which side is up make no difference, sums run to convergence, and nothing
is scaled. Both structures need the same atoms, cell for cell. Layers are compared at 20 angstrom of vacuum; what has
no vacuum is compared as a bulk crystal.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from scdm_models.errors import NotALayerError, StructureError
from scdm_models.metrics.csp_features import Array, Key, arrays_of, cache_key, environments, reflections
from scdm_models.symmetry.lattice import DEFAULT_VACUUM_ANGSTROM, orient_slab

XRD_SIGMA_DEGREES = 0.2  # of a reflection; the published bandwidth comes to 0.1 to 0.2 degrees for bulk crystals
LATTICE_TOLERANCE = 0.1  # strain by which a pairing of lattice vectors may be worse than the best one and is tried
REFINED = 24  # superpositions that are refined, the best of those tried


def sinkhorn_distance(original: Structure, reconstructed: Structure) -> float:
    """Cost of moving the sites of one structure onto those of the other, angstrom; elements are not looked at.

    Mean over the atoms of the exact transport, where the superposition puts the crystals; never above
    ``superpose_distance``.

    Raises
    ------
    StructureError
        If the compositions differ.
    """
    from scipy.optimize import linear_sum_assignment

    first, second, periodic = _comparable(original, reconstructed)
    cost = np.sqrt(_superposition(first, second, periodic)[1])
    return float(cost[linear_sum_assignment(cost)].mean())


def superpose_distance(original: Structure, reconstructed: Structure) -> float:
    """Root mean square distance of the atoms after the best superposition, angstrom.

    Like atoms and nearest images are paired so that the RMSD is least over proper rigid motions that lay the lattices
    upon each other; no scale. The lattices differ by a strain E; it adds, in quadrature, the RMS displacement that E
    makes over a square (cubic) cell of the same size, sqrt(size^2 |E|^2 / 12), so a stretched crystal is not at
    distance 0. The vacuum takes no part. The search starts from every pair of atoms of the rarest element, so the value
    is the least one of those tried.

    Raises
    ------
    StructureError
        If the compositions differ.
    """
    first, second, periodic = _comparable(original, reconstructed)
    return float(np.sqrt(_superposition(first, second, periodic)[0]))


def crystalnn_distance(original: Structure, reconstructed: Structure) -> float:
    """Distance of the local environments: CrystalNN coordination weights and order parameters; no unit.

    RMS over the sites of the norm of the difference of the 61 numbers of ``csp_features.environments``, like sites
    matched so that it is least.

    Raises
    ------
    StructureError
        If the compositions differ.

    References
    ----------
    Zimmermann and Jain, RSC Adv. 10, 6063 (2020), doi:10.1039/c9ra07755c.
    """
    first, second, _ = _comparable(original, reconstructed)
    return _matched_rms(environments(first)[0], environments(second)[0], first[2], second[2])


def xrd_distance(original: Structure, reconstructed: Structure) -> float:
    """Distance of the powder patterns (Cu K-alpha, 2 theta from 0 to 90 degrees), 0 to 1; no unit.

    Reflections of sigma = 0.2 degrees weighted by I without its Lorentz-polarisation factor,
    sqrt(int (p - q)^2 / int (p^2 + q^2)), integrated exactly. With that factor the 00l reflections, which know nothing
    of the plane, hold most of a layer's pattern: a median of 78 % over C2DB at 20 angstrom of vacuum, against 6 %
    without it.
    """
    first, second, _ = _comparable(original, reconstructed, same_atoms=False)
    (x, p), (y, q) = (_structure_factors(*reflections(key)) for key in (first, second))

    def overlap(x: Array, p: Array, y: Array, q: Array) -> float:
        """The integral of the product of two sums of Gaussians, but for a factor common to all."""
        return float(p @ np.exp(-((x[:, None] - y) ** 2) / (4 * XRD_SIGMA_DEGREES**2)) @ q)

    own = overlap(x, p, x, p) + overlap(y, q, y, q)
    return float(np.sqrt(max(0.0, 1 - 2 * overlap(x, p, y, q) / own)))


def ofm_distance(original: Structure, reconstructed: Structure) -> float:
    """Distance of the orbital field matrices (32 x 32, Frobenius norm), 1/bohr.

    Neighbours and weights of CrystalNN, whose correction for porous crystals takes the weight from images across the
    vacuum; RMS over the sites, like sites matched so that it is least. The matrix of a site is that of
    ``csp_features.site_ofm``.

    Raises
    ------
    StructureError
        If the compositions differ.

    References
    ----------
    Lam Pham et al., Sci. Technol. Adv. Mater. 18, 756 (2017), doi:10.1080/14686996.2017.1378060.
    """
    first, second, _ = _comparable(original, reconstructed)
    return _matched_rms(environments(first)[1], environments(second)[1], first[2], second[2])


def _comparable(original: Structure, reconstructed: Structure, same_atoms: bool = True) -> tuple[Key, Key, int]:
    """Both in standard form, and in how many dimensions they are periodic: layers (2) at one vacuum, or bulk (3)."""
    keys = cache_key(original), cache_key(reconstructed)
    if same_atoms and sorted(keys[0][2]) != sorted(keys[1][2]):
        raise StructureError(
            f"the cells hold {original.composition.formula} and {reconstructed.composition.formula}, the same atoms "
            "are required; compare a crystal with its own reconstruction"
        )
    try:
        first, second = (cache_key(orient_slab(s, DEFAULT_VACUUM_ANGSTROM)) for s in (original, reconstructed))
    except NotALayerError:
        return *keys, 3
    return first, second, 2


def _structure_factors(angles: Array, intensities: Array) -> tuple[Array, Array]:
    """The angles and the intensities without their Lorentz-polarisation factor."""
    theta = np.radians(angles / 2)
    return angles, intensities * np.sin(theta) ** 2 * np.cos(theta) / (1 + np.cos(2 * theta) ** 2)


def _assign(cost: Array, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) for each site of the first structure the like site of the second, at the least sum of costs."""
    from scipy.optimize import linear_sum_assignment

    partners = np.empty(len(first), dtype=np.int64)
    for number in np.unique(first):
        rows, columns = np.flatnonzero(first == number), np.flatnonzero(second == number)
        partners[rows] = columns[linear_sum_assignment(cost[np.ix_(rows, columns)])[1]]
    return partners


def _matched_rms(a: Array, b: Array, first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """RMS over the sites of the distance of their features (n, k), like sites matched so that it is least."""
    from scipy.spatial.distance import cdist

    cost = cdist(a, b, "sqeuclidean")
    partners = _assign(cost, np.array(first), np.array(second))
    return float(np.sqrt(cost[np.arange(len(cost)), partners].mean()))


@dataclass(frozen=True)
class _Overlay:
    """Two crystals whose lattices are laid upon each other; layers have heights in angstrom as third coordinate.

    mean: (3, 3) rows, the mean of both lattices, angstrom. first, second: (n, 3) fractional. strain2: mean square
    displacement by the lattices' mismatch, angstrom^2. periodic: number of leading periodic coordinates.
    """

    mean: Array
    first: Array
    second: Array
    strain2: float
    periodic: int

    def displacements(self, shift: Array) -> tuple[Array, Array]:
        """(..., n, n, 3) from each first to each second atom's nearest image, second moved by -shift; squares."""
        delta = self.second - self.first[:, None] - shift[..., None, None, :]
        delta[..., : self.periodic] -= np.round(delta[..., : self.periodic])
        offsets = np.zeros((3**self.periodic, 3))
        offsets[:, : self.periodic] = list(itertools.product((-1, 0, 1), repeat=self.periodic))
        vectors = delta @ self.mean
        images = vectors[..., None, :] + offsets @ self.mean
        squares = (images**2).sum(-1)
        nearest = squares.argmin(-1)[..., None]
        return (
            np.take_along_axis(images, nearest[..., None], -2)[..., 0, :],
            np.take_along_axis(squares, nearest, -1)[..., 0],
        )


@lru_cache(maxsize=2)
def _unimodular(periodic: int) -> Array:
    """(m, 3, 3) integer matrices of determinant +-1 with entries -1, 0, 1; layers keep or flip the third axis."""
    entries: Array = np.array(list(itertools.product((-1, 0, 1), repeat=9)), dtype=float).reshape(-1, 3, 3)
    if periodic == 2:
        entries = entries[(entries[:, 2, :2] == 0).all(1) & (entries[:, :2, 2] == 0).all(1)]
    unimodular: Array = entries[np.abs(np.round(np.linalg.det(entries))) == 1]
    return unimodular


def _reduced(key: Key, periodic: int) -> tuple[Array, Array]:
    """Lattice rows with short vectors, and the coordinates in them; a layer's third axis is 1 angstrom of height."""
    matrix, frac, _ = arrays_of(key)
    cart = frac @ matrix
    if periodic == 2:
        matrix[2] = [0, 0, 1e4]  # never mixed with the plane
    reduced = np.array(Lattice(matrix).get_lll_reduced_lattice(delta=0.999).matrix)
    if periodic == 2:
        reduced[2] = [0, 0, 1]
    return reduced, cart @ np.linalg.inv(reduced)


def _overlays(first: Key, second: Key, periodic: int) -> Iterator[_Overlay]:
    """The ways to lay the second lattice upon the first by a proper rotation, about as good as the best one."""
    (lattice, frac), (other, other_frac) = _reduced(first, periodic), _reduced(second, periodic)
    changes = _unimodular(periodic)
    changes = changes[np.linalg.det(changes) * np.linalg.det(other) * np.linalg.det(lattice) > 0]
    cells = changes @ other
    u, stretches, vt = np.linalg.svd(np.linalg.inv(lattice) @ cells)
    strains = np.linalg.norm(stretches - 1, axis=1)
    for k in np.flatnonzero(strains <= strains.min() + LATTICE_TOLERANCE):
        turned = cells[k] @ (u[k] @ vt[k]).T
        mean = (lattice + turned) / 2
        strain = np.linalg.inv(mean) @ (turned - lattice)
        size2 = abs(np.linalg.det(mean)) ** (2 / periodic)
        moved = other_frac @ np.linalg.inv(changes[k])
        yield _Overlay(mean, frac, moved, float(size2 * (strain**2).sum() / 12), periodic)


@lru_cache(maxsize=64)
def _superposition(first: Key, second: Key, periodic: int) -> tuple[float, Array]:
    """Least mean square distance, angstrom^2, and (n, n) squares of all distances there, each with the strain's."""
    a, b = np.array(first[2]), np.array(second[2])
    rows = np.arange(len(a))
    rarest = min(set(first[2]), key=lambda z: (first[2].count(z), z))
    starts: list[tuple[float, int, _Overlay, Array]] = []
    for overlay in _overlays(first, second, periodic):
        ours, theirs = overlay.first[a == rarest], overlay.second[b == rarest]
        shifts = (theirs - ours[:, None]).reshape(-1, 3)
        if periodic == 2:  # where two sets of heights are nearest, their means agree
            shifts[:, 2] = overlay.second[:, 2].mean() - overlay.first[:, 2].mean()
        for chunk in np.array_split(shifts, -(-len(shifts) * len(a) ** 2 // 20_000)):
            for shift, squares in zip(chunk, overlay.displacements(chunk)[1], strict=True):
                cost = squares[rows, _assign(squares, a, b)].mean()
                starts.append((cost + overlay.strain2, len(starts), overlay, shift))
    best, distances = np.inf, np.zeros((0, 0))
    for _, _, overlay, shift in sorted(starts)[:REFINED]:
        before = np.inf
        while True:  # neither step raises the mean, and there are finitely many pairings
            vectors, squares = overlay.displacements(shift)
            found = _assign(squares, a, b)
            total = float(squares[rows, found].mean()) + overlay.strain2
            if total < best:
                best, distances = total, squares + overlay.strain2
            if total > before - 1e-12:
                break
            before = total
            shift = shift + vectors[rows, found].mean(0) @ np.linalg.inv(overlay.mean)
    return best, distances
