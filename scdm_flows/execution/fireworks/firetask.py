"""The task that runs one jobflow job as a firework.

``ScdmJobFiretask`` takes its job store from the LaunchPad that handed it out, so stock ``rlaunch -c launchpad
rapidfire`` needs one address (in ``my_launchpad.yaml``), no environment variable, and no credentials are ever written
into a firework. What a firework does is what the in-process runner does, with the same uuids: what is in the job store
is not computed again.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks import Firework, FWAction, LaunchPad, Workflow
from jobflow.core.flow import get_flow
from jobflow.managers.fireworks import JobFiretask
from jobflow.utils.graph import itergraph

from scdm_flows.campaigns.budget import take_candidates
from scdm_flows.config import CampaignConfig, executing, stored_config
from scdm_flows.documents import DYNAMIC_STAGES, StageName
from scdm_flows.engines.attempts import Attempts, among
from scdm_flows.errors import CampaignError, ConfigError, StoreError, Unfinished
from scdm_flows.execution.fireworks import worker_guard
from scdm_flows.execution.fireworks.again import AGAIN, delete, take_outdated_off
from scdm_flows.execution.fireworks.delivery import deliver
from scdm_flows.execution.fireworks.keeping import Kept, store_or_keep
from scdm_flows.execution.fireworks.liveness import Process
from scdm_flows.execution.fireworks.repair import WorkflowBusyError
from scdm_flows.execution.fireworks.retries import FURTHER, PARDON, StageError
from scdm_flows.execution.fireworks.worker_guard import SHIFT, Stopped, guarded
from scdm_flows.execution.fireworks.workflows import ADDED_BY, insert
from scdm_flows.execution.jobs import is_complete, run_job, stage_of
from scdm_flows.stores.database import job_store_of
from scdm_flows.stores.uri import with_database

if TYPE_CHECKING:
    from jobflow.core.job import Job, Response
    from jobflow.core.store import JobStore

    from scdm_flows.execution.jobs import Output

logger = logging.getLogger(__name__)


# Later stages first: candidates are finished before new shards are begun, so results come early and a stop is
# cheap.
PRIORITY = {stage.value: 10 * k for k, stage in enumerate(StageName)}


class ScdmJobFiretask(JobFiretask):
    """Runs one job on the job store in the LaunchPad's database; running it twice changes nothing."""

    _fw_name = "{{scdm_flows.execution.fireworks.ScdmJobFiretask}}"  # stored with every firework: it never changes
    required_params = ("job", "store")

    @guarded
    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        """Run the job unless its output is stored; hand on what it adds, each only once."""
        job: Job = self["job"]
        launchpad: LaunchPad | None = getattr(self, "launchpad", None)
        origin = f"{job.uuid}:{job.index}"
        try:
            store = job_store_on(launchpad)
            try:
                deliver(launchpad, store, [SHIFT.keeps])  # what workers before this one have left here
                dynamic = job.metadata.get("stage") in DYNAMIC_STAGES
                there = _workflow_has(launchpad, {f"spec.{ADDED_BY}": origin})
                if not dynamic and is_complete(store, job) and (there or not _is_replaced(store, job)):
                    logger.info("%s is stored already", job.name)
                    return FWAction(stored_data={"stored_already": True})
                job.metadata["fw_id"] = self.fw_id
                with among(attempts_of(launchpad, int(self.fw_id))), executing(_campaign_of(launchpad, job)):
                    before = time.monotonic() - SHIFT.begun  # what the worker needed to come so far
                    response = run_job(job, store, spent=before, write=partial(self._store, launchpad, store))
            finally:
                store.close()
            replaced = [f for f in (response.replace, response.detour) if f is not None]
            detours = [] if there else [workflow_of(flow) for flow in replaced]
            additions: list[Workflow] = []
            flow: Any = response.addition  # jobflow has made it a flow
            if flow is not None and job.metadata.get("stage") == StageName.SCREEN.value:
                flows = {next(one.iterflow())[0].metadata["candidate_id"]: one for one in flow.jobs}
                insert_candidates(launchpad, job.metadata["campaign"], job.metadata["shard"], list(flows), flows)
            elif flow is not None:
                whole = workflow_of(flow)
                if not replaced:
                    self._take_outdated_off(launchpad, origin, whole)
                children = {firework.spec["job_uuid"] for firework in whole}
                new = {uuid for uuid in children if not _workflow_has(launchpad, {"spec.job_uuid": uuid})}
                if new:
                    additions.append(whole if new == children else workflow_of(flow, only=new))
            elif there and not replaced:
                self._take_outdated_off(launchpad, origin, None)
        except Exception as error:
            if isinstance(error, Unfinished) and error.of_worker:
                raise Stopped("the worker's time is over") from error
            raise StageError(error) from error
        for firework in (firework for workflow in (*detours, *additions) for firework in workflow):
            firework.spec[ADDED_BY] = origin
        return FWAction(
            stored_data=response.stored_data,
            additions=additions,
            detours=detours,
            defuse_workflow=response.stop_jobflow,
            defuse_children=response.stop_children,
        )

    def _take_outdated_off(self, launchpad: LaunchPad, origin: str, now: Workflow | None) -> None:
        """Take off what the job added when it ran before, if it adds something else now."""
        try:
            take_outdated_off(launchpad, int(self.fw_id), origin, now)
        except WorkflowBusyError:
            raise StoreError(
                f"another process changes the workflow of {self['job'].name}; the job is tried again later, and "
                "`scdm campaign resume` frees a workflow that a killed worker has locked"
            ) from None

    def _store(
        self, launchpad: LaunchPad, store: JobStore, output: Output, response: Response[Any], taken: float
    ) -> None:
        """Store what the job has computed, or keep it; taken: the job's wall time, s."""
        job: Job = self["job"]
        more = (response.replace, response.addition, response.detour)
        kept = Kept(
            database=(SHIFT.database, launchpad.name),
            launch_id=SHIFT.launch_id,
            fw_id=int(self.fw_id),
            name=job.name,
            again=any(flow is not None for flow in more) or response.stop_children or response.stop_jobflow,
            process=Process.this(),
            host=socket.gethostname(),
            output=output,
        )
        store_or_keep(
            kept,
            store,
            SHIFT.keeps,
            taken,
            patience=worker_guard.OUTAGE_SECONDS,
            answers=partial(worker_guard.wait_for, launchpad),
            undisturbed=worker_guard.undisturbed,
        )


def attempts_of(launchpad: LaunchPad | None, fw_id: int) -> Attempts:
    """Where a firework was launched before, and until when this worker may go on; see ``AGAIN`` for those left out."""
    if launchpad is None:
        return Attempts()
    firework = launchpad.fireworks.find_one({"fw_id": fw_id}, {f"spec.{PARDON}": 1, f"spec.{AGAIN}": 1}) or {}
    pardoned, again = (firework.get("spec", {}).get(key) or 0 for key in (PARDON, AGAIN))
    found = launchpad.launches.find({"fw_id": fw_id}, {"launch_id": 1, "launch_dir": 1})
    earlier = [d for d in found if d["launch_id"] != SHIFT.launch_id and d["launch_id"] > again]
    launched = {Path(str(d["launch_dir"])): int(d["launch_id"]) for d in earlier}
    folders = [folder for folder in sorted(launched, key=launched.__getitem__) if folder.is_dir()]

    def further(folder: Path) -> None:
        launchpad.fireworks.update_one({"fw_id": fw_id}, {"$max": {f"spec.{FURTHER}": launched[folder]}})

    return Attempts(
        tuple(folders),
        counted=sum(launched[folder] > pardoned for folder in folders),
        until=SHIFT.until or end_of_allocation(),
        went_on_from=further,
    )


def _campaign_of(launchpad: LaunchPad | None, job: Job) -> CampaignConfig | None:
    """A job's campaign as it is stored now, by which the job is executed; None where that is not known."""
    name = job.metadata.get("campaign")
    if launchpad is None or name is None:
        return None
    found = launchpad.db["campaigns"].find_one({"name": name}, {"config": 1})
    try:
        return None if found is None else stored_config(found["config"])
    except ConfigError as error:
        logger.warning("campaign %s is executed as it was submitted: %s", name, error)
        return None


def end_of_allocation() -> float | None:
    """When the batch job that this process runs in ends (``time.time``), as Slurm says it; None where nobody does."""
    said = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(said) if said.isdigit() else None


def workflow_of(flow: Any, only: set[str] | None = None, **metadata: Any) -> Workflow:
    """The flow (or job) as a workflow of our fireworks; ``only`` keeps the jobs of these uuids.

    Raises
    ------
    CampaignError
        If a job takes the output of one that is not in the flow.
    """
    flow = get_flow(flow, allow_external_references=True)  # looked at below, where they are found anyway
    graph = flow.graph
    outside = sorted(name for name, node in graph.nodes.items() if "job" not in node)
    if outside:
        raise CampaignError(
            f"jobs of {flow.name!r} take the output of {', '.join(outside)}, which are not in it; add them to the flow"
        )
    made: dict[str, Firework] = {}
    for name in itergraph(graph):
        job = graph.nodes[name]["job"]
        if only is not None and name not in only:
            continue
        stage = stage_of(job)
        spec = {
            "_add_launchpad_and_fw_id": True,
            "_priority": PRIORITY.get(stage, PRIORITY[StageName.PHONON.value]),
            "job_uuid": job.uuid,
            **job.config.manager_config,
            **job.metadata,
        }
        before = [made[parent] for parent in graph.predecessors(name) if parent in made]
        made[job.uuid] = Firework(
            [ScdmJobFiretask(job=job, store=None)], spec=spec, name=job.name, parents=before or None
        )
    return Workflow(list(made.values()), name=flow.name, metadata=metadata)


def insert_candidates(
    launchpad: LaunchPad, campaign: str, shard: int, accepted: Sequence[str], flows: Mapping[str, Any]
) -> int:
    """Put candidates of a shard on the LaunchPad, a workflow for each; returns how many were new.

    Those that the campaign's budget lets past. They do not become children of the screen: a workflow of a whole shard
    would be read and written at each job's end.

    accepted: all candidates that passed the shard's screen; flows: of those that are to be put there.
    """
    past = take_candidates(launchpad.db, campaign, shard, accepted)
    return insert(launchpad, [workflow_of(flows[c], campaign=campaign, candidate_id=c) for c in past if c in flows])


def _is_replaced(store: JobStore, job: Job) -> bool:
    """Whether a stored job may have handed its work to others: it has no output of its own."""
    found = store.docs_store.query_one({"uuid": job.uuid, "index": job.index}, properties=["output"])
    return found is not None and found.get("output") is None


def _workflow_has(launchpad: LaunchPad, query: dict[str, Any]) -> bool:
    """Whether a firework like this is in a workflow: a job that ran twice would otherwise add its children twice.

    A firework in no workflow is left of an insertion that was cut short; nothing can run it, and it is removed here
    so that it can be added again (``reconcile`` saves those whose parent has ended).
    """
    ids = [d["fw_id"] for d in launchpad.fireworks.find(query, {"fw_id": 1})]
    if not ids:
        return False
    if launchpad.workflows.find_one({"nodes": {"$in": ids}}, {"_id": 1}) is not None:
        return True
    delete(launchpad, ids, ("READY", "WAITING"))
    return False


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
    store = job_store_of(with_database(str(launchpad.host), launchpad.name))
    store.connect()
    return store
