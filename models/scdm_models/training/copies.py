"""Pairs that the geometry network learns from besides noise: a training crystal, and what sampling would begin at.

Sampling gives a skeleton the geometry of its nearest training crystals, scaled (``model.prototypes``). What such a copy
lacks is no noise: cells and bonds that another chemistry makes different. Here each training crystal is copied from
crystals of other chemical systems and brought, by another origin, other axes and other representatives of its sites,
into the setting in which the two lie nearest to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from scdm_models.model.prototypes import Prototypes
from scdm_models.symmetry.encoding import LayerCrystal, Site, in_plane_matrix
from scdm_models.symmetry.normalizer import normalizer
from scdm_models.symmetry.tables import first_points, layer_group, wrap

Array = NDArray[np.float64]
FAR_ANGSTROM = 1.0  # a copy with a site farther from its place is of another structure and shows no way
STRAIN = 0.2  # the same for the logs of its cell's lengths, and for radians of its angle


def pairs(prototypes: Prototypes, crystals: Sequence[LayerCrystal], n: int) -> list[tuple[LayerCrystal, LayerCrystal]]:
    """Crystals in the setting of a copy, and the copy: of each crystal's ``n`` nearest copies those that are near."""
    copies = [(one, copy) for one in crystals if n for copy, _ in prototypes.near(one, n, other_systems=True)]
    aligned = [(align(crystal, copy), copy) for crystal, copy in copies]
    return [(crystal, copy) for crystal, copy in aligned if crystal is not None]


def align(crystal: LayerCrystal, copy: LayerCrystal) -> LayerCrystal | None:
    """The crystal in the setting nearest to ``copy``, site by site; None where the two are far from each other.

    copy: of the same layer group and elements.
    """
    group = crystal.group
    places = np.array([s.xyz for s in copy.sites])
    elements = np.array([s.element for s in copy.sites])
    atoms, owner = _atoms(crystal)
    kinds = np.array([s.element for s in crystal.sites])[owner]
    cell = in_plane_matrix(*copy.lattice)
    weight = np.array([group.positions[group.index(s.letter)].multiplicity for s in copy.sites], dtype=float)
    best: tuple[float, Array, Array] | None = None
    for axes, matrix in _settings(crystal, copy):
        moved = atoms @ axes.T
        for origin in _origins(group.number, axes, moved, kinds, places, elements):
            here = moved + origin
            squared = _squared(places[:, None] - here[None], cell)
            squared = np.where(elements[:, None] == kinds[None], squared, np.inf)
            total = float(weight @ squared.min(1))
            if best is None or total < best[0] - 1e-9:
                best = total, here, matrix
    if best is None:
        return None
    _, here, matrix = best
    squared = np.where(elements[:, None] == kinds[None], _squared(places[:, None] - here[None], cell), np.inf)
    nearest = squared.argmin(1)
    sites = owner[nearest]
    if len(set(sites.tolist())) < len(sites) or squared.min(1).max() > FAR_ANGSTROM**2:
        return None
    families, found = first_points(group.number), []
    for site, atom in zip(copy.sites, nearest.tolist(), strict=True):
        index = group.index(site.letter)
        position, free = group.positions[index], families.parameters(index, here[atom])
        apart = wrap(position.rotations[0] @ free + position.translations[0] - here[atom])
        if np.abs(apart).max() > 1e-3:
            return None  # the atom lies on another letter
        found.append(
            Site(site.element, site.letter, (float(here[atom][0]), float(here[atom][1]), float(here[atom][2])))
        )
    a, b = (float(np.linalg.norm(row)) for row in matrix)
    gamma = float(np.rad2deg(np.arccos(np.clip(matrix[0] @ matrix[1] / (a * b), -1, 1))))
    return LayerCrystal(group.number, (a, b, gamma), tuple(found))


def _squared(delta: Array, cell: Array) -> Array:
    """(...) squared lengths of differences (..., 3), angstrom^2; the wrapping is by fractions, exact where short."""
    delta = wrap(delta)
    found: Array = ((delta[..., :2] @ cell) ** 2).sum(-1) + delta[..., 2] ** 2
    return found


def _atoms(crystal: LayerCrystal) -> tuple[Array, NDArray[np.int64]]:
    """(N, 3) all atoms and the (N,) site of each."""
    group = crystal.group
    orbits = [group.positions[group.index(s.letter)].orbit(np.array(s.xyz)) for s in crystal.sites]
    return np.concatenate(orbits), np.repeat(np.arange(len(orbits)), [len(o) for o in orbits])


def _settings(crystal: LayerCrystal, copy: LayerCrystal) -> list[tuple[Array, Array]]:
    """Changes of axes (3, 3) with a cell like the copy's, and the (2, 2) cell that each makes of the crystal's."""
    found = []
    a, b, gamma = copy.lattice
    cell = in_plane_matrix(*crystal.lattice)
    for axes in _axes(crystal.layer_group):
        matrix = np.linalg.inv(axes[:2, :2]).T @ cell
        lengths = np.linalg.norm(matrix, axis=1)
        angle = np.arccos(np.clip(matrix[0] @ matrix[1] / lengths.prod(), -1, 1))
        if np.abs(np.log(lengths / (a, b))).max() < STRAIN and abs(angle - np.deg2rad(gamma)) < STRAIN:
            found.append((axes, matrix))
    return found


@cache
def _axes(number: int) -> list[Array]:
    """The different changes of axes of the normalizer."""
    return list({axes.tobytes(): axes for axes, _ in normalizer(number)}.values())


@cache
def _listed(number: int) -> dict[bytes, list[Array]]:
    """The different origins of the normalizer with each of its changes of axes."""
    found: dict[bytes, dict[bytes, Array]] = {}
    for axes, origin in normalizer(number):
        found.setdefault(axes.tobytes(), {}).setdefault(origin.tobytes(), origin)
    return {axes: list(origins.values()) for axes, origins in found.items()}


@cache
def _kept(number: int) -> tuple[bool, bool]:
    """Along which in-plane axes the origin may be anywhere: those that every operation keeps."""
    rotations = layer_group(number).general.rotations
    first, second = (bool((rotations[:, :2, k] == np.eye(2)[k]).all()) for k in (0, 1))
    return first, second


def _origins(
    number: int,
    axes: Array,
    atoms: Array,
    kinds: NDArray[np.int64],
    places: Array,
    elements: NDArray[np.int64],
) -> list[Array]:
    """Origins to try: those of the normalizer, and where the origin is free along an axis, those that bring an atom of
    the rarest element to its place."""
    kept = _kept(number)
    fixed = [o for o in _listed(number)[axes.tobytes()] if not any(o[k] for k in (0, 1) if kept[k])]
    if not any(kept):
        return fixed
    rare = min(set(elements.tolist()), key=lambda z: (int((kinds == z).sum()), z))
    place = places[int(np.flatnonzero(elements == rare)[0])]
    free = np.array([*kept, False])
    return [np.where(free, place - atom, origin) for origin in fixed for atom in atoms[kinds == rare]]
