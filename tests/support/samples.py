"""Samples as a generator gives them: layers in any orientation, and what is no layer."""

from __future__ import annotations

import math

import numpy as np
from pymatgen.core import Lattice, Structure
from scipy.stats import ortho_group
from support.layers import diamond


def bulk() -> Structure:
    return diamond("Si", 5.43)


def broken() -> Structure:
    """A structure with a coordinate that is not a number, as a diverged sample has."""
    return Structure(Lattice.hexagonal(3.18, 20.0), ["Mo", "S"], [[0, 0, 0.5], [1 / 3, 2 / 3, math.nan]])


def turned(structure: Structure, seed: int) -> Structure:
    """Rotated or mirrored as a whole, moved along the lattice vectors, sites in another order."""
    rng = np.random.default_rng(seed)
    matrix = structure.lattice.matrix @ ortho_group.rvs(3, random_state=seed)
    order = rng.permutation(len(structure))
    frac = (structure.frac_coords + rng.random(3))[order]
    return Structure(Lattice(matrix), [structure.species[i] for i in order], frac)
