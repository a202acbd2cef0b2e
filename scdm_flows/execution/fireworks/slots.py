"""What a campaign's budget allows is kept at the moment a worker has claimed a job.

FireWorks knows no limits: a worker claims any job that is ready and of its category. So the job asks here first, and
where it may not run it goes back and is held: ``spec._fworker`` names a worker that does not exist, which every stock
``rlaunch`` and ``qlaunch`` passes over. What is held is let go when a job of its category ends, and by workers of ours,
``submit`` and ``resume``.

Running jobs are counted by slots, documents of the collection ``scdm_slots`` whose ``_id`` holds campaign, category and
number: a slot is taken by inserting it, so two workers cannot have the same. One whose firework does not run any more
(its worker was killed) is free again.
"""

from __future__ import annotations

import logging
from typing import Any

from fireworks import LaunchPad
from pymongo.errors import DuplicateKeyError, PyMongoError

from scdm_flows.campaigns.budget import hours_are_used_up
from scdm_flows.campaigns.controls import Control, control_of
from scdm_flows.stores.names import OUTPUTS

logger = logging.getLogger(__name__)
SLOTS = "scdm_slots"
HELD = {  # values of spec._fworker: what a firework waits for
    "jobs": "none: waits for a job of its category to end (budget.jobs)",
    "hours": "none: the node hours of its campaign are used up (budget.node_hours)",
}
HOURS_KNOWN_SECONDS = 60.0  # how long a worker goes by the node hours that it has added up


def refusal(launchpad: LaunchPad, spec: dict[str, Any], control: Control, fw_id: int, launch_id: int) -> str | None:
    """Why a claimed job may not run now, a key of ``HELD``; None where it may, and then it has its slot."""
    campaign, budget = spec.get("campaign"), control.budget
    if campaign is None:
        return None
    if spec.get("begins") is not None and hours_are_used_up(
        budget, launchpad.db[OUTPUTS], campaign, known_for=HOURS_KNOWN_SECONDS
    ):
        _hold_all(launchpad, {"spec.campaign": campaign, "spec.begins": {"$exists": True}}, "hours")
        return "hours"
    category = spec.get("_category")
    limit = budget.jobs.get(category) if category else None
    if limit is None or _take_slot(launchpad, campaign, str(category), limit, fw_id, launch_id):
        return None
    _hold_all(launchpad, {"spec.campaign": campaign, "spec._category": category}, "jobs")
    return "jobs"


def _hold_all(launchpad: LaunchPad, query: dict[str, Any], reason: str) -> None:
    """Hold what is ready, so that other workers do not claim it one by one only to give it back."""
    query = {**query, "state": "READY", "spec._fworker": {"$exists": False}}
    launchpad.fireworks.update_many(query, {"$set": {"spec._fworker": HELD[reason]}})


def _take_slot(launchpad: LaunchPad, campaign: str, category: str, limit: int, fw_id: int, launch_id: int) -> bool:
    slots = launchpad.db[SLOTS]
    names = [f"{campaign}:{category}:{number}" for number in range(limit)]
    holder = {"campaign": campaign, "category": category, "fw_id": fw_id, "launch_id": launch_id}
    for clean in (False, True):
        for taken in _abandoned(launchpad, campaign, category) if clean else ():
            slots.delete_one(taken)  # as it was seen: not one that another has taken meanwhile
        for name in names:
            try:
                slots.insert_one({"_id": name, **holder})
            except DuplicateKeyError:
                continue
            return True
    return False


def _abandoned(launchpad: LaunchPad, campaign: str, category: str) -> list[dict[str, Any]]:
    """Slots whose firework does not run any more in the launch that took them."""
    taken = list(launchpad.db[SLOTS].find({"campaign": campaign, "category": category}))
    query = {"fw_id": {"$in": [slot["fw_id"] for slot in taken]}, "state": "RUNNING"}
    running = {f["fw_id"]: f["launches"] for f in launchpad.fireworks.find(query, {"fw_id": 1, "launches": 1})}
    return [slot for slot in taken if slot["launch_id"] not in running.get(slot["fw_id"], [])]


def free_slot(launchpad: LaunchPad, fw_id: int, launch_id: int) -> None:
    """Free what a launch has taken, and let a held job of its category go."""
    try:
        slot = launchpad.db[SLOTS].find_one_and_delete({"fw_id": fw_id, "launch_id": launch_id})
        if slot is not None:
            _let_go(launchpad, slot["campaign"], {"spec._category": slot["category"]}, "jobs", 1)
    except PyMongoError as error:  # the job has ended as it has; whoever wants the slot sees that it is abandoned
        logger.warning("the slot of firework %d is not freed: %s", fw_id, error)


def release(launchpad: LaunchPad, campaign: str | None = None) -> int:
    """Let go what is held and may run by now, of one campaign or all; returns how many fireworks that were."""
    query: dict[str, Any] = {"spec._fworker": {"$in": list(HELD.values())}}
    if campaign is not None:
        query["spec.campaign"] = campaign
    fields = {"spec.campaign": 1, "spec._category": 1, "spec._fworker": 1}
    held = {
        (f["spec"]["campaign"], f["spec"].get("_category"), f["spec"]["_fworker"])
        for f in launchpad.fireworks.find(query, fields)
    }
    released = 0
    for name in {one[0] for one in held}:
        budget = control_of(launchpad.db, name).budget
        waits_for_hours = any(one[0] == name and one[2] == HELD["hours"] for one in held)
        if waits_for_hours and not hours_are_used_up(budget, launchpad.db[OUTPUTS], name):
            released += _let_go(launchpad, name, {}, "hours", None)
        for category in {one[1] for one in held if one[0] == name and one[2] == HELD["jobs"]}:
            limit = budget.jobs.get(category)
            for slot in _abandoned(launchpad, name, category):
                launchpad.db[SLOTS].delete_one(slot)
            taken = launchpad.db[SLOTS].count_documents({"campaign": name, "category": category})
            free = None if limit is None else max(limit - taken, 0)
            released += _let_go(launchpad, name, {"spec._category": category}, "jobs", free)
    return released


def _let_go(launchpad: LaunchPad, campaign: str, query: dict[str, Any], reason: str, at_most: int | None) -> int:
    query = {"spec.campaign": campaign, **query, "spec._fworker": HELD[reason]}
    change = {"$unset": {"spec._fworker": ""}}
    if at_most is None:
        return int(launchpad.fireworks.update_many(query, change).modified_count)
    for count in range(at_most):
        if launchpad.fireworks.find_one_and_update(query, change, sort=[("spec._priority", -1), ("fw_id", 1)]) is None:
            return count
    return at_most


def jobs_in_words(db: Any, campaign: str) -> list[str]:
    """How many jobs of a category run and wait, a sentence for each that the budget limits. db: pymongo's database."""
    lines = []
    for category, limit in sorted(control_of(db, campaign).budget.jobs.items()):
        query = {"spec.campaign": campaign, "spec._category": category}
        running = db["fireworks"].count_documents({**query, "state": "RUNNING"})
        held = db["fireworks"].count_documents({**query, "spec._fworker": HELD["jobs"]})
        lines.append(
            f"{category} jobs: {running} running, at most {limit} at once" + (f"; {held} wait" if held else "")
        )
    return lines
