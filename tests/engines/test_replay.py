"""Outputs of real VASP 6 runs (bulk silicon) through atomate2's flows, and our makers: what they say is what comes out.

The runs are those of atomate2's own tests; ``monkeypatch_vasp`` compares the inputs that the makers write with the
inputs of the runs, and gives the outputs of the runs back. Expected numbers are read off OSZICAR, OUTCAR and the bands.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atomate2.utils.testing.vasp import monkeypatch_vasp
from atomate2.vasp.flows.core import BandStructureMaker, DoubleRelaxMaker
from atomate2.vasp.flows.phonons import PhononMaker
from atomate2.vasp.jobs.core import RelaxMaker, StaticMaker
from emmet.core.tasks import TaskDoc
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Structure

from scdm_flows.analysis.gate import Relaxation
from scdm_flows.config import VaspEngineConfig, parse_config
from scdm_flows.documents import GapKind
from scdm_flows.engines.jobs import bands_summary
from scdm_flows.engines.vasp import makers
from scdm_flows.engines.vasp.engine import VaspEngine
from scdm_flows.errors import EngineError

CHECKED = ["NSW", "ISMEAR", "ISIF", "IBRION", "ICHARG", "EDIFF", "NELM", "PREC", "LORBIT"]
Replay = Callable[..., dict[str, Any]]


@pytest.fixture
def silicon() -> Structure:
    """The primitive cell that the runs began with."""
    lattice = [[3.348898, 0.0, 1.933487], [1.116299, 3.157372, 1.933487], [0.0, 0.0, 3.866975]]
    return Structure(lattice, ["Si", "Si"], [[0.25, 0.25, 0.25], [0.0, 0.0, 0.0]])


@pytest.fixture
def replay(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Runs a flow on stored outputs, given by job name; outputs by job name."""
    archives = sorted((shared_data / "vasp").glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"no outputs of VASP runs at {shared_data / 'vasp'}")
    for archive in archives:
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path / "runs", filter="data")
    # the charge density is not among the stored files, and nothing reads it
    (tmp_path / "runs" / "Si_band_structure" / "static" / "outputs" / "CHGCAR").touch()
    for mock in monkeypatch_vasp(monkeypatch, tmp_path / "runs", nelect=8):

        def run(folders: dict[str, str], flow: Any, checked: Any = None, mock: Any = mock) -> dict[str, Any]:
            mock(folders, checked or {name: {"incar_settings": CHECKED} for name in folders})
            (tmp_path / "work").mkdir()
            monkeypatch.chdir(tmp_path / "work")
            store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
            found = run_locally(flow, create_folders=True, store=store, ensure_success=True, raise_immediately=True)
            names = {document["uuid"]: document["name"] for document in store.query(properties=["uuid", "name"])}
            return {names[uuid]: list(responses.values())[-1].output for uuid, responses in found.items()}

        yield run


def test_double_relaxation(replay: Replay, silicon: Structure) -> None:
    folders = {"relax 1": "Si_double_relax/relax_1", "relax 2": "Si_double_relax/relax_2"}
    outputs = replay(folders, DoubleRelaxMaker.from_relax_maker(RelaxMaker()).make(silicon))
    first, second = outputs["relax 1"], outputs["relax 2"]
    assert first.output.energy == pytest.approx(-10.850436, abs=1e-6)
    assert second.output.energy == pytest.approx(-10.841776, abs=1e-6)
    assert second.output.bandgap == pytest.approx(0.6098, abs=1e-4)
    assert second.state == "successful"
    assert second.vasp_version == "6.2.1"
    assert "stand-in" not in str(second.vasp_version)


def test_static_and_bands(replay: Replay, silicon: Structure) -> None:
    folders = {
        "static": "Si_band_structure/static",
        "non-scf uniform": "Si_band_structure/non-scf_uniform",
        "non-scf line": "Si_band_structure/non-scf_line",
    }
    outputs: dict[str, TaskDoc] = replay(folders, BandStructureMaker().make(silicon))
    assert outputs["static"].output.energy == pytest.approx(-10.850371, abs=1e-6)
    gaps = {"static": 0.6172, "non-scf uniform": 0.6503, "non-scf line": 0.6107}
    for name, gap in gaps.items():
        assert outputs[name].output.bandgap == pytest.approx(gap, abs=1e-4)
        assert outputs[name].calcs_reversed[0].output.is_gap_direct is False


def test_phonons(replay: Replay, tmp_path: Path) -> None:
    folders = {"static": "Si_phonons_2/static", "phonon static 1/1": "Si_phonons_2/phonon_static_1_1"}
    maker = PhononMaker(
        min_length=3.0,
        bulk_relax_maker=None,
        static_energy_maker=StaticMaker(),
        born_maker=None,
    )
    cell = Structure.from_file(tmp_path / "runs" / "Si_phonons_2" / "static" / "inputs" / "POSCAR.gz")
    outputs = replay(folders, Flow([maker.make(cell)]))
    assert outputs["static"].output.energy == pytest.approx(-45.964419, abs=1e-6)
    displaced = outputs["phonon static 1/1"]
    assert displaced.output.energy == pytest.approx(-45.964733, abs=1e-6)
    (document,) = (value for name, value in outputs.items() if "generate_frequencies" in name)
    assert document.supercell_matrix == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    # by hand: at Gamma the two sublattices move against each other, so m w^2 = 2 K with K the force that comes back
    # on the sublattice of the atom that was displaced, by 0.01 angstrom along x
    sublattice = (np.abs((cell.frac_coords - cell.frac_coords[0] + 0.25) % 0.5 - 0.25) < 0.01).all(axis=1)
    assert sublattice.sum() == 4
    constant = -np.array(displaced.output.forces)[sublattice, 0].sum() / 0.01  # eV/angstrom^2
    thz = np.sqrt(2 * constant * 16.02176634 / (28.0855 * 1.66053907e-27)) / (2 * np.pi * 1e12)
    optical = document.phonon_bandstructure.bands[-3:, 0]
    assert optical == pytest.approx([thz] * 3, rel=2e-3)
    assert thz == pytest.approx(15.53, rel=0.04)  # measured (Dolling 1963); PBE-type functionals are a little softer


def unchecked(folders: dict[str, str]) -> Any:
    """Runs whose inputs are compared with nothing: ours are for layers, those of the runs for a crystal."""
    return {name: {"check_inputs": []} for name in folders}


@pytest.fixture
def crystals_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our makers take a bulk crystal, which they refuse otherwise."""
    monkeypatch.setattr(makers, "layer_problems", lambda *_: [])
    monkeypatch.setattr(
        makers, "check_k_points", lambda *_: None
    )  # the crystal's are others, and not among its outputs


@pytest.mark.usefixtures("crystals_too")
def test_our_makers_read_a_static_run_and_bands(replay: Replay, silicon: Structure) -> None:
    engine = VaspEngine(VaspEngineConfig())
    config = parse_config({"name": "real", "engine": {"kind": "vasp"}})
    static: Any = engine.static_maker()
    job = static.make(silicon)
    folder = "Si_band_structure"
    folders = {"static": f"{folder}/static", "uniform": f"{folder}/non-scf_uniform", "line": f"{folder}/non-scf_line"}
    bands: Any = engine.bands_maker()
    uniform = bands.uniform_maker.make(silicon, prev_dir=job.output.dir_name, mode="uniform")
    line = bands.line_maker.make(silicon, prev_dir=job.output.dir_name, mode="line")
    outputs = replay(folders, Flow([job, uniform, line]), unchecked(folders))
    summary = engine.static_summary(outputs["static"])
    assert summary.energy_per_atom == pytest.approx(-10.850371 / 2, abs=1e-6)
    assert summary.band_gap_ev == pytest.approx(0.6172, abs=1e-4)
    assert summary.gap_kind is GapKind.INDIRECT
    assert summary.engine_version == "6.2.1"
    assert (summary.spin_polarised, summary.magnetic) == (True, False)  # ISPIN = 2, and silicon has no moment
    left = Path(str(summary.folder).partition(":")[2])
    assert list(left.glob("CHGCAR*"))  # the bands begin with it
    document = bands_summary.original(
        config.model_dump(mode="json"), "real-1", summary.model_dump(mode="json"), outputs["uniform"], outputs["line"]
    )
    # the top of the valence bands is at Gamma, which is on both, the bottom of the conduction bands nearer on the line
    assert document.band_gap_ev == pytest.approx(0.6107, abs=1e-4)
    assert document.gap_kind is GapKind.INDIRECT
    assert document.dos is not None
    assert document.engine_version == "6.2.1"
    assert not list(left.glob("CHGCAR*"))


@pytest.mark.usefixtures("crystals_too")
def test_our_makers_read_a_double_relaxation(replay: Replay, silicon: Structure) -> None:
    folders = {"relax 1": "Si_double_relax/relax_1", "relax 2": "Si_double_relax/relax_2"}
    flow = VaspEngine(VaspEngineConfig()).relax_maker().make(silicon)
    second = replay(folders, flow, unchecked(folders))["relax 2"]
    relaxation = Relaxation.of_task(second)
    assert second.output.energy == pytest.approx(-10.841776, abs=1e-6)
    assert (relaxation.converged, relaxation.steps) == (True, 1)  # by symmetry there are no forces
    assert relaxation.max_force == pytest.approx(0, abs=1e-6)
    assert relaxation.structure.lattice.c == pytest.approx(3.866975, abs=1e-6)


@pytest.mark.usefixtures("crystals_too")
def test_our_makers_see_that_a_relaxation_has_moved_c(replay: Replay, silicon: Structure) -> None:
    engine: Any = VaspEngine(VaspEngineConfig())
    folders = {"relax 1": "Si_double_relax/relax_1"}
    silicon.scale_lattice(1.01**3 * silicon.volume)  # as if the run had begun with that
    with pytest.raises(EngineError, match=r"c moved by 0\.\d+ angstrom .* this VASP \(6\.2\.1\)"):
        replay(folders, engine.relax_maker().relax_maker1.make(silicon), unchecked(folders))
