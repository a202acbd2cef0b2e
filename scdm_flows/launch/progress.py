"""How a campaign on the LaunchPad fares, and why its fireworks failed."""

from __future__ import annotations

from typing import Any

from fireworks import LaunchPad

from scdm_flows.documents import StageFailure, StageName
from scdm_flows.launch.launchpad import launchpad_of
from scdm_flows.stores.database import Database

LOST = "WorkerLost"


def status(database: Database, campaign: str, launchpad: LaunchPad | None = None) -> dict[str, dict[str, int]]:
    """Stage -> state of fireworks (``READY``, ``RUNNING``, ``FIZZLED``, ...) -> how many, in stage order."""
    launchpad = launchpad or launchpad_of(database)
    counts: dict[str, dict[str, int]] = {}
    fields = {"spec.stage": 1, "spec.part_of": 1, "state": 1}
    for firework in launchpad.fireworks.find({"spec.campaign": campaign}, fields):
        stage = counts.setdefault(_stage_in(firework["spec"]), {})
        stage[firework["state"]] = stage.get(firework["state"], 0) + 1
    order = [stage.value for stage in StageName]
    return {s: counts[s] for s in sorted(counts, key=lambda s: order.index(s) if s in order else len(order))}


def _stage_in(spec: dict[str, Any]) -> str:
    """The stage that a firework is or is a part of."""
    return str(spec.get("stage") or spec.get("part_of") or "other")


def collect_failures(database: Database, campaign: str | None = None, launchpad: LaunchPad | None = None) -> int:
    """Write a ``StageFailure`` for every fizzled firework, and forget failures whose job has succeeded since.

    campaign: of all campaigns when None. Returns how many fireworks are fizzled; 0 where no LaunchPad can be.
    """
    if database.uri is None:
        return 0
    launchpad = launchpad or launchpad_of(database)
    mine = {"spec.campaign": campaign} if campaign is not None else {"spec.campaign": {"$exists": True}}
    fields = {
        "fw_id": 1,
        "spec.campaign": 1,
        "spec.candidate_id": 1,
        "spec.shard": 1,
        "spec.stage": 1,
        "spec.part_of": 1,
        "spec.job_uuid": 1,
    }
    fizzled = list(launchpad.fireworks.find({**mine, "state": "FIZZLED"}, fields))
    known = {d["failure_id"] for d in database.failures.query({}, properties=["failure_id"])} if fizzled else set()
    documents = []
    for firework in fizzled:
        spec = firework["spec"]
        item = str(spec.get("candidate_id") or f"{spec['campaign']}-shard{spec.get('shard')}")
        stage = _stage_in(spec)
        if f"{item}:{stage}" in known:
            continue
        known.add(f"{item}:{stage}")
        error_type, message = _reason(launchpad, firework["fw_id"])
        failure = StageFailure(
            failure_id=f"{item}:{stage}",
            candidate_id=item,
            campaign=spec["campaign"],
            stage=stage,
            error_type=error_type,
            message=message,
            job_uuid=spec.get("job_uuid"),
        )
        documents.append(failure.model_dump())
    database.upsert(database.failures, documents)
    _forget_mended(database, campaign)
    return len(fizzled)


def _forget_mended(database: Database, campaign: str | None) -> None:
    """Remove failures whose job has an output now."""
    criteria = {"campaign": campaign} if campaign is not None else {}
    uuid_of = {
        d["failure_id"]: d["job_uuid"]
        for d in database.failures.query(criteria, properties=["failure_id", "job_uuid"])
        if d.get("job_uuid")
    }
    outputs = database.job_store.docs_store.query({"uuid": {"$in": list(uuid_of.values())}}, properties=["uuid"])
    stored = {d["uuid"] for d in outputs} if uuid_of else set()
    mended = [failure for failure, uuid in uuid_of.items() if uuid in stored]
    if mended:
        database.failures.remove_docs({"failure_id": {"$in": mended}})


def _reason(launchpad: LaunchPad, fw_id: int) -> tuple[str, str]:
    """Kind and message of the error of a firework's last launch."""
    launch = launchpad.launches.find_one({"fw_id": fw_id}, sort=[("launch_id", -1)]) or {}
    exception = ((launch.get("action") or {}).get("stored_data") or {}).get("_exception") or {}
    details = exception.get("_details")
    if isinstance(details, dict) and {"error_type", "message"} <= details.keys():
        return str(details["error_type"]), str(details["message"])
    trace = str(exception.get("_stacktrace", "")).strip()
    if trace:
        kind, _, message = trace.splitlines()[-1].partition(": ")
        return kind.rpartition(".")[2][:100], (message or kind)[:2000]
    return (
        LOST,
        "the worker ended without a word (killed, out of memory or lost); `lpad rerun_fws` runs it again",
    )
