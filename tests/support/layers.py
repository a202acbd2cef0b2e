"""Crystals that tests are about."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Lattice, Structure

from scdm_models.symmetry import layer_group
from scdm_models.symmetry.encoding import LayerCrystal, Site, family_lattice


def mx2(polytype: str, a: float = 3.18, half: float = 1.565, c: float = 20.0, shift: float = 0.5) -> Structure:
    """1H- or 1T-MoS2, lengths in angstrom, its middle at fractional z = ``shift``."""
    second = (2 / 3, 1 / 3) if polytype == "1H" else (0.0, 0.0)
    frac = [[1 / 3, 2 / 3, shift], [2 / 3, 1 / 3, shift + half / c], [*second, shift - half / c]]
    return Structure(Lattice.hexagonal(a, c), ["Mo", "S", "S"], frac)


def diamond(element: str, a: float) -> Structure:
    """The conventional cell of diamond; ``a`` in angstrom. pymatgen takes a second to make it of its group, Fd-3m."""
    face = [[0, 0, 0], [0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0]]
    return Structure(Lattice.cubic(a), [element] * 8, [*face, *(np.array(face) + 1 / 4)])


def rock_salt(cation: str, anion: str, a: float) -> Structure:
    """The conventional cell of rock salt, ``a`` in angstrom; see ``diamond``."""
    face = [[0, 0, 0], [0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0]]
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, [*face, *((np.array(face) + 1 / 2) % 1)])


def random_crystal(number: int, seed: int) -> LayerCrystal:
    """Two orbits of different elements on random positions with random parameters; the first one is general."""
    rng = np.random.default_rng(seed)
    group = layer_group(number)
    sites = []
    for element, index in ((42, len(group.positions) - 1), (16, int(rng.integers(len(group.positions))))):
        position = group.positions[index]
        # parameters away from special values, so that a general point does not fall on a special position
        u = np.where([k in position.free for k in range(3)], rng.uniform(0.06, 0.21, 3) * [1, 1, 9], 0.0)
        x, y, z = position.rotations[0] @ u + position.translations[0]
        sites.append(Site(element, position.letter, (float(x % 1), float(y % 1), float(z + 0.0))))
    matrix = np.array([[7.1, 0.0], [2.9, 8.3]])
    if not group.reverses_z:  # the origin along z is free there: the mean height of the atoms is 0
        weights = [group.positions[group.index(s.letter)].multiplicity for s in sites]
        mean = float(np.average([s.xyz[2] for s in sites], weights=weights))
        sites = [Site(s.element, s.letter, (*s.xyz[:2], s.xyz[2] - mean)) for s in sites]
    return LayerCrystal(number, family_lattice(group, matrix), tuple(sites))
