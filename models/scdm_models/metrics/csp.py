"""Distances between a crystal and its reconstruction: the six of the benchmark of Wei et al., and its baseline.

Each distance exists in two definitions.

``published`` (``csp_published``)
    What Wei et al. tabulate (Comput. Mater. Sci. 235, 112802 (2024), doi:10.1016/j.commatsci.2024.112802, code
    CSPBenchMetrics), to four decimals. Sites are points in space in the order and at the coordinates of the file:
    moving an atom by a lattice vector, exchanging two like atoms or choosing another cell changes the numbers.
``periodic`` (``csp_converged``)
    The same questions asked of crystals. Descriptions of one layer (cell, origin, order of sites, vacuum, side that is
    up) are at distance 0, sums run to convergence, and nothing is scaled. Both structures need the same atoms, cell for
    cell. Layers are compared at 20 angstrom of vacuum; what has no vacuum is compared as a bulk crystal.

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
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np
from pymatgen.core import Structure

from scdm_models.errors import ScdmError
from scdm_models.metrics import csp_converged, csp_published
from scdm_models.metrics.csp_features import cache_key
from scdm_models.symmetry.lattice import MIN_VACUUM_ANGSTROM, slab_thickness, vacuum_thickness

Definition = Literal["published", "periodic"]
Energies = tuple[float, float] | Callable[[Structure], float]


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
    >>> from pymatgen.core import Lattice
    >>> layer = Structure(Lattice.hexagonal(2.46, 20), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
    >>> found = csp_distances(layer, layer, definition="periodic", energies=(-9.2, -9.1))
    >>> round(found.energy, 3), round(found.superpose, 3), dict(found.failures)
    (0.1, 0.0, {})
    """
    if definition not in get_args(Definition):
        raise ScdmError(f"definition={definition!r} is unknown; give 'published' or 'periodic'")
    values: dict[str, float | None] = {"energy": None}
    failures: dict[str, str] = {}
    module = csp_published if definition == "published" else csp_converged
    tasks: dict[str, Callable[[], float]] = {
        "sinkhorn": partial(module.sinkhorn_distance, original, reconstructed),
        "superpose": partial(module.superpose_distance, original, reconstructed),
        "crystalnn": partial(module.crystalnn_distance, original, reconstructed),
        "xrd": partial(module.xrd_distance, original, reconstructed),
        "ofm": partial(module.ofm_distance, original, reconstructed),
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
    cache_key(structure)  # refuses what is no crystal
    steps = np.random.default_rng(seed).uniform(-fraction, fraction, (len(structure), 3))
    matrix = np.array(structure.lattice.matrix)
    if vacuum_thickness(structure) >= MIN_VACUUM_ANGSTROM:
        normal = np.cross(matrix[0], matrix[1])
        heights = np.outer(steps[:, 2] * slab_thickness(structure), normal / np.linalg.norm(normal))
        steps[:, 2] = 0
        steps += heights @ np.linalg.inv(matrix)
    frac = np.array(structure.frac_coords) + steps
    return Structure(structure.lattice, structure.species, frac, site_properties=structure.site_properties)
