"""A model of the electrostatic potential whose vacuum levels are known beforehand, for LOCPOT.

Each atom is a Gaussian well, which is gone three angstrom from it. The vacuum level is ``VACUUM_EV`` above the highest
occupied state of ``electrons`` (its zero of energy), and a layer whose electronegative atoms lie higher than the others
has a dipole: the level above it is higher than that below. What the repetition along c does to that is as in VASP: with
a dipole correction the levels are flat, and jump in the middle of the vacuum; without one a field makes up for the jump.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

Array = NDArray[np.float64]
VACUUM_EV = 5.0
STEP_EV = 0.4  # for each angstrom by which a unit of electronegativity lies higher
WELL_EV, WELL_ANGSTROM = 15.0, 0.9
SLAB_ANGSTROM = 1.0  # over which the potential rises from one level to the other


def step(structure: Structure) -> float:
    """The vacuum level above a layer minus that below it, eV."""
    heights = _heights(np.array(structure.frac_coords)[:, 2], structure)
    negativity = np.array([site.specie.X for site in structure])
    return float(STEP_EV * ((negativity - negativity.mean()) * (heights - heights.mean())).sum())


def potential(structure: Structure, heights: Array, *, corrected: bool) -> Array:
    """(n,) eV at (n,) heights, fractions of c; corrected: whether the dipole correction is on."""
    c, rise = structure.lattice.c, step(structure)
    above = _heights(heights, structure)
    found = VACUUM_EV + rise / 2 * np.tanh(above / SLAB_ANGSTROM)
    if not corrected:
        found -= rise * above / c
    for site in structure:
        apart = (heights - site.frac_coords[2] + 0.5) % 1.0 - 0.5
        found -= WELL_EV * np.exp(-((apart * c / WELL_ANGSTROM) ** 2))
    return found


def _heights(frac: Array, structure: Structure) -> Array:
    """Angstrom above the middle of a layer, half the cell at most."""
    z = np.array(structure.frac_coords)[:, 2]
    middle = np.angle(np.exp(2j * np.pi * z).mean()) / (2 * np.pi)
    return ((frac - middle + 0.5) % 1.0 - 0.5) * structure.lattice.c
