"""Flows on the LaunchPad: each workflow once whoever inserts it, small, cut insertions completed; schemas remembered."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from jobflow import Flow, job
from jobflow.core import reference
from support.layers import mx2

from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.documents import ScreenedCandidate
from scdm_flows.errors import CampaignError
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution.fireworks.firetask import PRIORITY, workflow_of
from scdm_flows.execution.fireworks.workflows import insert
from scdm_flows.flows.campaign import shard_flow
from scdm_flows.flows.gate import phonon_flow
from scdm_flows.flows.layer import candidate_flow
from scdm_flows.stores import Database
from scdm_flows.stores.library_faults import remember_schemas

pytest.importorskip("secantus", reason="the embedded server is an optional extra")


def config(kind: str = "vasp") -> CampaignConfig:
    engine = {"kind": "vasp", "references": "none.json"} if kind == "vasp" else {"kind": kind}
    return parse_config({"name": "w", "generator": {"kind": "files", "paths": ["."]}, "engine": engine})


def candidates(campaign: CampaignConfig, n: int) -> list[Any]:
    """Workflows of ``n`` candidates, made anew."""
    made = []
    for k in range(n):
        structure = mx2("1H", a=3.1 + 0.01 * k).as_dict()
        screened = ScreenedCandidate(
            candidate_id=f"w-{k}", index=k, generator="files", structure=structure, accepted=True, formula="MoS2"
        )
        made.append(workflow_of(candidate_flow(campaign, screened), campaign="w", candidate_id=f"w-{k}"))
    return made


def fireworks_of(launchpad: Any) -> dict[int, Any]:
    """Id -> state and spec, without the job, whose flow gets a new uuid each time it is built."""
    found = launchpad.fireworks.find({}, {"state": 1, "fw_id": 1, "spec": 1})
    return {f["fw_id"]: (f["state"], {k: v for k, v in f["spec"].items() if k != "_tasks"}) for f in found}


def test_a_job_that_needs_another_workflows_output_is_refused() -> None:
    elsewhere = job(sum)([1, 2])
    with pytest.raises(CampaignError, match=f"take the output of {elsewhere.uuid}, which are not in it"):
        workflow_of(Flow([job(sum)([elsewhere.output, 1])], name="half"))


def test_output_names_are_checked_as_before_and_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from atomate2.vasp.jobs.core import StaticMaker
    from emmet.core.tasks import TaskDoc

    remember_schemas()
    remembered: Any = reference.validate_schema_access
    remember_schemas()
    assert reference.validate_schema_access is remembered  # a second call changes nothing
    remembered.cache_clear()
    calls = []
    real = TaskDoc.model_json_schema
    monkeypatch.setattr(TaskDoc, "model_json_schema", classmethod(lambda cls: (calls.append(1), real())[1]))
    job = StaticMaker().make(mx2("1H"))
    for _ in range(20):
        found = job.output.structure
    assert len(calls) == 1  # jobflow alone makes the schema for each of the twenty
    assert found.attributes == (("a", "structure"),)
    for _ in range(2):  # a refusal is not remembered as an answer
        with pytest.raises(AttributeError, match="does not have attribute 'structur'"):
            _ = job.output.structur
    remembered.cache_clear()


def test_inserting_again_adds_nothing_and_a_cut_insertion_is_completed(database: Database) -> None:
    launchpad = launch.launchpad_of(database)
    assert insert(launchpad, candidates(config(), 3)) == 3
    assert insert(launchpad, candidates(config(), 3)) == 0
    before = fireworks_of(launchpad)
    assert len(before) == 3 * 4  # two relaxations, static, gate
    assert launchpad.workflows.count_documents({}) == 3
    # killed in between: a workflow with nothing in it, and one without its first job, which goes in last
    nodes = {d["_id"]: sorted(d["nodes"]) for d in launchpad.workflows.find({}, {"nodes": 1})}
    assert before[nodes["w:w-1"][0]][0] == "READY"
    launchpad.fireworks.delete_many({"fw_id": {"$in": nodes["w:w-0"]}})
    launchpad.fireworks.delete_one({"fw_id": nodes["w:w-1"][0]})
    assert insert(launchpad, candidates(config(), 3)) == 2
    assert fireworks_of(launchpad) == before
    assert insert(launchpad, candidates(config(), 3)) == 0


def test_many_inserting_at_the_same_moment_make_one_set(database: Database) -> None:
    launchpad = launch.launchpad_of(database)
    sets = [candidates(config("forcefield"), 20) for _ in range(4)]  # built before, so that they meet
    barrier, new = threading.Barrier(4), []

    def go(workflows: list[Any]) -> None:
        barrier.wait()
        new.append(insert(launchpad, workflows))

    threads = [threading.Thread(target=go, args=(workflows,)) for workflows in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(new) == 4
    assert launchpad.workflows.count_documents({}) == 20
    fireworks = list(launchpad.fireworks.find({}, {"fw_id": 1, "spec.job_uuid": 1}))
    assert len(fireworks) == len({f["spec"]["job_uuid"] for f in fireworks}) == 20 * 3
    nodes = [node for d in launchpad.workflows.find({}, {"nodes": 1}) for node in d["nodes"]]
    assert sorted(nodes) == sorted(f["fw_id"] for f in fireworks)


def test_stock_fireworks_reads_and_steers_what_was_inserted(database: Database) -> None:
    launchpad = launch.launchpad_of(database)
    insert(launchpad, candidates(config("forcefield"), 1))
    (first,) = launchpad.get_fw_ids({"state": "READY"})
    workflow = launchpad.get_wf_by_fw_id(first)
    assert [f.spec["stage"] for f in workflow] == ["relax", "static", "gate"]
    assert workflow.links[first] == [first + 1, first + 2]
    launchpad.pause_wf(first)
    assert set(launchpad.get_wf_by_fw_id(first).fw_states.values()) == {"PAUSED"}
    launchpad.resume_fw(first)
    assert launchpad.get_fw_by_id(first).state == "READY"


@pytest.mark.parametrize(("kind", "own"), [("vasp", "vasp"), ("forcefield", "compute")])
def test_every_job_asks_for_a_worker_that_has_what_it_needs(kind: str, own: str) -> None:
    campaign = config(kind)
    flows = [shard_flow(campaign, 0), phonon_flow(campaign, "w-0", mx2("1H"))]
    (workflow,) = candidates(campaign, 1)
    for made in (workflow, *map(workflow_of, flows)):
        for firework in made:
            spec = firework.spec
            stage = spec.get("stage") or spec["part_of"]
            wanted = {"generate": "generate", "screen": "generate", "gate": "compute"}.get(stage, own)
            assert (stage, spec["_category"], spec["_priority"]) == (stage, wanted, PRIORITY[stage])
    # what is furthest goes first; parts of a stage as the stage
    order = ["generate", "screen", "relax", "static", "gate", "phonon", "bands"]
    assert sorted(order, key=PRIORITY.__getitem__) == order
