"""Puts a campaign's flows on a FireWorks LaunchPad and tells how they fare. The only file that imports fireworks.

The LaunchPad lives in the campaign's own database, beside the job store. ``CampaignTask`` takes its job store from
the LaunchPad that handed it out, so stock ``rlaunch -c launchpad rapidfire`` needs one address (in
``my_launchpad.yaml``), no environment variable, and no credentials are ever written into a firework. What a firework
does is what the in-process runner does, with the same uuids: what is in the job store is not computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from fireworks import Firework, FWAction, LaunchPad, Workflow, explicit_serialize
from jobflow.core.flow import get_flow
from jobflow.managers.fireworks import JobFiretask

from scdm_flows.config import CampaignConfig
from scdm_flows.documents import StageFailure, StageName
from scdm_flows.errors import CampaignError, EngineError
from scdm_flows.runner import DYNAMIC_STAGES, is_complete, register, run_job
from scdm_flows.stores.database import Database, job_store_of

if TYPE_CHECKING:
    from jobflow import Flow, Job, JobStore

logger = logging.getLogger(__name__)
LOST = "WorkerLost"
SHARDS_AT_ONCE = 200  # workflows built and inserted together
# Later stages first: candidates are finished before new shards are begun, so results come early and a stop is cheap.
PRIORITY = {stage.value: 10 * k for k, stage in enumerate(StageName)}


@dataclass(frozen=True)
class SubmitResult:
    """Shards of the campaign: all, added by this call, and those that were on the LaunchPad already."""

    shards: int
    added: int
    already_there: int


class StageError(Exception):
    """A failed stage, as FireWorks stores it: ``to_dict`` goes into the launch's ``_details``."""

    def __init__(self, error: Exception) -> None:
        self.error_type, self.message = type(error).__name__, str(error)[:2000] or type(error).__name__
        super().__init__(f"{self.error_type}: {self.message}")

    def to_dict(self) -> dict[str, str]:
        """Kind and message of the original error."""
        return {"error_type": self.error_type, "message": self.message}


@explicit_serialize
class CampaignTask(JobFiretask):  # type: ignore[misc]
    """Runs one job of a campaign on the job store in the LaunchPad's database; running it twice changes nothing."""

    required_params = ("job",)

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        """Run the job unless its output is stored; hand its additions to the workflow, each only once."""
        job: Job = self["job"]
        launchpad: LaunchPad | None = getattr(self, "launchpad", None)
        if launchpad is None:
            raise EngineError("a campaign's firework needs the database while it runs; offline mode is not supported")
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
            new = [j for j, _ in response.addition.iterflow() if not _is_queued(launchpad, j.uuid)]
            if new:
                additions.append(workflow_of(response.addition, only={j.uuid for j in new}))
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


def workflow_of(flow: Flow | Job, only: set[str] | None = None, **metadata: Any) -> Workflow:
    """The flow as a workflow of ``CampaignTask`` fireworks; ``only`` keeps the jobs of these uuids."""
    made: dict[str, Firework] = {}
    for job, parents in get_flow(flow).iterflow():
        if only is not None and job.uuid not in only:
            continue
        stage = str(job.metadata.get("stage", ""))
        spec = {
            "_add_launchpad_and_fw_id": True,
            "_priority": PRIORITY.get(stage, 0),
            "job_uuid": job.uuid,
            **job.config.manager_config,
            **job.metadata,
        }
        before = [made[parent] for parent in parents if parent in made]
        made[job.uuid] = Firework([CampaignTask(job=job)], spec=spec, name=job.name, parents=before or None)
    return Workflow(list(made.values()), name=flow.name, metadata=metadata)


def job_store_on(launchpad: LaunchPad) -> JobStore:
    """The connected job store in the database of a LaunchPad, whether it was given a URI or host and port."""
    if launchpad.uri_mode:
        head, _, options = str(launchpad.host).partition("?")
        scheme, _, rest = head.partition("://")
        place = rest.partition("/")[0]
    else:
        scheme, place, options = "mongodb", f"{launchpad.host}:{launchpad.port}", ""
        if launchpad.username:
            place = f"{quote_plus(launchpad.username)}:{quote_plus(launchpad.password or '')}@{place}"
            options = f"authSource={launchpad.authsource}"
    wanted = {"w": "majority", "journal": "true", **{k: str(v).lower() for k, v in launchpad.mongoclient_kwargs.items()}}
    present = {option.partition("=")[0].lower() for option in options.split("&")}
    extra = [f"{k}={v}" for k, v in wanted.items() if k.lower() not in present and k in ("w", "journal", "tls")]
    store = job_store_of(f"{scheme}://{place}/{launchpad.name}?{'&'.join([o for o in [options] if o] + extra)}")
    store.connect()
    return store


def launchpad_of(database: Database) -> LaunchPad:
    """The LaunchPad in a database, set up if it is new; nothing that exists is touched.

    Raises
    ------
    CampaignError
        If the database is in memory, where no worker could reach it.
    """
    if database.uri is None:
        raise CampaignError("a LaunchPad needs a database server; set SCDM_MONGO_URI or start one with `scdm db start`")
    name = database.uri.partition("?")[0].rsplit("/", 1)[-1]
    launchpad = LaunchPad(
        host=database.uri,
        name=name,
        uri_mode=True,
        strm_lvl="ERROR",
        user_indices=["spec.campaign", "spec.candidate_id", "spec.job_uuid"],
        wf_user_indices=["metadata.campaign"],
        mongoclient_kwargs={"w": "majority", "journal": True},
    )
    # what `lpad reset` does to an empty database, but without deleting anything
    launchpad.fw_id_assigner.find_one_and_update(
        {"_id": -1}, {"$setOnInsert": {"next_fw_id": 1, "next_launch_id": 1}}, upsert=True
    )
    launchpad.tuneup()
    return launchpad


def submit(config: CampaignConfig, database: Database, launchpad: LaunchPad | None = None) -> SubmitResult:
    """Put a campaign on the LaunchPad: its document first, then one workflow for each shard that is not there yet.

    Submitting again adds nothing; a submission that was cut short is completed.

    Raises
    ------
    CampaignError
        If a campaign of this name has another configuration, or the database is in memory.
    EngineError
        If the engine lacks what it needs.
    """
    from scdm_flows.flows import shard_count, shard_flow

    launchpad = launchpad or launchpad_of(database)
    register(config, database)
    shards, _ = shard_count(config)
    present = _complete_shards(launchpad, config.name)
    missing = [shard for shard in range(shards) if shard not in present]
    for start in range(0, len(missing), SHARDS_AT_ONCE):
        chunk = missing[start : start + SHARDS_AT_ONCE]
        launchpad.bulk_add_wfs(
            [workflow_of(shard_flow(config, shard), campaign=config.name, shard=shard) for shard in chunk]
        )
    return SubmitResult(shards, len(missing), len(present))


def _complete_shards(launchpad: LaunchPad, campaign: str) -> set[int]:
    """Shards whose workflow and fireworks are all there; a workflow without them (a cut submission) is removed."""
    present = set()
    for workflow in launchpad.workflows.find({"metadata.campaign": campaign}, {"nodes": 1, "metadata": 1}):
        nodes = workflow["nodes"]
        if launchpad.fireworks.count_documents({"fw_id": {"$in": nodes}}) == len(nodes):
            present.add(int(workflow["metadata"]["shard"]))
        else:
            launchpad.fireworks.delete_many({"fw_id": {"$in": nodes}})
            launchpad.workflows.delete_one({"_id": workflow["_id"]})
    return present


def status(campaign: str, database: Database, launchpad: LaunchPad | None = None) -> dict[str, dict[str, int]]:
    """Stage -> firework state (``READY``, ``RUNNING``, ``COMPLETED``, ``FIZZLED``, ...) -> how many, in stage order."""
    launchpad = launchpad or launchpad_of(database)
    counts: dict[str, dict[str, int]] = {}
    for firework in launchpad.fireworks.find({"spec.campaign": campaign}, {"spec.stage": 1, "state": 1}):
        stage = counts.setdefault(str(firework["spec"].get("stage", "other")), {})
        stage[firework["state"]] = stage.get(firework["state"], 0) + 1
    order = [stage.value for stage in StageName]
    return {s: counts[s] for s in sorted(counts, key=lambda s: order.index(s) if s in order else len(order))}


def collect_failures(campaign: str, database: Database, launchpad: LaunchPad | None = None) -> int:
    """Write a ``StageFailure`` for every fizzled firework; forget failures whose job has succeeded since.

    Returns how many failures the campaign has now.
    """
    launchpad = launchpad or launchpad_of(database)
    documents = []
    fizzled = list(
        launchpad.fireworks.find({"spec.campaign": campaign, "state": "FIZZLED"}, {"fw_id": 1, "spec": 1, "launches": 1})
    )
    for firework in fizzled:
        spec = firework["spec"]
        error_type, message = _reason(launchpad, firework.get("launches", []))
        item = str(spec.get("candidate_id") or f"{campaign}-shard{spec.get('shard')}")
        stage = str(spec.get("stage", "other"))
        failure = StageFailure(
            failure_id=f"{item}:{stage}",
            candidate_id=item,
            campaign=campaign,
            stage=stage,
            error_type=error_type,
            message=message,
            job_uuid=spec.get("job_uuid"),
        )
        documents.append(failure.model_dump())
    database.upsert(database.failures, documents)
    forget_mended(campaign, database)
    return int(database.failures.count({"campaign": campaign}))


def forget_mended(campaign: str, database: Database) -> None:
    """Remove failures whose job has an output now."""
    failures = list(database.failures.query({"campaign": campaign}, properties=["failure_id", "job_uuid"]))
    uuids = [f["job_uuid"] for f in failures if f.get("job_uuid")]
    stored = {d["uuid"] for d in database.job_store.docs_store.query({"uuid": {"$in": uuids}}, properties=["uuid"])}
    mended = [f["failure_id"] for f in failures if f.get("job_uuid") in stored]
    if mended:
        database.failures.remove_docs({"failure_id": {"$in": mended}})


def _reason(launchpad: LaunchPad, launches: Iterable[int]) -> tuple[str, str]:
    """Kind and message of the error of the last launch."""
    found = sorted(launchpad.launches.find({"launch_id": {"$in": list(launches)}}), key=lambda d: d["launch_id"])
    action = (found[-1].get("action") if found else None) or {}
    exception = action.get("stored_data", {}).get("_exception", {})
    details = exception.get("_details")
    if isinstance(details, dict) and {"error_type", "message"} <= details.keys():
        return str(details["error_type"]), str(details["message"])
    trace = str(exception.get("_stacktrace", "")).strip()
    if trace:
        kind, _, message = trace.splitlines()[-1].partition(": ")
        return kind.rpartition(".")[2], message or kind
    return LOST, "the worker ended without a word (killed, out of memory or lost); `lpad rerun_fws` runs it again"
