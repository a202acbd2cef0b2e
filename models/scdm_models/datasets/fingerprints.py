"""How unlike two layers of one formula are, as a number; whether they are the same decides ``matching``.

A fingerprint is made of numbers that no rotation, reflection, origin, supercell or vacuum changes: for each
ordered pair of elements (A, B) the mean distance from an A atom to its first, second, ... twelfth B neighbour
(average minimum distances, Widdowson et al., MATCH 87, 529 (2022), doi:10.46793/match.87-3.529W, resolved by
element), and for each element the mean, root mean square and largest height above or below the middle of the
layer.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from scdm_models.symmetry.lattice import orient_slab

Array = NDArray[np.float64]
NEIGHBOURS = 12
HEIGHTS = 3  # numbers of an element that describe its heights
HEIGHT_WEIGHT = 0.3  # a height that differs by 1 angstrom counts as a relative difference of distances of 0.3


def _neighbour_means(xyz: Array, plane: Array, numbers: NDArray[np.int64], elements: list[int]) -> Array:
    """(n_elements**2, NEIGHBOURS) mean distances to the nearest neighbours of each element, angstrom.

    xyz: (n, 3) positions, angstrom; plane: (2, 2) rows a, b.
    """
    area = abs(float(np.linalg.det(plane)))
    rarest = min(int((numbers == e).sum()) for e in elements)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(plane), axis=0)
    in_plane = xyz[:, None, :2] - xyz[None, :, :2]
    vertical = (xyz[:, None, 2] - xyz[None, :, 2]) ** 2
    radius = float(np.hypot(np.sqrt((NEIGHBOURS + 2) * area / rarest / np.pi) + 0.7 * np.sqrt(area), np.ptp(xyz[:, 2])))
    while True:
        reach = np.ceil(radius / heights).astype(int) + 1  # then every neighbour within radius is among the images
        cells = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach)))) @ plane
        squared = ((in_plane[:, :, None] + cells) ** 2).sum(-1) + vertical[:, :, None]
        rows, farthest = [], 0.0
        for b in elements:
            near = np.sqrt(np.partition(squared[:, numbers == b].reshape(len(xyz), -1), NEIGHBOURS, axis=1))
            near = np.sort(near[:, : NEIGHBOURS + 1], axis=1)
            farthest = max(farthest, float(near.max()))
            for a in elements:
                own = near[numbers == a]
                rows.append((own[:, 1:] if a == b else own[:, :-1]).mean(0))
        if farthest <= radius:
            return np.array(rows)
        radius = farthest + 1e-6


def fingerprint(structure: Structure) -> Array:
    """The fingerprint of a layer: (12 m^2 + 3 m,) numbers in angstrom for m elements, ordered by atomic
    number.

    Raises
    ------
    StructureError, NotALayerError
        If the structure is no layer.
    """
    slab = orient_slab(structure)
    matrix = np.array(slab.lattice.matrix)
    xyz = (np.array(slab.frac_coords) - [0.0, 0.0, 0.5]) @ matrix
    numbers = np.array([site.specie.Z for site in slab])
    elements: list[int] = np.unique(numbers).tolist()
    distances = _neighbour_means(xyz, matrix[:2, :2], numbers, elements)
    above = [np.abs(xyz[numbers == e, 2]) for e in elements]
    heights = np.array([(h.mean(), np.sqrt((h**2).mean()), h.max()) for h in above])
    return np.concatenate([distances.ravel(), heights.ravel()])


def distance(first: Array, second: Array) -> float:
    """Difference of two fingerprints of one formula, >= 0.

    The largest relative difference of a mean distance, or the largest difference of a height times
    0.3 / angstrom, whichever is larger.
    """
    # size = 12 m^2 + 3 m for m elements
    m = round((np.sqrt(HEIGHTS**2 + 4 * NEIGHBOURS * len(first)) - HEIGHTS) / (2 * NEIGHBOURS))
    cut = NEIGHBOURS * m * m
    relative = 2 * np.abs(first[:cut] - second[:cut]) / (first[:cut] + second[:cut])
    height = np.abs(first[cut:] - second[cut:])
    return float(max(relative.max(), HEIGHT_WEIGHT * height.max()))
