"""Flows: deterministic uuids, metadata to find jobs by, categories, bounded size."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.layers import mx2

from scdm_flows.analysis.screening import screen
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.documents import ScreenedCandidate, StaticSummary
from scdm_flows.documents.static import MagneticOrder
from scdm_flows.errors import EngineError, StructureError
from scdm_flows.flows import gate as gate_module
from scdm_flows.flows.campaign import shard_count, shard_flow
from scdm_flows.flows.gate import bands_flow, phonon_flow
from scdm_flows.flows.layer import candidate_flow
from scdm_models.datasets.known import KnownLayers


@pytest.fixture
def config(tmp_path: Path) -> CampaignConfig:
    """Three structures in shards of two."""
    for name, structure in {"a": mx2("1H"), "b": mx2("1T"), "c": mx2("1H", a=3.6)}.items():
        structure.to(str(tmp_path / f"{name}.cif"))
    return parse_config({"name": "t", "generator": {"kind": "files", "paths": [str(tmp_path)], "shard_size": 2}})


@pytest.fixture
def candidate(config: CampaignConfig) -> ScreenedCandidate:
    records = [{"index": 0, "structure": mx2("1H").as_dict()}]
    return screen(config, records, KnownLayers.build([])[0])[0]


def described(flow: Any) -> list[tuple[str, str]]:
    return [(job.uuid, job.metadata["stage"]) for job, _ in flow.iterflow()]


def test_shards_cover_the_samples(config: CampaignConfig) -> None:
    assert shard_count(config) == (2, 3)


def test_the_same_campaign_has_the_same_uuids_and_another_has_others(
    config: CampaignConfig, candidate: ScreenedCandidate
) -> None:
    first = described(candidate_flow(config, candidate))
    assert first == described(candidate_flow(config, candidate))
    assert [stage for _, stage in first] == ["relax", "static", "gate"]
    changed = config.model_copy(update={"description": "changed"})
    other = described(candidate_flow(changed, candidate))
    shard = described(shard_flow(config, 0))
    assert [stage for _, stage in shard] == ["generate", "screen"]
    every = [u for u, _ in [*first, *other, *shard, *described(shard_flow(config, 1))]]
    assert len(set(every)) == len(every)
    assert all(uuid.UUID(u).version == 5 for u in every)


def test_jobs_can_be_found_and_keep_their_category(config: CampaignConfig, candidate: ScreenedCandidate) -> None:
    for job, _ in candidate_flow(config, candidate).iterflow():
        assert job.metadata["campaign"] == "t"
        assert job.metadata["candidate_id"] == candidate.candidate_id
        assert job.config.manager_config["_category"] == "compute"
        # jobflow would else overwrite the children's category with the parent's
        assert not job.config.pass_manager_config
    for job, _ in shard_flow(config, 1).iterflow():
        assert job.metadata["shard"] == 1
        assert job.config.manager_config["_category"] == "generate"


def test_flows_survive_json(config: CampaignConfig, candidate: ScreenedCandidate) -> None:
    from jobflow import Flow
    from monty.json import MontyDecoder, MontyEncoder

    flow = candidate_flow(config, candidate)
    again = MontyDecoder().decode(json.dumps(flow, cls=MontyEncoder))
    assert isinstance(again, Flow)
    assert described(again) == described(flow)


def test_phonons_end_in_one_job_with_the_stages_uuid(config: CampaignConfig) -> None:
    from scdm_flows.flows.identity import job_uuid

    last = described(phonon_flow(config, "t-1", mx2("1H")))[-1]
    assert last == (job_uuid(config, "t-1", "phonon"), "phonon")


@pytest.mark.parametrize("stage", ["relax", "phonon", "bands"])
def test_parts_of_a_stage_keep_their_uuids_and_their_links(config: CampaignConfig, stage: str) -> None:
    """An interrupted stage of many VASP runs finds those that are finished again."""
    from scdm_flows.documents import StaticSummary
    from scdm_flows.flows.identity import job_uuid

    vasp = parse_config({**config.model_dump(), "engine": {"kind": "vasp"}})
    candidate = screen(vasp, [{"index": 0, "structure": mx2("1H").as_dict()}], KnownLayers.build([])[0])[0]
    static = StaticSummary(energy_per_atom=-7.0, folder="host:/static")

    def made() -> list[Any]:
        flow = {
            "relax": lambda: candidate_flow(vasp, candidate),
            "phonon": lambda: phonon_flow(vasp, "t-1", mx2("1H")),
            "bands": lambda: bands_flow(vasp, "t-1", mx2("1H"), static),
        }[stage]()
        found = [job for job, _ in flow.iterflow()]
        return [j for j in found if stage in (j.metadata.get("stage"), j.metadata.get("part_of"))]

    first, again = made(), made()
    assert [job.uuid for job in first] == [job.uuid for job in again]
    *parts, last = first
    assert parts
    assert all("stage" not in job.metadata and job.metadata["keep_folder"] for job in parts)
    assert last.metadata["stage"] == stage
    assert last.uuid == job_uuid(vasp, last.metadata["candidate_id"], stage)
    # what a job refers to is a job of the stage, by its new uuid
    known = {job.uuid for job in first}
    assert any(job.input_uuids for job in first)
    assert all(set(job.input_uuids) <= known for job in first)


def test_a_run_that_joined_a_stage_later_takes_no_other_runs_uuid(config: CampaignConfig) -> None:
    """Displacements that were finished before phonons had runs at rest and in strained cells are found again."""
    from scdm_flows.flows.identity import job_uuid

    vasp = parse_config({**config.model_dump(), "engine": {"kind": "vasp"}})
    *parts, _ = [job for job, _ in phonon_flow(vasp, "t-1", mx2("1H")).iterflow()]
    runs = {job.name.removesuffix(" t-1"): job.uuid for job in parts}
    displaced = [f"phonon {k}/3" for k in (1, 2, 3)]  # of 1H-MoS2: Mo in the plane, S in it and along c
    known = {name: job_uuid(vasp, "t-1", f"phonon:{k}") for k, name in enumerate(displaced, 1)}
    assert {name: runs.pop(name) for name in displaced} == known
    added = {"phonon undisplaced": "undisplaced", "strain xx+": "strain xx+", "strain xx-": "strain xx-"}
    assert runs == {name: job_uuid(vasp, "t-1", f"phonon:{run}") for name, run in added.items()}


def test_a_candidate_without_structure_is_refused(config: CampaignConfig) -> None:
    empty = ScreenedCandidate(
        candidate_id="t-1", index=0, generator="files", structure=None, accepted=False, reason="unreadable"
    )
    with pytest.raises(StructureError, match=r"t-1 has no structure \(unreadable\)"):
        candidate_flow(config, empty)


@pytest.mark.parametrize(
    ("order", "moments", "expected"),
    [
        (MagneticOrder.FM, [3.0, 0.1, 0.1], [3.0, 0.1, 0.1]),  # the relaxation ended otherwise
        (MagneticOrder.NM, None, [0.0, 0.0, 0.0]),
        (None, [3.0, 0.1, 0.1], [-2.0, 0.0, 0.0]),  # no other order was tried
    ],
)
def test_what_follows_the_gate_begins_with_the_moments_of_the_lowest_order(
    config: CampaignConfig,
    candidate: ScreenedCandidate,
    monkeypatch: pytest.MonkeyPatch,
    order: MagneticOrder | None,
    moments: list[float] | None,
    expected: list[float],
) -> None:
    class Engine:
        surrogate, static_scheme, cannot = False, "t", {}

        def static_summary(self, task: StaticSummary) -> StaticSummary:
            return task

        def references(self) -> None:
            raise EngineError("none")

        def no_bands_to_come(self, static: StaticSummary) -> None:
            pass

    monkeypatch.setattr(gate_module, "engine_of", lambda _: Engine())
    layer = mx2("1H")
    layer.add_site_property("magmom", [-2.0, 0.0, 0.0])
    relaxed = SimpleNamespace(structure=layer, output=SimpleNamespace(forces=None, n_steps=1), state="successful")
    static = StaticSummary(energy_per_atom=-7.0, magnetic_order=order, atom_magnetizations=moments)
    screened = candidate.model_dump(mode="json", exclude={"structure"})
    response = gate_module.gate.original(config.model_dump(mode="json"), screened, mx2("1H"), relaxed, static)
    assert response.output.relaxed_structure.site_properties["magmom"] == expected
