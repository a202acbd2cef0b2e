"""Lets the fireworks of a candidate run again from some stage on, and what they add is then made anew."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fireworks import LaunchPad, Workflow

from scdm_flows.campaigns.again import AFTER
from scdm_flows.campaigns.removal import RUNS
from scdm_flows.documents import StageName
from scdm_flows.errors import CampaignError
from scdm_flows.execution.fireworks import repair
from scdm_flows.execution.fireworks.launchpad import launchpad_of
from scdm_flows.execution.fireworks.progress import stage_in
from scdm_flows.execution.fireworks.retries import PARDON
from scdm_flows.execution.fireworks.workflows import ADDED_BY
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors

logger = logging.getLogger(__name__)
ENDED = ("COMPLETED", "FIZZLED")
STILL = ("WAITING", "PAUSED", "DEFUSED", "ARCHIVED")  # no worker can claim them
AGAIN = "again_launch"  # spec key: nothing is gone on with that attempts up to this launch have left


def run_again(
    database: Database, campaign: str, candidate_id: str, stage: StageName, launchpad: LaunchPad | None = None
) -> int:
    """Fireworks of a stage, and of all that is made of its result, that run again; 0 for a campaign that has none.

    They begin anew, whatever earlier attempts have left. What a gate had added is replaced when the gate has run
    again, see ``take_outdated_off``. Phonons in a workflow of their own are taken off the LaunchPad where the gate runs
    again, and ``begin_phonons`` puts those of the new gate there. Killed in the middle, the same call completes it.

    Raises
    ------
    CampaignError
        If one of them runs at this moment, or another process changes their workflow; the same call goes on later.
    """
    if database.uri is None:
        return 0
    launchpad = launchpad or launchpad_of(database)
    with store_errors(database.uri):
        stages = {one.value for one in AFTER[stage]}
        found = {node: d for node, d in _fireworks(launchpad, campaign, candidate_id).items() if _stage(d) in stages}
        running = sorted(str(d.get("name")) for d in found.values() if d["state"] in RUNS)
        if running:
            raise CampaignError(
                f"{running[0]} has begun on the LaunchPad meanwhile; wait for its end and give the same command again"
            )
        if stage is not StageName.PHONON and StageName.PHONON in AFTER[stage]:
            gone = _take_phonons_off(launchpad, [n for n, d in found.items() if _stage(d) == StageName.PHONON.value])
            found = {node: d for node, d in found.items() if node not in gone}
        nodes = sorted(found)
        last = max((d["launch_id"] for d in launchpad.launches.find({"fw_id": {"$in": nodes}})), default=0)
        launchpad.fireworks.update_many({"fw_id": {"$in": nodes}}, {"$max": {f"spec.{AGAIN}": last}})
        mine = {node for node, d in found.items() if d["state"] in ENDED}
        launchpad.fireworks.update_many({"fw_id": {"$in": sorted(mine)}}, {"$max": {f"spec.{PARDON}": last}})
        for workflow in launchpad.workflows.find({"nodes": {"$in": sorted(mine)}}, {"nodes": 1, "links": 1}):
            by_state: defaultdict[str, list[int]] = defaultdict(list)
            for node in _first(workflow, mine):
                by_state[found[node]["state"]].append(node)
            for state, first in by_state.items():
                try:
                    repair.rerun(launchpad, sorted(first), state)
                except repair.WorkflowBusyError:
                    raise CampaignError(
                        f"another process changes the jobs of {candidate_id} on the LaunchPad; give the same command "
                        f"again, after `scdm campaign resume {campaign}` if a worker was killed"
                    ) from None
    return len(mine)


def _fireworks(launchpad: LaunchPad, campaign: str, candidate_id: str) -> dict[int, dict[str, Any]]:
    query = {"spec.campaign": campaign, "spec.candidate_id": candidate_id}
    fields = {"fw_id": 1, "name": 1, "state": 1, "spec.stage": 1, "spec.part_of": 1}
    return {d["fw_id"]: d for d in launchpad.fireworks.find(query, fields)}


def _stage(firework: dict[str, Any]) -> str:
    return stage_in(firework["spec"])


def _first(workflow: dict[str, Any], among: Collection[int]) -> set[int]:
    """Those of a workflow's fireworks among these that are no child of another of them."""
    nodes = {node for node in workflow["nodes"] if node in among}
    children = {int(child) for parent, own in workflow["links"].items() if int(parent) in nodes for child in own}
    return nodes - children


def _take_phonons_off(launchpad: LaunchPad, phonons: Collection[int]) -> set[int]:
    """Take the phonons among these that have a workflow of their own off the LaunchPad; returns which they were.

    They hold the structure of the gate that opened them. Those without a workflow are left of a call that was killed.
    """
    homes = list(launchpad.workflows.find({"nodes": {"$in": sorted(phonons)}}, {"nodes": 1, "metadata": 1}))
    apart = [home["_id"] for home in homes if home["metadata"].get("stage") == StageName.PHONON.value]
    gone = set(phonons) - {node for home in homes if home["_id"] not in apart for node in home["nodes"]}
    # in this order a kill leaves nothing that a worker could begin
    waiting = {"fw_id": {"$in": sorted(gone)}, "state": {"$in": ["READY", "WAITING", "PAUSED"]}}
    launchpad.fireworks.update_many(waiting, {"$set": {"state": "DEFUSED"}})
    for key in apart:
        launchpad.workflows.delete_one({"_id": key})
    delete(launchpad, gone, (*STILL, *ENDED))
    return gone


def delete(launchpad: LaunchPad, nodes: Collection[int], states: Sequence[str]) -> None:
    """Delete those of the fireworks that are in one of these states, and their launches; the folders stay."""
    among = {"fw_id": {"$in": sorted(nodes)}}
    launchpad.fireworks.delete_many({**among, "state": {"$in": list(states)}})
    kept = {d["fw_id"] for d in launchpad.fireworks.find(among, {"fw_id": 1})}
    of_them = {"fw_id": {"$in": sorted(set(nodes) - kept)}}
    launches = [d["launch_id"] for d in launchpad.launches.find(of_them, {"launch_id": 1})]
    if launches and launchpad.gridfs_fallback is not None:
        for file in launchpad.gridfs_fallback.find({"metadata.launch_id": {"$in": launches}}):
            launchpad.gridfs_fallback.delete(file._id)
    launchpad.launches.delete_many(of_them)


def take_outdated_off(launchpad: LaunchPad, fw_id: int, origin: str, now: Workflow | None) -> None:
    """Take jobs off a workflow that a job added when it ran before, where it adds others now.

    A gate's children hold its structure and the folder of the static run, under uuids that do not tell: they would be
    taken for those that it adds now. All of them go, and what they have added themselves, so that the new ones are
    linked as they should be; none where they are the same. None has begun, as the job that adds them has not ended.

    Parameters
    ----------
    fw_id, origin
        The firework of the job, which runs, and what its children name as ``ADDED_BY``.
    now
        What it adds now; None for nothing.

    Raises
    ------
    WorkflowBusyError
        If another process holds the workflow's lock.
    """
    added = f"spec.{ADDED_BY}"
    if launchpad.fireworks.find_one({added: origin}, {"_id": 1}) is None:
        return
    with repair.locked(launchpad, fw_id):
        document = launchpad.workflows.find_one({"nodes": fw_id})
        find = partial(launchpad.fireworks.find_one, projection={"state": 1, "spec.job_uuid": 1, added: 1})
        inside = {n: d for n in document["nodes"] if (d := find({"fw_id": n})) is not None}  # lists of ids are slow
        # a kill after the workflow was written leaves them in none
        left = launchpad.fireworks.find({added: origin, "state": {"$in": STILL}}, {"fw_id": 1})
        delete(launchpad, {d["fw_id"] for d in left} - inside.keys(), STILL)
        gone = _added_by(origin, inside)
        begun = [node for node in gone if inside[node]["state"] not in STILL]
        if begun:
            logger.warning("fireworks %s have begun, so they stay as they were added", begun)
            return
        if not _differ(launchpad, origin, now):
            return
        links = Workflow.Links(
            {
                int(parent): [child for child in children if child not in gone]
                for parent, children in document["links"].items()
                if int(parent) not in gone
            }
        )
        states = {node: state for node, state in document["fw_states"].items() if int(node) not in gone}
        change = {**links.to_db_dict(), "fw_states": states, "updated_on": datetime.now(UTC)}
        launchpad.workflows.update_one({"_id": document["_id"]}, {"$set": change})
        delete(launchpad, gone, STILL)


def _added_by(origin: str, fireworks: Mapping[int, dict[str, Any]]) -> set[int]:
    """Those of the fireworks that a job has added, and that these have added in turn."""
    gone: set[int] = set()
    new = {node for node, d in fireworks.items() if d["spec"].get(ADDED_BY) == origin}
    while new:
        gone |= new
        uuids = {fireworks[node]["spec"].get("job_uuid") for node in new}
        new = {n for n, d in fireworks.items() if str(d["spec"].get(ADDED_BY)).rpartition(":")[0] in uuids} - gone
    return gone


def _differ(launchpad: LaunchPad, origin: str, now: Workflow | None) -> bool:
    """Whether a job adds other jobs now than those of it that are there."""
    found = launchpad.fireworks.find({f"spec.{ADDED_BY}": origin}, {"spec.job_uuid": 1, "spec._tasks": 1})
    there = {d["spec"]["job_uuid"]: _jobs(d["spec"]) for d in found}
    return there != {f.spec["job_uuid"]: _jobs(f.to_dict()["spec"]) for f in now or ()}


def _jobs(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The jobs of a firework, without the uuids of the flows that they were in, which are new each time."""
    return [{key: value for key, value in task["job"].items() if key != "hosts"} for task in spec["_tasks"]]
