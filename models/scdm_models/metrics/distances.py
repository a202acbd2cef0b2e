"""The six distances of the reconstruction benchmark (paper, Fig. 4) between a crystal and its reconstruction.

Definitions are those of Wei et al., Comput. Mater. Sci. 235, 112802 (2024), doi:10.1016/j.commatsci.2024.112802. Each
comes twice: ``published``, which reproduces the values that paper's programs print, with their choices (Sinkhorn
stopped after 100 iterations, a superposition that may scale, electron configurations ordered by n and l), and
``periodic``, which sees the crystal as one: nearest images, atoms of one element interchangeable, transport converged,
no scaling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Structure

from scdm_models.errors import StructureError
from scdm_models.lattice import slab_thickness

Array = NDArray[np.float64]
Definition = Literal["published", "periodic"]
SINKHORN_REGULARISATION = 1e-3  # of the published programs, angstrom
SINKHORN_ITERATIONS = 100
SINKHORN_STOP = 1e-3  # angstrom
PERTURBATION = 0.15
XRD_DEGREES = np.linspace(0, 90, 901)
XRD_WIDTH_DEGREES = 0.1  # standard deviation of a reflection in the periodic variant


@dataclass(frozen=True)
class CspDistances:
    """Distances between two crystals; None where one could not be computed, and why.

    Parameters
    ----------
    energy
        Difference of the energies as given, such as eV/atom.
    sinkhorn
        Angstrom: cost of moving all atoms (published: their sum; periodic: the mean over the atoms).
    superpose
        Angstrom: root mean square distance of the superposed atoms.
    crystalnn, xrd, ofm
        Euclidean distances of CrystalNN fingerprints, powder patterns and mean orbital field matrices.
    failures
        Name of a distance -> why there is none.
    """

    energy: float | None
    sinkhorn: float | None
    superpose: float | None
    crystalnn: float | None
    xrd: float | None
    ofm: float | None
    failures: dict[str, str] = field(default_factory=dict)


def csp_distances(
    original: Structure,
    reconstructed: Structure,
    definition: Definition = "published",
    energies: tuple[float, float] | None = None,
) -> CspDistances:
    """All six distances; one that fails never takes the others with it.

    Parameters
    ----------
    original, reconstructed
        The crystals; ``published`` compares their atoms in the order they are listed.
    definition
        See the module's docstring.
    energies
        Of the two, in one unit; without them there is no energy distance.
    """
    functions: dict[str, Callable[[Structure, Structure, Definition], float]] = {
        "sinkhorn": sinkhorn_distance,
        "superpose": superposition_distance,
        "crystalnn": crystalnn_distance,
        "xrd": xrd_distance,
        "ofm": ofm_distance,
    }
    values: dict[str, float | None] = {"energy": None if energies is None else abs(energies[0] - energies[1])}
    failures = {} if energies is not None else {"energy": "no energies were given"}
    for name, function in functions.items():
        values[name] = None
        try:
            value = function(original, reconstructed, definition)
        except Exception as error:  # the libraries fail in ways nobody lists
            failures[name] = f"{type(error).__name__}: {error}"
            continue
        if np.isfinite(value):
            values[name] = value
        else:
            failures[name] = f"{value} is not finite"
    return CspDistances(**values, failures=failures)


# --- transport and superposition ---------------------------------------------------------------------------------


def sinkhorn_distance(original: Structure, reconstructed: Structure, definition: Definition = "published") -> float:
    """Cost of moving the atoms of one crystal onto the other's, angstrom.

    published: entropic transport between the Cartesian points (Cuturi, NIPS 2013, arXiv 1306.0895), stopped after 100
    iterations, summed over the atoms, elements ignored. periodic: exact transport between nearest images of like atoms
    after the best shift, mean over the atoms.
    """
    if definition == "published":
        first, second = original.cart_coords, reconstructed.cart_coords
        return _stopped_sinkhorn(np.linalg.norm(first[:, None] - second[None], axis=-1))
    import ot

    cost = _aligned_costs(original, reconstructed)
    total = 0.0
    for rows, columns in _blocks(original, reconstructed):
        own = np.ascontiguousarray(cost[np.ix_(rows, columns)])
        total += float(ot.emd2(np.ones(len(rows)), np.ones(len(columns)), own))
    return total / len(original)


def _stopped_sinkhorn(cost: Array) -> float:
    """Transport cost after at most 100 Sinkhorn iterations in the logarithmic domain, or as soon as both potentials
    change by less than 1e-3 in total. POT has the iteration but not this rule, on which the published values hang."""
    from scipy.special import logsumexp

    u, v = np.zeros(cost.shape[0]), np.zeros(cost.shape[1])
    for _ in range(SINKHORN_ITERATIONS):
        before = u, v
        u = -SINKHORN_REGULARISATION * logsumexp((v - cost) / SINKHORN_REGULARISATION, axis=1)
        v = -SINKHORN_REGULARISATION * logsumexp((u[:, None] - cost) / SINKHORN_REGULARISATION, axis=0)
        if max(np.abs(u - before[0]).sum(), np.abs(v - before[1]).sum()) < SINKHORN_STOP:
            break
    return float((cost * np.exp((u[:, None] + v - cost) / SINKHORN_REGULARISATION)).sum())


def superposition_distance(
    original: Structure, reconstructed: Structure, definition: Definition = "published"
) -> float:
    """Root mean square distance of the superposed atoms, angstrom.

    published: rotation, translation and uniform scale of the Cartesian points in listed order (Umeyama, IEEE Trans.
    Pattern Anal. 13, 376 (1991), doi:10.1109/34.88573). periodic: best shift and best assignment of like atoms.
    """
    from scipy.optimize import linear_sum_assignment

    if definition == "published":
        if len(original) != len(reconstructed):
            raise StructureError(f"{len(original)} and {len(reconstructed)} atoms cannot be superposed")
        x = original.cart_coords - original.cart_coords.mean(0)
        y = reconstructed.cart_coords - reconstructed.cart_coords.mean(0)
        u, s, v = np.linalg.svd(y.T @ x)
        s[-1] *= np.sign(np.linalg.det(u @ v))
        squared = (y**2).sum()
        scale = s.sum() / squared if squared > 0 else 1.0
        return float(np.sqrt(max(0.0, ((x**2).sum() - scale * s.sum()) / len(x))))
    squared_cost = _aligned_costs(original, reconstructed) ** 2
    total = 0.0
    for rows, columns in _blocks(original, reconstructed):
        own = squared_cost[np.ix_(rows, columns)]
        total += float(own[linear_sum_assignment(own)].sum())
    return float(np.sqrt(total / len(original)))


def _blocks(original: Structure, reconstructed: Structure) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Indices of the atoms of each element in both crystals."""
    first, second = (np.array([site.specie.Z for site in s]) for s in (original, reconstructed))
    return [(np.flatnonzero(first == z), np.flatnonzero(second == z)) for z in np.unique(first)]


def _aligned_costs(original: Structure, reconstructed: Structure) -> Array:
    """(n, n) distances of nearest images in the mean cell, angstrom, after the shift that superposes them best.

    An atom of the rarest element proposes a shift onto each of its kind; the best is refined by the mean displacement.
    """
    from scipy.optimize import linear_sum_assignment

    if original.composition != reconstructed.composition:
        raise StructureError(
            f"{original.formula} and {reconstructed.formula} differ in composition; give a crystal and its "
            "reconstruction"
        )
    matrix = (np.array(original.lattice.matrix) + np.array(reconstructed.lattice.matrix)) / 2
    first, second = np.array(original.frac_coords), np.array(reconstructed.frac_coords)
    blocks = _blocks(original, reconstructed)

    def vectors(shift: Array) -> Array:
        delta = second[None] + shift - first[:, None]
        delta -= np.round(delta)
        cart: Array = delta @ matrix
        return cart

    def assigned(shift: Array) -> tuple[float, Array]:
        moved = vectors(shift)
        squared = (moved**2).sum(-1)
        total, mean = 0.0, np.zeros(3)
        for rows, columns in blocks:
            i, j = linear_sum_assignment(squared[np.ix_(rows, columns)])
            total += float(squared[rows[i], columns[j]].sum())
            mean += moved[rows[i], columns[j]].sum(0)
        return total, mean / len(first)

    rows, columns = min(blocks, key=lambda block: len(block[0]))
    proposals = [np.zeros(3), *(first[rows[0]] - second[j] for j in columns)]
    shift = min(proposals, key=lambda s: assigned(s)[0])
    for _ in range(5):
        total, mean = assigned(shift)
        refined = shift - mean @ np.linalg.inv(matrix)
        if assigned(refined)[0] >= total - 1e-12:
            break
        shift = refined
    distances: Array = np.linalg.norm(vectors(shift), axis=-1)
    return distances


# --- fingerprints ------------------------------------------------------------------------------------------------


@cache
def _site_fingerprint() -> Any:
    from matminer.featurizers.site import CrystalNNFingerprint
    from matminer.featurizers.structure import SiteStatsFingerprint

    site = CrystalNNFingerprint.from_preset("ops", distance_cutoffs=None, x_diff_weight=0)
    return SiteStatsFingerprint(site, stats=("mean", "std_dev", "minimum", "maximum"))


def crystalnn_distance(original: Structure, reconstructed: Structure, definition: Definition = "published") -> float:
    """Distance of the CrystalNN order-parameter fingerprints (Zimmermann and Jain, RSC Adv. 10, 6063 (2020),
    doi:10.1039/C9RA07755C) by mean, standard deviation, minimum and maximum over the sites; both definitions alike."""
    first, second = (np.array(_site_fingerprint().featurize(s)) for s in (original, reconstructed))
    return float(np.linalg.norm(first - second))


def xrd_distance(original: Structure, reconstructed: Structure, definition: Definition = "published") -> float:
    """Distance of the powder patterns (Cu K-alpha) on 0 to 90 degrees in steps of 0.1.

    published: a kernel density over the reflections, each counted by the whole part of ten times its intensity, with a
    width that depends on the pattern. periodic: reflections broadened by Gaussians of 0.1 degrees, patterns of norm 1.
    """
    first, second = (_pattern(s, definition) for s in (original, reconstructed))
    return float(np.linalg.norm(first - second))


def _pattern(structure: Structure, definition: Definition) -> Array:
    from pymatgen.analysis.diffraction.xrd import XRDCalculator
    from scipy.stats import gaussian_kde

    powder = XRDCalculator().get_pattern(structure)
    angles, intensities = np.array(powder.x), np.array(powder.y)
    if definition == "published":
        density: Array = gaussian_kde(np.repeat(angles, (intensities * 10).astype(int)), bw_method=0.01)(XRD_DEGREES)
        return density
    shapes = np.exp(-((XRD_DEGREES[:, None] - angles) ** 2) / (2 * XRD_WIDTH_DEGREES**2))
    pattern: Array = shapes @ intensities
    return pattern / np.linalg.norm(pattern)


class _ByShell:
    """What matminer asks of an element, with its subshells ordered by (n, l)."""

    def __init__(self, element: Element) -> None:
        shells = element.full_electronic_structure
        self.full_electronic_structure = sorted(shells, key=lambda shell: (shell[0], "spdf".index(shell[1])))
        self.row = element.row


@cache
def _orbital_field() -> Any:
    """matminer's featuriser with electron configurations as pymatgen listed them when the published values were made;
    in today's order other subshells count as valence (SrTiO3: 0.6015 instead of 0.4755)."""
    from matminer.featurizers.structure.matrix import OrbitalFieldMatrix

    featuriser = OrbitalFieldMatrix()
    featuriser.ohvs = {
        z: np.matrix(featuriser.get_ohv(_ByShell(Element.from_Z(z)), period_tag=False)) for z in range(1, 95)
    }
    return featuriser


def ofm_distance(original: Structure, reconstructed: Structure, definition: Definition = "published") -> float:
    """Distance of the mean orbital field matrices (Pham et al., Sci. Technol. Adv. Mater. 18, 756 (2017),
    doi:10.1080/14686996.2017.1378060), 1/bohr.

    published: of the 3 x 3 x 3 supercell. periodic: of the 3 x 3 x 1 one, a layer having no neighbours along c.
    """
    if definition == "published":
        first, second = (np.array(_orbital_field().featurize(s.copy())) for s in (original, reconstructed))
    else:
        first, second = (_mean_ofm(s) for s in (original, reconstructed))
    return float(np.linalg.norm(first - second))


def _mean_ofm(structure: Structure) -> Array:
    from pymatgen.analysis.local_env import VoronoiNN

    featuriser, neighbours = _orbital_field(), VoronoiNN(allow_pathological=True)
    large = structure.copy() * (3, 3, 1)
    # the nine copies of an atom follow each other and are equivalent: the first stands for all
    matrices = [
        np.asarray(featuriser.get_single_ofm(large[i], neighbours.get_nn_info(large, i)))
        for i in range(0, len(large), 9)
    ]
    mean: Array = np.mean(matrices, axis=0)
    return mean


def perturb(structure: Structure, fraction: float = PERTURBATION, seed: int = 0) -> Structure:
    """The baseline of the benchmark: every coordinate of a layer moved by up to ``fraction`` of its extent.

    In the plane the extent is the cell, along c it is the slab's thickness (at least 1 angstrom), because the vacuum is
    no coordinate; displacements are uniform in [-fraction, fraction] times the extent. The cell stays.
    """
    rng = np.random.default_rng(seed)
    extent = np.array([1.0, 1.0, max(1.0, slab_thickness(structure)) / structure.lattice.c])
    moved = np.array(structure.frac_coords) + rng.uniform(-fraction, fraction, (len(structure), 3)) * extent
    return Structure(structure.lattice, structure.species, moved)
