"""VASP campaigns with the stand-in executable: all five stages, here and under rlaunch, and every way a run can fail.

Energies and forces are CHGNet's, bands those of the stand-in's model; what is tested is the workflow around them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp.inputs import Kpoints
from support.layers import mx2
from support.memory import memory_database
from support.places import ROOT
from support.standin.electrons import HYBRID, band_gap
from support.standin.fixtures import VASP_CMD
from support.standin.potential import VACUUM_EV

from scdm_flows.analysis.bands import HBAR2_OVER_ME
from scdm_flows.analysis.stiffness import strains
from scdm_flows.builders import build_all
from scdm_flows.campaigns.promotion import Asked, promote
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CandidateDoc, CandidateState, GapKind
from scdm_flows.documents.static import MagneticOrder
from scdm_flows.engines.forcefield.curvature import second_derivatives
from scdm_flows.engines.vasp.disk import LARGE
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.query import CandidateDB
from scdm_flows.report import render
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.thermo.table import ReferenceTable

STAGES = ["generate", "screen", "relax", "static", "gate", "phonon", "bands"]
ENGINE = {  # small and coarse: the stand-in's forces do not depend on k-points
    "kind": "vasp",
    "fmax_ev_per_angstrom": 0.02,
    "first_fmax_ev_per_angstrom": 0.05,
    "kpoint_spacing_per_angstrom": 0.6,
    "dos_kpoint_spacing_per_angstrom": 0.4,
    "phonon_min_length_angstrom": 5.0,
    "band_points": 31,
    "dos_points": 301,
    "max_custodian_errors": 2,
}


def boron_nitride() -> Structure:
    return Structure(Lattice.hexagonal(2.51, 20), ["B", "N"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])


def graphene() -> Structure:
    return Structure(Lattice.hexagonal(2.46, 20), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])


def iron_chloride() -> Structure:
    """1T-FeCl2, a ferromagnet."""
    return mx2("1T", a=3.48, half=1.35).replace_species({"Mo": "Fe", "S": "Cl"})


def write_references(path: Path, elements: list[str]) -> Path:
    """A file of entries with the energies that the stand-in gives, which are CHGNet's."""
    entries = [
        {
            "@module": "pymatgen.entries.computed_entries",
            "@class": "ComputedEntry",
            "entry_id": phase.name,
            "composition": {e: 12 * x for e, x in phase.fractions.items()},
            "energy": 12 * phase.energy_per_atom,
            "parameters": {"run_type": "GGA", "is_hubbard": False},
        }
        for phase in ReferenceTable.load().entries(elements)
    ]
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin_vasp: dict[str, Any]) -> None:
    """A data folder of each test's own, and the stand-in as VASP 6.5.0."""
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SCDM_VASP_VERSION", "6.5.0")
    monkeypatch.setenv("SCDM_VASP_POLL_SECONDS", "0.1")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'models'}")


def campaign(folder: Path, layers: dict[str, Structure], **engine: Any) -> CampaignConfig:
    """A campaign of these layers with every gate open."""
    (folder / "in").mkdir()
    for name, layer in layers.items():
        layer.to(filename=str(folder / "in" / f"{name}.cif"))
    elements = sorted({str(e) for layer in layers.values() for e in layer.composition})
    references = write_references(folder / "references.json", elements)
    return parse_config(
        {
            "name": "v",
            "generator": {"kind": "files", "paths": [str(folder / "in")]},
            "screen": {"require_novel": False},
            "engine": {**ENGINE, "references": str(references), **engine},
            "gate": {
                "max_e_above_hull": 5,
                "phonon_max_e_above_hull": 5,
                "bands_max_e_above_hull": 5,
            },
        }
    )


def check_complete(database: Database) -> list[CandidateDoc]:
    """Every candidate went through all stages, and each stage's document is there and says what made it."""
    query = CandidateDB(database)
    found = query.find(campaign="v")
    for candidate in found:
        assert candidate.state is CandidateState.COMPLETED, candidate.reason
        assert {s: r.status for s, r in candidate.stages.items()} == dict.fromkeys(STAGES, "passed")
        assert all(r.job_uuid for s, r in candidate.stages.items() if s != "generate")
        assert "stand-in" in (candidate.engine_version or "")
        assert "stand-in" in (candidate.provenance.engine or "")
        assert (candidate.energy_scheme, candidate.surrogate) == ("vasp-pbe", False)
        relaxed = Structure.from_dict(candidate.relaxed_structure or {})
        sample = Structure.from_dict(candidate.structure)
        assert relaxed.lattice.c == pytest.approx(sample.lattice.c, abs=1e-6)  # held
        assert relaxed.species == sample.species
        phonon, bands = query.phonon(candidate.candidate_id), query.bands(candidate.candidate_id)
        assert phonon is not None
        assert bands is not None
        assert phonon.n_displacements >= 1  # one is enough for graphene
        assert phonon.supercell[2] == [0, 0, 1]
        assert "stand-in" in (bands.provenance.engine or "")
        assert "stand-in" in (phonon.provenance.engine or "")
        assert np.array(bands.k_points)[:, 2] == pytest.approx(0)
        # the stand-in's gap is known: 4 eV for each unit of electronegativity, direct at Gamma
        assert bands.band_gap_ev == pytest.approx(band_gap(relaxed), abs=0.01)
        assert candidate.band_gap == bands.band_gap_ev
        if bands.vbm is not None:
            # its bands are 1 eV (1 - f), f the mean of cos(k R) over six vectors of length a: near Gamma
            # E = k^2 a^2 / 4, so m = hbar^2 / (2 a^2 / 4)
            known = 2 * HBAR2_OVER_ME / relaxed.lattice.a**2
            assert {(m.carrier, m.direction) for m in bands.masses} >= {("hole", "Γ→M"), ("electron", "Γ→K")}
            assert [m.mass for m in bands.masses] == pytest.approx([known] * len(bands.masses), rel=0.03)
        assert bands.dos is not None
        spins = set(bands.energies_ev)
        assert spins == set(bands.dos.densities)
        assert (spins == {"up", "down"}) is bands.spin_polarised
        assert candidate.magnetic is bands.magnetic
        # raw objects are where atomate2 writes them
        jobs = list(database.job_store.docs_store.query({"metadata.candidate_id": candidate.candidate_id}))
        parts = [d["metadata"].get("part_of") for d in jobs]
        assert parts.count("relax") == 1  # the first relaxation; the second is the stage
        assert parts.count("bands") == 2
        strained = strains(relaxed, 0.01)
        assert parts.count("phonon") == phonon.n_displacements + 1 + len(strained)  # one is the supercell at rest
        assert phonon.residual_force_ev_per_angstrom == pytest.approx(0, abs=ENGINE["fmax_ev_per_angstrom"])
        assert phonon.stiffness_note is None
        tensor = np.array(phonon.stiffness_n_per_m)
        assert tensor[1, 1] == pytest.approx(tensor[0, 0], rel=1e-3)  # all three have a threefold axis, which makes
        assert tensor[2, 2] == pytest.approx((tensor[0, 0] - tensor[0, 1]) / 2, rel=1e-3)  # layers isotropic
        # the stand-in's vacuum level lies 5 eV above its valence bands' end; no layer here has a dipole
        assert candidate.vacuum_level_difference == pytest.approx(0, abs=1e-3)
        if bands.vbm is None:
            assert candidate.work_function == pytest.approx(VACUUM_EV - bands.efermi_ev, abs=1e-3)
            assert (candidate.vbm_vs_vacuum, candidate.cbm_vs_vacuum) == (None, None)
        else:
            assert candidate.work_function is None
            assert candidate.vbm_vs_vacuum == pytest.approx(-VACUUM_EV, abs=2e-3)
            assert candidate.cbm_vs_vacuum == pytest.approx(bands.band_gap_ev - VACUUM_EV, abs=2e-3)
    return found


def stiffness_by_energies(layer: Structure) -> np.ndarray:
    """(3, 3) N/m: CHGNet's second derivatives of the energy by strain, with the atoms at rest (Schur complement)."""
    n = len(layer)
    found = second_derivatives(AseAtomsAdaptor.get_atoms(layer, msonable=False))
    assert found is not None
    cell = [3 * n + k for k in (0, 1, 3, 4)]  # xx, xy, yx, yy, in units of 1/n
    atoms, mixed = found[: 3 * n, : 3 * n], found[: 3 * n][:, cell]
    by_strain = n**2 * (found[np.ix_(cell, cell)] - mixed.T @ np.linalg.pinv(atoms, rcond=1e-6) @ mixed)
    voigt = np.array([[1, 0, 0], [0, 0, 0.5], [0, 0, 0.5], [0, 1, 0]])
    in_n_per_m = 16.02176634  # eV/angstrom^2
    area = layer.volume / layer.lattice.c
    tensor: np.ndarray = voigt.T @ by_strain @ voigt * in_n_per_m / area
    return tensor


def test_layers_through_all_stages(tmp_path: Path) -> None:
    layers = {"bn": boron_nitride(), "fecl2": iron_chloride(), "graphene": graphene()}
    database = memory_database()
    config = campaign(tmp_path, layers)
    result = run_campaign(config, database, processes=1)
    assert (result.accepted, result.failed) == (3, 0)
    build_all(database)
    by_formula = {c.formula: c for c in check_complete(database)}
    assert by_formula["BN"].gap_kind is GapKind.DIRECT
    assert by_formula["BN"].dynamically_stable is True
    assert by_formula["C"].gap_kind is GapKind.METAL
    assert by_formula["FeCl2"].magnetic is True
    assert by_formula["FeCl2"].total_magnetization == pytest.approx(4, abs=0.5)  # CHGNet's moment of Fe2+; d6 high spin
    assert by_formula["BN"].magnetic is False
    phonon = CandidateDB(database).phonon(by_formula["BN"].candidate_id)
    assert phonon is not None
    # the same force field's energies, which know nothing of VASP's signs and units of stress; 1 % of strain is not small
    by_energies = stiffness_by_energies(Structure.from_dict(by_formula["BN"].relaxed_structure or {}))
    assert np.array(phonon.stiffness_n_per_m) == pytest.approx(by_energies, abs=0.05 * by_energies[0, 0])
    assert phonon.criterion == "modes on path and mesh, and stiffness tensor"
    # every run's folder is kept where people can look at it
    runs = tmp_path / "data" / "runs" / "v" / by_formula["BN"].candidate_id
    names = {path.name for path in runs.iterdir()}
    assert {"relax_1", "relax", "static", "uniform", "line"} <= names
    # of the large files none, as all that reads them has been done: relaxations ended, bands computed
    assert not [path for name in LARGE for path in (tmp_path / "data").rglob(f"{name}*")]
    # nothing is computed again
    before = database.job_store.docs_store.count()
    assert run_campaign(config, database, processes=1).computed == 0
    assert database.job_store.docs_store.count() == before


def test_orders_spin_orbit_and_hybrid_gap_reach_the_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = 0.01  # eV that the stand-in takes for each Bohr magneton of a cell: moments that cancel are lowest
    monkeypatch.setenv("STANDIN_VASP_EXCHANGE", str(exchange))
    monkeypatch.setenv("SCDM_VASP_NCL_CMD", f"env STANDIN_VASP_BUILD=ncl {VASP_CMD}")
    settings = {
        "magnetism": {"orderings": ["fm", "afm"], "max_orderings": 2},
        "spin_orbit": "on",
        "hse_gap": True,
        "smearing": "auto",
    }
    config = campaign(tmp_path, {"fecl2": iron_chloride()}, **settings)
    config = config.model_copy(update={"gate": config.gate.model_copy(update={"phonon_max_atoms": 1})})
    database = memory_database()
    assert run_campaign(config, database, processes=1).failed == 0
    build_all(database)
    (candidate,) = CandidateDB(database).find(campaign="v")
    assert candidate.magnetic_order is MagneticOrder.AFM
    # the one order of a triangular lattice in a doubled cell is the row-wise one; its cell has no moment
    moment = candidate.total_magnetization  # of the ferromagnetic run, whose cell the candidate has
    assert moment == pytest.approx(4, abs=0.5)
    assert candidate.antiferromagnetic_ev_per_atom == pytest.approx(-exchange * moment / 3, abs=2e-4)
    bands = CandidateDB(database).bands(candidate.candidate_id)
    assert bands is not None
    assert bands.spin_orbit
    assert candidate.lacks_spin_orbit is False
    relaxed = Structure.from_dict(candidate.relaxed_structure or {})
    assert bands.band_gap_ev == pytest.approx(band_gap(relaxed), abs=0.01)
    assert candidate.hse_gap == pytest.approx(HYBRID * band_gap(relaxed), abs=0.01)
    runs = tmp_path / "data" / "runs" / "v" / candidate.candidate_id
    names = {path.name for path in runs.iterdir()}
    assert {"static_fm", "static_order_1", "line", "hse"} <= names
    points = Kpoints.from_file(next((runs / "hse").glob("KPOINTS*")))
    assert points.kpts_weights[-2:] == [0, 0]  # the edges, both at Gamma
    assert np.array(points.kpts[-2:]) == pytest.approx(0)


def test_k_points_that_custodian_has_changed_are_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # of BRMIX custodian tries the same again, then Kerker mixing, then a shifted mesh
    monkeypatch.setenv("STANDIN_VASP_FAIL", "brmix:3@static")
    config = campaign(tmp_path, {"bn": boron_nitride()}, max_custodian_errors=5, kpoint_spacing_per_angstrom=0.5)
    database = memory_database()
    run_campaign(config, database, processes=1)
    (failure,) = CandidateDB(database).failures("v")
    assert failure.stage == "static"
    assert "was to have k-points Gamma 6 6 1 and ended with Monkhorst 6 6 1" in failure.message


def test_the_best_of_a_surrogate_campaign_go_on_to_dft(tmp_path: Path) -> None:
    database = memory_database()
    config = campaign(tmp_path, {"bn": boron_nitride(), "graphene": graphene()})
    engine = {k: v for k, v in config.engine.model_dump(mode="json").items() if k in {*ENGINE, "references"}}
    gate = {"phonon_max_atoms": 1, "bands_max_atoms": 1}  # these stages are tested above
    surrogate = parse_config(
        {**config.model_dump(mode="json"), "name": "s", "engine": {"kind": "forcefield"}, "gate": gate}
    )
    run_campaign(surrogate, database, processes=1)
    build_all(database)
    asked = Asked("s", 2, engine, "dft")
    config = promote(database, asked).config
    result = run_campaign(config, database, processes=1)
    assert (result.accepted, result.computed, result.failed) == (2, 2, 0)
    build_all(database)
    assert not promote(database, asked).changed
    query = CandidateDB(database)
    for candidate in query.find(campaign="dft"):
        assert candidate.state is CandidateState.COMPLETED, candidate.reason
        parent = query.get(candidate.promoted_from or "")
        assert (parent.campaign, parent.surrogate, candidate.surrogate) == ("s", True, False)
        assert candidate.energy_scheme == "vasp-pbe"
        assert (candidate.generator, candidate.index) == (parent.generator, parent.index)
        assert candidate.parent is not None
        assert (candidate.parent.rank, candidate.parent.e_above_hull) == (parent.rank, parent.e_above_hull)
        # the stand-in's forces are those of the surrogate, which has its minimum in the same place
        assert candidate.rmsd_to_relaxed_angstrom == pytest.approx(0, abs=0.02)
        assert [one.candidate_id for one in query.family(parent)] == [parent.candidate_id, candidate.candidate_id]
    page = render(database, "dft", top=0)
    assert re.search(r"How surrogate \(\S+\) did against DFT \(vasp-pbe\)", page)
    assert "2 candidates were promoted from campaign <code>s</code>" in page
    assert "Nothing here is DFT" not in page
    assert "did against" not in render(database, "s", top=0)


FAILURES = [
    # (what the stand-in does, stage that ends in a failure or None where custodian mends it, words of the reason)
    ("unconverged_scf:9@static", "static", "electronic steps did not converge in 100"),
    ("unconverged_ionic:9@relax", "relax", "did not converge in 36 ionic steps of 3 attempts"),
    ("killed:3@relax", "relax", "ended in the middle"),
    ("killed:2@relax", None, ""),  # the third attempt goes through
    ("truncated:9@static", "static", "ended in the middle"),
    ("disk_full:9@relax", "relax", "error during write, unit 12"),
    ("killed:9@uniform", "bands", "ended in the middle"),
    ("walltime:9@relax", "relax", r"ionic steps of \d attempts"),
    ("zbrent:1@relax", None, ""),
    ("brmix:1@static", None, ""),
]


@pytest.mark.parametrize(("fail", "stage", "words"), FAILURES, ids=[f[0] for f in FAILURES])
def test_a_failing_run_ends_as_a_document_or_is_mended(
    fail: str, stage: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_VASP_FAIL", fail)
    changes = {"walltime_s": 5, "max_relax_steps": 4} if fail.startswith("walltime") else {"max_relax_steps": 12}
    database = memory_database()
    config = campaign(tmp_path, {"bn": boron_nitride()}, **changes)
    config = config.model_copy(update={"gate": config.gate.model_copy(update={"phonon_max_atoms": 1})})
    result = run_campaign(config, database, processes=1)
    build_all(database)
    (candidate,) = CandidateDB(database).find(campaign="v")
    failures = CandidateDB(database).failures("v")
    if stage is None:
        assert (result.failed, failures) == (0, [])
        assert candidate.state is CandidateState.COMPLETED
        return
    (failure,) = failures
    killed = fail.startswith(("killed", "truncated", "disk_full"))
    assert (failure.stage, failure.error_type) == (stage, "ProgramKilled" if killed else "EngineError")
    assert re.search(words, failure.message)
    assert candidate.stages[stage].status == "failed"
    assert candidate.stages[stage].reason is not None
    if stage == "bands":  # the candidate goes on without them
        assert candidate.state is CandidateState.COMPLETED
    else:
        assert candidate.state is CandidateState.FAILED
        assert re.search(words, candidate.reason or "")
    # an end: nothing is pending, and nothing is tried again unless asked; then it goes through
    assert CandidateDB(database).campaign("v").funnel.pending == 0
    assert run_campaign(config, database, processes=1).computed == 0
    monkeypatch.delenv("STANDIN_VASP_FAIL")
    assert run_campaign(config, database, processes=1, retry_failed=True).failed == 0
    build_all(database)
    (candidate,) = CandidateDB(database).find(campaign="v")
    assert candidate.state is CandidateState.COMPLETED
    assert candidate.stages["bands"].status == "passed"


def test_a_program_that_cannot_begin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as `srun vasp_std` without its module: the launcher is there, so a submission accepts it, and VASP is not
    monkeypatch.setenv("SCDM_VASP_CMD", "env no-such-vasp")
    database = memory_database()
    run_campaign(campaign(tmp_path, {"bn": boron_nitride()}), database, processes=1)
    (failure,) = CandidateDB(database).failures("v")
    assert (failure.stage, failure.error_type) == ("relax", "ProgramKilled")
    assert re.search(r"VASP did not begin.*no-such-vasp", failure.message)
    assert "ended in the middle" not in failure.message


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Database]:
    """A database server of its own, whose address a launchpad folder beside it names."""
    settings = ScdmSettings(data_dir=tmp_path / "data")
    with connect(settings) as database:
        yield database
    EmbeddedServer(settings.data_dir).stop()


def rlaunch(folder: Path, database: Database) -> None:
    """Stock ``rlaunch -c FOLDER rapidfire`` until nothing is left to run."""
    from scdm_flows.execution.fireworks import write_worker_config

    launchpad = write_worker_config(database, folder / "launchpad").parent
    (folder / "work").mkdir(exist_ok=True)
    command = [str(Path(sys.executable).with_name("rlaunch")), "-c", str(launchpad), "rapidfire"]
    done = subprocess.run(
        command, cwd=folder / "work", env=dict(os.environ), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_rlaunch_reaches_the_same_end_and_a_failure_can_be_run_again(
    tmp_path: Path, server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    from scdm_flows.execution import fireworks as launch

    monkeypatch.setenv("STANDIN_VASP_FAIL", "truncated:1@relax@FeCl2, killed:1@uniform@BN")
    monkeypatch.setenv("SCDM_RETRY_LIMIT", "0")  # a killed program would be tried again
    config = campaign(tmp_path, {"bn": boron_nitride(), "fecl2": iron_chloride()})
    assert launch.submit(config, server) == 1
    rlaunch(tmp_path, server)
    assert launch.collect_failures(server, "v") == 2
    build_all(server)
    query = CandidateDB(server)
    by_formula = {c.formula: c for c in query.find(campaign="v")}
    # the first relaxation is a part of the stage relax, and the bands' uniform run one of bands
    assert {f.stage for f in query.failures("v")} == {"relax", "bands"}
    assert all("ended in the middle" in f.message for f in query.failures("v"))
    assert by_formula["FeCl2"].state is CandidateState.FAILED
    assert by_formula["BN"].state is CandidateState.COMPLETED  # without bands
    assert by_formula["BN"].stages["phonon"].status == "passed"
    assert launch.status(server, "v")["relax"] == {"COMPLETED": 2, "FIZZLED": 1, "WAITING": 1}
    # what has failed is tried again, executed otherwise: the gate in the queue knows the references by their old path
    engine: Any = config.engine
    moved = Path(engine.references).rename(tmp_path / "moved.json")
    engine = engine.model_copy(update={"references": str(moved), "walltime_s": 3600, "max_custodian_errors": 3})
    assert launch.submit(config.model_copy(update={"engine": engine}), server) == 0
    launchpad = launch.launchpad_of(server)
    for firework in list(launchpad.fireworks.find({"state": "FIZZLED"}, {"fw_id": 1})):
        launchpad.rerun_fw(firework["fw_id"])
    rlaunch(tmp_path, server)
    assert launch.collect_failures(server, "v") == 0
    build_all(server)
    assert len(check_complete(server)) == 2


def test_an_interrupted_stage_finds_its_finished_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scdm_flows.execution import jobs as execution

    database, real = memory_database(), execution.run_job

    def run_job(job: Any, store: Any, **spent: float) -> Any:
        if job.name.startswith("phonon 2/"):
            raise KeyboardInterrupt
        return real(job, store, **spent)

    config = campaign(tmp_path, {"bn": boron_nitride()})
    with monkeypatch.context() as patch:
        patch.setattr(execution, "run_job", run_job)
        with pytest.raises(KeyboardInterrupt, match="same command goes on"):
            run_campaign(config, database, processes=1)
    before = {
        d["uuid"]: d["completed_at"] for d in database.job_store.docs_store.query({"metadata.stage": {"$ne": "gate"}})
    }
    assert len(before) == 2 + 3 + 1  # generate and screen; two relaxations and the static run; one displacement
    assert run_campaign(config, database, processes=1).failed == 0
    after = {d["uuid"]: d["completed_at"] for d in database.job_store.docs_store.query({})}
    assert {uuid: after[uuid] for uuid in before} == before  # no run was made twice
    build_all(database)
    assert len(check_complete(database)) == 1
