"""Puts a campaign on a FireWorks LaunchPad and tells how it fares. The only file that imports fireworks.

The LaunchPad lives in the campaign's own database, beside the job store. ``ScdmJobFiretask`` takes its job
store from the LaunchPad that handed it out, so stock ``rlaunch -c launchpad rapidfire`` needs one address (in
``my_launchpad.yaml``), no environment variable, and no credentials are ever written into a firework. What a
firework does is what the in-process runner does, with the same uuids: what is in the job store is not
computed again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from fireworks import Firework, FWAction, LaunchPad, Workflow, explicit_serialize
from jobflow.core.flow import get_flow
from jobflow.managers.fireworks import JobFiretask

from scdm_flows.config import CampaignConfig
from scdm_flows.documents import StageFailure, StageName
from scdm_flows.errors import StoreError
from scdm_flows.execution import DYNAMIC_STAGES, is_complete, run_job, stage_of
from scdm_flows.runner import register
from scdm_flows.stores.database import TIMEOUT_MS, Database, job_store_of

if TYPE_CHECKING:
    from jobflow.core.job import Job
    from jobflow.core.store import JobStore

logger = logging.getLogger(__name__)
INDEXED_SPEC = ["spec.campaign", "spec.candidate_id", "spec.job_uuid"]
LOST = "WorkerLost"
SHARDS_AT_ONCE = 200  # workflows built and inserted together
# Later stages first: candidates are finished before new shards are begun, so results come early and a stop is
# cheap.
PRIORITY = {stage.value: 10 * k for k, stage in enumerate(StageName)}


class StageError(Exception):
    """A failed stage, as FireWorks stores it: ``to_dict`` goes into the launch's ``_details``."""

    def __init__(self, error: Exception) -> None:
        self.error_type, self.message = type(error).__name__, str(error)[:2000] or type(error).__name__
        super().__init__(f"{self.error_type}: {self.message}")

    def to_dict(self) -> dict[str, str]:
        """Kind and message of the original error."""
        return {"error_type": self.error_type, "message": self.message}


@explicit_serialize
class ScdmJobFiretask(JobFiretask):
    """Runs one job on the job store in the LaunchPad's database; running it twice changes nothing."""

    required_params = ("job", "store")

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        """Run the job unless its output is stored; hand its additions to the workflow, each only once."""
        job: Job = self["job"]
        launchpad: LaunchPad | None = getattr(self, "launchpad", None)
        store = job_store_on(launchpad)
        if is_complete(store, job) and job.metadata.get("stage") not in DYNAMIC_STAGES:
            logger.info("%s is stored already", job.name)
            return FWAction(stored_data={"stored_already": True})
        job.metadata["fw_id"] = self.fw_id
        try:
            response = run_job(job, store)
        except Exception as error:
            raise StageError(error) from error
        finally:
            store.close()
        detours = [workflow_of(flow) for flow in (response.replace, response.detour) if flow is not None]
        additions = []
        if response.addition is not None:
            flow: Any = response.addition  # jobflow has made it a flow
            new = {child.uuid for child, _ in flow.iterflow() if not _is_queued(launchpad, child.uuid)}
            if new:
                additions.append(workflow_of(flow, only=new))
        return FWAction(
            stored_data=response.stored_data,
            additions=additions,
            detours=detours,
            defuse_workflow=response.stop_jobflow,
            defuse_children=response.stop_children,
        )


def _is_queued(launchpad: LaunchPad, uuid: str) -> bool:
    """Whether a firework of this job exists: a job that ran twice would otherwise add its children twice."""
    return launchpad.fireworks.find_one({"spec.job_uuid": uuid}, {"fw_id": 1}) is not None


def workflow_of(flow: Any, only: set[str] | None = None, **metadata: Any) -> Workflow:
    """The flow (or job) as a workflow of our fireworks; ``only`` keeps the jobs of these uuids."""
    flow = get_flow(flow)
    made: dict[str, Firework] = {}
    for job, parents in flow.iterflow():
        if only is not None and job.uuid not in only:
            continue
        stage = stage_of(job)
        spec = {
            "_add_launchpad_and_fw_id": True,
            "_priority": PRIORITY.get(stage, PRIORITY[StageName.PHONON.value]),
            "job_uuid": job.uuid,
            **job.config.manager_config,
            **job.metadata,
        }
        before = [made[parent] for parent in parents if parent in made]
        made[job.uuid] = Firework(
            [ScdmJobFiretask(job=job, store=None)], spec=spec, name=job.name, parents=before or None
        )
    return Workflow(list(made.values()), name=flow.name, metadata=metadata)


def job_store_on(launchpad: LaunchPad | None) -> JobStore:
    """The connected job store in the database of a worker's LaunchPad.

    Raises
    ------
    StoreError
        If the worker has no LaunchPad (offline mode) or one that is not configured by URI.
    """
    if launchpad is None or not launchpad.uri_mode:
        raise StoreError(
            "the worker's LaunchPad is not configured by URI (uri_mode: true), so its job store is unknown; "
            "use launchpad/my_launchpad.yaml as a template (offline mode is not supported)"
        )
    head, _, query = str(launchpad.host).partition("?")
    scheme, _, rest = head.partition("://")
    options = [option for option in query.split("&") if option]
    for option in ("w=majority", "journal=true"):
        if not any(o.startswith(option.split("=")[0] + "=") for o in options):
            options.append(option)
    store = job_store_of(f"{scheme}://{rest.partition('/')[0]}/{launchpad.name}?{'&'.join(options)}")
    store.connect()
    return store


def launchpad_of(database: Database) -> LaunchPad:
    """The LaunchPad in a database, set up if it is new; nothing that exists is touched.

    Raises
    ------
    StoreError
        If the database is in memory, where no worker could reach it.
    """
    if database.uri is None:
        raise StoreError("FireWorks needs a database server, this database is in memory; set SCDM_MONGO_URI")
    name = database.uri.partition("?")[0].rsplit("/", 1)[-1]
    launchpad = LaunchPad(
        host=database.uri,
        name=name,
        uri_mode=True,
        strm_lvl="WARNING",
        user_indices=INDEXED_SPEC,
        wf_user_indices=["metadata.campaign"],
        mongoclient_kwargs={"serverSelectionTimeoutMS": TIMEOUT_MS, "w": "majority", "journal": True},
    )
    # what `lpad reset` does to an empty database, but without deleting anything
    launchpad.fw_id_assigner.find_one_and_update(
        {"_id": -1}, {"$setOnInsert": {"next_fw_id": 1, "next_launch_id": 1}}, upsert=True
    )
    launchpad.tuneup()
    return launchpad


def submit(config: CampaignConfig, database: Database, launchpad: LaunchPad | None = None) -> int:
    """Put a campaign on the LaunchPad: its document, then a workflow for each shard that is not there yet.

    Returns how many workflows are new: submitting again adds none, and a submission that was cut short is
    completed.

    Raises
    ------
    CampaignError
        If a campaign of this name has another configuration.
    EngineError
        If the engine lacks what it needs.
    StoreError
        If the database is in memory.
    """
    from scdm_flows.flows import shard_count, shard_flow

    launchpad = launchpad or launchpad_of(database)
    register(config, database)
    present = _complete_shards(launchpad, config.name)
    missing = [shard for shard in range(shard_count(config)[0]) if shard not in present]
    for start in range(0, len(missing), SHARDS_AT_ONCE):
        chunk = missing[start : start + SHARDS_AT_ONCE]
        launchpad.bulk_add_wfs(
            [workflow_of(shard_flow(config, shard), campaign=config.name, shard=shard) for shard in chunk]
        )
    return len(missing)


def _complete_shards(launchpad: LaunchPad, campaign: str) -> set[int]:
    """Shards that are there with all their fireworks; the rest of a cut submission is removed."""
    present = set()
    for workflow in launchpad.workflows.find({"metadata.campaign": campaign}, {"nodes": 1, "metadata": 1}):
        nodes = workflow["nodes"]
        if launchpad.fireworks.count_documents({"fw_id": {"$in": nodes}}) == len(nodes):
            present.add(int(workflow["metadata"]["shard"]))
        else:
            launchpad.fireworks.delete_many({"fw_id": {"$in": nodes}})
            launchpad.workflows.delete_one({"_id": workflow["_id"]})
    return present


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


def write_worker_config(database: Database, folder: Path) -> Path:
    """Write ``my_launchpad.yaml`` of this database into a folder, for ``rlaunch -c FOLDER``.

    For a database that ``launchpad/my_launchpad.yaml`` does not name: another port, a URI with a password.
    Only its owner can read the file.
    """
    name = launchpad_of(database).name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "my_launchpad.yaml"
    content = {
        "host": database.uri,
        "name": name,
        "uri_mode": True,
        "user_indices": INDEXED_SPEC,
        "strm_lvl": "WARNING",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
