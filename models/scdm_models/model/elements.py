"""Descriptors of the elements, with which the networks can transfer what they learn of sulfur to selenium."""

from __future__ import annotations

from functools import cache

import torch
from pymatgen.core import Element
from torch import Tensor

MAX_Z = 103  # atomic numbers 1..103; class index = Z - 1
N_FEATURES = 18 + 7 + 4 + 3


@cache
def element_features() -> Tensor:
    """(MAX_Z, 32) descriptors of the elements, row Z - 1.

    Group (18) and period (7) of the periodic table and block (4) as one-hot vectors, then Pauling electronegativity,
    atomic radius (angstrom) and number of valence electrons of the neutral atom, each roughly standardised; an
    unknown value is 0. All values are pymatgen's.
    """
    rows = torch.zeros(MAX_Z, N_FEATURES)
    for z in range(1, MAX_Z + 1):
        element = Element.from_Z(z)
        row = rows[z - 1]
        row[element.group - 1] = 1
        row[18 + min(element.row, 7) - 1] = 1
        row[25 + "spdf".index(element.block)] = 1
        electronegativity = element.data.get("X")
        if isinstance(electronegativity, float | int):  # most noble gases have none
            row[29] = float(electronegativity) - 1.8
        if element.atomic_radius is not None:
            row[30] = 2 * (float(element.atomic_radius) - 1.35)
        row[31] = (min(element.group, 18) % 10) / 5 - 0.8
    return rows
