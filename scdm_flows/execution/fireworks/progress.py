"""How a campaign on the LaunchPad fares, and why its fireworks failed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fireworks import LaunchPad

from scdm_flows.campaigns.failures import failure, forget_mended, record
from scdm_flows.config.settings import get_settings
from scdm_flows.documents import StageFailure, StageName
from scdm_flows.execution.fireworks.launchpad import launchpad_of
from scdm_flows.execution.fireworks.retries import (
    FIELDS,
    FURTHER,
    PARDON,
    Failure,
    failures_of,
    forgiven,
    judge,
    never_started,
)
from scdm_flows.stores.database import Database

# what is read of a firework's spec
SPEC = ("campaign", "candidate_id", "shard", "stage", "part_of", "job_uuid", PARDON, FURTHER, "_exception_details")
SAID = ("error_type", "message", "job_uuid")  # of a failure: what tells it from another one of the same stage


def status(database: Database, campaign: str, launchpad: LaunchPad | None = None) -> dict[str, dict[str, int]]:
    """Stage -> state of fireworks (``READY``, ``RUNNING``, ``FIZZLED``, ...) -> how many, in stage order."""
    launchpad = launchpad or launchpad_of(database)
    counts: dict[str, dict[str, int]] = {}
    fields = {"spec.stage": 1, "spec.part_of": 1, "state": 1}
    for firework in launchpad.fireworks.find({"spec.campaign": campaign}, fields):
        stage = counts.setdefault(stage_in(firework["spec"]), {})
        stage[firework["state"]] = stage.get(firework["state"], 0) + 1
    order = [stage.value for stage in StageName]
    return {s: counts[s] for s in sorted(counts, key=lambda s: order.index(s) if s in order else len(order))}


def stage_in(spec: dict[str, Any]) -> str:
    """The stage that a firework is or is a part of."""
    return str(spec.get("stage") or spec.get("part_of") or "other")


def item_in(spec: dict[str, Any]) -> str:
    """The candidate of a firework, or its shard as failures name it."""
    return str(spec.get("candidate_id") or f"{spec.get('campaign')}-shard{spec.get('shard')}")


def collect_failures(database: Database, campaign: str | None = None, launchpad: LaunchPad | None = None) -> int:
    """Write a ``StageFailure`` for every job that failed for good, and forget failures whose job has succeeded since.

    A job that will be tried again has not failed yet. What a job said when it failed before gives way to what it says
    now. campaign: of all campaigns when None. Returns how many have failed for good; 0 where no LaunchPad can be.
    """
    if database.uri is None:
        return 0
    launchpad = launchpad or launchpad_of(database)
    mine = {"spec.campaign": campaign} if campaign is not None else {"spec.campaign": {"$exists": True}}
    fields = dict.fromkeys(("fw_id", *(f"spec.{key}" for key in SPEC)), 1)
    fizzled = {d["fw_id"]: d["spec"] for d in launchpad.fireworks.find({**mine, "state": "FIZZLED"}, fields)}
    said: dict[str, list[StageFailure]] = {}  # what the jobs of a stage that have failed for good say
    for node, failures in sorted(failures_by_firework(launchpad, fizzled).items()):
        spec = fizzled[node]
        verdict = judge(failures, stage_in(spec), get_settings())
        if verdict.due is None:
            one = failure(
                spec["campaign"],
                item_in(spec),
                stage_in(spec),
                verdict.error_type,
                verdict.message,
                job_uuid=spec.get("job_uuid"),
            )
            said.setdefault(one.failure_id, []).append(one)
    known = {d["failure_id"]: d for d in database.failures.query({}, properties=["failure_id", *SAID])} if said else {}
    record(database, [some[0] for key, some in said.items() if not _is_said(known.get(key), some)])
    forget_mended(database, campaign)
    return sum(map(len, said.values()))


def _is_said(stored: Mapping[str, Any] | None, failures: Sequence[StageFailure]) -> bool:
    """Whether a stored failure of a stage is one of these, which its jobs have now."""
    return stored is not None and any(all(stored.get(key) == getattr(one, key) for key in SAID) for one in failures)


def failures_by_firework(launchpad: LaunchPad, specs: Mapping[int, dict[str, Any]]) -> dict[int, list[Failure]]:
    """The failures of fizzled fireworks, given with their specs; without those that were forgiven."""
    launches: dict[int, list[dict[str, Any]]] = {}
    for launch in launchpad.launches.find({**span(specs), "state": "FIZZLED"}, FIELDS) if specs else ():
        launches.setdefault(launch["fw_id"], []).append(launch)
    return {
        node: failures_of(launches[node], forgiven(spec)) if node in launches else [never_started(spec)]
        for node, spec in specs.items()
    }


def span(nodes: Collection[int]) -> dict[str, Any]:
    """A query for everything between the first and the last of these fireworks.

    The embedded server compares every document with every value of an ``$in``: 2 s for a thousand ids among 1500
    fireworks, where this takes 0.2 s.
    """
    return {"fw_id": {"$gte": min(nodes), "$lte": max(nodes)}}
