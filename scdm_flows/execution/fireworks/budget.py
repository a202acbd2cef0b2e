"""What a campaign may use, kept at the moment a worker has claimed a job.

FireWorks knows no limits: a worker claims any job that is ready and of its category. So the job asks here first, and
where it may not run it goes back and is held: ``spec._fworker`` names a worker that does not exist, which every stock
``rlaunch`` and ``qlaunch`` passes over. What is held is let go when a job of its category ends, and by workers of ours,
``submit`` and ``resume``.

Running jobs are counted by slots, documents of the collection ``scdm_slots`` whose ``_id`` holds campaign, category and
number: a slot is taken by inserting it, so two workers cannot have the same. One whose firework does not run any more
(its worker was killed) is free again.

Candidates and cancellation are in the collection ``scdm_controls``, one document for each campaign.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fireworks import LaunchPad
from pymongo.errors import DuplicateKeyError, PyMongoError

from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.config import BudgetConfig
from scdm_flows.stores.names import CONTROLS, OUTPUTS

logger = logging.getLogger(__name__)
SLOTS = "scdm_slots"
HELD = {  # values of spec._fworker: what a firework waits for
    "jobs": "none: waits for a job of its category to end (budget.jobs)",
    "hours": "none: the node hours of its campaign are used up (budget.node_hours)",
}
HOURS_KNOWN_SECONDS = 60.0  # how long a worker goes by the node hours that it has added up


@dataclass(frozen=True)
class Control:
    """What a campaign's documents say now: its budget, and when it was cancelled."""

    budget: BudgetConfig = field(default_factory=BudgetConfig)
    cancelled: Any = None


def control_of(db: Any, campaign: str | None) -> Control:
    """The control of a campaign; nothing is limited where there is no such campaign. db: pymongo's database."""
    if campaign is None:
        return Control()
    document = db["campaigns"].find_one({"name": campaign}, {"config.budget": 1}) or {}
    cancelled = db[CONTROLS].find_one({"_id": campaign}, {"cancelled": 1}) or {}
    budget = (document.get("config") or {}).get("budget") or {}
    return Control(BudgetConfig.model_validate(budget), cancelled.get("cancelled"))


def refusal(launchpad: LaunchPad, spec: dict[str, Any], control: Control, fw_id: int, launch_id: int) -> str | None:
    """Why a claimed job may not run now, a key of ``HELD``; None where it may, and then it has its slot."""
    campaign, budget = spec.get("campaign"), control.budget
    if campaign is None:
        return None
    if budget.node_hours is not None and spec.get("begins") is not None:
        used = node_hours(launchpad.db[OUTPUTS], campaign, known_for=HOURS_KNOWN_SECONDS)
        if used >= budget.node_hours:
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
        if any(one[0] == name and one[2] == HELD["hours"] for one in held) and (
            budget.node_hours is None or node_hours(launchpad.db[OUTPUTS], name) < budget.node_hours
        ):
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


def take_candidates(launchpad: LaunchPad, campaign: str, shard: str, wanted: Sequence[str]) -> list[str]:
    """Those of a shard's candidates, the first ones, that the budget lets past the screen.

    The same shard asked again gets the same answer, and a raised budget lets more past; none where the campaign was
    cancelled.
    """
    control = control_of(launchpad.db, campaign)
    if control.cancelled is not None:
        return []
    limit = control.budget.max_candidates
    controls = launchpad.db[CONTROLS]
    controls.update_one({"_id": campaign}, {"$setOnInsert": {"taken": 0, "shards": {}}}, upsert=True)
    while True:
        now = controls.find_one({"_id": campaign})
        before, had = now.get("taken", 0), now.get("shards", {}).get(shard, {}).get("taken", 0)
        room = len(wanted) if limit is None else min(len(wanted), had + max(limit - before, 0))
        share = max(had, room)
        change = {
            "taken": before + share - had,
            f"shards.{shard}": {"taken": share, "left_out": len(wanted) - share},
        }
        query = {"_id": campaign, "taken": now.get("taken", {"$exists": False})}
        if controls.update_one(query, {"$set": change}).matched_count:
            return list(wanted[:share])


def left_out(db: Any, campaign: str) -> list[str]:
    """Shards of which the budget has left candidates out."""
    found = db[CONTROLS].find_one({"_id": campaign}, {"shards": 1}) or {}
    return sorted(shard for shard, counts in found.get("shards", {}).items() if counts["left_out"])


def in_words(db: Any, campaign: str) -> list[str]:
    """What the budget does to a campaign now, a sentence each; empty where nothing is limited."""
    control = control_of(db, campaign)
    budget, lines = control.budget, []
    if control.cancelled is not None:
        lines.append(f"cancelled {control.cancelled:%Y-%m-%d %H:%M} UTC; `scdm campaign cancel {campaign} --undo`")
    if budget.max_candidates is not None:
        shards = (db[CONTROLS].find_one({"_id": campaign}) or {}).get("shards", {}).values()
        out = sum(shard["left_out"] for shard in shards)
        lines.append(
            f"candidates: {sum(shard['taken'] for shard in shards)} of at most {budget.max_candidates} put in the queue"
            + (f"; {out} that passed the screen are left out" if out else "")
        )
    if budget.node_hours is not None:
        used = node_hours(db[OUTPUTS], campaign)
        over = "; no new candidate starts, those that have begun go on" if used >= budget.node_hours else ""
        lines.append(f"node hours: {used:.3g} of {budget.node_hours:g}{over}")
    if budget.phonons is not None:
        picks = (db[CONTROLS].find_one({"_id": campaign}, {"phonons": 1}) or {}).get("phonons")
        when = f"{len(picks)} are chosen" if picks is not None else "chosen when every gate is closed"
        lines.append(f"phonons of {budget.phonons}: {when}")
    for category, limit in sorted(budget.jobs.items()):
        query = {"spec.campaign": campaign, "spec._category": category}
        running = db["fireworks"].count_documents({**query, "state": "RUNNING"})
        held = db["fireworks"].count_documents({**query, "spec._fworker": HELD["jobs"]})
        lines.append(
            f"{category} jobs: {running} running, at most {limit} at once" + (f"; {held} wait" if held else "")
        )
    return lines
