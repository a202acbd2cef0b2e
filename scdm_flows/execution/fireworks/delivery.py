"""Stores the outputs that workers have kept on this machine, and closes the launches that computed them.

An output of a worker that lives is left to it, and one for another database to that: a copy takes nothing from the
database that it was made of. What no job waits for any more is moved into the subfolder ``aside`` and named, never
removed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks import FWAction, LaunchPad
from pymongo.errors import ConnectionFailure, PyMongoError

from scdm_flows.documents import utc_now
from scdm_flows.errors import OutputError
from scdm_flows.execution.fireworks import repair
from scdm_flows.execution.fireworks.keeping import SUFFIX, Kept, keeps, read
from scdm_flows.execution.fireworks.liveness import DATABASE, WORKERS, Process, two_heartbeats
from scdm_flows.execution.fireworks.retries import utc
from scdm_flows.execution.jobs import complete_among
from scdm_flows.stores.driver_errors import explain

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

logger = logging.getLogger(__name__)
ASIDE = "aside"


class Outcome(StrEnum):
    """What became of a kept output."""

    STORED = "stored"
    WAITS = "left where it is"
    ASIDE = "kept aside"


@dataclass(frozen=True)
class Delivery:
    """A kept output, the job's firework and name as far as they are known, and what became of it, in words."""

    path: Path
    outcome: Outcome
    fw_id: int | None
    name: str
    detail: str


def folders_of(launchpad: LaunchPad) -> set[Path]:
    """Folders in which workers of this database may have kept outputs, and this process's own."""
    return {keeps(), *(Path(folder) for folder in launchpad.db[WORKERS].distinct("keeps"))}


def deliver(launchpad: LaunchPad, store: JobStore, folders: Iterable[Path], *, dry_run: bool = False) -> list[Delivery]:
    """Store what is kept in these folders and belongs to this database; returns what was found.

    A file that cannot be used is put aside, and the others are stored all the same.

    Raises
    ------
    PyMongoError
        If the database goes away meanwhile; what is not stored stays where it is.
    """
    paths = sorted({path.resolve() for folder in folders for path in folder.glob(f"*{SUFFIX}")})
    if not paths:
        return []
    here = (launchpad.db[WORKERS].find_one(DATABASE) or {}).get("database"), launchpad.name
    found = []
    for path in paths:
        kept = None
        try:
            kept = read(path)
            ours = kept.database == here
            one = _deliver(launchpad, store, path, kept, dry_run=dry_run) if ours else _elsewhere(path, kept, *here)
        except PyMongoError:
            raise
        except Exception as error:
            one = _refused(path, kept, error, dry_run=dry_run)
        if one is not None:
            found.append(one)
    for one in found:
        logger.info("%s: %s (%s)", one.name, one.outcome, one.detail)
    return found


def _elsewhere(path: Path, kept: Kept, here: str | None, name: str) -> Delivery | None:
    """What to say of an output that is kept for another database than this one (id and name); None: nothing.

    One that was restored under another name is a copy and has the id of the first. Jobs of both may wait for the
    output, and those that are younger than the copy are in the first alone.
    """
    if kept.database[0] == here:
        detail = f"{path} belongs to the database {kept.database[1]!r}, of which this one is a copy"
    elif kept.database[1] == name:
        detail = f"{path} belongs to another database of the name {name!r}"
    else:
        return None
    return Delivery(path, Outcome.WAITS, kept.fw_id, kept.name, detail)


def _refused(path: Path, kept: Kept | None, error: Exception, *, dry_run: bool) -> Delivery | None:
    """What becomes of a file that could not be used: put aside where it is its own fault, not its folder's.

    None where it is no longer there, as another has stored it at this moment.
    """
    why = str(error) if isinstance(error, OutputError) else f"{type(error).__name__}: {error}"
    try:
        if not path.exists():
            return None
        if not isinstance(error, OSError):
            return _set_aside(path, kept, why, dry_run=dry_run)
    except OSError as another:
        why = f"{type(another).__name__}: {another}; {why}"
    fw_id, name = (None, path.name) if kept is None else (kept.fw_id, kept.name)
    return Delivery(path, Outcome.WAITS, fw_id, name, f"{path}: {why}")


def _deliver(launchpad: LaunchPad, store: JobStore, path: Path, kept: Kept, *, dry_run: bool) -> Delivery:
    if _still_tries(launchpad, kept):
        detail = f"its worker (process {kept.process.pid} on {kept.host}) lives and stores it itself"
        return Delivery(path, Outcome.WAITS, kept.fw_id, kept.name, detail)
    document = kept.output.document
    query = {"fw_id": kept.fw_id, "spec.job_uuid": document["uuid"]}
    if launchpad.fireworks.find_one(query, {"_id": 1}) is None:
        return _set_aside(path, kept, "its job is on the LaunchPad no more", dry_run=dry_run)
    key = {"uuid": document["uuid"], "index": document["index"]}
    there = store.docs_store.query_one(key, properties=["completed_at"])
    whole = document["uuid"] in complete_among(store, [document["uuid"]])
    if whole and there is not None and there["completed_at"] != document["completed_at"]:
        return _set_aside(path, kept, "a later run of its job has stored an output", dry_run=dry_run)
    if not dry_run:
        try:
            if not whole:
                kept.output.write(store)
            _close(launchpad, kept)
        except ConnectionFailure:
            raise
        except PyMongoError as error:
            return Delivery(path, Outcome.WAITS, kept.fw_id, kept.name, f"{path}: the database {explain(error)}")
        except Exception as error:
            return _set_aside(path, kept, f"it cannot be stored: {type(error).__name__}: {error}", dry_run=dry_run)
        path.unlink(missing_ok=True)
    return Delivery(path, Outcome.STORED, kept.fw_id, kept.name, f"kept by process {kept.process.pid} on {kept.host}")


def _still_tries(launchpad: LaunchPad, kept: Kept) -> bool:
    """Whether the worker that computed an output lives and tries to store it; one elsewhere by its heartbeat."""
    if kept.process == Process.this():
        return False
    runs = kept.process.runs()
    worker = launchpad.db[WORKERS].find_one({"_id": kept.process.key, "launch": kept.launch_id}, {"seen": 1})
    if runs is not None or worker is None:
        return bool(runs) and worker is not None
    now = utc(launchpad.connection.admin.command("hello")["localTime"])
    return now - utc(worker["seen"]) < two_heartbeats()


def _close(launchpad: LaunchPad, kept: Kept) -> None:
    """End the launch that computed an output, unless it has ended; a job that adds others is ready to run again."""
    query: dict[str, Any] = {"fw_id": kept.fw_id, "state": "RUNNING", "launches": kept.launch_id}
    firework = launchpad.fireworks.find_one(query, {"launches": 1})
    if firework is None:
        return
    now = utc_now().isoformat()
    action = FWAction(stored_data={"delivered": f"stored after the worker's end, from {kept.host}"})
    ended = launchpad.launches.update_one(
        {"launch_id": kept.launch_id, "state": "RUNNING"},
        {
            "$set": {"state": "COMPLETED", "time_end": now, "action": action.to_dict()},
            "$push": {"state_history": {"state": "COMPLETED", "created_on": now}},
        },
    )
    if not ended.modified_count:
        return
    workflow = launchpad.workflows.find_one({"nodes": kept.fw_id}, {"_id": 1})
    if workflow is None:
        return
    if kept.again:
        repair.settle(launchpad, {kept.fw_id: (workflow["_id"], firework["launches"])}, "READY")
        return
    try:
        repair.refresh(launchpad, workflow["_id"], [kept.fw_id])
    except repair.WorkflowBusyError:  # a resume shows the end in the workflow
        logger.info("the workflow of %s is locked", kept.name)


def _set_aside(path: Path, kept: Kept | None, why: str, *, dry_run: bool) -> Delivery:
    target = path.parent / ASIDE / path.name
    if not dry_run:
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
        logger.warning("%s: %s", target, why)
    name = path.name if kept is None else kept.name
    return Delivery(target, Outcome.ASIDE, None if kept is None else kept.fw_id, name, f"{target}: {why}")
