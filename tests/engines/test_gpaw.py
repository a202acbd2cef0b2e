"""GPAW in its own process: layers there and back, energies on C2DB's scale, failures in words, and GPAW itself.

Where GPAW is not installed, a module that calls itself gpaw and computes with ASE's effective medium theory stands in
for it: what is tested then is the runner, not physics.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import phonopy
import pytest
import spglib
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from phonopy.structure.atoms import PhonopyAtoms
from pymatgen.core import Lattice, Structure
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.analysis.bands import document_of_path, of_path
from scdm_flows.analysis.fidelity import beside_c2db
from scdm_flows.analysis.magnetism import lowest
from scdm_flows.analysis.phonons import in_plane_path
from scdm_flows.analysis.stability import c2db_criteria
from scdm_flows.analysis.symmetrise import symmetrised
from scdm_flows.config import GpawEngineConfig, parse_config
from scdm_flows.documents import StaticSummary
from scdm_flows.documents.static import MagneticOrder
from scdm_flows.engines import engine_of
from scdm_flows.engines.attempts import Attempts, among
from scdm_flows.engines.gpaw import inputs, offsets, presets, process, validate
from scdm_flows.engines.gpaw.engine import GpawEngine
from scdm_flows.engines.gpaw.flows import bands
from scdm_flows.engines.gpaw.layers import geometry, structure_of
from scdm_flows.engines.gpaw.makers import GpawMaker, GpawRelaxMaker, hessian_of, history_of, task_document
from scdm_flows.errors import EngineError, ReferenceDataError
from scdm_flows.execution.jobs import hushed

STAND_IN = """
import os
import numpy as np
from ase.calculators.emt import EMT
__version__ = "stand-in"
setup_paths = []
class KohnShamConvergenceError(Exception): pass
class PW:
    def __init__(self, *a, **k): pass
FermiDirac = Mixer = MixerSum = PW
class GPAW(EMT):
    def __init__(self, mixer=None, txt=None, **k):
        EMT.__init__(self)
        self.soft, self.calls = mixer is not None, 0
    def calculate(self, *a, **k):
        self.calls += 1
        if os.environ.get("NEVER") or (os.environ.get("ROUGH") and not self.soft):
            raise KohnShamConvergenceError("Did not converge!")
        if os.environ.get("KILL") == str(self.calls):
            os._exit(9)
        EMT.calculate(self, *a, **k)
    def get_ibz_k_points(self): return np.zeros((1, 3))
    def get_number_of_spins(self): return 1
    def get_eigenvalues(self, kpt, spin): return np.array([-1.0, 1.0])
    def get_fermi_level(self): return 0.0
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``import gpaw`` finds the stand-in."""
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in" / "gpaw.py").write_text(STAND_IN)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "stand_in")}


def close_packed(a: float) -> Structure:
    """Two close-packed sheets of copper; a in angstrom."""
    return Structure(Lattice.hexagonal(a, 20), ["Cu", "Cu"], [[0, 0, 0.45], [1 / 3, 2 / 3, 0.55]])


def copper(**more: Any) -> dict[str, Any]:
    """A compressed layer of copper to relax."""
    return {**inputs.relax_task(GpawEngineConfig(spin="off"), close_packed(2.4)), "history": "history.jsonl", **more}


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script be the Python that has GPAW."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("SCDM_GPAW_PYTHON", str(path))


def answered(task: dict[str, Any], folder: Path, environment: dict[str, str], **more: str) -> dict[str, Any]:
    """What the runner answers, as ``process.run`` starts it; empty where it leaves no answer."""
    (folder / "input.json").write_text(json.dumps(task))
    (folder / "output.json").unlink(missing_ok=True)
    command = [sys.executable, "-P", str(process.RUNNER), "input.json", "output.json"]
    subprocess.run(command, cwd=folder, env={**environment, **more}, check=False, timeout=60)
    output = folder / "output.json"
    found: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    return found


# --- layers -----------------------------------------------------------------------------------------------------------


def operations(structure: Structure) -> int:
    cell = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    return len(spglib.get_symmetry(cell, symprec=1e-6)["rotations"])


@pytest.mark.parametrize("z", [0.5, 0.01])  # in the middle, and across the boundary of the cell
def test_a_nearly_symmetric_layer_becomes_exactly_so(z: float) -> None:
    layer = mx2("1H")
    layer.translate_sites(range(len(layer)), [0, 0, z - 0.5])
    rough = layer.copy()
    rough.perturb(0.003)
    strained = Lattice(rough.lattice.matrix @ np.diag([1.0005, 0.9998, 1.0]))
    rough = Structure(strained, rough.species, rough.frac_coords)
    assert operations(rough) == 1
    exact = symmetrised(rough, 0.02)
    assert operations(exact) == 12  # p-6m2, International Tables for Crystallography E, layer group 78
    assert exact.species == rough.species
    moved = exact.frac_coords - rough.frac_coords
    assert np.abs((moved - np.rint(moved)) @ rough.lattice.matrix).max() < 0.01


def test_a_glide_plane_is_kept() -> None:
    # p4/nmm, 16 operations; half of them have a translation
    sites = [[0, 0, 0.5], [0.5, 0.5, 0.5], [0.5, 0, 0.59], [0, 0.5, 0.41]]
    rough = Structure(Lattice.tetragonal(4.1, 20), ["Ti", "Ti", "Te", "Te"], sites)
    rough.perturb(0.003)
    assert operations(symmetrised(rough, 0.02)) == 16


def test_a_layer_comes_back_as_it_went() -> None:
    layer = mx2("1T")
    layer.translate_sites([0, 1, 2], [0.1, 0.2, 0.47])
    given = geometry(layer)
    assert given["periodic"] == [True, True, False]  # with k-points along c it would be a crystal
    heights = np.array(given["positions"])[:, 2]
    assert given["cell"][2][2] - np.ptp(heights) == pytest.approx(15.0)  # C2DB's vacuum, doi:10.1088/2053-1583/aacfc1
    assert heights.min() + heights.max() == pytest.approx(given["cell"][2][2])
    again = structure_of({**given, "moments": [0.1, 0.2, 0.3]}, layer)
    moved = again.frac_coords - layer.frac_coords
    assert np.abs(moved - np.rint(moved)).max() < 1e-9
    assert np.allclose(again.lattice.matrix, layer.lattice.matrix)
    assert again.site_properties["magmom"] == [0.1, 0.2, 0.3]


def test_what_has_lost_its_moments_goes_on_without_spin() -> None:
    layer = Structure(Lattice.hexagonal(3.4, 20), ["Ti", "S", "S"], mx2("1T").frac_coords)
    config = GpawEngineConfig()
    assert inputs.static_task(config, layer)["moments"] == [3.0, 0.3, 0.3]  # titanium may carry one
    after = structure_of({**geometry(layer), "moments": None}, layer)  # the runner dropped them
    assert inputs.static_task(config, after)["moments"] is None
    assert inputs.static_task(config, mx2("1H"))["moments"] == [1.0, 0.3, 0.3]  # a 4d metal seldom does
    boron_nitride = Structure(Lattice.hexagonal(2.51, 20), ["B", "N"], [[0, 0, 0.5], [1 / 3, 2 / 3, 0.5]])
    assert inputs.static_task(config, boron_nitride)["moments"] is None
    boron_nitride.replace(1, "C")  # eleven electrons
    assert inputs.static_task(config, boron_nitride)["moments"] == [0.3, 0.3]


# --- energies ---------------------------------------------------------------------------------------------------------


def test_energies_are_on_the_scale_of_c2db() -> None:
    # E of GPAW 25.7.0 at PW(400), k-density 6, at C2DB's scale: entry MoS2-b3b4685fb6e1 has -22.121 eV
    energy = presets.on_scale("fast", {"Mo": 1 / 3, "S": 2 / 3}, -22.073529, [], 3)
    assert energy == pytest.approx(-22.121 / 3, abs=0.010)
    # half of the cut-off gives a higher energy in a variational calculation
    assert min(presets.offsets("fast").values()) > 0
    # the preset that computes as C2DB does corrects nothing
    assert presets.on_scale("c2db", {"Mo": 1 / 3, "S": 2 / 3}, -22.1, [], 3) == pytest.approx(-22.1 / 3)


def test_oxygen_is_corrected_in_the_layer_itself() -> None:
    assert presets.extra_energies("fast", ["Mo", "O"]) == [(800.0, 2.0), (400.0, 2.0)]
    assert presets.extra_energies("c2db", ["Mo", "O"]) == presets.extra_energies("fast", ["Mo", "S"]) == []
    # E(400, 6) + E(800, 2) - E(400, 2), no table asked
    assert presets.on_scale("fast", {"O": 1.0}, -10.0, [-12.5, -9.0], 2) == pytest.approx((-10.0 - 3.5) / 2)


def test_an_element_without_an_offset_is_named() -> None:
    with pytest.raises(EngineError, match=r"no offset .* for Po .*; use preset: c2db, .* engine.offsets"):
        presets.on_scale("fast", {"Po": 0.5, "S": 0.5}, -10.0, [], 2)


def test_offsets_of_ones_own_go_before_the_packaged_ones(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"offsets": {"fast": {"Po": 0.5, "S": 0.25}}}))
    assert presets.on_scale("fast", {"Po": 0.5, "S": 0.5}, -10.0, [], 2, str(own)) == pytest.approx(-5.0 - 0.375)
    assert presets.offsets("fast", str(own))["Mo"] == presets.offsets("fast")["Mo"]
    other = tmp_path / "other.json"
    other.write_text("{}")
    (problem,) = [p for p in GpawEngine(GpawEngineConfig(offsets=str(other))).check() if "offsets" in p]
    assert "no file of offsets" in problem


def test_a_file_of_offsets_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(task: dict[str, Any], folder: Path, **_: Any) -> dict[str, Any]:
        asked.append(task["numbers"])
        if task["numbers"] == [43]:
            raise EngineError("GPAW has no PBE setup of an element; leave it out")
        return {"version": "0", "energy": -1.0, "extra": [-1.25]}

    monkeypatch.setattr(process, "run", run)
    path = tmp_path / "offsets.json"
    assert offsets.measure(["S", "Tc", "O"], path) == {"Tc": "GPAW has no PBE setup of an element; leave it out"}
    assert json.loads(path.read_text())["offsets"] == {"fast": {"S": 0.25}}
    offsets.measure(["S", "Mo"], path)
    assert asked == [[16], [43], [42]]
    path.write_text("[]")
    with pytest.raises(ReferenceDataError, match="no file of offsets"):
        offsets.measure(["S"], path)


def test_layers_are_drawn_by_seed_with_enough_of_the_hard_ones() -> None:
    plain = [{"id": f"p{k}", "species": ["Mo", "S"], "magstate": "NM"} for k in range(50)]
    magnetic = [{"id": f"m{k}", "species": ["V", "S"], "magstate": "FM"} for k in range(3)]
    oxides = [{"id": f"o{k}", "species": ["Ti", "O"], "magstate": "NM"} for k in range(3)]
    first = validate.drawn([*plain, *magnetic, *oxides], 10, 1)
    assert first == validate.drawn([*plain, *magnetic, *oxides], 10, 1)
    assert first != validate.drawn([*plain, *magnetic, *oxides], 10, 2)
    assert len(first) == len({record["id"] for record in first}) == 10
    assert min(sum(record["id"].startswith(kind) for record in first) for kind in "mo") >= 2  # a fifth each


def test_errors_against_c2db_count_failures() -> None:
    rows = [
        {"formation_energy": -0.9, "c2db": -0.915, "gap": 1.6, "gap_c2db": 1.5},
        {"formation_energy": -0.5, "c2db": -0.47},
        {"failed": "the electrons did not converge"},
    ]
    found = beside_c2db(rows)
    assert (found["n"], found["failed"], found["within_0.02"], found["n_gaps"], found["gaps_within_0.05"]) == (
        3,
        1,
        1,
        1,
        0,
    )
    assert found["bias"] == pytest.approx(-0.0075)
    assert found["mae"] == pytest.approx(0.0225)


# --- the runner -------------------------------------------------------------------------------------------------------


def test_a_killed_relaxation_goes_on_from_its_last_geometry(tmp_path: Path, stand_in: dict[str, str]) -> None:
    task = copper()
    first, second = tmp_path / "relax", tmp_path / "relax.2"
    first.mkdir()
    task["history"] = history_of(task, first)
    assert answered(task, first, stand_in, KILL="4") == {}
    kept = [json.loads(line) for line in (first / task["history"]).read_text().splitlines()]
    assert len(kept) == 3
    second.mkdir()
    del task["history"]
    with among(Attempts((first,), 1)):
        task["history"] = history_of(task, second)
    found = answered(task, second, stand_in)
    assert found["converged"]
    energies = [step["energy"] for step in found["history"]]
    assert energies[:3] == [step["energy"] for step in kept]  # nothing is computed twice
    assert energies[-1] == min(energies)
    cell = np.array(found["cell"])
    assert np.allclose(cell[2], task["cell"][2])  # c is held
    assert np.linalg.norm(cell[0]) > 2.45  # and the compressed cell has grown
    document = task_document(found, Structure(cell, ["Cu", "Cu"], [[0, 0, 0.4], [1 / 3, 2 / 3, 0.5]]), 0.03, tmp_path)
    assert document.output.n_steps == len(energies)
    assert document.state is not None
    assert document.is_force_converged


def test_second_derivatives_save_steps(tmp_path: Path, stand_in: dict[str, str]) -> None:
    plain, begun = (
        answered(copper(history=f"{kind}.jsonl", hessian=hessian), tmp_path, stand_in)
        for kind, hessian in (("plain", None), ("begun", hessian_of(copper())))
    )
    assert plain["converged"]
    assert begun["converged"]
    assert begun["steps"] < plain["steps"]
    assert begun["energy"] == pytest.approx(plain["energy"], abs=2e-3)


def test_what_does_not_converge_is_tried_once_more_with_softer_mixing(tmp_path: Path, stand_in: dict[str, str]) -> None:
    assert answered(copper(), tmp_path, stand_in)["soft_mixing"] is False
    assert answered(copper(history="other"), tmp_path, stand_in, ROUGH="1")["soft_mixing"] is True
    found = answered(copper(history="third"), tmp_path, stand_in, NEVER="1")
    assert found["error"] == "scf"
    words = process.in_words(found, copper(max_scf_steps=50))
    assert "did not converge in 50 steps, nor in 100 with softer mixing" in words


def test_a_relaxation_that_needs_more_steps_says_so(tmp_path: Path, stand_in: dict[str, str]) -> None:
    found = answered(copper(steps=2), tmp_path, stand_in)
    assert found["converged"] is False
    assert found["steps"] <= 3


def curvature(layer: Structure, row: int) -> float:
    """N/m: the second derivative of the energy of an area by a strain along a (row 0) or a shear (row 1) of 1 %."""
    energies = []
    for strain in (-0.01, 0.0, 0.01):
        atoms = layer.to_ase_atoms()
        deformation = np.eye(3)
        deformation[row, 0] += strain / (1 + row)
        deformation[0, row] += row * strain / 2
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(fmax=1e-4)
        energies.append(atoms.get_potential_energy())
    area = np.linalg.norm(np.cross(*np.array(layer.lattice.matrix)[:2]))
    return float(16.02176634 * (energies[0] - 2 * energies[1] + energies[2]) / 0.01**2 / area)


def test_phonons_and_stiffness_of_a_relaxed_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: dict[str, str]
) -> None:
    pretend(tmp_path, monkeypatch, f'PYTHONPATH={stand_in["PYTHONPATH"]} exec {sys.executable} "$@"')
    monkeypatch.chdir(tmp_path)
    campaign = parse_config({"name": "t", "engine": {"kind": "gpaw", "spin": "off", "fmax_ev_per_angstrom": 0.001}})
    engine = engine_of(campaign.engine)
    store = memory_database().job_store
    with hushed():
        relaxed = engine.relax_maker().make(close_packed(2.5)).run(store).output
        flow: Any = engine.phonon_maker().make(relaxed.structure, campaign, "t-1")
        for job, _ in flow.iterflow():
            document = job.run(store).output
    assert document.criterion.startswith("Hessian of the 2 x 2 supercell")
    assert document.energy_scheme == "gpaw-pbe-c2db"
    assert document.dynamically_stable is (document.reason is None)
    (c11, c12, c16), (_, c22, c26), (_, _, c66) = document.stiffness_n_per_m
    # energies of strained cells by ASE itself; atoms of this layer move along c alone when it is strained
    assert c11 == pytest.approx(curvature(relaxed.structure, 0), rel=0.02)
    assert c66 == pytest.approx(curvature(relaxed.structure, 1), rel=0.02)
    # a three-fold axis makes a layer elastically isotropic: Nye, Physical Properties of Crystals (1985), ch. VIII
    assert c22 == pytest.approx(c11, rel=0.02)
    assert c66 == pytest.approx((c11 - c12) / 2, rel=0.02)
    assert c11 > c12 > 0
    assert abs(c16) + abs(c26) < 0.01 * c11


def test_strained_atoms_that_did_not_relax_give_no_stiffness(tmp_path: Path, stand_in: dict[str, str]) -> None:
    config = GpawEngineConfig(spin="off", max_relax_steps=1)
    task = {**inputs.stiffness_task(config, close_packed(2.6)), "history": "h.jsonl", "hessian": None}
    found = answered(task, tmp_path, stand_in)
    assert found["error"] == "relaxation"
    assert "did not relax in 1 steps (max_relax_steps)" in process.in_words(found, task)
    assert not (tmp_path / "h.jsonl").exists()  # what is kept is not tried again


def test_labels_of_a_path_are_those_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a layer that is hexagonal within 0.01 angstrom, which is what GPAW is given, and not within 0.001."""
    layer = mx2("1H")
    layer.apply_strain([0.0015, 0, 0])
    config = parse_config({"name": "t", "engine": {"kind": "gpaw"}})

    def answer(task: Any, folder: Path, **_: Any) -> dict[str, Any]:
        n = len(task["k_points"])
        given = {"path": [[-1.0, 1.0]] * n, "mesh": [[-1.0, 1.0]], "mesh_k_points": [[0, 0, 0]], "fermi_level": 0.0}
        return {**given, "dos_energies": [0.0], "dos": [0.0], "version": "0"}

    monkeypatch.setattr(process, "run", answer)
    static = StaticSummary(energy_per_atom=-7.0).model_dump(mode="json")
    found = bands.original(config.model_dump(mode="json"), "t-1", layer, static)
    assert [label for _, label in found.labels] == ["Γ", "M", "M", "K", "K", "Γ"]  # each branch has its ends


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -9 $$", r"ended in the middle: it was ended by signal 9 .* goes on from its last geometry"),
        ("echo Killed by cgroup >&2; exit 3", r"exit code 3; its last words: 'Killed by cgroup'"),
        ("exec sleep 60", r"stopped after 0.3 s \(engine.walltime_s\)"),
        ('echo \'{"error": "missing", "message": "No module named gpaw"}\' > $4', "has no GPAW .* pip install gpaw=="),
        (
            'echo \'{"error": "setup", "message": "no PAW dataset for Tc"}\' > $4',
            "no PBE setup .* leave the element out",
        ),
    ],
)
def test_failures_are_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str) -> None:
    pretend(tmp_path, monkeypatch, script)
    with pytest.raises(EngineError, match=words):
        process.run({"task": "static"}, tmp_path, walltime=0.3 if "sleep" in script else 30)


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_GPAW_PYTHON", str(tmp_path / "absent"))
    (problem,) = GpawEngine(GpawEngineConfig()).check()
    assert "cannot be started" in problem
    assert "pip install gpaw==" in problem
    monkeypatch.setenv("PATH", "")
    assert "apt-get install gcc" in str(process.problem())


def test_cost_and_inputs_tell_of_magnetic_orders() -> None:
    engine = GpawEngine(GpawEngineConfig())
    iron = mx2("1T").replace_species({"Mo": "Fe", "S": "Cl"})
    costs = {cost.stage: cost for cost in engine.cost(iron)}
    assert (costs["static_orders"].runs, costs["static_orders"].atoms) == (1, 6)  # rows of a triangular lattice
    assert "static_order_1" in engine.input_files(iron)
    assert "static_orders" not in {cost.stage for cost in engine.cost(mx2("1H").replace_species({"Mo": "Sn"}))}
    assert not any("order" in run for run in GpawEngine(GpawEngineConfig(spin="off")).input_files(iron))


def test_what_gpaw_cannot_compute_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, 'echo \'{"version": "0", "elements": ["Mo", "S"]}\' > $4')
    engine = GpawEngine(GpawEngineConfig(max_atoms=4))
    assert engine.layer_problems(mx2("1H")) == []
    (problem,) = engine.layer_problems(mx2("1H") * (2, 2, 1))
    assert "12 atoms, at most 4" in problem
    assert "core hours" in problem
    # C2DB has no technetium either; its energies in the table are the Materials Project's
    assert any("no PBE setup of Tc" in problem for problem in engine.check_elements(["Mo", "Tc"]))


# --- magnetism --------------------------------------------------------------------------------------------------------

HEISENBERG = """
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
__version__ = "stand-in"
class KohnShamConvergenceError(Exception): pass
class PW:
    def __init__(self, *a, **k): pass
FermiDirac = Mixer = MixerSum = PW
class GPAW(Calculator):
    implemented_properties = ["energy", "forces", "magmom", "magmoms"]
    def __init__(self, **k): Calculator.__init__(self)
    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        Calculator.calculate(self, atoms, properties, system_changes)
        spins = atoms.get_initial_magnetic_moments()
        i, j = neighbor_list("ij", atoms, COUPLED)
        energy = COUPLING / 2 * np.dot(spins[i], spins[j])
        self.results = dict(energy=energy, forces=np.zeros((len(atoms), 3)), magmom=spins.sum(), magmoms=spins)
    def get_ibz_k_points(self): return np.zeros((1, 3))
    def get_number_of_spins(self): return 2
    def get_eigenvalues(self, kpt, spin): return np.array([-1.0, 1.0])
    def get_fermi_level(self): return 0.0
    def get_electrostatic_potential(self): return np.full((2, 2, 100), 4.0)
    def write(self, file, mode): open(file, "w").close()
"""


@pytest.mark.parametrize(
    ("sites", "coupling", "order", "expected", "cells"),
    [
        # nearest neighbours on a square lattice, 4 of them, each pair once: 2 J m^2 an atom where all are parallel,
        # -2 J m^2 where all four are opposed, which the cell turned by 45 degrees has; in rows along an edge, 0
        (1, 0.01, MagneticOrder.AFM, -4 * 0.01 * 9, [2, 2]),
        (1, -0.01, MagneticOrder.FM, 2 * 0.01 * 9, [2, 2]),
        # two atoms in a cell turned by 45 degrees: the same order is one of the cell itself
        (2, 0.01, MagneticOrder.AFM, -4 * 0.01 * 9, [2, 4, 4]),
    ],
)
def test_the_order_of_a_heisenberg_magnet(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stand_in: dict[str, str],
    sites: int,
    coupling: float,
    order: MagneticOrder,
    expected: float,
    cells: list[int],
) -> None:
    text = HEISENBERG.replace("COUPLED", "2.6").replace("COUPLING", str(coupling))
    (tmp_path / "stand_in" / "gpaw.py").write_text(text)
    pretend(tmp_path, monkeypatch, f'PYTHONPATH={stand_in["PYTHONPATH"]} exec {sys.executable} "$@"')
    monkeypatch.chdir(tmp_path)
    a = 2.5 * np.sqrt(sites)
    frac = [[0, 0, 0.5], [0.5, 0.5, 0.5]][:sites]
    layer = Structure(Lattice.tetragonal(a, 20), ["Fe"] * sites, frac)
    engine = GpawEngine(GpawEngineConfig(preset="c2db"))
    with hushed():
        made: Any = engine.static_maker()
        document = made.make(layer).run(memory_database().job_store).output
    assert document.structure.site_properties["magmom"] == [3.0] * sites
    assert [len(other.structure) for other in document.orders] == cells
    assert [Path(other.dir_name).name for other in document.orders] == [f"order-{n + 1}" for n in range(len(cells))]
    found = engine.static_summary(document)
    assert found.magnetic_order is order
    assert found.antiferromagnetic_ev_per_atom == pytest.approx(expected)
    assert found.energy_per_atom == pytest.approx(document.output.energy / sites + min(expected, 0.0), abs=1e-6)
    # bands begin with the density of the order, where that lies in the cell of the layer
    own = order is MagneticOrder.AFM and sites == 2
    assert Path(str(found.folder)).name == ("order-1" if own else tmp_path.name)
    assert found.atom_magnetizations == ([3.0, -3.0] if own else [3.0] * sites)
    vacuum = document.vacuum
    assert (vacuum.mean_ev, vacuum.valence_maximum_ev, vacuum.conduction_minimum_ev) == (4.0, -1.0, 1.0)


def test_only_the_order_that_the_relaxation_ended_in_where_no_other_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: dict[str, str]
) -> None:
    text = HEISENBERG.replace("COUPLED", "2.6").replace("COUPLING", "0.01")
    (tmp_path / "stand_in" / "gpaw.py").write_text(text)
    pretend(tmp_path, monkeypatch, f'PYTHONPATH={stand_in["PYTHONPATH"]} exec {sys.executable} "$@"')
    monkeypatch.chdir(tmp_path)
    layer = Structure(Lattice.tetragonal(2.5, 20), ["Fe"], [[0, 0, 0.5]])
    engine = GpawEngine(GpawEngineConfig(magnetism={"orderings": ["fm"]}, preset="c2db"))
    made: Any = engine.static_maker()
    with hushed():
        document = made.make(layer).run(memory_database().job_store).output
    assert document.orders == []
    assert engine.static_summary(document).magnetic_order is None  # nothing was compared


def test_an_order_that_fails_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: dict[str, str]
) -> None:
    rough = "        if min(spins) < 0: raise KohnShamConvergenceError('Did not converge!')\n        energy ="
    text = HEISENBERG.replace("COUPLED", "2.6").replace("COUPLING", "0.01").replace("        energy =", rough)
    (tmp_path / "stand_in" / "gpaw.py").write_text(text)
    pretend(tmp_path, monkeypatch, f'PYTHONPATH={stand_in["PYTHONPATH"]} exec {sys.executable} "$@"')
    monkeypatch.chdir(tmp_path)
    layer = Structure(Lattice.tetragonal(2.5, 20), ["Fe"], [[0, 0, 0.5]])
    engine = GpawEngine(GpawEngineConfig(preset="c2db"))
    made: Any = engine.static_maker()
    with hushed():
        document = made.make(layer).run(memory_database().job_store).output
    assert document.orders == []
    assert len(document.failed_orders) == 2
    assert "did not converge in 60 steps (max_scf_steps)" in document.failed_orders[0]
    summary = engine.static_summary(document)
    assert summary.magnetic_order is MagneticOrder.FM
    assert summary.antiferromagnetic_ev_per_atom is None
    assert "did not converge in 60 steps" in (summary.magnetic_note or "")


def summary_of(energy: float, moments: list[float] | None) -> StaticSummary:
    """eV/atom; Bohr magnetons of each atom."""
    total = None if moments is None else sum(moments)
    return StaticSummary(energy_per_atom=energy, atom_magnetizations=moments, total_magnetization=total)


def test_an_order_that_turned_into_another_does_not_count() -> None:
    def found(own: StaticSummary, *others: StaticSummary) -> tuple[MagneticOrder | None, float, float | None]:
        best = lowest(own, others)
        return best.magnetic_order, best.energy_per_atom, best.antiferromagnetic_ev_per_atom

    up, down = summary_of(-1.0, [3.0]), summary_of(-1.2, [3.0, -3.0])
    assert found(up, summary_of(-1.0, [3.0, 3.0])) == (MagneticOrder.FM, -1.0, None)
    assert found(summary_of(-1.0, None)) == (MagneticOrder.NM, -1.0, None)
    assert found(summary_of(-1.0, [3.0, -3.0])) == (MagneticOrder.AFM, -1.0, None)
    assert found(up, down) == (MagneticOrder.AFM, -1.2, pytest.approx(-0.2))
    # a run that ends antiferromagnetic by itself: there is no ferromagnetic energy to set another order beside
    assert found(summary_of(-1.3, [3.0, -3.0]), down) == (MagneticOrder.AFM, -1.3, None)
    # moments of atoms are projected: what the cell as a whole has decides
    between = summary_of(-1.0, [2.0, -1.5]).model_copy(update={"total_magnetization": 3.0})
    assert found(between) == (MagneticOrder.FM, -1.0, None)


def test_an_order_in_a_larger_cell_gives_its_energy_on_the_same_scale(tmp_path: Path) -> None:
    layer = mx2("1T")
    given = {**geometry(layer), "energy": -20.0, "forces": [[0.0] * 3] * 3, "moments": [2.0, 0.0, 0.0]}
    given |= {"total_moment": 2.0, "gap": 0.0, "direct": None, "version": "0", "seconds": 1.0, "cpu_seconds": 1.0}
    given |= {"soft_mixing": False, "k_points": 1}
    doubled = layer * (2, 1, 1)
    moments = [2.0, -2.0, 0.0, 0.0, 0.0, 0.0]  # pymatgen keeps the images of an atom together
    lower = {**given, **geometry(doubled), "energy": -40.6, "forces": [[0.0] * 3] * 6, "moments": moments}
    lower |= {"total_moment": 0.0, "gap": 1.0, "direct": True}
    engine = GpawEngine(GpawEngineConfig(preset="c2db"))
    document = task_document(given, layer, 0.03, tmp_path)
    alone = engine.static_summary(document)
    document.orders.append(task_document(lower, doubled, 0.03, tmp_path / "order-1"))
    both = engine.static_summary(document)
    assert alone.magnetic_order is MagneticOrder.FM
    assert alone.antiferromagnetic_ev_per_atom is None
    assert both.magnetic_order is MagneticOrder.AFM
    assert both.antiferromagnetic_ev_per_atom == pytest.approx(-0.1)
    assert both.energy_per_atom == pytest.approx(alone.energy_per_atom - 0.1)
    assert (both.band_gap_ev, both.folder) == (alone.band_gap_ev, alone.folder)  # of the layer's own cell


# --- bands and stability ----------------------------------------------------------------------------------------------


def test_masses_and_gap_of_bands_with_spin_orbit() -> None:
    layer = mx2("1H")
    k_points, distances, labels = in_plane_path(layer, 101)
    cartesian = k_points @ np.array(layer.lattice.reciprocal_lattice.matrix)
    squared = (cartesian**2).sum(axis=1)
    # hbar^2/2m = 3.80998 eV angstrom^2 (CODATA 2018): parabolas of masses 0.5 and 0.25 at Gamma, 1.5 eV apart
    energies = np.column_stack([-3.80998 / 0.5 * squared, 1.5 + 3.80998 / 0.25 * squared])
    path = of_path(k_points, {"up": energies}, distances, labels)
    document = document_of_path(
        path,
        None,
        0.7,
        None,
        candidate_id="t-1",
        campaign="t",
        scheme="gpaw-pbe-c2db",
        static=StaticSummary(energy_per_atom=-7.0),
        spin_orbit=True,
    )
    assert document.spin_orbit
    assert document.band_gap_ev == pytest.approx(1.5, abs=1e-4)
    assert {mass.direction for mass in document.masses} == {"Γ→M", "Γ→K"}
    for mass in document.masses:
        assert mass.mass == pytest.approx(0.5 if mass.carrier == "hole" else 0.25, rel=1e-3)


def springs(k: float) -> Any:
    """A 2 x 2 supercell of one atom whose four atoms are joined by springs of k (eV/angstrom^2), all to all."""
    atom = PhonopyAtoms(symbols=["C"], cell=np.diag([2.5, 2.5, 20.0]), scaled_positions=[[0, 0, 0.5]])
    phonon = phonopy.Phonopy(atom, np.diag([2, 2, 1]), primitive_matrix=np.eye(3))
    constants = -k * np.ones((4, 4)) + 4 * k * np.eye(4)
    phonon.force_constants = constants[:, :, None, None] * np.eye(3)
    return phonon


@pytest.mark.parametrize(
    ("k", "shear", "reason"),
    [(1.0, 50.0, None), (-0.01, 50.0, "eigenvalue of -0.040 eV"), (1.0, -5.0, "eigenvalue of -5.0 N/m")],
)
def test_stability_by_the_criteria_of_c2db(k: float, shear: float, reason: str | None) -> None:
    # four atoms joined all to all: the Hessian's eigenvalues are 0 (three translations) and 4 k
    found = c2db_criteria(springs(k), np.array([[130.0, 30.0, 0.0], [30.0, 130.0, 0.0], [0.0, 0.0, shear]]))
    assert found.stable is (reason is None)
    assert found.min_hessian == pytest.approx(min(0.0, 4 * k), abs=1e-9)
    assert reason is None or reason in str(found.reason)


# --- GPAW itself ------------------------------------------------------------------------------------------------------


def test_gpaw_computes_mos2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = process.problem()
    if problem is not None:
        pytest.skip(problem)
    monkeypatch.chdir(tmp_path)
    layer = mx2("1H", a=3.184)  # C2DB's, entry MoS2-b3b4685fb6e1
    engine = GpawEngine(GpawEngineConfig(spin="off"))
    coarse = {
        **inputs.static_task(engine.config, layer),
        "cutoff": 300.0,
        "kpoint_density": 2.0,
        "convergence": {"energy": 1e-3, "density": 1e-3, "eigenstates": 1e-3},
    }
    answer = process.run(coarse, tmp_path)
    summary = engine.static_summary(task_document(answer, layer, 0.03, tmp_path))
    # at 300 eV the error of the cut-off is larger than the packaged offset, about 0.1 eV/atom
    assert summary.energy_per_atom == pytest.approx(-22.121 / 3, abs=0.12)
    assert summary.gap_kind in ("direct", "indirect")  # C2DB: 1.58 eV with spin-orbit coupling
    assert summary.band_gap_ev == pytest.approx(1.75, abs=0.35)
    assert summary.engine_version == answer["version"]
    # C2DB's "work function" of this semiconductor is from the middle of the gap, where GPAW puts the Fermi level, and
    # with spin-orbit coupling
    assert summary.vacuum is not None, summary.vacuum_note
    assert summary.vacuum.mean_ev - summary.vacuum.fermi_level_ev == pytest.approx(5.097, abs=0.2)
    assert summary.vacuum.above_ev == pytest.approx(summary.vacuum.below_ev, abs=1e-3)  # a mirror plane
    assert np.abs(np.array(answer["forces"])[:, :2]).max() < 1e-6  # three-fold axes: no force in the plane
    assert isinstance(engine.static_maker(), GpawMaker)
    assert isinstance(engine.relax_maker(), GpawRelaxMaker)
