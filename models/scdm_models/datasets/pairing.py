"""Whether the atoms of two layers can be paired: the search of pymatgen's StructureMatcher, in the plane and on arrays.

One pair of prepared layers is compared here; ``matching`` prepares layers, ``grouping`` chooses the pairs.

A pairing is an integer change of the first layer's in-plane cell onto the second's, a choice of up, and one atom of
the rarest element that is put onto one of the other layer. As in StructureMatcher (Ong et al., Comput. Mater. Sci. 68,
314 (2013), doi:10.1016/j.commatsci.2012.10.028), distances are those of the mean of the two cells, the assignment has
the smallest sum of squares, and its mean displacement is free. Unlike there, c is never exchanged with a or b.
All candidates are decided together, which takes a fifth of its time (measured on 1,000 pairs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[np.float64]
# Vectors of a reduced cell that can become the other's: with lengths within 10 % and angles within 4 degrees the
# coefficients stay within 3 up to a ratio b / a of 40.
_STEPS = np.array([[i, j] for i in range(-3, 4) for j in range(-3, 4) if (i, j) != (0, 0)], dtype=np.int64)
_MOST = 1_000_000  # distances that are looked at together: some 100 MB
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
        self.plane = plane
        self.lengths = np.sqrt((plane**2).sum(1))
        self.angle = float(np.degrees(np.arccos(np.clip(plane[0] @ plane[1] / self.lengths.prod(), -1, 1))))
        self.area = float(abs(plane[0, 0] * plane[1, 1] - plane[0, 1] * plane[1, 0]))
        ends = [*((self.numbers[1:] != self.numbers[:-1]).nonzero()[0] + 1).tolist(), len(numbers)]
        blocks = [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]
        self.blocks = sorted(blocks, key=lambda block: block.stop - block.start)  # the rarest element first
        heights = self.frac[:, 2] - 0.5
        self.up = heights[np.lexsort((heights, self.numbers))]
        self.down = -heights[np.lexsort((-heights, self.numbers))]
        self.key = (self.area, c, self.frac.tobytes())  # puts a pair into one order, whoever asks

    @cached_property
    def vectors(self) -> Array:
        """(48, 2) vectors of its lattice that may become another's a or b, angstrom."""
        return _STEPS @ self.plane

    @cached_property
    def norms(self) -> Array:
        """(48,) their lengths."""
        return np.asarray(np.sqrt((self.vectors**2).sum(1)))


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


def _at_once(layer: Layer) -> int:
    """How many ways to lay a layer onto another are looked at together."""
    largest: int = max(block.stop - block.start for block in layer.blocks)
    return max(1, _MOST // largest**2)


def _candidates(
    first: Layer, second: Layer, cells: _Cells, radius: Array, copies: int = 1
) -> tuple[NDArray[np.int64], Array]:
    """(g,) cells and (g, n, 3) the first's coordinates for each way to put one of its rarest atoms onto the second's
    where every atom of the second has one of its element within ``radius`` ((m,), angstrom).
    """
    rare = first.blocks[0]
    atoms = np.arange(rare.start, rare.stop, copies)
    cell, atom = (x.ravel() for x in np.meshgrid(np.arange(len(radius)), atoms, indexing="ij"))
    size = _at_once(first)
    parts = [
        _near_candidates(first, second, cells, radius, cell[k : k + size], atom[k : k + size])
        for k in range(0, len(cell), size)
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _near_candidates(
    first: Layer, second: Layer, cells: _Cells, radius: Array, cell: NDArray[np.int64], atom: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Array]:
    """``_candidates`` among (f,) pairs of a cell and an atom."""
    rare = first.blocks[0]
    pinned = second.frac[rare.start]
    plane = first.frac[:, :2] @ cells.inverse  # (m, n, 2)
    heights = np.stack([first.frac[:, 2], 1 - first.frac[:, 2]])  # (2, n), as it is and upside down
    z = heights[:, None] - heights[:, rare, None] + pinned[2]  # (2, k, n)
    alive = np.ones((len(cell), 2), dtype=bool)
    limit = radius**2 + 1e-9
    for block in first.blocks:
        if block is rare and rare.stop - rare.start == 1:
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
        cell, atom, alive = cell[stay], atom[stay], alive[stay]
        if not len(cell):
            break
    rows, flips = np.nonzero(alive)
    at = np.empty((len(rows), len(first.numbers), 3))
    at[..., :2] = plane[cell[rows]] - plane[cell[rows], atom[rows]][:, None] + pinned[:2]
    at[..., 2] = z[flips, atom[rows] - rare.start]
    return cell[rows], at


def near(first: Layer, second: Layer, tolerance: Tolerance, factor: float = 1.0) -> bool:
    """Whether, with one atom in place, each other has one of its element within ``factor`` times what is allowed.

    A necessary condition of ``paired`` at a factor of 2: there the mean displacement is free, which moves the atom in
    place by no more than is allowed.
    """
    cells = _cells(first, second, tolerance)
    if cells is None:
        return False
    return len(_candidates(first, second, cells, factor * cells.allowed)[0]) > 0


def paired(first: Layer, second: Layer, tolerance: Tolerance) -> bool:
    """Whether a pairing leaves every atom closer to its partner than is allowed."""
    return displacement(first, second, tolerance) is not None


def displacement(first: Layer, second: Layer, tolerance: Tolerance, copies: int = 1) -> float | None:
    """Smallest root mean square distance of paired atoms, angstrom; None where nothing is ``paired``.

    Each pairing is that of one atom of the rarest element in place; its mean displacement is then free. In the plane
    distances are those in the mean cell, so strain does not count; heights are what they are.

    Parameters
    ----------
    first, second
        Layers of the same atoms.
    tolerance
        What they may differ by.
    copies
        Every so many atoms of the first are copies of one by translations of its lattice: it does not matter which of
        them is put in place.
    """
    if copies == 1 and first.key > second.key:
        first, second = second, first
    cells = _cells(first, second, tolerance)
    if cells is None:
        return None
    ways, at = _candidates(first, second, cells, 2 * cells.allowed, copies)
    size = _at_once(first)
    best = math.inf
    for k in range(0, len(ways), size):
        cell, metric = ways[k : k + size], cells.metric[ways[k : k + size]]
        parts = [_moves(second.frac[block], at[k : k + size, block], metric, cells.c) for block in first.blocks]
        moves = np.concatenate(parts, axis=1)
        x, y, z, height = np.moveaxis(moves - moves.mean(1, keepdims=True), -1, 0)
        aa, ab, bb = metric.T[..., None]
        lateral = aa * x * x + 2 * ab * x * y + bb * y * y  # (g, n)
        fits = (lateral + (z * cells.c) ** 2).max(1) < cells.allowed[cell] ** 2
        rise = z * cells.c + height * (first.c - second.c)  # c1 z1 - c2 z2
        best = min(best, float((lateral + rise**2)[fits].mean(1).min(initial=math.inf)))
    return math.sqrt(best) if best < math.inf else None


def _moves(frac: Array, at: Array, metric: Array, c: float) -> Array:
    """(g, k, 4) fractional ways from the (k, 3) atoms of the second to their partners among the (g, k, 3) of the first,
    and the mean height of the two.

    Where each atom's nearest is another one, that is the assignment with the smallest sum of squares.
    """
    delta = at[:, None] - frac[:, None]  # (g, second, first, 3)
    images, squared = _images(delta[..., :2], metric[:, None, None, None])
    best = squared.argmin(-1)
    rise = delta[..., 2] - np.round(delta[..., 2])
    total = np.take_along_axis(squared, best[..., None], -1)[..., 0] + (rise * c) ** 2
    partner = total.argmin(-1)
    for way in np.flatnonzero((np.sort(partner, axis=1) != np.arange(len(frac))).any(1)):
        partner[way] = linear_sum_assignment(total[way])[1]
    g, k = np.ogrid[: len(at), : len(frac)]
    lateral = images[g, k, partner, best[g, k, partner]]
    height = (at[g, partner, 2] + frac[:, 2]) / 2
    return np.concatenate([lateral, np.stack([rise[g, k, partner], height], axis=-1)], axis=-1)
