"""Which Wyckoff letters of a layer group are equivalent: the letters' permutations under its normalizer.

Another origin or other axes that leave the group as it is describe the same crystal with other letters (International
Tables for Crystallography A, chapter 3.5, does the same for space groups): 1T layers are ``72:a-d`` and nothing else,
but in p-4m2 the letters of two sublattices may be exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from scdm_models.symmetry.tables import LayerGroup, PointFamilies, layer_group, wrap

Array = NDArray[np.float64]
_GENERIC = np.array([0.1379, 0.3711, 0.7433])  # parameters on no special position


def _in_plane_maps(group: LayerGroup) -> list[Array]:
    """Changes of the in-plane axes that keep the family's cell (for oblique cells, those with entries -1, 0, 1)."""
    found = []
    for entries in product((-1.0, 0.0, 1.0), repeat=4):
        matrix = np.array(entries).reshape(2, 2)
        if abs(round(float(np.linalg.det(matrix)))) != 1:
            continue
        if group.family in ("rectangular", "square"):
            keeps = bool((np.abs(matrix).sum(0) == 1).all())
        elif group.family == "hexagonal":
            metric = np.array([[1.0, -0.5], [-0.5, 1.0]])
            keeps = bool(np.allclose(matrix.T @ metric @ matrix, metric))
        else:
            keeps = True
        if keeps:
            found.append(matrix)
    return found


def _origins(group: LayerGroup) -> Array:
    """(S, 3) shifts of the origin that a normalizer of the family may hold: quarters, thirds in hexagonal cells."""
    n = 3 if group.family == "hexagonal" else 4
    return np.array([[i / n, j / n, 0.0] for i in range(n) for j in range(n)])


@cache
def normalizer(number: int) -> tuple[tuple[Array, Array], ...]:
    """Changes of axes and origin that leave layer group ``number`` as it is: (3, 3) W and (3,) w of x' = W x + w.

    Of shifts along directions that every operation of the group keeps, which may have any length, and of lattice
    translations only the listed ones are there; the identity is the first.
    """
    group = layer_group(number)
    rotations, translations = group.general.rotations, group.general.translations
    found = []
    for plane, side in product(_in_plane_maps(group), (1.0, -1.0)):
        axes = np.eye(3)
        axes[:2, :2], axes[2, 2] = plane, side
        turned = axes @ rotations @ np.linalg.inv(axes)
        alike = np.abs(turned[:, None] - rotations[None]).max((-1, -2)) < 1e-6
        if not alike.any(1).all():
            continue
        for origin in _origins(group):
            moved = translations @ axes.T + origin - turned @ origin
            same = alike & (np.abs(wrap(moved[:, None] - translations[None])) < 1e-6).all(-1)
            if same.any(1).all():
                found.append((axes, origin))
    return tuple(sorted(found, key=lambda one: not (np.array_equal(one[0], np.eye(3)) and not one[1].any())))


@cache
def letter_permutations(number: int) -> frozenset[tuple[int, ...]]:
    """Permutations p of the positions of layer group ``number`` that only rename: position i may be called p[i].

    The identity is one of them; indices as in ``LayerGroup.positions``.
    """
    firsts = np.array(
        [p.orbit(np.where(np.isin(np.arange(3), p.free), _GENERIC, 0.0))[0] for p in layer_group(number).positions]
    )
    return frozenset(tuple(_position_of(number, firsts @ axes.T + origin)) for axes, origin in normalizer(number))


@cache
def _all_points(number: int) -> tuple[PointFamilies, NDArray[np.int64]]:
    """Every point of every position, and the position that it belongs to."""
    positions = layer_group(number).positions
    owner = np.repeat(np.arange(len(positions)), [p.multiplicity for p in positions])
    rotations = np.concatenate([p.rotations for p in positions])
    return PointFamilies.of(rotations, np.concatenate([p.translations for p in positions])), owner


def _position_of(number: int, points: Array) -> list[int]:
    """The most special position on which each of the (n, 3) points lies."""
    families, owner = _all_points(number)
    on = families.distances(points)[0].T < 1e-6  # (n, points of positions)
    multiplicity = np.bincount(owner)[owner]
    return [int(owner[np.flatnonzero(row)[multiplicity[row].argmin()]]) for row in on]


def canonical(number: int, sites: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Occupied positions (index, what occupies it) under the names that come first: equal for equal crystals.

    Two crystals of one layer group with different results differ in their occupation, whatever their origins.
    """
    occupied: Sequence[tuple[int, int]] = list(sites)
    return min(tuple(sorted((names[i], what) for i, what in occupied)) for names in letter_permutations(number))
