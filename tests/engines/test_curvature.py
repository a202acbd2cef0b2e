"""Second derivatives of a force field: the layer's symmetry, phonopy's force constants, and fewer steps downhill."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from phonopy import Phonopy
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.phonopy import get_phonopy_structure, get_pmg_structure
from support.layers import mx2

from scdm_flows.config import GpawEngineConfig
from scdm_flows.engines.forcefield.curvature import LEAST, first_guess, second_derivatives
from scdm_flows.engines.forcefield.potentials import force_field
from scdm_flows.engines.forcefield.relaxation import IN_PLANE
from scdm_flows.engines.gpaw.inputs import relax_task
from scdm_flows.engines.gpaw.makers import hessian_of
from scdm_flows.errors import EngineError


def phosphorene() -> Structure:
    """Black phosphorene, rectangular, with a glide plane (cell: Liu et al., ACS Nano 8, 4033 (2014))."""
    y, z = 0.084, 1.06 / 22.0
    frac = [[0, y, 0.5 + z], [0, -y, 0.5 - z], [0.5, 0.5 - y, 0.5 + z], [0.5, 0.5 + y, 0.5 - z]]
    return Structure(Lattice.orthorhombic(3.30, 4.62, 22.0), ["P"] * 4, frac)


LAYERS = {"1H-MoS2": mx2("1H"), "phosphorene": phosphorene()}


def evaluated(structure: Structure) -> tuple[float, np.ndarray, np.ndarray]:
    (answer,) = force_field("CHGNet").evaluate([structure])
    assert not isinstance(answer, str)
    return answer


class ForceField(Calculator):
    """CHGNet as a calculator that counts how often it is asked."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 (ASE's)

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces, stress = evaluated(AseAtomsAdaptor.get_structure(atoms))
        self.results = {"energy": energy, "forces": forces, "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]}
        self.asked += 1


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Structure:
    return LAYERS[request.param].copy()


def atoms_of(structure: Structure) -> Atoms:
    made: Atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    return made


def test_atoms_are_held_by_phonopys_force_constants(layer: Structure) -> None:
    found = second_derivatives(atoms_of(layer))
    assert found is not None
    phonon = Phonopy(get_phonopy_structure(layer), supercell_matrix=np.eye(3), symprec=1e-3)
    phonon.generate_displacements(distance=0.02, is_plusminus=True, is_diagonal=False)
    phonon.forces = [evaluated(get_pmg_structure(cell))[1] for cell in phonon.supercells_with_displacements]
    phonon.produce_force_constants()
    n = len(layer)
    expected = phonon.force_constants.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
    expected = (expected + expected.T) / 2
    assert np.abs(found[: 3 * n, : 3 * n] - expected).max() < 0.01 * np.abs(expected).max()


def test_the_cell_is_held_by_the_energies_of_strained_cells(layer: Structure) -> None:
    found = second_derivatives(atoms_of(layer))
    assert found is not None
    n = len(layer)
    strain = 0.02 / n  # the step of the coordinate, n times the logarithm of the deformation, in angstrom
    energies = [
        evaluated(Structure(layer.lattice.matrix @ np.diag([np.exp(e), 1, 1]), layer.species, layer.frac_coords))[0]
        for e in (-strain, 0.0, strain)
    ]
    second = (energies[0] - 2 * energies[1] + energies[2]) / strain**2
    # differences of gradients and of energies differ in fourth order, and energies are known to 1e-6 eV
    assert found[3 * n, 3 * n] * n**2 == pytest.approx(second, rel=0.15)


def test_it_has_the_layers_symmetry_and_goes_downhill(layer: Structure) -> None:
    found, guess = second_derivatives(atoms_of(layer)), first_guess(atoms_of(layer))
    assert found is not None
    assert guess is not None
    assert np.abs(found - found.T).max() < 1e-9
    n = len(layer)
    together = np.concatenate([np.tile(np.eye(3), (n, 1)), np.zeros((9, 3))])  # the layer moved as a whole
    assert np.abs(found @ together).max() < 0.05 * np.abs(found[: 3 * n, : 3 * n]).max()
    assert np.linalg.eigvalsh(guess).min() > 0.99 * LEAST
    cell: Any = (layer.lattice.matrix, layer.frac_coords, [site.specie.Z for site in layer])
    operations = spglib.get_symmetry(cell, symprec=1e-3)["rotations"]
    assert len(operations) > 4
    for operation in operations:  # the cell's part is a tensor of rank four
        turned = layer.lattice.matrix.T @ operation @ layer.lattice.inv_matrix.T
        tensor = found[3 * n :, 3 * n :].reshape(3, 3, 3, 3)
        again = np.einsum("ia,jb,kc,ld,abcd->ijkl", turned, turned, turned, turned, tensor)
        assert np.abs(again - tensor).max() < 1e-9


def test_a_relaxation_takes_fewer_steps_to_the_same_end(layer: Structure) -> None:
    moved = layer.cart_coords + np.random.default_rng(1).uniform(-0.02, 0.02, (len(layer), 3))
    layer = Structure(layer.lattice, layer.species, moved, coords_are_cartesian=True)
    strained = Structure(layer.lattice.matrix * np.array([[0.97], [1.02], [1.0]]), layer.species, layer.frac_coords)
    steps, ends = [], []
    for begun in (None, first_guess(atoms_of(strained))):
        atoms = atoms_of(strained)
        atoms.calc = ForceField()
        optimiser: Any = BFGS(FrechetCellFilter(atoms, mask=IN_PLANE), logfile=None)  # type: ignore[arg-type]
        if begun is not None:
            optimiser.H0 = begun
        assert optimiser.run(fmax=0.01, steps=100)
        steps.append(atoms.calc.asked)
        ends.append(atoms.get_potential_energy())
    assert steps[1] <= 0.7 * steps[0]
    assert ends[1] == pytest.approx(ends[0], abs=1e-3)


def test_without_a_force_field_a_relaxation_begins_as_ase_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = relax_task(GpawEngineConfig(), mx2("1H"))
    found = hessian_of(task)
    assert found is not None
    assert np.array(found).shape == (18, 18)
    history = tmp_path / "history.jsonl"
    wider = {"cell": (np.array(task["cell"]) * [[1.02], [1.02], [1.0]]).tolist(), "positions": task["positions"]}
    history.write_text(json.dumps(task | {"energy": 0.0}) + "\n" + json.dumps(wider) + "\n")
    assert hessian_of(task, history) != found  # of the last geometry of an earlier attempt
    lonely = relax_task(GpawEngineConfig(), Structure(np.diag([20.0, 20.0, 20.0]), ["He"], [[0, 0, 0.5]]))
    assert hessian_of(lonely) is None  # an isolated atom has no neighbours, and CHGNet no energy

    def missing(name: str) -> None:
        raise EngineError(f"{name} is not there")

    monkeypatch.setattr("scdm_flows.engines.forcefield.curvature.force_field", missing)
    with caplog.at_level(logging.WARNING):
        assert hessian_of(task) is None
    assert "CHGNet is not there" in caplog.text
