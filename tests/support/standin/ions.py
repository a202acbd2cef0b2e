"""Energies, forces and stresses of CHGNet, and a relaxation by ASE's BFGS that keeps what VASP would keep."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure
from support.standin.inputs import Inputs

Array = NDArray[np.float64]
KILOBAR_PER_EV_PER_CUBIC_ANGSTROM = 1602.1766
EXCHANGE = "STANDIN_VASP_EXCHANGE"  # eV that each Bohr magneton of the cell's total moment costs
SMALLEST_MOMENT = 0.1  # mu_B; what CHGNet gives below it is noise of nonmagnetic crystals


@cache
def calculator() -> Any:
    """CHGNet for ASE; one for each process."""
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    with redirect_stdout(StringIO()):  # it announces itself
        model = CHGNet.load(use_device="cpu", verbose=False)
        return CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")


@dataclass(frozen=True)
class Step:
    """One ionic step."""

    structure: Structure
    energy: float  # eV
    forces: Array  # (n_atoms, 3), eV/angstrom
    stress: Array  # (3, 3), kB, positive under compression as VASP prints it
    moments: Array  # (n_atoms,), mu_B
    converged: bool
    following: Structure  # where the next step is; the same where it is converged


def relax(inputs: Inputs, *, forever: bool = False) -> Iterator[Step]:
    """Ionic steps until EDIFFG is reached; NSW is the caller's business. ``forever``: never converged."""
    from ase.filters import UnitCellFilter
    from ase.optimize import BFGS
    from pymatgen.io.ase import AseAtomsAdaptor

    warnings.simplefilter("ignore")
    start = inputs.structure
    atoms = AseAtomsAdaptor.get_atoms(start, msonable=False)
    atoms.calc = calculator()
    x, y, z = inputs.free_directions
    moving = atoms
    if inputs["ISIF"] == 3:
        moving = UnitCellFilter(atoms, mask=[x, y, z, y and z, x and z, x and y])
    optimizer = BFGS(moving, logfile=None, maxstep=0.15)
    signs = np.sign(inputs.incar.get("MAGMOM", np.ones(len(start)))) if inputs["ISPIN"] == 2 else np.zeros(len(start))
    before = None

    def structure() -> Structure:
        matrix = np.array(atoms.cell[:])
        if not z:  # held by the mask up to rounding
            matrix[2], matrix[:, 2] = start.lattice.matrix[2], start.lattice.matrix[:, 2]
        return Structure(Lattice(matrix), start.species, atoms.get_scaled_positions(wrap=False))

    while True:
        energy, forces = float(atoms.get_potential_energy()), atoms.get_forces()
        moments = np.array(atoms.calc.results["magmoms"], dtype=float).reshape(-1)
        moments = np.where(moments < SMALLEST_MOMENT, 0.0, moments * signs)
        energy += float(os.environ.get(EXCHANGE, "0")) * abs(moments.sum())
        tolerance = inputs["EDIFFG"]
        if tolerance < 0:
            converged = np.linalg.norm(moving.get_forces(), axis=1).max() < -tolerance
        else:
            converged = before is not None and abs(energy - before) < tolerance
        done = bool(converged) and not forever
        here = structure()
        stress = -KILOBAR_PER_EV_PER_CUBIC_ANGSTROM * atoms.get_stress(voigt=False)
        if not done:
            optimizer.step()
        yield Step(here, energy, np.array(forces, dtype=float), stress, moments, done, structure())
        before = energy
