"""Whether the atoms of two layers can be paired: the search of pymatgen's StructureMatcher, in the plane and on arrays.

Owns one pair of prepared layers; ``matching`` says what is prepared how, ``grouping`` which pairs are looked at.

A pairing is an integer change of the first layer's in-plane cell onto the second's, a choice of up, and one atom of
the rarest element that is put onto one of the other layer. As in StructureMatcher (Ong et al., Comput. Mater. Sci. 68,
314 (2013), doi:10.1016/j.commatsci.2012.10.028), distances are those of the mean of the two cells, the assignment has
the smallest sum of squares, and its mean displacement is free. Unlike there, c stays c: a layer does not lie on its
side. All candidates are decided together, which takes a fifth of its time (measured on 1,000 pairs).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[np.float64]
# Vectors of a reduced cell that can become the other's: with lengths within 10 % and angles within 3 degrees the
# coefficients stay within 3 up to a ratio b / a of 40.
_STEPS = np.array([[i, j] for i in range(-3, 4) for j in range(-3, 4) if (i, j) != (0, 0)], dtype=np.int64)
_CORNERS = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=float)


class Layer:
    """A layer as arrays, its atoms sorted by atomic number.

    Parameters
    ----------
    numbers
        (n,) atomic numbers.
    frac
        (n, 3) fractional coordinates, c along z.
    plane
        (2, 2) rows a and b, the shortest that span the cell, angstrom.
    c
        Thickness and the gap beside it, angstrom.
    """

    def __init__(self, numbers: NDArray[np.int64], frac: Array, plane: Array, c: float) -> None:
        order = np.argsort(numbers, kind="stable")
        self.numbers, self.frac, self.c = numbers[order], frac[order], c
        self.vectors = _STEPS @ plane
        self.norms = np.sqrt((self.vectors**2).sum(1))
        self.lengths = np.sqrt((plane**2).sum(1))
        self.angle = float(np.degrees(np.arccos(np.clip(plane[0] @ plane[1] / self.lengths.prod(), -1, 1))))
        self.area = float(abs(plane[0, 0] * plane[1, 1] - plane[0, 1] * plane[1, 0]))
        _, first, counts = np.unique(self.numbers, return_index=True, return_counts=True)
        blocks = [slice(int(i), int(i + m)) for i, m in zip(first, counts, strict=True)]
        self.blocks = sorted(blocks, key=lambda block: block.stop - block.start)  # the rarest element first
        heights = self.frac[:, 2] - 0.5
        self.up = heights[np.lexsort((heights, self.numbers))]
        self.down = -heights[np.lexsort((-heights, self.numbers))]
        self.key = (self.area, c, self.frac.tobytes())  # puts a pair into one order, whoever asks


@dataclass(frozen=True)
class Tolerance:
    """What two cells and the atoms in them may differ by.

    Parameters
    ----------
    length
        Of a and b (and c): the longer at most 1 + this times the shorter.
    angle
        Of the angle between a and b, degrees.
    stol
        Largest displacement, in units of (volume / atom)^(1/3) of the mean cell.
    slack
        A length that is added to the largest displacement, angstrom.
    """

    length: float
    angle: float
    stol: float
    slack: float = 0.0


@dataclass(frozen=True)
class _Cells:
    """Mean cells of the m ways to lay one cell onto the other: integer inverses and metrics."""

    inverse: Array  # (m, 2, 2)
    metric: Array  # (m, 3): a.a, a.b, b.b
    c: float
    allowed: Array  # (m,) largest displacement, angstrom


def _cells(first: Layer, second: Layer, tolerance: Tolerance) -> _Cells | None:
    """How the first layer's cell can be laid onto the second's."""
    ratio = 1 + tolerance.length
    if not 1 / ratio < first.c / second.c < ratio:
        return None
    (a, b), norms = second.lengths, first.norms
    i = np.flatnonzero((norms < a * ratio) & (norms > a / ratio))
    j = np.flatnonzero((norms < b * ratio) & (norms > b / ratio))
    if not len(i) or not len(j):
        return None
    rows, columns = _STEPS[i], _STEPS[j]
    determinants = rows[:, :1] * columns[:, 1] - rows[:, 1:] * columns[:, 0]
    cosines = (first.vectors[i] @ first.vectors[j].T) / (norms[i][:, None] * norms[j])
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    u, v = np.nonzero((abs(determinants) == 1) & (abs(angles - second.angle) <= tolerance.angle))
    if not len(u):
        return None
    (p, q), (r, s), sign = rows[u].T, columns[v].T, determinants[u, v]
    inverse = np.stack([s, -q, -r, p], axis=-1).reshape(-1, 2, 2) * sign[:, None, None].astype(float)
    mean_a, mean_b = (norms[i][u] + a) / 2, (norms[j][v] + b) / 2
    gamma, c = np.radians((angles[u, v] + second.angle) / 2), (first.c + second.c) / 2
    metric = np.stack([mean_a**2, mean_a * mean_b * np.cos(gamma), mean_b**2], axis=-1)
    volume = mean_a * mean_b * np.sin(gamma) * c
    allowed = tolerance.stol * np.cbrt(volume / len(first.numbers)) + tolerance.slack
    return _Cells(inverse, metric, c, allowed)


def _images(delta: Array, metric: Array) -> tuple[Array, Array]:
    """(..., 4, 2) the images of in-plane fractional differences that may be nearest, (..., 4) their squared lengths.

    In a reduced cell the nearest lattice point is a corner of the parallelogram that a point lies in.
    """
    delta = delta - np.round(delta)
    images = delta[..., None, :] - np.where(delta < 0, -1.0, 1.0)[..., None, :] * _CORNERS
    x, y = images[..., 0], images[..., 1]
    return images, metric[..., 0] * x * x + 2 * metric[..., 1] * x * y + metric[..., 2] * y * y


def _candidates(first: Layer, second: Layer, cells: _Cells, radius: Array) -> Iterator[tuple[int, int, Array]]:
    """(cell, atom of the first put onto the second's, (n, 3) the first's coordinates then) where every atom of the
    second has one of its element within ``radius`` ((m,), angstrom).
    """
    rare = first.blocks[0]
    n, k, m = len(first.numbers), rare.stop - rare.start, len(radius)
    pinned = second.frac[rare.start]
    plane = first.frac[:, :2] @ cells.inverse  # (m, n, 2)
    heights = np.stack([first.frac[:, 2], 1 - first.frac[:, 2]])  # (2, n), as it is and upside down
    cell, atom = (x.ravel() for x in np.meshgrid(np.arange(m), np.arange(rare.start, rare.stop), indexing="ij"))
    z = heights[:, None] - heights[:, rare, None] + pinned[2]  # (2, k, n)
    alive = np.ones((len(cell), 2), dtype=bool)
    limit = radius**2 + 1e-9
    for block in first.blocks:
        if block is rare and k == 1:
            continue
        here = plane[cell, block] - plane[cell, atom][:, None] + pinned[:2]  # (f, atoms of the first, 2)
        delta = here[:, None] - second.frac[block, None, :2]
        _, squared = _images(delta, cells.metric[cell][:, None, None, None])
        lateral = squared.min(-1)  # (f, atoms of the second, atoms of the first)
        rise = z[:, atom - rare.start][:, :, None, block] - second.frac[block, 2][:, None]  # (2, f, second, first)
        rise -= np.round(rise)
        total = lateral[:, None] + np.swapaxes(rise * rise, 0, 1) * cells.c**2
        alive &= (total <= limit[cell, None, None, None]).any(-1).all(-1)
        stay = alive.any(1)
        if not stay.any():
            return
        cell, atom, alive = cell[stay], atom[stay], alive[stay]
    for row, flip in np.argwhere(alive):
        at = np.empty((n, 3))
        at[:, :2] = plane[cell[row]] - plane[cell[row], atom[row]] + pinned[:2]
        at[:, 2] = z[flip, atom[row] - rare.start]
        yield int(cell[row]), int(atom[row]), at


def near(first: Layer, second: Layer, tolerance: Tolerance, factor: float = 1.0) -> bool:
    """Whether, with one atom in place, each other has one of its element within ``factor`` times what is allowed.

    A necessary condition of ``paired`` at a factor of 2: there the mean displacement is free, which moves the atom in
    place by no more than is allowed.
    """
    cells = _cells(first, second, tolerance)
    if cells is None:
        return False
    return next(_candidates(first, second, cells, factor * cells.allowed), None) is not None


def paired(first: Layer, second: Layer, tolerance: Tolerance) -> bool:
    """Whether a pairing leaves every atom closer to its partner than is allowed."""
    if first.key > second.key:
        first, second = second, first
    cells = _cells(first, second, tolerance)
    if cells is None:
        return False
    for cell, _, at in _candidates(first, second, cells, 2 * cells.allowed):
        (aa, ab, bb), allowed = cells.metric[cell], float(cells.allowed[cell])
        chosen = []
        for block in first.blocks:
            delta = at[None, block] - second.frac[block, None]
            images, squared = _images(delta[..., :2], cells.metric[cell])
            best = squared.argmin(-1)
            rise = delta[..., 2] - np.round(delta[..., 2])
            total = np.take_along_axis(squared, best[..., None], -1)[..., 0] + (rise * cells.c) ** 2
            rows, columns = linear_sum_assignment(total) if len(total) > 1 else ([0], [0])
            chosen.append(np.column_stack([images[rows, columns, best[rows, columns]], rise[rows, columns]]))
        moves = np.concatenate(chosen)
        x, y, z = (moves - moves.mean(0)).T
        if float((aa * x * x + 2 * ab * x * y + bb * y * y + (z * cells.c) ** 2).max()) < allowed**2:
            return True
    return False
