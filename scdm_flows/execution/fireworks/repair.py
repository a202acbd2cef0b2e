"""Repairs of one workflow, each under FireWorks' own lock of it, and of locks that nobody holds any more.

Whatever is repaired is looked at again inside the lock, so several processes may repair the same workflow: the second
finds nothing to do. FireWorks replaces a workflow's document in one write, together with the links to new children: a
job whose end the document does not show has no children in it, and its action can be applied again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fireworks import LaunchPad, Workflow
from fireworks.core.launchpad import LazyFirework, LockedWorkflowError, WFLock
from pymongo import UpdateOne

from scdm_flows.execution.fireworks.progress import span
from scdm_flows.execution.fireworks.retries import utc
from scdm_flows.execution.fireworks.workflows import ADDED_BY

LOCK_WAIT_SECONDS = 3.0  # for a lock that another process holds; then the workflow is left to the next pass
FOUND_BY = "found_by"  # key of an entry in the history of a launch that its worker did not write
WATCH_SECONDS = 5.0  # a lock that nobody seems to hold is freed if the workflow does not change meanwhile


class WorkflowBusyError(Exception):
    """Another process holds the workflow's lock."""


@contextmanager
def locked(launchpad: LaunchPad, node: int) -> Iterator[None]:
    """Hold the lock of the workflow that has this firework; ``WorkflowBusyError`` if it is not to be had."""
    lock = WFLock(launchpad, node, expire_secs=LOCK_WAIT_SECONDS, kill=False)
    try:
        lock.__enter__()
    except LockedWorkflowError:
        raise WorkflowBusyError from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


@dataclass
class Mended:
    """What was done to a workflow: fireworks whose state changed, and children that were taken in."""

    changed: set[int] = field(default_factory=set)
    adopted: set[int] = field(default_factory=set)


def refresh(launchpad: LaunchPad, key: Any, nodes: Sequence[int]) -> Mended:
    """Bring fireworks of the workflow with this ``_id``, and its document, in step with their launches.

    An action that was not applied, or in part only, is applied; children that it had inserted are taken in as they
    are. Raises ``WorkflowBusyError``.
    """
    with locked(launchpad, nodes[0]):
        document = launchpad.workflows.find_one({"_id": key})
        find = partial(launchpad.fireworks.find_one, projection={"state": 1})  # lists of ids are slow, see ``span``
        states = {node: find({"fw_id": node})["state"] for node in document["nodes"]}
        shown = {int(k): v for k, v in document["fw_states"].items()}
        unseen = [n for n in nodes if states[n] == "COMPLETED" != shown[n]]
        for node in unseen:  # FireWorks applies an action when it sees the state change
            launchpad.fireworks.update_one({"fw_id": node, "state": "COMPLETED"}, {"$set": {"state": "RUNNING"}})
            states[node] = "RUNNING"
        workflow = launchpad.get_wf_by_fw_id_lzyfw(nodes[0])
        workflow.fw_states.update(states)
        updated: set[int] = set()
        for node in sorted(nodes):
            if states[node] != "RESERVED":  # a worker is about to start a reserved one
                updated = set(workflow.refresh(node, updated))
        adopted = _adopt(launchpad, workflow, updated)
        changed = {n for n, state in workflow.fw_states.items() if n > 0 and state != shown.get(n)} | updated
        launchpad._update_wf(workflow, updated)
    return Mended({n for n in changed if n > 0}, adopted)


def _adopt(launchpad: LaunchPad, workflow: Workflow, updated: set[int]) -> set[int]:
    """Put children that were inserted already in the place of those that an action is about to insert.

    They may have been claimed, so they stay as they are. Returns their ids.
    """
    new = {_identity(fw.spec): number for number, fw in workflow.id_fw.items() if number < 0 and ADDED_BY in fw.spec}
    if not new:
        return set()
    query = {f"spec.{ADDED_BY}": {"$in": sorted({origin for _, origin in new})}}
    fields = {"fw_id": 1, "state": 1, "spec.job_uuid": 1, f"spec.{ADDED_BY}": 1}
    left = {d["fw_id"]: d for d in launchpad.fireworks.find(query, fields) if _identity(d["spec"]) in new}
    for inside in launchpad.workflows.find({"nodes": {"$in": list(left)}}, {"nodes": 1}):
        left = {number: d for number, d in left.items() if number not in inside["nodes"]}
    numbers = {new[_identity(d["spec"])]: number for number, d in left.items()}
    workflow._reassign_ids(numbers)
    for number in numbers.values():
        workflow.id_fw[number] = LazyFirework(
            number, launchpad.fireworks, launchpad.launches, launchpad.gridfs_fallback
        )
        workflow.fw_states[number] = left[number]["state"]
    updated.difference_update(numbers)
    return set(numbers.values())


def _identity(spec: dict[str, Any]) -> tuple[str, str]:
    """What tells a child from all others: its job and the job that added it."""
    return str(spec.get("job_uuid")), str(spec.get(ADDED_BY))


def rerun(launchpad: LaunchPad, nodes: Sequence[int], state: str) -> set[int]:
    """Let fireworks of one workflow run again that are in this state still; returns which. ``WorkflowBusyError``."""
    with locked(launchpad, nodes[0]):
        query = {"fw_id": {"$in": list(nodes)}, "state": state}
        still = {d["fw_id"] for d in launchpad.fireworks.find(query, {"fw_id": 1})}
        if still:
            workflow = launchpad.get_wf_by_fw_id_lzyfw(nodes[0])
            updated: set[int] = set()
            for node in sorted(still):
                updated = set(workflow.rerun_fw(node, updated))
            launchpad._update_wf(workflow, updated)
    return still


def settle(launchpad: LaunchPad, nodes: Mapping[int, tuple[Any, Sequence[int]]], state: str) -> set[int]:
    """Let failed or lost fireworks be ``READY`` again or ``FIZZLED``, many at once; returns those that became so here.

    nodes: firework -> ``_id`` of its workflow and its launches; one whose state or launches have changed since is left
    alone. None of their children may have begun. No lock is needed: a write that comes in between is seen by the next
    pass, as the workflow then shows another state than the firework has.
    """
    if not nodes:
        return set()
    stamp = datetime.now(UTC).isoformat()
    writes = []
    for node, (_, launches) in nodes.items():
        change: dict[str, Any] = {"$set": {"state": state, "updated_on": stamp}}
        if state == "READY":
            change["$set"]["launches"] = []
            change["$push"] = {"archived_launches": {"$each": list(launches)}}
        query = {"fw_id": node, "state": {"$in": ["RUNNING", "FIZZLED"]}, "launches": list(launches)}
        writes.append(UpdateOne(query, change))
    launchpad.fireworks.bulk_write(writes, ordered=False)
    done = {d["fw_id"] for d in launchpad.fireworks.find({"updated_on": stamp}, {"fw_id": 1})}
    shown = "RUNNING" if state == "READY" else state
    writes = [
        UpdateOne({"_id": nodes[node][0]}, {"$set": {f"fw_states.{node}": state, "state": shown}}) for node in done
    ]
    if writes:
        launchpad.workflows.bulk_write(writes, ordered=False)
    return done


def last_moves(
    launchpad: LaunchPad, workflows: Sequence[dict[str, Any]], gone: Collection[int]
) -> dict[Any, datetime | None]:
    """When somebody last began or ended a launch of a workflow, who may hold its lock; by the workflow's ``_id``.

    A lock has no owner and no time. None where nobody is left: gone are launches whose worker is known to run no more,
    and what a resume wrote into the others (``FOUND_BY``) is no sign of their workers.
    """
    of_node = {node: w["_id"] for w in workflows for node in w["nodes"]}
    found: dict[Any, datetime | None] = {w["_id"]: None for w in workflows}
    fields = {"launch_id": 1, "fw_id": 1, "state_history.created_on": 1, f"state_history.{FOUND_BY}": 1}
    for launch in launchpad.launches.find(span(of_node), fields):
        if launch["fw_id"] in of_node and launch["launch_id"] not in gone:
            key = of_node[launch["fw_id"]]
            times = [utc(entry["created_on"]) for entry in launch["state_history"] if FOUND_BY not in entry]
            found[key] = max([*times, *([before] if (before := found[key]) is not None else [])], default=None)
    return found


def free(launchpad: LaunchPad, workflows: Sequence[dict[str, Any]], seconds: float = WATCH_SECONDS) -> list[Any]:
    """Take away locks of workflows that do not change for some time; returns the ``_id`` of those that were freed.

    Each is marked before and looked at after: a workflow that was freed and locked anew meanwhile has no mark.
    """
    mark = uuid.uuid4().hex
    before = [{"_id": w["_id"], "locked": True, "updated_on": w["updated_on"]} for w in workflows]
    for query in before:
        launchpad.workflows.update_one(query, {"$set": {"watched": mark}})
    time.sleep(seconds)
    change = {"$unset": {"locked": True, "watched": True}}
    return [
        query["_id"]
        for query in before
        if launchpad.workflows.update_one({**query, "watched": mark}, change).modified_count
    ]
