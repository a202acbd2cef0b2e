"""Every engine keeps the contract; the force field relaxes in the plane only and its phonons are right."""

from __future__ import annotations

import json
import typing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.config import engines as configs
from scdm_flows.config import parse_config
from scdm_flows.documents import BandsDoc, PhononDoc, StageName, StaticSummary
from scdm_flows.engines import ENGINES, engine_of
from scdm_flows.engines.forcefield.engine import ForceFieldEngine
from scdm_flows.errors import EngineError, ReferenceDataError
from scdm_flows.execution.jobs import hushed

CAMPAIGN = parse_config({"name": "t"})


def engine_configs() -> dict[str, Any]:
    """The default configuration of every kind that a campaign file may name."""
    union = typing.get_args(typing.get_args(configs.EngineConfig)[0])
    return {model.model_fields["kind"].default: model() for model in union}


def test_every_kind_of_the_configuration_has_an_engine() -> None:
    assert set(ENGINES) == set(engine_configs())


@pytest.mark.parametrize("kind", sorted(ENGINES))
def test_contract(kind: str) -> None:
    from fireworks import Workflow
    from jobflow import Flow, Job, Maker
    from jobflow.core.flow import get_flow
    from monty.json import MontyEncoder

    from scdm_flows.execution.fireworks.firetask import workflow_of

    def check_queued(flow: Any) -> None:
        """Makers come back from FireWorks' files as they were, whether a job holds them or its function does."""
        queued = Workflow.from_format(workflow_of(flow).to_format())
        jobs = {task["job"].uuid: task["job"] for firework in queued.fws for task in firework.spec["_tasks"]}
        for one, _ in flow.iterflow():
            makers = [(one.maker, jobs[one.uuid].maker)]
            makers.append((getattr(one.function, "__self__", None), getattr(jobs[one.uuid].function, "__self__", None)))
            # JSON has no tuples, so the two are compared as they are written
            assert all(json.dumps(a, cls=MontyEncoder) == json.dumps(b, cls=MontyEncoder) for a, b in makers)

    engine = engine_of(engine_configs()[kind])
    assert engine.scheme
    assert isinstance(engine.surrogate, bool)
    assert all(isinstance(text, str) and ";" in text for text in engine.check())  # what is missing; the remedy
    for maker in (engine.relax_maker(), engine.static_maker()):
        assert isinstance(maker, Maker)
        job = maker.make(mx2("1H"))
        assert isinstance(job, Job | Flow)
        check_queued(get_flow(job))
    phonons = get_flow(engine.phonon_maker().make(mx2("1H"), CAMPAIGN, "t-1"))
    check_queued(phonons)
    assert [job for job, _ in phonons.iterflow()][-1].output_schema is PhononDoc
    static = StaticSummary(energy_per_atom=-7.0, folder="host:/somewhere")
    if StageName.BANDS.value in engine.cannot:
        assert engine.cannot[StageName.BANDS.value]  # the reason that candidates carry
        with pytest.raises(EngineError, match="no bands"):
            engine.bands_maker()
    else:
        bands = engine.bands_maker().make(mx2("1H"), CAMPAIGN, "t-1", static)
        assert [job for job, _ in bands.iterflow()][-1].output_schema is BandsDoc
    assert engine.layer_problems(mx2("1H")) == []
    stages = {cost.stage for cost in engine.cost(mx2("1H"))}
    runs = {run.partition("_")[0] for run in engine.input_files(mx2("1H")) if run}
    assert {stage.partition("_")[0] for stage in stages} == runs  # what reads files costs, and the other way round
    # energies are never judged by references of another scheme
    assert engine.static_scheme
    try:
        assert engine.references().scheme == engine.scheme
    except EngineError as error:
        assert engine.scheme in str(error)  # noqa: PT017
    except ReferenceDataError as error:
        assert ";" in str(error)  # what is missing; the remedy  # noqa: PT017


def chgnet(**settings: Any) -> ForceFieldEngine:
    """The engine with plain CHGNet."""
    return ForceFieldEngine(configs.ForceFieldEngineConfig(force_field="CHGNet", **settings))


def relaxed(structure: Structure, engine: ForceFieldEngine | None = None) -> Any:
    engine = engine or chgnet()
    store = memory_database().job_store
    with hushed():
        return engine.relax_maker().make(structure).run(store).output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makers leave files in the working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("here")
def test_relaxation_ends_in_the_same_plane_cell_and_keeps_c() -> None:
    found = [relaxed(mx2("1H", a=a, c=23.0)) for a in (3.05, 3.30)]
    for task in found:
        assert task.is_force_converged
        # the vacuum direction is masked out of the cell filter: exactly the c that was given
        assert np.allclose(task.structure.lattice.matrix[2], [0, 0, 23.0], atol=1e-10)
    a, b = (task.structure.lattice.a for task in found)
    assert a == pytest.approx(b, abs=0.01)
    assert a == pytest.approx(3.16, rel=0.02)  # experiment: 3.16 angstrom (bulk 2H-MoS2, Wyckoff 1963)


@pytest.mark.usefixtures("here")
def test_an_atom_without_neighbours_fails_with_the_reason() -> None:
    # CHGNet sees 6 angstrom far: a lattice of 9 angstrom has no neighbour in reach
    lonely = Structure(Lattice.hexagonal(9.0, 20.0), ["C"], [[0, 0, 0.5]])
    with pytest.raises(EngineError, match="isolated atom"):
        relaxed(lonely)


@pytest.mark.usefixtures("here")
def test_documents_say_which_force_field_made_them() -> None:
    lj = {"sigma": 2.1, "epsilon": 0.5, "rc": 6.0, "smooth": True}
    config = configs.ForceFieldEngineConfig(
        force_field="ase.calculators.lj:LennardJones", force_field_options=lj, max_relax_steps=5
    )
    engine = ForceFieldEngine(config)
    task = relaxed(mx2("1H"), engine)
    assert task.forcefield_name == config.force_field
    assert task.forcefield_version == version("ase")
    assert relaxed(mx2("1H"), chgnet(max_relax_steps=1)).forcefield_name == "CHGNet"
    # a job that was queued by the version before, whose maker holds atomate2's name and keyword arguments
    old = chgnet().relax_maker().as_dict() | {
        "force_field_name": "MLFF.CHGNet",
        "calculator_kwargs": {"use_device": "cpu", "on_isolated_atoms": "error", "stress_unit": "eV/A3"},
    }
    again = type(chgnet().relax_maker()).from_dict(old)
    assert (again.force_field_name, again.calculator_kwargs) == ("CHGNet", {})


def test_a_force_field_is_judged_by_references_of_its_own(tmp_path: Path) -> None:
    entries = [{"composition": {e: 1}, "energy": -5.0, "entry_id": e} for e in ("Mo", "S")]
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"scheme": "sevennet-0", "entries": entries}))
    config = configs.ForceFieldEngineConfig(force_field="SevenNet-0", references=str(path))
    engine = ForceFieldEngine(config)
    assert engine.scheme == engine.static_scheme == engine.references().scheme == "sevennet-0"
    assert engine.predicted(mx2("1H")) is None
    other = ForceFieldEngine(config.model_copy(update={"force_field": "SevenNet-l3i5"}))
    with pytest.raises(ReferenceDataError, match="those of sevennet-l3i5 are needed"):
        other.references()


@pytest.fixture(scope="module")
def layer() -> Structure:
    """1H-MoS2 at CHGNet's own minimum."""
    return mx2("1H", a=3.1947, half=1.5645, c=23.0)


def phonons(structure: Structure, **settings: Any) -> PhononDoc:
    with hushed():
        return chgnet(**settings).phonons("t-1", "t", structure)


def test_phonons_of_mos2(layer: Structure) -> None:
    doc = phonons(layer)
    assert doc.supercell == [
        [5, 0, 0],
        [0, 5, 0],
        [0, 0, 1],
    ]  # 5 * 3.19 * sin(60 degrees) > 12 angstrom, 1 along c
    bands = np.array(doc.frequencies_thz)
    assert bands.shape[1] == 9  # three modes for each atom
    assert np.array(doc.q_points)[:, 2] == pytest.approx(0)  # never along the vacuum
    assert [label for _, label in doc.labels] == ["Γ", "M", "K", "Γ"]
    # the translational sum rule: three modes of zero frequency at Gamma
    assert np.sort(np.abs(bands[0]))[:3] == pytest.approx(0, abs=0.01)
    assert doc.dynamically_stable
    # highest mode at Gamma, A2'': 14.1 THz by DFT (Molina-Sanchez and Wirtz, Phys. Rev. B 84, 155413 (2011));
    # CHGNet is known to be soft, by about a tenth
    assert bands[0].max() == pytest.approx(14.1, rel=0.2)
    assert doc.surrogate
    assert doc.energy_scheme == "chgnet-0.3.0"


def test_a_compressed_sheet_buckles(graphene: Structure) -> None:
    # theory: a membrane under compression has an unstable flexural branch (Euler buckling)
    squeezed = Structure(Lattice.hexagonal(2.46 * 0.92, 20), graphene.species, graphene.frac_coords)
    doc = phonons(squeezed)
    assert not doc.dynamically_stable
    assert "imaginary mode" in (doc.reason or "")
    assert doc.min_frequency_thz < -doc.threshold_thz


def test_phonons_agree_with_atomate2s_flow(layer: Structure, tmp_path: Path) -> None:
    """The same force constants as ``PhononMaker``'s, which computes each displacement in a job of its own."""
    from atomate2.forcefields.flows.phonons import PhononMaker
    from jobflow import run_locally

    from scdm_flows.engines.jobs import phonon_summary

    engine = chgnet(phonon_min_length_angstrom=8.0)
    own = phonons(layer, phonon_min_length_angstrom=8.0)
    maker = PhononMaker(
        displacement=own.displacement_angstrom,
        bulk_relax_maker=None,
        static_energy_maker=None,
        born_maker=None,
        phonon_displacement_maker=engine.static_maker(),
        generate_frequencies_eigenvectors_kwargs={"npoints_band": 3},
    )
    flow = maker.make(layer, supercell_matrix=own.supercell)
    summary = phonon_summary(CAMPAIGN.model_dump(mode="json"), "t-1", layer, flow.output, maker.displacement)
    store = memory_database().job_store
    with hushed():
        done = run_locally([flow, summary], store=store, root_dir=tmp_path, log=False, raise_immediately=True)
    theirs = done[summary.uuid][1].output
    assert theirs.n_displacements == own.n_displacements
    # ours also takes the residual forces off
    assert np.array(theirs.frequencies_thz) == pytest.approx(np.array(own.frequencies_thz), abs=0.01)
