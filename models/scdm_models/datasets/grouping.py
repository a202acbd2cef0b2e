"""Connected components of "the same layer" without comparing all pairs; the caller gives the comparison of a pair.

Layers that are nearly identical are gathered in a ball, whose centre is the first of them. What cannot be paired with
the first even with tolerances widened by the ball's size cannot be paired with any other in it, so a comparison of two
balls' firsts replaces those of all their members; only where it is undecided are members compared. Widening: a member
differs from the ball's first by at most ``RADIUS`` for each atom and by ``STRAIN`` in the cell, which changes
displacements by twice the radius (another atom may be the one in place), and lengths and angles in proportion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from scdm_models.datasets.pairing import Layer, Tolerance, near

RADIUS_ANGSTROM = 0.1
STRAIN = 0.01
STRAIN_DEGREES = 0.5
_BALL = Tolerance(STRAIN, STRAIN_DEGREES, 0.0, RADIUS_ANGSTROM)
# For each ball in a comparison. A cell whose lengths differ by 1 % and whose angle by half a degree has no vector that
# differs by more than 2.5 % and no angle that differs by more than 1.5 degrees.
_LENGTHS, _DEGREES, _SLACK = 0.025, 1.5, 1.25 * RADIUS_ANGSTROM


def widened(tolerance: Tolerance, balls: int) -> Tolerance:
    """What the firsts of ``balls`` balls (0 to 2) may differ by if any of their members may by ``tolerance``."""
    factor = (1 + _LENGTHS) ** balls
    return Tolerance(
        (1 + tolerance.length) * factor - 1,
        tolerance.angle + _DEGREES * balls,
        tolerance.stol * factor,
        _SLACK * balls,  # counted twice by the factor of ``near``
    )


class _Sizes:
    """Sizes and heights of layers with the same atoms, for rejections of many at once."""

    def __init__(self, layers: Sequence[Layer], tolerance: Tolerance) -> None:
        self.tolerance, self.n = tolerance, len(layers[0].numbers)
        self.c = np.array([layer.c for layer in layers])
        self.area = np.array([layer.area for layer in layers])
        self.lengths = np.array([np.sort(layer.lengths) for layer in layers])
        self.up = np.array([layer.up for layer in layers])
        self.down = np.array([layer.down for layer in layers])

    def possible(self, i: int, others: NDArray[np.int64], balls: int = 0) -> NDArray[np.int64]:
        """Those of ``others`` that sizes and heights allow to equal ``i``; see ``possible``."""
        tolerance, spread = widened(self.tolerance, balls), _LENGTHS * balls
        mean = (self.c[i] + self.c[others]) / 2
        allowed = tolerance.stol * np.cbrt(mean * (self.area[i] + self.area[others]) / 2 / self.n)
        keep = abs(np.log(self.c[i] / self.c[others])) <= 1.1 * self.tolerance.length + 0.01 + spread
        keep &= abs(np.log(self.area[i] / self.area[others])) <= 2.2 * self.tolerance.length + 0.04 + 2 * spread
        heights = np.minimum(
            np.ptp(self.up[i] - self.up[others], axis=1), np.ptp(self.up[i] - self.down[others], axis=1)
        )
        keep &= heights / 2 * mean <= 1.1 * allowed + 2 * tolerance.slack
        chosen: NDArray[np.int64] = others[keep]
        return chosen

    def close(self, i: int, others: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of ``others`` in whose ball ``i`` may be."""
        keep = (abs(np.log(self.lengths[i] / self.lengths[others])) <= STRAIN).all(1)
        others = others[keep]
        mean = (self.c[i] + self.c[others]) / 2
        heights = np.minimum(
            np.ptp(self.up[i] - self.up[others], axis=1), np.ptp(self.up[i] - self.down[others], axis=1)
        )
        keep = (heights * mean <= 2 * RADIUS_ANGSTROM) & (abs(np.log(self.c[i] / self.c[others])) <= STRAIN)
        close: NDArray[np.int64] = others[keep]
        return close


def possible(first: Layer, second: Layer, tolerance: Tolerance) -> bool:
    """Whether elements, sizes and heights allow a match; what is rejected here has no allowed pairing of atoms.

    Heights that are paired in order have the smallest largest difference; the origin along z is free.
    """
    if len(first.numbers) != len(second.numbers) or np.any(first.numbers != second.numbers):
        return False
    return len(_Sizes([first, second], tolerance).possible(0, np.array([1]))) > 0


def components(layers: Sequence[Layer], tolerance: Tolerance, same: Callable[[Layer, Layer], bool]) -> list[list[int]]:
    """Connected components of ``same`` (``possible`` and ``paired`` at this tolerance), each in input order."""
    atoms: dict[bytes, list[int]] = defaultdict(list)
    for i, layer in enumerate(layers):
        atoms[layer.numbers.tobytes()].append(i)
    found = []
    for members in atoms.values():
        if len(members) == 1:
            found.append(members)
        else:
            parts = _components([layers[i] for i in members], tolerance, same)
            found += [[members[k] for k in part] for part in parts]
    return sorted(found)


def _components(layers: Sequence[Layer], tolerance: Tolerance, same: Callable[[Layer, Layer], bool]) -> list[list[int]]:
    """The same for layers of the same atoms."""
    sizes = _Sizes(layers, tolerance)
    firsts: list[int] = []
    balls: dict[int, list[int]] = {}
    for i, layer in enumerate(layers):
        for k in sizes.close(i, np.array(firsts, dtype=np.int64)).tolist() if firsts else []:
            if near(layers[k], layer, _BALL) and same(layers[k], layer):
                balls[k].append(i)
                break
        else:
            firsts.append(i)
            balls[i] = [i]
    order = np.array(firsts, dtype=np.int64)
    joined = DisjointSet(firsts)  # balls, by their firsts, that are known to hold the same layer
    for k, first in enumerate(firsts[1:], 1):  # the firsts against each other: most joins are found here
        for other in sizes.possible(first, order[:k]).tolist():
            if not joined.connected(first, other) and same(layers[first], layers[other]):
                joined.merge(first, other)
    if len(firsts) == len(layers):  # no ball has another member
        firsts = []
    two = widened(tolerance, 2)
    for k, first in enumerate(firsts):
        for other in sizes.possible(first, order[:k], 2).tolist():
            if len(balls[first]) == len(balls[other]) == 1 or joined.connected(first, other):
                continue
            if _reach(layers[first], layers[other], two) and _meet(
                layers, sizes, balls[first], balls[other], tolerance, same
            ):
                joined.merge(first, other)
    return sorted(sorted(i for first in part for i in balls[first]) for part in joined.subsets())


def _reach(first: Layer, second: Layer, tolerance: Tolerance) -> bool:
    """Whether a pairing within a widened tolerance cannot be ruled out, whichever cell is laid onto the other."""
    return near(first, second, tolerance, 2.0) or near(second, first, tolerance, 2.0)


def _meet(
    layers: Sequence[Layer],
    sizes: _Sizes,
    ball: list[int],
    other: list[int],
    tolerance: Tolerance,
    same: Callable[[Layer, Layer], bool],
) -> bool:
    """Whether a member of one ball equals a member of another; the firsts do not equal each other."""
    one = widened(tolerance, 1)

    def reached(first: int, members: list[int]) -> NDArray[np.int64]:
        able = sizes.possible(first, np.array(members, dtype=np.int64), 1)
        return np.array([i for i in able.tolist() if _reach(layers[first], layers[i], one)], dtype=np.int64)

    theirs = reached(ball[0], other)
    ours = reached(other[0], ball) if len(theirs) else theirs
    pairs = ((i, j) for i in ours.tolist() for j in sizes.possible(i, theirs).tolist())
    return any(same(layers[i], layers[j]) for i, j in pairs)
