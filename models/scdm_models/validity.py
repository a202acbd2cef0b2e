"""Whether atoms are too close: the paper's 0.5 angstrom and a covalent-radii check beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pymatgen.core import Structure

from scdm_models.lattice import covalent_radii

PAPER_MIN_DISTANCE_ANGSTROM = 0.5
RADII_FACTOR = 0.7  # 99.9 % of the layers of 2dMatPedia and C2DB have no pair closer than this
_SEARCH = 6.0


@dataclass(frozen=True)
class Distances:
    """Shortest distances of a structure.

    min_distance: angstrom (inf if no neighbour within 6 angstrom); min_ratio: smallest distance over the sum of the
    covalent radii of the pair.
    """

    min_distance: float
    min_ratio: float


def shortest_distances(structure: Structure) -> Distances:
    """The shortest interatomic distance, in angstrom and relative to covalent radii, periodic images included."""
    frac, matrix = np.array(structure.frac_coords), np.array(structure.lattice.matrix)
    radii = covalent_radii(np.array([s.specie.Z for s in structure]))
    delta = frac[:, None] - frac[None]
    delta -= np.round(delta)
    reach = np.array([(i, j, 0) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    distance = np.linalg.norm((delta[:, :, None] + reach) @ matrix, axis=-1)
    n = len(frac)
    distance[np.arange(n), np.arange(n), 4] = np.inf  # the atom itself
    nearest = distance.min(-1)
    ratio = nearest / (radii[:, None] + radii[None])
    return Distances(float(nearest.min()), float(ratio.min()))


def valid_distance(structure: Structure, threshold: float = PAPER_MIN_DISTANCE_ANGSTROM) -> bool:
    """Whether no two atoms are closer than ``threshold`` angstrom (the paper excludes below 0.5)."""
    return shortest_distances(structure).min_distance >= threshold


def valid_radii(structure: Structure, factor: float = RADII_FACTOR) -> bool:
    """Whether no two atoms are closer than ``factor`` times the sum of their covalent radii."""
    return shortest_distances(structure).min_ratio >= factor
