"""Takes a campaign off the LaunchPad without losing anything, and puts it back.

What has not begun becomes DEFUSED, in bulk, and remembers in its spec what it was (``cancelled_from``). Jobs that run
end by themselves and are stored; a job that a worker claims at the same moment sees the cancellation and goes back.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fireworks import LaunchPad
from pymongo import UpdateOne

from scdm_flows.campaigns.controls import control_of, mark_cancelled, unmark_cancelled
from scdm_flows.errors import CampaignError
from scdm_flows.execution.fireworks.launchpad import launchpad_of
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors

NOT_BEGUN = ("READY", "WAITING", "PAUSED")
MARK = "spec.cancelled_from"


def cancel(database: Database, campaign: str, launchpad: LaunchPad | None = None) -> int:
    """Cancel a campaign; returns how many fireworks will not run. A second time only catches what was added since.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    """
    _check(database, campaign)
    launchpad = launchpad or launchpad_of(database)
    with store_errors(database.uri):
        # first the word, so that workers start nothing; then the queue
        mark_cancelled(launchpad.db, campaign)
        changed = 0
        for state in NOT_BEGUN:
            changed += launchpad.fireworks.update_many(
                {"spec.campaign": campaign, "state": state},
                {"$set": {"state": "DEFUSED", MARK: state, "updated_on": datetime.now(UTC)}},
            ).modified_count
        _tell_workflows(launchpad, campaign)
    return changed


def would_cancel(database: Database, campaign: str, launchpad: LaunchPad | None = None) -> int:
    """How many fireworks of a campaign have not begun."""
    _check(database, campaign)
    launchpad = launchpad or launchpad_of(database)
    with store_errors(database.uri):
        query = {"spec.campaign": campaign, "state": {"$in": list(NOT_BEGUN)}}
        return int(launchpad.fireworks.count_documents(query))


def undo(database: Database, campaign: str, launchpad: LaunchPad | None = None) -> int:
    """Put a cancelled campaign back as it was; returns how many fireworks can run again.

    Raises
    ------
    CampaignError
        If there is no such campaign, or it is not cancelled.
    """
    _check(database, campaign)
    launchpad = launchpad or launchpad_of(database)
    with store_errors(database.uri):
        cancelled = _cancelled(launchpad, campaign)
        unmark_cancelled(launchpad.db, campaign)
        back = {
            f["fw_id"]: f["spec"]["cancelled_from"] for f in launchpad.fireworks.find(cancelled, {"fw_id": 1, MARK: 1})
        }
        ready = _whose_parents_completed(launchpad, campaign)
        updates = [
            UpdateOne(
                {"fw_id": fw_id, "state": "DEFUSED"},
                {
                    "$set": {"state": "READY" if state == "WAITING" and fw_id in ready else state},
                    "$unset": {MARK: "", **({"spec._fworker": ""} if state == "READY" else {})},
                },
            )
            for fw_id, state in back.items()
        ]
        if updates:
            launchpad.fireworks.bulk_write(updates, ordered=False)
        _tell_workflows(launchpad, campaign)
    return len(updates)


def would_undo(database: Database, campaign: str, launchpad: LaunchPad | None = None) -> int:
    """How many fireworks of a cancelled campaign ``undo`` puts back; refused where that is."""
    _check(database, campaign)
    launchpad = launchpad or launchpad_of(database)
    with store_errors(database.uri):
        return int(launchpad.fireworks.count_documents(_cancelled(launchpad, campaign)))


def _cancelled(launchpad: LaunchPad, campaign: str) -> dict[str, Any]:
    """What finds the fireworks that were cancelled; ``CampaignError`` where the campaign is not."""
    if control_of(launchpad.db, campaign).cancelled is None:
        raise CampaignError(f"campaign {campaign!r} is not cancelled; `scdm campaign list` shows which are")
    return {"spec.campaign": campaign, "state": "DEFUSED", MARK: {"$in": list(NOT_BEGUN)}}


def _check(database: Database, campaign: str) -> None:
    from scdm_flows.query import CandidateDB

    CandidateDB(database).campaign(campaign)


def _whose_parents_completed(launchpad: LaunchPad, campaign: str) -> set[int]:
    """Fireworks that have parents, all of which have completed."""
    query: dict[str, Any] = {"spec.campaign": campaign, "state": "COMPLETED"}
    completed = {f["fw_id"] for f in launchpad.fireworks.find(query, {"fw_id": 1})}
    found: set[int] = set()
    if completed:
        query = {"metadata.campaign": campaign, "nodes": {"$in": list(completed)}}
        for workflow in launchpad.workflows.find(query, {"parent_links": 1}):
            links = workflow.get("parent_links", {})
            found |= {int(child) for child, parents in links.items() if completed.issuperset(parents)}
    return found


def _tell_workflows(launchpad: LaunchPad, campaign: str) -> None:
    """Write the fireworks' states into the documents of their workflows, which repeat them."""
    query = {"spec.campaign": campaign}
    states = {f["fw_id"]: f["state"] for f in launchpad.fireworks.find(query, {"fw_id": 1, "state": 1})}
    updates = []
    for workflow in launchpad.workflows.find({"metadata.campaign": campaign}, {"fw_states": 1, "state": 1}):
        old = workflow["fw_states"]
        new = {node: states.get(int(node), state) for node, state in old.items()}
        changed = {f"fw_states.{node}": state for node, state in new.items() if state != old[node]}
        if changed:
            all_of = set(new.values())
            whole = next(iter(all_of)) if len(all_of) == 1 else "DEFUSED" if "DEFUSED" in all_of else "READY"
            # FireWorks takes the state of a workflow from its jobs at every change; until then this is what it shows
            updates.append(
                UpdateOne({"_id": workflow["_id"], "locked": {"$exists": False}}, {"$set": {**changed, "state": whole}})
            )
    if updates:
        launchpad.workflows.bulk_write(updates, ordered=False)
