"""Pictures of layers: top and side view as SVG text. Atoms by covalent radius and element colour, bonds,
the cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from pymatgen.core import Element, Structure

from scdm_flows.report.figures import INK, SOFT, STYLE
from scdm_models.symmetry.lattice import BOND_FACTOR, covalent_radii

Array = NDArray[np.float64]
PATCH_ANGSTROM = 9.0  # the patch of layer that is drawn is about as wide
MAX_ATOMS = 220  # and has no more atoms
RADIUS_SHARE = 0.45  # drawn radius over covalent radius: bonds stay visible
# A line is drawn to neighbours not much further than the nearest one: 1.25 keeps Mo-S and leaves Mo-Mo out
# of 1H-MoS2.
SHELL_FACTOR = 1.25
LEVEL_ANGSTROM = 0.05  # atoms closer in depth are drawn together


@dataclass(frozen=True)
class _Patch:
    """A finite piece of the layer.

    positions: (n, 3) angstrom; numbers: (n,); row: (n,) copy along b that the atom is in; bonds: (m, 2)
    indices.
    """

    positions: Array
    numbers: NDArray[np.int64]
    row: NDArray[np.int64]
    bonds: NDArray[np.int64]


@cache
def colour(number: int) -> str:
    """Hex colour of an element (Jmol's convention, through ASE)."""
    from ase.data.colors import jmol_colors

    red, green, blue = (round(255 * float(x)) for x in jmol_colors[number])
    return f"#{red:02x}{green:02x}{blue:02x}"


def legend(structure: Structure) -> list[tuple[str, str]]:
    """(symbol, hex colour) of the elements, as drawn."""
    return [(str(e), colour(Element(str(e)).Z)) for e in sorted(structure.composition, key=str)]


def _patch(structure: Structure, repeats: tuple[int, int]) -> _Patch:
    matrix = np.array(structure.lattice.matrix)
    x = matrix[0] / np.linalg.norm(matrix[0])
    z = np.cross(matrix[0], matrix[1])
    z /= np.linalg.norm(z)
    frame = np.array([x, np.cross(z, x), z]).T  # columns: a along x, the normal along z
    frac = np.array(structure.frac_coords)
    frac %= 1.0
    heights = np.sort(frac[:, 2])
    gaps = np.diff(np.append(heights, heights[0] + 1.0))
    frac[:, 2] = (frac[:, 2] - heights[(int(np.argmax(gaps)) + 1) % len(heights)] + 1e-9) % 1.0  # one piece
    cells = np.array([[i, j, 0] for i in range(repeats[0]) for j in range(repeats[1])], dtype=float)
    positions = ((frac[None] + cells[:, None]).reshape(-1, 3)) @ matrix @ frame
    positions[:, 2] -= (positions[:, 2].max() + positions[:, 2].min()) / 2
    positions = positions.round(4)  # the same layer gives the same bytes, whatever its cell
    numbers = np.tile([site.specie.Z for site in structure], len(cells))
    radii = covalent_radii(numbers)
    nearest = np.tile(_nearest(structure), len(cells))
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    reach = np.minimum(
        BOND_FACTOR * (radii[:, None] + radii[None]),
        SHELL_FACTOR * np.maximum(nearest[:, None], nearest[None]),
    )
    bonded = np.triu(distances < reach, 1)
    row = np.repeat(cells[:, 1].astype(int), len(structure))
    return _Patch(positions, numbers, row, np.argwhere(bonded))


def _nearest(structure: Structure) -> Array:
    """(n_atoms,) distance of each atom to its nearest neighbour in the crystal, angstrom; infinite beyond
    6.
    """
    first, _, _, distances = structure.get_neighbor_list(6.0)
    nearest = np.full(len(structure), np.inf)
    np.minimum.at(nearest, first, distances)
    return nearest


def _repeats(structure: Structure) -> tuple[int, int]:
    """How often the cell is repeated along a and b for a patch of about ``PATCH_ANGSTROM``."""
    a, b, gamma = structure.lattice.a, structure.lattice.b, np.deg2rad(structure.lattice.gamma)
    n, m = (int(np.clip(np.ceil(PATCH_ANGSTROM / (s * np.sin(gamma))), 1, 5)) for s in (a, b))
    while n * m * len(structure) > MAX_ATOMS and n * m > 1:
        n, m = (n - 1, m) if n * a >= m * b else (n, m - 1)
    return n, m


@dataclass(frozen=True)
class LayerViews:
    """Top view and side view along b of a layer, to one scale.

    edges: (2, 2) a and b in the plane of the top view, angstrom.
    """

    top: _Patch
    side: _Patch
    edges: Array

    @classmethod
    def of(cls, structure: Structure) -> LayerViews:
        """The views of a slab with c along z."""
        n, m = _repeats(structure)
        a, b = (float(np.linalg.norm(np.array(structure.lattice.matrix)[k])) for k in (0, 1))
        gamma = np.deg2rad(structure.lattice.gamma)
        edges = np.array([[a, 0.0], [b * np.cos(gamma), b * np.sin(gamma)]])
        # seen along b its copies coincide: one row of atoms is drawn, with its bonds to the rows before and
        # behind
        return cls(_patch(structure, (n, m)), _patch(structure, (n, 3)), edges)

    @cached_property
    def _flat(self) -> tuple[Array, Array]:
        """(n, 2) places on the paper of both; the side's horizontal axis is the normal of b in the plane, so that the
        copies along b coincide.
        """
        b = self.edges[1] / np.linalg.norm(self.edges[1])
        across = np.array([b[1], -b[0]])
        side = np.column_stack([self.side.positions[:, :2] @ across, self.side.positions[:, 2]])
        return self.top.positions[:, :2], side

    @cached_property
    def _spans(self) -> list[Array]:
        return [np.ptp(flat, axis=0) + 2.4 for flat in self._flat]

    @property
    def width(self) -> float:
        """Of both, angstrom."""
        return max(float(span[0]) for span in self._spans)

    @property
    def heights(self) -> tuple[float, float]:
        """Of the top view and the side view, angstrom."""
        top, side = (max(float(span[1]), 2.6) for span in self._spans)
        return top, side

    def draw(self, top: mpl.axes.Axes, side: mpl.axes.Axes, scale: float) -> None:
        """Draw both on axes of their own; scale: points per angstrom there."""
        shown = np.ones(len(self.top.numbers), dtype=bool)
        _draw(top, self._flat[0], self.top.positions[:, 2], self.top, shown, scale)
        _draw(side, self._flat[1], -self.side.positions[:, 1], self.side, self.side.row == 1, scale)
        for axes, flat, height in zip((top, side), self._flat, self.heights, strict=True):
            middle = (flat.max(axis=0) + flat.min(axis=0)) / 2
            axes.set_xlim(middle[0] - self.width / 2, middle[0] + self.width / 2)
            axes.set_ylim(middle[1] - height / 2, middle[1] + height / 2)
            axes.set_aspect("equal")
            axes.axis("off")
        first, second = self.edges
        # a cell may begin anywhere: with its corner on the lowest atom it lies where atoms are drawn
        corner = min(self._flat[0].tolist(), key=lambda place: (round(place[1], 2), round(place[0], 2)))
        outline = np.array([[0, 0], first, first + second, second, [0, 0]]) + corner
        top.plot(*outline.T, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1e6, clip_on=False)


def layer_picture(structure: Structure) -> Figure:
    """Top view, with the cell, and below it the side view along b, to one scale."""
    views = LayerViews.of(structure)
    inches = 3.4
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(inches, inches * sum(views.heights) / views.width + 0.15))
        grid = figure.add_gridspec(2, 1, height_ratios=views.heights, hspace=0.06, left=0, right=1, bottom=0, top=1)
        views.draw(figure.add_subplot(grid[0]), figure.add_subplot(grid[1]), 72 * inches / views.width)
        return figure


def _draw(
    axes: mpl.axes.Axes, flat: Array, depth: Array, patch: _Patch, shown: NDArray[np.bool_], scale: float
) -> None:
    """Atoms and bonds from the back to the front.

    flat: (n, 2) and depth: (n,) of the view, angstrom; shown: (n,) atoms to draw; scale: points per angstrom.
    """
    levels = np.round(depth / LEVEL_ANGSTROM).astype(int)
    radii = covalent_radii(patch.numbers) * RADIUS_SHARE
    bonds = patch.bonds[shown[patch.bonds].any(axis=1)]
    behind = np.where(shown[bonds].all(axis=1), levels[bonds].min(axis=1), levels[shown].min(initial=levels.max()))
    for order, level in enumerate(np.unique(levels[shown])):
        segments = [flat[list(pair)] for pair in bonds[behind == level]]
        if segments:
            axes.add_collection(
                LineCollection(segments, colors=SOFT, linewidths=0.22 * scale, capstyle="round", zorder=2 * order)
            )
        atoms = np.flatnonzero(shown & (levels == level))
        circles = [Circle((float(flat[k, 0]), float(flat[k, 1])), float(radii[k])) for k in atoms]
        axes.add_collection(
            PatchCollection(
                circles,
                facecolors=[colour(int(patch.numbers[k])) for k in atoms],
                edgecolors=INK,
                linewidths=0.5,
                zorder=2 * order + 1,
            )
        )
