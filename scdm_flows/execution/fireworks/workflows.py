"""Workflows put on the LaunchPad in bulk, and each only once.

A workflow has a key (``campaign:shard3``, ``campaign:candidate``) which is the ``_id`` of its document: whoever inserts
it first wins, however many try. Its fireworks have the ids that the document names, so an insertion that was cut short
is completed by the next one. Jobs that can start at once go in last: one that a worker can claim belongs to a workflow
that is there in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fireworks import Firework, LaunchPad, Workflow
from pymongo.errors import BulkWriteError

DUPLICATE_KEY = 11000
AT_ONCE = 200  # workflows inserted together
ADDED_BY = "added_by"  # spec key of children: uuid and index of the job that added them


def key_of(metadata: dict[str, Any]) -> str:
    """The key of a workflow with this metadata: its campaign and candidate, or shard, and the stage that is named."""
    key = f"{metadata['campaign']}:{metadata.get('candidate_id') or 'shard' + str(metadata['shard'])}"
    return f"{key}:{metadata['stage']}" if "stage" in metadata else key


def insert(launchpad: LaunchPad, workflows: Sequence[Workflow]) -> int:
    """Put workflows on the LaunchPad that are not there yet, and complete those that are there in part.

    Each needs ``campaign`` and ``candidate_id`` or ``shard`` in its metadata, and ``stage`` where it is a later stage
    of a candidate. The first jobs of the others are marked in the spec (``begins: candidate`` or ``shard``): work that
    a budget may hold back. Returns how many were new or completed.
    """
    return sum(_insert(launchpad, workflows[k : k + AT_ONCE]) for k in range(0, len(workflows), AT_ONCE))


def _insert(launchpad: LaunchPad, workflows: Sequence[Workflow]) -> int:
    by_key = {key_of(workflow.metadata): workflow for workflow in workflows}
    there = {d["_id"]: d["nodes"] for d in launchpad.workflows.find({"_id": {"$in": list(by_key)}}, {"nodes": 1})}
    # on a LaunchPad of an earlier scdm-flows they have other keys, or candidates are in the workflow of their shard
    first_jobs = {_roots(workflow)[0].spec["job_uuid"]: key for key, workflow in by_key.items() if key not in there}
    query = {"spec.job_uuid": {"$in": list(first_jobs)}}
    queued = {first_jobs[d["spec"]["job_uuid"]] for d in launchpad.fireworks.find(query, {"spec.job_uuid": 1})}
    new = {key: workflow for key, workflow in by_key.items() if key not in there and key not in queued}
    nodes = [node for ids in there.values() for node in ids]
    present = (
        {d["fw_id"] for d in launchpad.fireworks.find({"fw_id": {"$in": nodes}}, {"fw_id": 1})} if nodes else set()
    )
    cut = {key: by_key[key] for key, ids in there.items() if not present.issuperset(ids)}
    for key, workflow in cut.items():
        _number(workflow, min(there[key]))
    if new:
        first = launchpad.get_new_fw_id(quantity=sum(len(w) for w in new.values()))
        for workflow in new.values():
            _number(workflow, first)
            first += len(workflow)
        mine = _unless_there(
            launchpad.workflows, [{"_id": key, **workflow.to_db_dict()} for key, workflow in new.items()]
        )
        new = {key: new[key] for key in mine}
    _insert_fireworks(launchpad, [*new.values(), *cut.values()], present)
    return len(new) + len(cut)


def _roots(workflow: Workflow) -> list[Firework]:
    roots = set(workflow.root_fw_ids)
    return [firework for firework in workflow if firework.fw_id in roots]


def _number(workflow: Workflow, first: int) -> None:
    """Give the fireworks ids from ``first`` on, in their order, and let the first jobs be ready to run."""
    numbers = dict(zip(workflow.id_fw, range(first, first + len(workflow)), strict=True))
    for firework in workflow:
        firework.fw_id = numbers[firework.fw_id]
    workflow._reassign_ids(numbers)
    begins = "candidate" if "candidate_id" in workflow.metadata else "shard"
    for firework in _roots(workflow):
        firework.state = workflow.fw_states[firework.fw_id] = "READY"
        if "stage" not in workflow.metadata:
            firework.spec["begins"] = begins


def _insert_fireworks(launchpad: LaunchPad, workflows: Sequence[Workflow], present: set[int]) -> None:
    fireworks = [firework for workflow in workflows for firework in workflow if firework.fw_id not in present]
    for ready in (False, True):
        batch = [f.to_db_dict() for f in fireworks if (f.state == "READY") is ready]
        if batch:
            _unless_there(launchpad.fireworks, batch)


def _unless_there(collection: Any, documents: list[dict[str, Any]]) -> list[Any]:
    """Insert documents, passing over those whose unique key is taken; returns the ``_id`` of what was inserted."""
    try:
        return list(collection.insert_many(documents, ordered=False).inserted_ids)
    except BulkWriteError as error:
        failed = error.details["writeErrors"]
        if any(e["code"] != DUPLICATE_KEY for e in failed):
            raise
        taken = {e["index"] for e in failed}
        return [d["_id"] for index, d in enumerate(documents) if index not in taken]
