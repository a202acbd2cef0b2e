"""The task that runs one jobflow job as a firework.

``ScdmJobFiretask`` takes its job store from the LaunchPad that handed it out, so stock ``rlaunch -c launchpad
rapidfire`` needs one address (in ``my_launchpad.yaml``), no environment variable, and no credentials are ever written
into a firework. What a firework does is what the in-process runner does, with the same uuids: what is in the job store
is not computed again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fireworks import Firework, FWAction, LaunchPad, Workflow
from jobflow.core.flow import get_flow
from jobflow.managers.fireworks import JobFiretask

from scdm_flows.documents import StageName
from scdm_flows.errors import StoreError
from scdm_flows.execution import DYNAMIC_STAGES, is_complete, run_job, stage_of
from scdm_flows.stores.database import job_store_of

if TYPE_CHECKING:
    from jobflow.core.job import Job
    from jobflow.core.store import JobStore

logger = logging.getLogger(__name__)
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


class ScdmJobFiretask(JobFiretask):
    """Runs one job on the job store in the LaunchPad's database; running it twice changes nothing."""

    _fw_name = "{{scdm_flows.launch.ScdmJobFiretask}}"  # stored with every firework: it never changes
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
