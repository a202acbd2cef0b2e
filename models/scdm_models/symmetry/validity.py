"""Whether atoms are too close: the paper's 0.5 angstrom and a covalent-radii check beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pymatgen.core import Structure

from scdm_models.errors import StructureError
from scdm_models.symmetry.lattice import covalent_radii

PAPER_MIN_DISTANCE_ANGSTROM = 0.5
# Radii: Cordero 2008 (see scdm_models.symmetry.lattice.covalent_radii). Of the 9,943 layers of 2dMatPedia and C2DB
# 99.8 % have no pair closer than 0.7 times the sum of the radii (100 % at 0.6, 98.6 % at 0.75); the smallest
# value is 0.634.
RADII_FACTOR = 0.7


@dataclass(frozen=True)
class Distances:
    """Shortest distances of a structure.

    min_distance: angstrom; min_ratio: smallest distance over the sum of the covalent radii of its pair.
    Periodic images are included, so both are finite for every crystal.
    """

    min_distance: float
    min_ratio: float


@dataclass(frozen=True)
class Validity:
    """The verdict of both checks with the numbers behind it.

    min_distance_angstrom, min_ratio: as in ``Distances``; valid_distance, valid_radii: the two verdicts;
    reason: why the structure fails (the paper's check first), None where it passes both.
    """

    min_distance_angstrom: float
    min_ratio: float
    valid_distance: bool
    valid_radii: bool
    reason: str | None


def _not_negative(name: str, value: float, advice: str) -> None:
    if not value >= 0:
        raise StructureError(f"{name}={value:g} must be >= 0; {advice}")


def shortest_distances(structure: Structure) -> Distances:
    """The shortest interatomic distance with periodic images, in angstrom and relative to covalent radii.

    Exact for any cell, however skewed: the neighbour search grows until no pair beyond it could have a
    smaller ratio.

    Raises
    ------
    StructureError
        If there are no atoms or a coordinate is not finite.
    """
    if len(structure) == 0:
        raise StructureError("the structure has no atoms; give at least one")
    if not np.isfinite(structure.frac_coords).all():
        raise StructureError("a coordinate is not a finite number; repair the file")
    radii = covalent_radii(np.array([site.specie.Z for site in structure]))
    longest_sum = 2 * float(radii.max())
    cutoff = max(3.0, longest_sum)
    while True:
        first, second, _, distances = structure.get_neighbor_list(cutoff)
        if len(distances):
            ratio = float((distances / (radii[first] + radii[second])).min())
            if ratio * longest_sum <= cutoff:
                return Distances(float(distances.min()), ratio)
            cutoff = ratio * longest_sum + 1e-3
        else:
            cutoff *= 2


def valid_radii(structure: Structure, factor: float = RADII_FACTOR) -> bool:
    """Whether no two atoms are closer than ``factor``, >= 0, times the sum of their covalent radii."""
    _not_negative("factor", factor, "0.7 keeps 99.8 % of the known layers")
    return shortest_distances(structure).min_ratio >= factor


def check_distances(
    structure: Structure, threshold: float = PAPER_MIN_DISTANCE_ANGSTROM, factor: float = RADII_FACTOR
) -> Validity:
    """Both checks at once.

    Parameters
    ----------
    structure
        Any crystal.
    threshold
        Shortest allowed distance, angstrom, >= 0 (the paper excludes below 0.5).
    factor
        Shortest allowed distance in units of the sum of the pair's covalent radii, >= 0.
    """
    _not_negative("threshold", threshold, "the paper uses 0.5 angstrom")
    _not_negative("factor", factor, "0.7 keeps 99.8 % of the known layers")
    shortest = shortest_distances(structure)
    far, apart = shortest.min_distance >= threshold, shortest.min_ratio >= factor
    reason = None
    if not far:
        reason = f"atoms {shortest.min_distance:.3f} angstrom apart, at least {threshold:g} are required"
    elif not apart:
        reason = (
            f"atoms at {shortest.min_ratio:.2f} of the sum of their covalent radii, at least {factor:g} is required"
        )
    return Validity(shortest.min_distance, shortest.min_ratio, far, apart, reason)
