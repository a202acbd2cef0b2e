"""Wyckoff positions of the 80 layer groups, as affine maps of their free parameters.

Only the tables are here; ``detect`` and ``encoding`` analyse structures. A position of a layer group is a set of points
``x = A u + t`` with free parameters ``u``; in a layer group z never mixes with x, y (the only actions on z are
z -> z and z -> -z), so the free directions split into 0-2 in-plane ones (a torus) and 0-1 out-of-plane one
(a line). Setting: International Tables for Crystallography, volume E; the vacuum is along c and the plane
z = 0 is the one that the operations reversing z leave in place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from importlib.resources import files
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scdm_models.errors import SymmetryError

Family = Literal["oblique", "rectangular", "square", "hexagonal"]
N_GROUPS = 80
# Groups whose conventional cell is c-centred (two lattice points), from the symbols of ITE.
CENTRED = frozenset({10, 13, 18, 22, 26, 35, 36, 47, 48})


@dataclass(frozen=True)
class WyckoffPosition:
    """One Wyckoff position.

    Parameters
    ----------
    letter
        Wyckoff letter, 'a' for the most special one.
    rotations
        (multiplicity, 3, 3) linear parts; point k is ``rotations[k] @ (x, y, z) + translations[k]``.
    translations
        (multiplicity, 3) in fractions of the conventional cell.
    """

    letter: str
    rotations: NDArray[np.float64]
    translations: NDArray[np.float64]

    @property
    def multiplicity(self) -> int:
        """Points in one conventional cell."""
        return len(self.rotations)

    @cached_property
    def free(self) -> tuple[int, ...]:
        """The free variables among (x, y, z) = (0, 1, 2) of the first listed point."""
        return tuple(int(k) for k in range(3) if np.any(self.rotations[0][:, k] != 0))

    def orbit(self, xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """(multiplicity, 3) points of the orbit of the representative ``xyz`` (3,), not wrapped."""
        points: NDArray[np.float64] = self.rotations @ xyz + self.translations
        return points


@dataclass(frozen=True)
class LayerGroup:
    """One of the 80 layer groups, in its standard setting.

    Parameters
    ----------
    number
        1 to 80.
    symbol
        Hermann-Mauguin symbol.
    positions
        Wyckoff positions, 'a' first, the general position last.
    """

    number: int
    symbol: str
    positions: tuple[WyckoffPosition, ...]

    @property
    def family(self) -> Family:
        """Lattice family: oblique 1-7, rectangular 8-48, square 49-64, hexagonal 65-80."""
        if self.number <= 7:
            return "oblique"
        if self.number <= 48:
            return "rectangular"
        return "square" if self.number <= 64 else "hexagonal"

    @property
    def centred(self) -> bool:
        """Whether the conventional cell holds two lattice points."""
        return self.number in CENTRED

    @property
    def general(self) -> WyckoffPosition:
        """The general position; its points are the operations of the group (centring included)."""
        return self.positions[-1]

    @cached_property
    def reverses_z(self) -> bool:
        """Whether some operation maps z to -z, which fixes the plane z = 0."""
        return bool(np.any(self.general.rotations[:, 2, 2] < 0))

    def index(self, letter: str) -> int:
        """Index of the position with this letter; ``SymmetryError`` if the group has none."""
        for k, position in enumerate(self.positions):
            if position.letter == letter:
                return k
        known = "".join(p.letter for p in self.positions)
        raise SymmetryError(
            f"Wyckoff letter {letter!r} does not exist in layer group {self.number} ({self.symbol}); "
            f"its letters are {known}"
        )


Array = NDArray[np.float64]
_SHIFTS = np.array([[i, j, 0] for i in range(-2, 3) for j in range(-2, 3)], dtype=float)


def wrap(delta: Array) -> Array:
    """(..., 3) differences with their in-plane components in [-1/2, 1/2]; heights untouched."""
    out = delta.copy()
    out[..., :2] -= np.round(out[..., :2])
    return out


@dataclass(frozen=True)
class PointFamilies:
    """M families of points ``matrix @ parameters + translation``, each repeated by the in-plane lattice.

    Parameters
    ----------
    matrix
        (M, 3, 3), with columns of 0 for the parameters that a family lacks.
    translation
        (M, 3).
    inverse
        (M, 3, 3) pseudo-inverses of ``matrix``.
    outside
        (M, 3, 3) projectors on what no parameter reaches.
    """

    matrix: Array
    translation: Array
    inverse: Array
    outside: Array

    @classmethod
    def of(cls, matrix: Array, translation: Array) -> PointFamilies:
        """The families of these matrices and translations."""
        present = (matrix != 0).any(-2)
        inverse = np.where(present[..., None], np.linalg.pinv(matrix), 0.0)  # exactly 0 for what a family lacks
        return cls(matrix, translation, inverse, np.eye(3) - matrix @ inverse)

    def distances(self, points: Array) -> tuple[Array, Array]:
        """(M, n) distances of the (n, 3) points from each family, and the (M, n, 3) lattice shifts that bring them
        there. In units of the coordinates: fractions in the plane, angstrom above it."""
        apart = (points - self.translation[:, None]) @ self.outside  # projectors are symmetric
        squared = ((apart[:, :, None] + (_SHIFTS @ self.outside)[:, None]) ** 2).sum(-1)  # (M, n, shifts)
        best = squared.argmin(-1)
        return np.sqrt(np.take_along_axis(squared, best[..., None], -1)[..., 0]), _SHIFTS[best]

    def parameters(self, index: int, point: Array) -> Array:
        """(3,) parameters with which family ``index`` comes nearest to the (3,) ``point``."""
        offset = point - self.translation[index] + _SHIFTS
        best = int(((offset @ self.outside[index]) ** 2).sum(-1).argmin())
        nearest: Array = self.inverse[index] @ offset[best]
        return nearest


@cache
def first_points(number: int) -> PointFamilies:
    """The first point of each Wyckoff position of the layer group, in their order."""
    positions = layer_group(number).positions
    return PointFamilies.of(
        np.array([p.rotations[0] for p in positions]), np.array([p.translations[0] for p in positions])
    )


def _affine(triplet: str) -> tuple[list[list[float]], list[float]]:
    """Linear and constant part of a coordinate triplet such as ``-x+1/2,y,-z``."""
    rotation, translation = [], []
    for expression in triplet.split(","):
        row, constant = [0.0, 0.0, 0.0], Fraction(0)
        for term in expression.replace("-", "+-").split("+"):
            if not term:
                continue
            variable = term[-1]
            if variable in "xyz":
                factor = term[:-1].replace("*", "")
                row["xyz".index(variable)] += float(factor + "1" if factor in ("", "-") else factor)
            else:
                constant += Fraction(term)
        rotation.append(row)
        translation.append(float(constant))
    return rotation, translation


@cache
def _raw() -> list[dict[str, object]]:
    text = files("scdm_models.symmetry").joinpath("wyckoff_layer.json").read_text()
    groups: list[dict[str, object]] = json.loads(text)["groups"]
    return groups


@cache
def layer_group(number: int) -> LayerGroup:
    """The layer group with this number; ``SymmetryError`` outside 1-80.

    Examples
    --------
    >>> [p.letter for p in layer_group(78).positions][:3], layer_group(78).symbol
    (['a', 'b', 'c'], 'p-6m2')
    """
    if not 1 <= number <= N_GROUPS:
        raise SymmetryError(f"layer group {number} does not exist: there are 80, numbered 1 to 80")
    raw = _raw()[number - 1]
    positions = []
    for entry in raw["positions"]:  # type: ignore[attr-defined]
        affine = [_affine(point) for point in entry["points"]]
        rotations = np.array([a for a, _ in affine])
        translations = np.array([b for _, b in affine])
        positions.append(WyckoffPosition(entry["letter"], rotations, translations))
    return LayerGroup(number, str(raw["symbol"]), tuple(positions))
