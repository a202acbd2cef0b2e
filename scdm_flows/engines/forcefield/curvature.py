"""Second derivatives of a force field's energy, for relaxations by something dearer to begin with.

A quasi-Newton relaxation that begins knowing nothing of the curvature spends most of its steps on learning it. Relaxed
by SevenNet-0 from CHGNet's minima, 16 layers of 3 to 8 atoms took 221 steps from ASE's own first guess, 90 from
CHGNet's second derivatives, and ended at the same energies to 0.3 meV/atom.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.config import DEFAULT_FORCE_FIELD
from scdm_flows.engines.forcefield.potentials import force_field
from scdm_flows.engines.forcefield.relaxation import IN_PLANE, voigt

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
STEP_ANGSTROM = 0.02
ALPHA = 70.0  # eV/angstrom^2, ASE's own first guess, for what is not measured
LEAST = 2.0  # eV/angstrom^2: where the energy is flatter, a step may be longer than the curvature is good for
SYMPREC_ANGSTROM = 1e-3


def second_derivatives(atoms: Atoms, name: str = DEFAULT_FORCE_FIELD) -> Array | None:
    """Of the energy, as a relaxation with a free in-plane cell sees it; None where the force field has none.

    Parameters
    ----------
    atoms
        A layer of n atoms, c along z, as symmetric as it is meant to be.
    name
        The force field.

    Returns
    -------
    hessian
        (3 n + 9, 3 n + 9), eV/angstrom^2, in the coordinates of ASE's ``FrechetCellFilter``: positions, then n times
        the logarithm of the cell's deformation, both row by row. It has the symmetry of the layer.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.filters import FrechetCellFilter
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = atoms.copy()
    atoms.pbc = True  # as force fields are trained; the vacuum keeps images apart
    moving: Any = FrechetCellFilter(atoms, mask=IN_PLANE)
    start = np.array(moving.get_positions())
    size = start.size
    free = [*range(size - 9), *(size - 9 + k for k in (0, 1, 3, 4))]  # xx, xy, yx and yy of the cell
    places, layers = [], []
    for index in free:
        for sign in (1, -1):
            place = start.copy()
            place.flat[index] += sign * STEP_ANGSTROM
            moving.set_positions(place)
            places.append(place)
            layers.append(AseAtomsAdaptor.get_structure(atoms))
    gradients = []
    for place, answer in zip(places, force_field(name).evaluate(layers), strict=True):
        if isinstance(answer, str):
            return None
        energy, forces, stress = answer
        moving.set_positions(place)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=voigt(stress))
        gradients.append(-np.array(moving.get_forces()).ravel())
    moving.set_positions(start)
    slopes = (np.array(gradients[::2]) - np.array(gradients[1::2]))[:, free] / (2 * STEP_ANGSTROM)
    hessian = ALPHA * np.eye(size)
    hessian[np.ix_(free, free)] = (slopes + slopes.T) / 2
    operations = list(_operations(atoms))
    mean: Array = sum((p.T @ hessian @ p for p in operations), np.zeros_like(hessian)) / len(operations)
    return mean


def first_guess(atoms: Atoms, name: str = DEFAULT_FORCE_FIELD) -> Array | None:
    """``second_derivatives`` with what has no positive curvature turned, so that every step goes downhill."""
    found = second_derivatives(atoms, name)
    if found is None:
        return None
    values, vectors = np.linalg.eigh(found)
    guess: Array = vectors @ np.diag(np.clip(np.abs(values), LEAST, None)) @ vectors.T
    return (guess + guess.T) / 2


def _operations(atoms: Atoms) -> Iterator[Array]:
    """(3 n + 9, 3 n + 9) what each symmetry operation of the layer does to the filter's coordinates."""
    import spglib

    lattice, frac, numbers = np.array(atoms.cell[:]), atoms.get_scaled_positions(), atoms.numbers
    cell: Any = (lattice, frac, numbers)
    found = spglib.get_symmetry(cell, symprec=SYMPREC_ANGSTROM)
    rotations = [np.eye(3)] if found is None else found["rotations"]
    shifts = [np.zeros(3)] if found is None else found["translations"]
    n = len(frac)
    for rotation, shift in zip(rotations, shifts, strict=True):
        turned = lattice.T @ rotation @ np.linalg.inv(lattice.T)
        apart = frac[:, None] - (frac @ rotation.T + shift)[None]
        apart -= np.rint(apart)
        far = np.linalg.norm(apart @ lattice, axis=-1) + 1e3 * (numbers[:, None] != numbers[None])
        permutation = np.zeros((n, n))
        permutation[np.arange(n), far.argmin(axis=1)] = 1.0
        whole = np.zeros((3 * n + 9, 3 * n + 9))
        whole[: 3 * n, : 3 * n] = np.kron(permutation, turned)
        whole[3 * n :, 3 * n :] = np.kron(turned, turned)
        yield whole
