"""What surrounds a VASP run: fresh handlers, a wall time of its own, and results that are not believed unseen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from atomate2.vasp.run import DEFAULT_HANDLERS
from custodian.vasp.handlers import LargeSigmaHandler, VaspErrorHandler, WalltimeHandler
from pymatgen.io.vasp.inputs import Kpoints
from support.layers import mx2

from scdm_flows.config import VaspEngineConfig
from scdm_flows.documents import StaticSummary
from scdm_flows.documents.static import MagneticOrder
from scdm_flows.engines.vasp.inputs import input_set
from scdm_flows.engines.vasp.makers import (
    SlabBandsMaker,
    SlabDoubleRelaxMaker,
    SlabMaker,
    _check_relaxation,
    check_k_points,
    failure_in_words,
    fresh_run_settings,
)
from scdm_flows.engines.vasp.orders import OrderRun, lowest_order
from scdm_flows.errors import EngineError, StructureError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("SCDM_VASP_CMD", "SCDM_VASP_GAMMA_CMD", "SCDM_VASP_POLL_SECONDS", "CUSTODIAN_WALLTIME_START"):
        monkeypatch.delenv(name, raising=False)


def test_each_run_has_handlers_of_its_own() -> None:
    first, second = fresh_run_settings()["handlers"], fresh_run_settings()["handlers"]
    shared = {id(h) for h in DEFAULT_HANDLERS}  # atomate2's, whose error counts go from job to job
    assert not {id(h) for h in first} & ({id(h) for h in second} | shared)
    # SIGMA is everywhere the same, or forces and energies of different runs are not
    assert [type(h) for h in first] == [type(h) for h in DEFAULT_HANDLERS if not isinstance(h, LargeSigmaHandler)]
    spoiled = next(h for h in first if isinstance(h, VaspErrorHandler))
    spoiled.error_count["zbrent"] += 1
    assert next(h for h in second if isinstance(h, VaspErrorHandler)).error_count["zbrent"] == 0


def test_the_wall_time_is_each_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # custodian counts from here through all jobs of a process: a run long ago must not stop this one
    monkeypatch.setenv("CUSTODIAN_WALLTIME_START", "Mon Jan 01 00:00:00 UTC 2024")
    *_, handler = fresh_run_settings(3600, relaxes=True)["handlers"]
    assert isinstance(handler, WalltimeHandler)
    assert (handler.wall_time, handler.electronic_step_stop) == (3600, False)
    assert handler.start_time.year > 2024
    # a single point has one ionic step, so it is stopped between electronic ones
    assert fresh_run_settings(3600)["handlers"][-1].electronic_step_stop
    # a short one is looked at often enough
    monkeypatch.setenv("SCDM_VASP_POLL_SECONDS", "2")
    kwargs = fresh_run_settings(100)["custodian_kwargs"]
    assert kwargs["polling_time_step"] * kwargs["monitor_freq"] == 20
    monkeypatch.delenv("CUSTODIAN_WALLTIME_START", raising=False)


def test_the_gamma_only_command_is_vasps_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "vasp_cmd" not in fresh_run_settings()  # atomate2's own, on the worker
    monkeypatch.setenv("SCDM_VASP_CMD", "mpirun vasp_std")
    assert fresh_run_settings()["vasp_gamma_cmd"] == "mpirun vasp_std"
    monkeypatch.setenv("SCDM_VASP_GAMMA_CMD", "mpirun vasp_gam")
    assert fresh_run_settings()["vasp_gamma_cmd"] == "mpirun vasp_gam"


def test_makers_without_arguments_have_the_input_of_a_stage() -> None:
    double = SlabDoubleRelaxMaker()
    for maker, stage in (
        (SlabMaker(), "static"),
        (SlabBandsMaker(), "uniform"),
        (double.relax_maker1, "relax_1"),
        (double.relax_maker2, "relax_2"),
    ):
        asked = maker.input_set_generator.get_input_set(mx2("1H"), potcar_spec=True).incar
        meant = input_set(VaspEngineConfig(), stage).get_input_set(mx2("1H"), potcar_spec=True).incar
        assert dict(asked) == dict(meant)
        assert len(asked) > 15  # not two tags and VASP's own 300 eV and Gamma point


def test_a_run_that_ended_with_other_k_points_is_no_result(tmp_path: Path) -> None:
    intended = Kpoints.gamma_automatic((12, 12, 1))
    intended.write_file(tmp_path / "KPOINTS")
    check_k_points(tmp_path, intended)
    for other, words in [
        (Kpoints.monkhorst_automatic((12, 12, 1)), "Monkhorst 12 12 1"),  # as custodian's remedy of BRMIX
        (Kpoints.gamma_automatic((13, 13, 1)), "Gamma 13 13 1"),
        (Kpoints.gamma_automatic((12, 12, 1), (0.5, 0.5, 0)), "Gamma 12 12 1"),
    ]:
        other.write_file(tmp_path / "KPOINTS")
        with pytest.raises(EngineError, match=f"Gamma 12 12 1 and ended with {words}, as custodian had changed them"):
            check_k_points(tmp_path, intended)


def test_spin_orbit_runs_take_the_noncollinear_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_VASP_CMD", "srun vasp_std")
    with pytest.raises(EngineError, match="SCDM_VASP_NCL_CMD"):
        fresh_run_settings(noncollinear=True)
    monkeypatch.setenv("SCDM_VASP_NCL_CMD", "srun vasp_ncl")
    found = fresh_run_settings(noncollinear=True)
    assert {found["vasp_cmd"], found["vasp_gamma_cmd"]} == {"srun vasp_ncl"}
    assert fresh_run_settings()["vasp_cmd"] == "srun vasp_std"


def test_what_is_no_slab_is_refused_before_anything_is_written() -> None:
    with pytest.raises(StructureError, match="the vacuum along c is 8.9 angstrom"):
        SlabMaker.make.original(SlabMaker(), mx2("1H", c=12.0))
    assert list(Path.cwd().iterdir()) == []


def test_bands_without_a_charge_density_say_so(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="CHGCAR is not in .*static on this machine"):
        SlabBandsMaker.make.original(SlabBandsMaker(), mx2("1H"), f"node7:{tmp_path}/static", "line")


def task(layer: Any, force: float = 0.0) -> Any:
    """What is looked at of a task document."""
    forces = np.zeros((3, 3))
    forces[0, 0] = force
    calculation = SimpleNamespace(vasp_version="6.3.2", output=SimpleNamespace(ionic_steps=[None] * 7))
    return SimpleNamespace(structure=layer, output=SimpleNamespace(forces=forces), calcs_reversed=[calculation])


def test_a_relaxation_that_moved_c_or_stopped_early_is_not_believed(tmp_path: Path) -> None:
    before = mx2("1H", c=20.0)
    _check_relaxation(task(mx2("1H", a=3.2, c=20.0), 0.004), before, 0.005)
    with pytest.raises(EngineError, match=r"c moved by 0.300 angstrom .* \(6.3.2\) does not know LATTICE_CONSTRAINTS"):
        _check_relaxation(task(mx2("1H", c=19.7)), before, 0.005)
    with pytest.raises(EngineError, match="largest force of 0.04 eV/angstrom, 0.005 was asked for"):
        _check_relaxation(task(before, 0.04), before, 0.005)
    # the parsers call a relaxation with steps to spare converged, also one that STOPCAR ended
    corrections = [{"corrections": [{"errors": ["Walltime reached"]}]}]
    (tmp_path / "custodian.json").write_text(json.dumps(corrections))
    with pytest.raises(EngineError, match="was stopped after 7 steps"):
        _check_relaxation(task(before), before, 0.005)
    # but one that came to its end before it heeded that is a result
    (tmp_path / "OUTCAR").write_text(" reached required accuracy - stopping structural energy minimisation\n")
    _check_relaxation(task(before), before, 0.005)
    with pytest.raises(EngineError, match="largest force of 0.04 eV/angstrom, 0.005 was asked for"):
        _check_relaxation(task(before, 0.04), before, 0.005)


def test_a_failure_is_explained(tmp_path: Path) -> None:
    corrections = [{"corrections": [{"errors": ["zbrent"]}, {"errors": ["brmix"]}, {"errors": ["zbrent"]}]}]
    (tmp_path / "custodian.json").write_text(json.dumps(corrections))
    (tmp_path / "vasp.out").write_text("DAV: 1\n VERY BAD NEWS! internal error\n ------\n")
    text = failure_in_words(RuntimeError("5 total errors reached:\n give up"), tmp_path)
    assert text == (
        "5 total errors reached: give up; its last words: 'VERY BAD NEWS! internal error'; "
        f"custodian had mended zbrent (2 times), brmix; the run is in {tmp_path}"
    )
    (tmp_path / "custodian.json").write_text("{")  # a full disk
    assert "custodian" not in failure_in_words(RuntimeError("x"), tmp_path).replace(str(tmp_path), "")


def test_of_several_magnetic_orders_only_the_lowest_keeps_its_density(tmp_path: Path) -> None:
    def run(name: str, energy: float, moments: list[float]) -> StaticSummary:
        (tmp_path / name).mkdir()
        (tmp_path / name / "CHGCAR.gz").touch()
        return StaticSummary(energy_per_atom=energy, atom_magnetizations=moments, folder=f"host:{tmp_path / name}")

    own, lower, higher = run("own", -1.0, [2.0, 2.0]), run("lower", -1.1, [2.0, -2.0]), run("higher", -0.9, [2.0, -2.0])
    orders = [OrderRun(summary=higher), OrderRun(failed="too many steps"), OrderRun(summary=lower), OrderRun()]
    found = lowest_order.original(VaspEngineConfig(), own, orders)
    assert (found.magnetic_order, found.folder) == (MagneticOrder.AFM, lower.folder)
    assert found.magnetic_note == "order 2: too many steps"
    assert [path.parent.name for path in tmp_path.rglob("CHGCAR.gz")] == ["lower"]
