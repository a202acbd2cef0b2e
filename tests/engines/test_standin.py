"""The stand-in for VASP through atomate2's jobs: results, records, and each failure with what custodian makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atomate2.vasp.jobs.core import NonSCFMaker, RelaxMaker, StaticMaker
from atomate2.vasp.run import DEFAULT_HANDLERS, run_vasp
from atomate2.vasp.sets.core import NonSCFSetGenerator, RelaxSetGenerator, StaticSetGenerator
from custodian.custodian import MaxCorrectionsPerJobError, ValidationError
from emmet.core.tasks import TaskDoc
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.serialization import loadfn
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import BSVasprun, Chgcar, Incar, Kpoints, Outcar, Poscar, Vasprun
from pymatgen.io.vasp.outputs import Eigenval
from support.standin.electrons import band_gap, dispersion
from support.standin.failures import claim
from support.standin.fixtures import FOLDER, VASP_CMD
from support.standin.inputs import RefusedError, read
from support.standin.potcars import potcar_text, valence_electrons

from scdm_models.training.forcefield.network import load

RELAX = {
    "ENCUT": 520,
    "GGA": "PE",
    "EDIFF": 1e-6,
    "ISMEAR": 0,
    "SIGMA": 0.05,
    "NSW": 60,
    "IBRION": 2,
    "ISIF": 3,
    "EDIFFG": -0.01,
    "LATTICE_CONSTRAINTS": ".TRUE. .TRUE. .FALSE.",
}
STATIC = {"ENCUT": 520, "GGA": "PE", "EDIFF": 1e-6, "ISMEAR": 0, "SIGMA": 0.05}
MESH = Kpoints.gamma_automatic((6, 6, 1))
LINE = Kpoints(
    "G-M-K-G",
    10,
    Kpoints.supported_modes.Line_mode,
    kpts=[(0, 0, 0), (0.5, 0, 0), (0.5, 0, 0), (1 / 3, 1 / 3, 0), (1 / 3, 1 / 3, 0), (0, 0, 0)],
    labels=["G", "M", "M", "K", "K", "G"],
    coord_type="Reciprocal",
)
# the product of Pauling electronegativities' difference, 2.58 - 2.16, and the model's 4 eV
MOS2_GAP_EV = 1.68


def write_inputs(folder: Path, structure: Structure, incar: dict[str, Any], kpoints: Kpoints | None = MESH) -> Path:
    """The four input files in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    poscar = Poscar(structure)
    poscar.write_file(folder / "POSCAR")
    Incar(incar).write_file(folder / "INCAR")
    if kpoints:
        kpoints.write_file(folder / "KPOINTS")
    names = {"Mo": "Mo_sv"}
    (folder / "POTCAR").write_text("".join(potcar_text(names.get(s, s)) for s in poscar.site_symbols))
    return folder


Run = Callable[..., list[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin_vasp: dict[str, Any]) -> Run:
    """Runs atomate2's ``run_vasp`` with fresh handlers in ``tmp_path / "run"``; the corrections that were made."""

    def go(
        structure: Structure, incar: dict[str, Any], fail: str = "", kpoints: Kpoints = MESH, **kwargs: Any
    ) -> list[str]:
        folder = write_inputs(tmp_path / "run", structure, incar, kpoints)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("STANDIN_VASP_FAIL", fail)
        run_vasp(**standin_vasp, handlers=[type(handler)() for handler in DEFAULT_HANDLERS], **kwargs)
        corrections = [c for job in loadfn(folder / "custodian.json") for c in job["corrections"]]
        return [f"{type(c['handler']).__name__}: {', '.join(c['errors'])}" for c in corrections]

    return go


def expected_energy(structure: Structure) -> float:
    """CHGNet's energy of a cell in eV, asked without the stand-in."""
    return float(load().predict_structure(structure, task="e")["e"]) * len(structure)


def test_relaxation_static_and_bands_by_atomate2(
    mos2: Structure, standin_vasp: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = {"user_kpoints_settings": MESH}
    relax = RelaxMaker(
        input_set_generator=RelaxSetGenerator(user_incar_settings=RELAX, **mesh), run_vasp_kwargs=standin_vasp
    ).make(mos2)
    static = StaticMaker(
        input_set_generator=StaticSetGenerator(user_incar_settings={**STATIC, "LCHARG": True}, **mesh),
        run_vasp_kwargs=standin_vasp,
    ).make(relax.output.structure, prev_dir=relax.output.dir_name)
    line = NonSCFMaker(
        input_set_generator=NonSCFSetGenerator(user_kpoints_settings=LINE), run_vasp_kwargs=standin_vasp
    ).make(static.output.structure, prev_dir=static.output.dir_name, mode="line")
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    monkeypatch.chdir(tmp_path)
    outputs = run_locally(
        Flow([relax, static, line]), create_folders=True, store=store, ensure_success=True, raise_immediately=True
    )
    relaxed, single, bands = (outputs[job.uuid][1].output for job in (relax, static, line))

    lattice = relaxed.structure.lattice
    assert lattice.matrix[2].tolist() == [0.0, 0.0, 20.0]  # held exactly, not up to rounding
    assert np.abs(lattice.matrix[:2, 2]).max() < 1e-12
    assert lattice.a > mos2.lattice.a + 0.005  # CHGNet's 1H-MoS2 is wider than the 3.18 angstrom put in
    assert relaxed.state == single.state == bands.state == "successful"
    for document in (relaxed, single, bands):
        assert document.output.energy == pytest.approx(expected_energy(document.structure), abs=1e-4)
        assert document.output.bandgap == pytest.approx(MOS2_GAP_EV, abs=1e-3)
        assert document.vasp_version == document.calcs_reversed[0].vasp_version
        assert document.vasp_version.startswith("6.5.0.stand-in")
        assert all("stand-in" in spec.titel for spec in document.orig_inputs.potcar_spec)
    assert len(relaxed.calcs_reversed[0].output.ionic_steps) > 2
    assert np.linalg.norm(relaxed.output.forces, axis=1).max() < 0.01
    blob = store.query_one({"uuid": line.uuid}, load=True)
    assert blob is not None
    path = BSVasprun(Path(bands.dir_name.split(":")[-1]) / "vasprun.xml.gz").get_band_structure(line_mode=True)
    assert [branch["name"] for branch in path.branches] == ["G-M", "M-K", "K-G"]
    assert path.get_band_gap() == {"direct": True, "energy": pytest.approx(MOS2_GAP_EV), "transition": "G-G"}


@pytest.mark.parametrize(("second", "total"), [(5.0, 8.0), (-5.0, 0.0)])
def test_moments_of_a_magnetic_layer(run: Run, tmp_path: Path, second: float, total: float) -> None:
    """CrI3: CHGNet has 3.57 mu_B on each Cr, 7.15 a cell; the nearest total that closes both spins' shells is 8.

    PBE has 3 on each, 6 a cell (Huang et al., 10.1038/nature22391): moments are a force field's, too. Signs are MAGMOM's.
    """
    frac = [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]
    frac += [[0.35, 0, 0.578], [0, 0.35, 0.578], [0.65, 0.65, 0.578]]
    frac += [[0.65, 0, 0.422], [0, 0.65, 0.422], [0.35, 0.35, 0.422]]
    layer = Structure(Lattice.hexagonal(6.87, 20), ["Cr"] * 2 + ["I"] * 6, frac)
    assert run(layer, {**STATIC, "ISPIN": 2, "MAGMOM": [5.0, second] + [0.6] * 6, "LORBIT": 11}) == []
    document = TaskDoc.from_directory(tmp_path / "run")
    calculation = document.calcs_reversed[0].output
    chromium = load().predict_structure(layer, task="em")["m"][:2] * np.sign([5.0, second])
    assert document.structure.site_properties["magmom"] == pytest.approx([*chromium, *[0.0] * 6], abs=2e-3)
    assert calculation.outcar["total_magnetization"] == pytest.approx(total, abs=1e-3)
    assert calculation.bandgap == pytest.approx(4 * (2.66 - 1.66), abs=1e-3)
    bands = Vasprun(tmp_path / "run" / "vasprun.xml").eigenvalues
    up, down = (values[0, :, 1].sum() for values in bands.values())
    assert up - down == pytest.approx(total)


def test_records_agree_with_each_other(run: Run, mos2: Structure, tmp_path: Path) -> None:
    run(mos2, {**STATIC, "LORBIT": 11, "LDIPOL": True, "IDIPOL": 3})
    folder = tmp_path / "run"
    vasprun, outcar = Vasprun(folder / "vasprun.xml", parse_projected_eigen=True), Outcar(folder / "OUTCAR")
    eigenval = Eigenval(folder / "EIGENVAL")
    assert outcar.final_energy == pytest.approx(float(vasprun.final_energy), abs=1e-7)
    assert outcar.efermi == pytest.approx(vasprun.efermi, abs=1e-4)
    for found in (vasprun.eigenvalue_band_properties, eigenval.eigenvalue_band_properties):
        assert found[0] == pytest.approx(MOS2_GAP_EV, abs=1e-3)
        assert found[3]
    (occupied,) = (values[..., 1] for values in vasprun.eigenvalues.values())
    electrons = 2 * (occupied.sum(axis=1) * vasprun.actual_kpoints_weights).sum()
    assert electrons == pytest.approx(14 + 2 * 6)  # valence electrons of Mo_sv and S
    (states,) = vasprun.idos.densities.values()
    assert states[np.searchsorted(vasprun.idos.energies, vasprun.efermi)] == pytest.approx(26, abs=0.01)
    (projections,) = vasprun.projected_eigenvalues.values()
    assert projections.sum(axis=(2, 3)) == pytest.approx(np.ones(occupied.shape), abs=0.002)  # four decimals each
    assert Chgcar.from_file(folder / "CHGCAR").data["total"].mean() == pytest.approx(26)


def test_bands_have_the_symmetry_of_a_layer(mos2: Structure) -> None:
    k = np.array([[0.2, 0.1, 0.0], [-0.1, 0.3, 0.0], [0.2, 0.1, 0.4]])  # the second: the first turned by 60 degrees
    first, turned, up = dispersion(mos2, k)
    assert turned == pytest.approx(first)
    assert up == pytest.approx(first)  # no dispersion along the vacuum
    # f falls as (ka)^2/4 at Gamma for any two-dimensional shell of radius a
    small = 1e-3
    x = np.array([[small, 0.0, 0.0]])
    wave_vector = 2 * np.pi * small / (mos2.lattice.a * np.sin(np.pi / 3))
    assert 1 - dispersion(mos2, x)[0] == pytest.approx((wave_vector * mos2.lattice.a) ** 2 / 4, rel=1e-4)


def test_layers_of_one_element_are_metals(run: Run, graphene: Structure, tmp_path: Path) -> None:
    run(graphene, STATIC)
    bands = Vasprun(tmp_path / "run" / "vasprun.xml").get_band_structure()
    assert band_gap(graphene) == 0
    assert bands.is_metal()


def shifted(structure: Structure) -> Structure:
    """The same layer with c tilted out of z."""
    matrix = structure.lattice.matrix.copy()
    matrix[2, 0] = 0.5
    return Structure(Lattice(matrix), structure.species, structure.frac_coords)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ENCOT": 520}, "ENCOT"),
        ({"ALGO": "Quick"}, "ALGO"),
        ({"MAGMOM": [1.0, 1.0], "ISPIN": 2}, "MAGMOM"),
        ({"ISMEAR": -5, "kpoints": Kpoints.gamma_automatic((1, 1, 1))}, "Tetrahedron method fails"),
        ({"IBRION": -1, "NSW": 10}, "IBRION = -1 and NSW = 10"),
        ({"IBRION": 8}, "IBRION = 8"),
        ({"NSW": 10, "IBRION": 2, "ISIF": 4}, "ISIF = 4"),
        ({"kpoints": LINE}, "ICHARG = 11"),
        ({"kpoints": LINE, "ICHARG": 11}, "charge density could not be read"),
        ({"kpoints": None}, "neither a file KPOINTS nor a tag KSPACING"),
        ({"LATTICE_CONSTRAINTS": ".TRUE. .TRUE. .FALSE.", "structure": shifted}, "c is not along z"),
        ({"LDIPOL": True}, "IDIPOL"),
        ({"NBANDS": 13}, "TOO FEW BANDS"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_refuses(mos2: Structure, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    kpoints, turn = change.pop("kpoints", MESH), change.pop("structure", lambda structure: structure)
    folder = write_inputs(tmp_path, turn(mos2), {**STATIC, **change}, kpoints)
    with pytest.raises(RefusedError, match=words):
        read(folder, (6, 5, 0))


def test_refuses_files_that_do_not_belong_together(mos2: Structure, tmp_path: Path) -> None:
    folder = write_inputs(tmp_path, mos2, STATIC)
    (folder / "POTCAR").write_text(potcar_text("S") + potcar_text("Mo_sv"))
    with pytest.raises(RefusedError, match="POSCAR and POTCAR are incompatible"):
        read(folder, (6, 5, 0))
    write_inputs(tmp_path, mos2, STATIC)
    lines = (folder / "POSCAR").read_text().splitlines(keepends=True)
    (folder / "POSCAR").write_text("".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    with pytest.raises(RefusedError, match="triple product"):
        read(folder, (6, 5, 0))
    (folder / "POTCAR").unlink()
    with pytest.raises(RefusedError, match="POTCAR was not found"):
        read(folder, (6, 5, 0))


def test_reads_a_spacing_of_k_points(mos2: Structure, tmp_path: Path) -> None:
    folder = write_inputs(tmp_path, mos2, {**STATIC, "KSPACING": 0.4, "ISYM": 0}, None)
    points, weights = read(folder, (6, 5, 0)).points
    # |b1| = 2 pi / (3.18 sin 60) = 2.28, |b3| = 0.31 per angstrom: 6 x 6 x 1
    assert len(points) == 36
    assert weights.sum() == pytest.approx(1)


def test_symmetry_leaves_fewer_k_points_of_the_same_mean(mos2: Structure, tmp_path: Path) -> None:
    reduced, weights = read(write_inputs(tmp_path / "a", mos2, STATIC), (6, 5, 0)).points
    whole, _ = read(write_inputs(tmp_path / "b", mos2, {**STATIC, "ISYM": 0}), (6, 5, 0)).points
    assert len(reduced) == 7  # of a hexagonal 6 x 6 mesh with Gamma
    assert dispersion(mos2, reduced) @ weights == pytest.approx(dispersion(mos2, whole).mean(), abs=1e-12)


def test_refusal_ends_a_job(run: Run, mos2: Structure) -> None:
    with pytest.raises(ValidationError):  # custodian looks for vasprun.xml before it looks at the exit status
        run(mos2, {**STATIC, "NBANDS": 26, "LDIPOL": True})


def test_tetrahedra_on_too_few_points_are_mended_by_custodian(run: Run, mos2: Structure, tmp_path: Path) -> None:
    corrections = run(mos2, {**STATIC, "ISMEAR": -5}, kpoints=Kpoints.gamma_automatic((1, 1, 1)))
    assert corrections == ["VaspErrorHandler: tet"]
    assert Incar.from_file(tmp_path / "run" / "INCAR")["ISMEAR"] == 0


@pytest.mark.parametrize(
    ("mode", "corrections", "incar"),
    [
        ("unconverged_scf", ["UnconvergedErrorHandler: Unconverged"], {"ALGO": "All"}),
        ("unconverged_ionic", ["UnconvergedErrorHandler: Unconverged"], {"IBRION": 1}),
        ("zbrent", ["VaspErrorHandler: zbrent"], {"EDIFF": 1e-7, "NELMIN": 8}),
        ("brmix", ["VaspErrorHandler: brmix"], {"ISTART": 1}),
    ],
)
def test_custodian_mends(
    run: Run, mos2: Structure, tmp_path: Path, mode: str, corrections: list[str], incar: dict[str, Any]
) -> None:
    assert run(mos2, {**RELAX, "NELM": 20, "NSW": 25}, f"{mode}:1@relax@MoS2") == corrections
    mended = Incar.from_file(tmp_path / "run" / "INCAR")
    assert {tag: mended[tag] for tag in incar} == incar
    document = TaskDoc.from_directory(tmp_path / "run")
    assert document.state == "successful"
    assert document.output.energy == pytest.approx(expected_energy(document.structure), abs=1e-4)


def test_failures_are_counted_and_chosen_by_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_VASP_STATE", str(tmp_path))
    monkeypatch.setenv("STANDIN_VASP_FAIL", "killed:2@static, zbrent@relax@MoS2")
    assert [claim("static", "MoS2") for _ in range(3)] == ["killed", "killed", None]
    assert claim("relax", "WS2") is None
    assert [claim("relax", "MoS2") for _ in range(2)] == ["zbrent", None]
    monkeypatch.setenv("STANDIN_VASP_FAIL", "kiled")
    with pytest.raises(ValueError, match="the modes are"):
        claim("static", "MoS2")


def test_never_converged_ends_with_an_error(run: Run, mos2: Structure, tmp_path: Path) -> None:
    """Custodian goes round its ladder (ALGO All, mixing, All) until atomate2's five corrections are used up."""
    with pytest.raises(MaxCorrectionsPerJobError):
        run(mos2, {**STATIC, "NELM": 10}, "unconverged_scf:9")
    vasprun = Vasprun(tmp_path / "run" / "vasprun.xml")
    assert not vasprun.converged_electronic
    assert float(vasprun.final_energy) == pytest.approx(expected_energy(mos2) + 0.1, abs=1e-4)


def test_unconverged_ions_without_a_handler_are_a_failed_document(
    mos2: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin_vasp: dict[str, Any]
) -> None:
    folder = write_inputs(tmp_path / "run", mos2, {**RELAX, "NSW": 4})
    monkeypatch.setenv("STANDIN_VASP_FAIL", "unconverged_ionic")
    subprocess.run(VASP_CMD.split(), cwd=folder, check=True, capture_output=True)
    document = TaskDoc.from_directory(folder)
    assert document.state == "failed"
    assert len(document.calcs_reversed[0].output.ionic_steps) == 4


def test_killed_leaves_half_a_record(run: Run, mos2: Structure, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="VasprunXMLValidator"):
        run(mos2, RELAX, "killed")
    assert (tmp_path / "run" / "CONTCAR").is_file()
    assert "</modeling>" not in (tmp_path / "run" / "vasprun.xml").read_text()
    assert "General timing" not in (tmp_path / "run" / "OUTCAR").read_text()


def test_killed_dies_by_the_signal(
    mos2: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin_vasp: dict[str, Any]
) -> None:
    folder = write_inputs(tmp_path / "run", mos2, RELAX)
    monkeypatch.setenv("STANDIN_VASP_FAIL", "killed")
    assert subprocess.run(VASP_CMD.split(), cwd=folder, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert subprocess.run(VASP_CMD.split(), cwd=folder, check=False, capture_output=True).returncode == 0  # only once


@pytest.mark.parametrize("mode", ["truncated", "disk_full"])
def test_cut_records_are_no_result(run: Run, mos2: Structure, tmp_path: Path, mode: str) -> None:
    with pytest.raises(ValidationError, match="VasprunXMLValidator"):
        run(mos2, STATIC, mode)
    out = (tmp_path / "run" / "vasp.out").read_text()
    assert ("No space left on device" in out) == (mode == "disk_full")


def test_walltime_is_stopped_before_the_queue_kills(
    run: Run, mos2: Structure, tmp_path: Path, monkeypatch: Any
) -> None:
    """A soft stop passes as a result: pymatgen counts fewer than NSW steps as converged; OUTCAR alone tells."""
    monkeypatch.setenv("STANDIN_VASP_STEP_SECONDS", "0.2")
    monkeypatch.delenv("CUSTODIAN_WALLTIME_START", raising=False)
    corrections = run(mos2, RELAX, "walltime", wall_time=300)  # its buffer of 300 s is used up at once
    assert set(corrections) == {"WalltimeHandler: Walltime reached"}
    assert Outcar(tmp_path / "run" / "OUTCAR").is_stopped
    document = TaskDoc.from_directory(tmp_path / "run")
    assert document.calcs_reversed[0].output.outcar["is_stopped"]
    assert document.state == "successful"
    assert 1 <= len(document.calcs_reversed[0].output.ionic_steps) < RELAX["NSW"]


def test_walltime_kills_what_nobody_stops(
    mos2: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin_vasp: dict[str, Any]
) -> None:
    folder = write_inputs(tmp_path / "run", mos2, STATIC)
    monkeypatch.setenv("STANDIN_VASP_FAIL", "walltime")
    monkeypatch.setenv("STANDIN_VASP_STEP_SECONDS", "0.05")
    monkeypatch.setenv("STANDIN_VASP_WALLTIME", "0.2")
    assert subprocess.run(VASP_CMD.split(), cwd=folder, check=False).returncode == -signal.SIGKILL


def test_whoever_kills_the_command_kills_the_run(
    mos2: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin_vasp: dict[str, Any]
) -> None:
    folder = write_inputs(tmp_path / "run", mos2, RELAX)
    monkeypatch.setenv("STANDIN_VASP_FAIL", "walltime")
    monkeypatch.setenv("STANDIN_VASP_STEP_SECONDS", "0.05")
    with subprocess.Popen(VASP_CMD.split(), cwd=folder) as process:
        while not (folder / "CONTCAR").is_file():
            time.sleep(0.05)
        process.terminate()
    time.sleep(0.3)
    size = (folder / "OUTCAR").stat().st_size
    time.sleep(0.3)
    assert (folder / "OUTCAR").stat().st_size == size


def test_older_releases_ignore_the_constraint(run: Run, mos2: Structure, tmp_path: Path, monkeypatch: Any) -> None:
    """VASP before 6.4 does not know LATTICE_CONSTRAINTS: the vacuum relaxes, and nothing says so."""
    monkeypatch.setenv("STANDIN_VASP_RELEASE", "6.3.2")
    run(mos2, {**RELAX, "EDIFFG": -0.001})
    document = TaskDoc.from_directory(tmp_path / "run")
    assert document.vasp_version.startswith("6.3.2.stand-in")
    assert abs(document.structure.lattice.c - 20) > 1e-4


def test_long_cells_are_warned_about_and_mended(run: Run, mos2: Structure, tmp_path: Path) -> None:
    matrix = mos2.lattice.matrix.copy()
    matrix[2, 2] = 52.0
    long = Structure(Lattice(matrix), mos2.species, mos2.cart_coords, coords_are_cartesian=True)
    assert run(long, STATIC) == ["VaspErrorHandler: amin"]
    assert Incar.from_file(tmp_path / "run" / "INCAR")["AMIN"] == 0.01


def test_runs_alone_without_a_server(
    mos2: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin_vasp: dict[str, Any]
) -> None:
    monkeypatch.delenv("STANDIN_VASP_SERVER")
    folder = write_inputs(tmp_path / "run", mos2, STATIC)
    done = subprocess.run([sys.executable, FOLDER / "vasp.py"], cwd=folder, env=dict(os.environ), check=False)
    assert done.returncode == 0
    assert TaskDoc.from_directory(folder).output.energy == pytest.approx(expected_energy(mos2), abs=1e-4)


def test_potcars_say_what_they_are(standin_potcars: Path, standin_vasp: dict[str, Any]) -> None:
    from pymatgen.io.vasp import Potcar

    potcar = Potcar(["Mo_sv", "S"], functional="PBE_54")
    assert [single.ZVAL for single in potcar] == [14.0, 6.0]
    assert [single.element for single in potcar] == ["Mo", "S"]
    assert str(potcar).count("stand-in, not a pseudopotential") == 4
    # as the licensed files: Mo_sv 14, Mo_pv 12, Ti_sv 12, Ga_d 13, Li_sv 3, I 7 (vasp.at/wiki, available potentials)
    known = {"Mo_sv": 14, "Mo_pv": 12, "Ti_sv": 12, "Ga_d": 13, "Li_sv": 3, "I": 7}
    assert {symbol: valence_electrons(symbol) for symbol in known} == known
    code = "from pymatgen.io.vasp import Potcar; print(Potcar(['W_sv'], functional='PBE_54')[0].titel)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "PAW_PBE W_sv stand-in"  # started processes find them as well
