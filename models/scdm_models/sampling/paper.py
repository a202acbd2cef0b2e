"""The paper's decoding: elements, lattice and coordinates diffused freely, symmetry found in what came out.

Lattice -> crystal system -> groups of that system -> Wyckoff positions: the cell of a sample without symmetry is
snapped to the family it is near, and the atoms are projected on the Wyckoff positions of the group whose operations
hold within a tolerance, from the loosest to the tightest.
"""

from __future__ import annotations

import numpy as np
from pymatgen.core import Lattice, Structure

from scdm_models.errors import ScdmError
from scdm_models.symmetry.encoding import LayerCrystal, decode, in_plane_matrix, symmetrize
from scdm_models.symmetry.validity import valid_radii

TOLERANCES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1)  # angstrom; the first that gives a group above p1 and no overlap is taken
SNAP_LENGTH = 0.08  # relative difference of a and b below which they count as equal
SNAP_DEGREES = 6.0  # distance of gamma from 90 or 120 degrees below which it counts as that


def snap_lattice(a: float, b: float, gamma: float) -> tuple[float, float, float]:
    """(a, b, gamma) of the nearest crystal family, area kept; unchanged where no family is near.

    Hexagonal and square where a = b and gamma = 120 (or 60) or 90 degrees, centred rectangular where only a = b,
    rectangular where only gamma = 90, else oblique.
    """
    area = a * b * np.sin(np.deg2rad(gamma))
    equal = abs(a - b) < SNAP_LENGTH * (a + b) / 2
    near = {angle: abs(gamma - angle) < SNAP_DEGREES for angle in (60.0, 90.0, 120.0)}
    found = next((angle for angle, close in near.items() if close), None)
    if equal:
        angle = gamma if found is None else found
        side = float(np.sqrt(area / np.sin(np.deg2rad(angle))))
        return side, side, angle
    if near[90.0]:
        scale = float(np.sqrt(area / (a * b)))
        return a * scale, b * scale, 90.0
    return a, b, gamma


def paper_decoding(crystal: LayerCrystal) -> LayerCrystal:
    """A crystal drawn without symmetry (layer group 1) with the symmetry it is near; itself where it is near none."""
    free = decode(crystal)
    a, b, _ = free.lattice.abc
    matrix = np.zeros((3, 3))
    matrix[:2, :2] = in_plane_matrix(*snap_lattice(a, b, free.lattice.gamma))
    matrix[2, 2] = free.lattice.c
    snapped = Structure(Lattice(matrix), free.species, free.frac_coords)
    for tolerance in TOLERANCES:
        try:
            found = symmetrize(snapped, tolerance)
            fits = found.layer_group > 1 and len(decode(found.crystal)) <= len(free) and valid_radii(found.structure)
        except ScdmError:
            continue
        if fits:
            return found.crystal
    return crystal
