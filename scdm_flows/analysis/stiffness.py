"""The in-plane stiffness tensor of a layer, from stresses of strained cells whose atoms were relaxed. Pure.

The stress of a layer is that of its cell times the height of the cell, N/m. Voigt order is xx, yy, xy, and the shear is
the engineering one, 2 e_xy. C2DB's tensor is the same (doi:10.1088/2053-1583/ac1059). Strains that symmetry makes of
others are not computed: two are enough with a threefold axis, three with a fourfold one, five where xy and -xy are
equal, six for an oblique layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from scdm_flows.analysis.magnetism import kinds_of_atoms

Array = NDArray[np.float64]
SYMPREC_ANGSTROM = 1e-3  # relaxed layers are symmetric to about that
DIRECTIONS = {
    "xx": np.array([[1.0, 0.0], [0.0, 0.0]]),
    "yy": np.array([[0.0, 0.0], [0.0, 1.0]]),
    "xy": np.array([[0.0, 0.5], [0.5, 0.0]]),  # of engineering shear 1
}


@dataclass(frozen=True)
class Strain:
    """name: such as ``xx+``; tensor: (2, 2), dimensionless."""

    name: str
    tensor: Array

    def of(self, structure: Structure) -> Structure:
        """A layer, c along z, strained with its atoms; sites keep their order and what is said of them."""
        deformation = np.eye(3)
        deformation[:2, :2] += self.tensor
        found = structure.copy()
        found.lattice = Lattice(np.array(structure.lattice.matrix) @ deformation)
        return found


def strains(structure: Structure, size: float) -> list[Strain]:
    """The strains of ``size`` (dimensionless) whose stresses give the tensor of a layer."""
    operations = _operations(structure)
    found: list[Strain] = []
    images: list[Array] = []
    for name, direction in DIRECTIONS.items():
        turned = [r @ direction @ r.T for r in operations]
        if np.linalg.matrix_rank([_voigt(e) for e in (*images, *turned)], tol=1e-6) == _rank(images):
            continue
        images += turned
        found.append(Strain(f"{name}+", size * direction))
        if not any(np.allclose(e, -direction, atol=1e-6) for e in turned):
            found.append(Strain(f"{name}-", -size * direction))
    return found


def stiffness_tensor(structure: Structure, strained: Sequence[Strain], stresses: Sequence[Array]) -> Array:
    """(3, 3) N/m, symmetric: the slope of stress against strain.

    Parameters
    ----------
    structure
        The layer, c along z.
    strained
        What ``strains`` gave for it.
    stresses
        Of each, (2, 2) N/m, positive under tension.
    """
    rows, values = [], []
    for r in _operations(structure):
        for strain, stress in zip(strained, stresses, strict=True):
            rows.append([*_voigt(r @ strain.tensor @ r.T), 1.0])  # 1: the stress that the relaxation has left
            s = r @ np.array(stress) @ r.T
            values.append([s[0, 0], s[1, 1], (s[0, 1] + s[1, 0]) / 2])
    slopes = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0][:3].T
    tensor: Array = (slopes + slopes.T) / 2
    return tensor


def _voigt(strain: Array) -> Array:
    return np.array([strain[0, 0], strain[1, 1], 2 * strain[0, 1]])


def _rank(images: Sequence[Array]) -> int:
    return int(np.linalg.matrix_rank([_voigt(e) for e in images], tol=1e-6)) if images else 0


def _operations(structure: Structure) -> list[Array]:
    """(2, 2) Cartesian: what the symmetry operations of a layer do in its plane, without repetition."""
    import spglib

    lattice = np.array(structure.lattice.matrix)
    cell: Any = (lattice, np.array(structure.frac_coords), kinds_of_atoms(structure))
    found = spglib.get_symmetry(cell, symprec=SYMPREC_ANGSTROM)
    rotations = [np.eye(3)] if found is None else found["rotations"]
    turned = [(lattice.T @ r @ np.linalg.inv(lattice.T))[:2, :2] for r in rotations]
    kept: list[Array] = []
    for r in turned:
        if np.allclose(r @ r.T, np.eye(2), atol=1e-2) and not any(np.allclose(r, k, atol=1e-2) for k in kept):
            kept.append(r)
    return kept
