"""Distances between a crystal and its reconstruction: the six of the benchmark of Wei et al., and its baseline.

Each distance exists in two definitions.

``published``
    What Wei et al. tabulate (Comput. Mater. Sci. 235, 112802 (2024), doi:10.1016/j.commatsci.2024.112802, code
    CSPBenchMetrics), to four decimals. Sites are points in space in the order and at the coordinates of the file:
    moving an atom by a lattice vector, exchanging two like atoms or choosing another cell changes the numbers.
``periodic``
    The same questions asked of crystals. A layer and its description (cell, origin, order of sites, vacuum, side
    that is up) are told apart, sums run to convergence, and nothing is scaled. Both structures need the same
    atoms, cell for cell. Layers are compared at 20 angstrom of vacuum; what has no vacuum is compared as a bulk
    crystal.

=========  ==============================================  ======================================================
distance   published                                       periodic
=========  ==============================================  ======================================================
energy     eV/atom, absolute difference                    the same
sinkhorn   angstrom, summed over the atoms; 100            angstrom, mean over the atoms; exact transport between
           iterations, not converged                       sites of any element, nearest images
superpose  angstrom, RMSD after the best similarity        angstrom, RMSD between like atoms after the best rigid
           transform                                       motion, with the mismatch of the lattices
crystalnn  statistics over the sites, Euclidean            RMS over matched like sites, Euclidean
xrd        Euclidean, on 901 points                        0 (same pattern) to 1 (no reflection in common)
ofm        1/bohr, mean of the sites, Frobenius            1/bohr, RMS over matched like sites, Frobenius
=========  ==============================================  ======================================================

Owns the distances and the perturbed baseline. Makes no reconstruction, computes no energy, reads no file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure

from scdm_models.errors import NotALayerError, ScdmError, StructureError
from scdm_models.symmetry.lattice import (
    DEFAULT_VACUUM_ANGSTROM,
    MIN_VACUUM_ANGSTROM,
    orient_slab,
    slab_thickness,
    vacuum_thickness,
)

Array = NDArray[np.float64]
Definition = Literal["published", "periodic"]
Energies = tuple[float, float] | Callable[[Structure], float]

# Constants of the published definitions, those of CSPBenchMetrics and of point-cloud-utils, which it calls.
SINKHORN_EPSILON = 1e-3  # angstrom
SINKHORN_ITERATIONS = 100
SINKHORN_STOP = 1e-3  # angstrom, sum over the atoms of the change of a potential
XRD_GRID_DEGREES = np.linspace(0.0, 90.0, 901)
XRD_BANDWIDTH = 0.01  # of the standard deviation of the reflections' angles
# Constants of the periodic definitions.
XRD_SIGMA_DEGREES = 0.2  # of a reflection; the published bandwidth comes to 0.1 to 0.2 degrees for bulk crystals
LATTICE_TOLERANCE = 0.1  # strain by which a pairing of lattice vectors may be worse than the best one and is tried
REFINED = 24  # superpositions that are refined, the best of those tried
_DECIMALS = 9  # structures that agree to these are one in the caches; rounding of rotations is some 1e-15

# A structure as the caches know it: rows of the lattice, fractional coordinates, atomic numbers.
_Key = tuple[bytes, bytes, tuple[int, ...]]


@dataclass(frozen=True)
class CspDistances:
    """Distances between two structures; None where one was not asked for (energy) or could not be computed.

    energy: eV/atom. sinkhorn, superpose: angstrom. crystalnn, xrd: no unit. ofm: 1/bohr. The module says what
    each means in which definition. failures: name of a distance to the reason why it could not be computed.
    """

    energy: float | None
    sinkhorn: float | None
    superpose: float | None
    crystalnn: float | None
    xrd: float | None
    ofm: float | None
    failures: Mapping[str, str] = field(default_factory=dict)


def csp_distances(
    original: Structure,
    reconstructed: Structure,
    *,
    definition: Definition = "published",
    energies: Energies | None = None,
) -> CspDistances:
    """All distances between two structures; one that fails leaves its reason and never stops the others.

    Parameters
    ----------
    original, reconstructed
        Ordered crystals, layers or bulk.
    definition
        As in the table of this module.
    energies
        Energies of the two, eV/atom, or a function that gives the energy of a structure, eV/atom.

    Raises
    ------
    ScdmError
        If the definition is unknown.

    Examples
    --------
    >>> layer = Structure(Lattice.hexagonal(2.46, 20), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
    >>> found = csp_distances(layer, layer, definition="periodic", energies=(-9.2, -9.1))
    >>> round(found.energy, 3), round(found.superpose, 3), dict(found.failures)
    (0.1, 0.0, {})
    """
    _check_definition(definition)
    values: dict[str, float | None] = {"energy": None}
    failures: dict[str, str] = {}
    tasks: dict[str, Callable[[], float]] = {
        "sinkhorn": lambda: sinkhorn_distance(original, reconstructed, definition),
        "superpose": lambda: superpose_distance(original, reconstructed, definition),
        "crystalnn": lambda: crystalnn_distance(original, reconstructed, definition),
        "xrd": lambda: xrd_distance(original, reconstructed, definition),
        "ofm": lambda: ofm_distance(original, reconstructed, definition),
    }
    if energies is not None:
        given = energies
        tasks["energy"] = lambda: energy_distance(
            *(given if isinstance(given, tuple) else (given(original), given(reconstructed)))
        )
    for name, task in tasks.items():
        values[name] = None
        try:
            value = float(task())
        except ScdmError as error:
            failures[name] = str(error)
        except Exception as error:  # a library's failure on one pair must not lose the others
            failures[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        else:
            if np.isfinite(value):
                values[name] = value
            else:
                failures[name] = (
                    f"the distance came out as {value}, a finite number is required; inspect the structures"
                )
    return CspDistances(**values, failures=failures)


def energy_distance(original: float, reconstructed: float) -> float:
    """Absolute difference of two energies, in their unit (eV/atom wherever this package calls it)."""
    return abs(float(original) - float(reconstructed))


def sinkhorn_distance(original: Structure, reconstructed: Structure, definition: Definition = "published") -> float:
    """Cost of moving the sites of one structure onto those of the other, angstrom; elements are not looked at.

    published: every atom weighs one and the costs are summed. Transport with an entropy of 1e-3 angstrom,
    stopped after 100 iterations, usually unconverged: the plan does not move whole atoms, so the value can lie
    below the true cost. periodic: mean over the atoms of the exact transport, where the superposition puts the
    crystals; never above ``superpose_distance``.

    Raises
    ------
    StructureError
        If the numbers of atoms (periodic: the compositions) differ.

    References
    ----------
    Cuturi, Adv. Neural Inf. Process. Syst. 26 (2013).
    """
    _check_definition(definition)
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    if definition == "periodic":
        first, second, periodic = _comparable(original, reconstructed)
        cost = np.sqrt(_superposition(first, second, periodic)[1])
        return float(cost[linear_sum_assignment(cost)].mean())
    _same_size(original, reconstructed)
    return _sinkhorn(cdist(original.cart_coords, reconstructed.cart_coords))


def superpose_distance(original: Structure, reconstructed: Structure, definition: Definition = "published") -> float:
    """Root mean square distance of the atoms after the best superposition, angstrom.

    published: sites are paired in their order, whatever their elements, after the best proper rotation,
    translation and uniform scale (Umeyama, doi:10.1109/34.88573). periodic: like atoms and nearest images are
    paired so that the RMSD is least over proper rigid motions that lay the lattices upon each other; no scale.
    The lattices differ by a strain E; it adds, in quadrature, the RMS displacement that E makes over a square
    (cubic) cell of the same size, sqrt(size^2 |E|^2 / 12), so a stretched crystal is not at distance 0. The
    vacuum takes no part. The search starts from every pair of atoms of the rarest element, so the value is the
    least one of those tried.

    Raises
    ------
    StructureError
        If the numbers of atoms (periodic: the compositions) differ.
    """
    _check_definition(definition)
    if definition == "periodic":
        first, second, periodic = _comparable(original, reconstructed)
        return float(np.sqrt(_superposition(first, second, periodic)[0]))
    _same_size(original, reconstructed)
    a, b = (np.array(s.cart_coords) - np.mean(s.cart_coords, axis=0) for s in (original, reconstructed))
    u, stretch, vt = np.linalg.svd(b.T @ a)
    proper = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    square = float((b**2).sum())
    scale = float(stretch @ proper) / square if square > 0 else 1.0
    return float(np.sqrt(((a - scale * b @ (u * proper) @ vt) ** 2).sum(1).mean()))


def crystalnn_distance(original: Structure, reconstructed: Structure, definition: Definition = "published") -> float:
    """Distance of the local environments: CrystalNN coordination weights and order parameters; no unit.

    61 numbers a site: the weight of each coordination number 1 to 24 and, up to 12, the order parameters of its
    motifs times that weight; neighbours geometric (no radii, no electronegativities). published: mean, standard
    deviation, minimum and maximum of each number over the sites, Euclidean norm of the difference. periodic: RMS
    over the sites of the norm of the difference, like sites matched so that it is least.

    References
    ----------
    Zimmermann and Jain, RSC Adv. 10, 6063 (2020), doi:10.1039/c9ra07755c.
    """
    _check_definition(definition)
    if definition == "periodic":
        first, second, _ = _comparable(original, reconstructed)
        return _matched_rms(_environments(first)[0], _environments(second)[0], first[2], second[2])
    a, b = (
        np.concatenate([f.mean(0), f.std(0), f.min(0), f.max(0)])
        for f in (_environments(_key(s))[0] for s in (original, reconstructed))
    )
    return float(np.linalg.norm(a - b))


def xrd_distance(original: Structure, reconstructed: Structure, definition: Definition = "published") -> float:
    """Distance of the powder patterns (Cu K-alpha, 2 theta from 0 to 90 degrees); no unit.

    published: density of the reflections, each counted int(10 I) times at a strongest intensity of 100, broadened
    with a bandwidth that follows from their spread; Euclidean norm over 901 points. periodic: reflections of
    sigma = 0.2 degrees weighted by I without its Lorentz-polarisation factor, sqrt(int (p - q)^2 / int (p^2 + q^2)),
    integrated exactly. With that factor the 00l reflections, which know nothing of the plane, hold most of a
    layer's pattern: a median of 78 % over C2DB at 20 angstrom of vacuum, against 6 % without it.
    """
    _check_definition(definition)
    if definition == "published":
        a, b = (_published_pattern(*_reflections(_key(s))) for s in (original, reconstructed))
        return float(np.linalg.norm(a - b))
    first, second, _ = _comparable(original, reconstructed, same_atoms=False)
    (x, p), (y, q) = (_structure_factors(*_reflections(key)) for key in (first, second))

    def overlap(x: Array, p: Array, y: Array, q: Array) -> float:
        """The integral of the product of two sums of Gaussians, but for a factor common to all."""
        return float(p @ np.exp(-((x[:, None] - y) ** 2) / (4 * XRD_SIGMA_DEGREES**2)) @ q)

    own = overlap(x, p, x, p) + overlap(y, q, y, q)
    return float(np.sqrt(max(0.0, 1 - 2 * overlap(x, p, y, q) / own)))


def ofm_distance(original: Structure, reconstructed: Structure, definition: Definition = "published") -> float:
    """Distance of the orbital field matrices (32 x 32, Frobenius norm), 1/bohr.

    The matrix of a site is the sum over its Voronoi neighbours of weight / distance times the outer product of
    the valence configurations; shells are ordered by (n, l), as in the pymatgen of the benchmark: the order of
    its later releases makes core shells valence shells. published: mean over the sites of a 3 x 3 x 3 supercell;
    neighbours within 13 angstrom, faces that are open towards a wider vacuum dropped, nearest images taken for
    neighbours. periodic: neighbours and weights of CrystalNN, whose correction for porous crystals takes the weight
    from images across the vacuum; RMS over the sites, like sites matched so that it is least.

    References
    ----------
    Lam Pham et al., Sci. Technol. Adv. Mater. 18, 756 (2017), doi:10.1080/14686996.2017.1378060.
    """
    _check_definition(definition)
    if definition == "published":
        a, b = (_published_ofm(_key(s)) for s in (original, reconstructed))
        return float(np.linalg.norm(a - b))
    first, second, _ = _comparable(original, reconstructed)
    return _matched_rms(_environments(first)[1], _environments(second)[1], first[2], second[2])


def perturb(structure: Structure, fraction: float = 0.15, seed: int = 0) -> Structure:
    """The structure with every coordinate moved by up to ``fraction`` of its range: the benchmark's baseline.

    "15 % perturbation in atomic coordinates" is read as: each fractional coordinate of each atom moves by a
    number drawn uniformly from [-fraction, fraction], independently. (A percentage of the coordinate's own value
    would never move an atom at the origin.) Along the vacuum of a layer (c) the range is the thickness and not
    the cell, so the vacuum has no influence and a flat layer stays flat. The lattice is kept; coordinates are
    not wrapped back into the cell.

    Parameters
    ----------
    structure
        A layer with the vacuum along c, or a bulk crystal.
    fraction
        Largest displacement, 0 to 0.5 of the cell edge (of the thickness).
    seed
        The same seed gives the same displacements.

    Raises
    ------
    ScdmError
        If ``fraction`` is out of range.
    """
    if not 0 <= fraction <= 0.5:
        raise ScdmError(f"fraction={fraction} must be 0 to 0.5; 0.15 is the benchmark's 15 %")
    _key(structure)  # refuses what is no crystal
    steps = np.random.default_rng(seed).uniform(-fraction, fraction, (len(structure), 3))
    matrix = np.array(structure.lattice.matrix)
    if vacuum_thickness(structure) >= MIN_VACUUM_ANGSTROM:
        normal = np.cross(matrix[0], matrix[1])
        heights = np.outer(steps[:, 2] * slab_thickness(structure), normal / np.linalg.norm(normal))
        steps[:, 2] = 0
        steps += heights @ np.linalg.inv(matrix)
    frac = np.array(structure.frac_coords) + steps
    return Structure(structure.lattice, structure.species, frac, site_properties=structure.site_properties)


# --- structures ---------------------------------------------------------------------------------------------------


def _check_definition(definition: str) -> None:
    if definition not in get_args(Definition):
        raise ScdmError(f"definition={definition!r} is unknown; give 'published' or 'periodic'")


def _key(structure: Structure) -> _Key:
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


def _arrays(key: _Key) -> tuple[Array, Array, NDArray[np.int64]]:
    """(3, 3) lattice rows, (n, 3) fractional coordinates, (n,) atomic numbers."""
    matrix, frac = (np.frombuffer(part).reshape(-1, 3).copy() for part in key[:2])
    return matrix, frac, np.array(key[2])


def _structure(key: _Key) -> Structure:
    matrix, frac, numbers = _arrays(key)
    return Structure(Lattice(matrix), [Element.from_Z(int(z)) for z in numbers], frac)


def _same_size(original: Structure, reconstructed: Structure) -> None:
    _key(original), _key(reconstructed)
    if len(original) != len(reconstructed):
        raise StructureError(
            f"the structures have {len(original)} and {len(reconstructed)} atoms, the same number is required; "
            "compare equal cells"
        )


def _comparable(original: Structure, reconstructed: Structure, same_atoms: bool = True) -> tuple[_Key, _Key, int]:
    """Both in standard form, and in how many dimensions they are periodic: layers (2) at one vacuum, or bulk (3)."""
    keys = _key(original), _key(reconstructed)
    if same_atoms and sorted(keys[0][2]) != sorted(keys[1][2]):
        raise StructureError(
            f"the cells hold {original.composition.formula} and {reconstructed.composition.formula}, the same atoms "
            "are required; compare a crystal with its own reconstruction"
        )
    try:
        first, second = (_key(orient_slab(s, DEFAULT_VACUUM_ANGSTROM)) for s in (original, reconstructed))
    except NotALayerError:
        return *keys, 3
    return first, second, 2


# --- published ----------------------------------------------------------------------------------------------------


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


@lru_cache(maxsize=512)
def _reflections(key: _Key) -> tuple[Array, Array]:
    """(m,) angles 2 theta, degrees, and (m,) intensities, the strongest 100."""
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    pattern = XRDCalculator("CuKa").get_pattern(_structure(key), scaled=True, two_theta_range=(0, 90))
    return np.array(pattern.x, dtype=float), np.array(pattern.y, dtype=float)


def _published_pattern(angles: Array, intensities: Array) -> Array:
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


def _structure_factors(angles: Array, intensities: Array) -> tuple[Array, Array]:
    """The angles and the intensities without their Lorentz-polarisation factor."""
    theta = np.radians(angles / 2)
    return angles, intensities * np.sin(theta) ** 2 * np.cos(theta) / (1 + np.cos(2 * theta) ** 2)


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


def _site_ofm(number: int, numbers: NDArray[np.int64], weights: Array, distances: Array) -> Array:
    """(32, 32) matrix of a site with these neighbours; distances in angstrom."""
    from scipy.constants import value

    # The benchmark's featurizer takes the angstrom of X-ray wavelengths, longer by 1.5e-5: the fourth decimal.
    bohr = value("Bohr radius") / value("Angstrom star")
    others = np.array([_valence(int(z)) for z in numbers])
    return np.outer((weights / distances * bohr) @ others, _valence(number))


@lru_cache(maxsize=512)
def _published_ofm(key: _Key) -> Array:
    """(32, 32) mean over the sites."""
    from pymatgen.core.local_env import VoronoiNN
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    supercell = _structure(key) * (3, 3, 3)
    voronoi = VoronoiNN(allow_pathological=True, compute_adj_neighbors=False)
    total = np.zeros((32, 32))
    for same in SpacegroupAnalyzer(supercell).get_symmetrized_structure().equivalent_indices:
        site = supercell[same[0]]
        found = voronoi.get_nn_info(supercell, same[0])
        numbers = np.array([entry["site"].specie.Z for entry in found])
        distances = np.array([site.distance(entry["site"]) for entry in found])
        weights = np.array([entry["weight"] for entry in found])
        total += len(same) * _site_ofm(site.specie.Z, numbers, weights, distances)
    return total / len(supercell)


# --- local environments -------------------------------------------------------------------------------------------

# The motifs of coordination numbers 9 to 12 have no shapes of their own in pymatgen (12: the cuboctahedron).
_BOND_ORDERS = ("q2", "q4", "q6")
# pymatgen credits the far-pole contribution of these to the last parameter of a call, so they are called last.
_FAR_POLE = {
    *("tri_bipyr", "sq_bipyr", "pent_bipyr", "hex_bipyr"),
    *("oct_max", "sq_plan_max", "hex_plan_max", "see_saw_rect"),
}


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
def _environments(key: _Key) -> tuple[Array, Array]:
    """(n, 61) CrystalNN fingerprints and (n, 1024) orbital field matrices of the sites."""
    from pymatgen.core.local_env import CrystalNN

    structure = _structure(key)
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
        matrices[labels == label] = _site_ofm(site.specie.Z, numbers, weights, distances).ravel()
    return fingerprints, matrices


# --- periodic -----------------------------------------------------------------------------------------------------


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


def _reduced(key: _Key, periodic: int) -> tuple[Array, Array]:
    """Lattice rows with short vectors, and the coordinates in them; a layer's third axis is 1 angstrom of height."""
    matrix, frac, _ = _arrays(key)
    cart = frac @ matrix
    if periodic == 2:
        matrix[2] = [0, 0, 1e4]  # never mixed with the plane
    reduced = np.array(Lattice(matrix).get_lll_reduced_lattice(delta=0.999).matrix)
    if periodic == 2:
        reduced[2] = [0, 0, 1]
    return reduced, cart @ np.linalg.inv(reduced)


def _overlays(first: _Key, second: _Key, periodic: int) -> Iterator[_Overlay]:
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
def _superposition(first: _Key, second: _Key, periodic: int) -> tuple[float, Array]:
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
