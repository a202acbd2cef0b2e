"""FireWorks: submission and workers. The only file that imports fireworks.

Workers are FireWorks' own (``rlaunch -c launchpad rapidfire``, ``qlaunch``). A firework carries no store and no
credentials: its task opens the job store in the database of the LaunchPad that the worker took it from, so queue
and results are always in the same place.
"""

from __future__ import annotations

from typing import Any

from fireworks import FWAction, LaunchPad, Workflow, explicit_serialize
from jobflow.managers.fireworks import JobFiretask, flow_to_workflow

from scdm_flows.config import CampaignConfig
from scdm_flows.documents import StageFailure
from scdm_flows.errors import StoreError
from scdm_flows.flows import shard_count, shard_flow
from scdm_flows.runner import register
from scdm_flows.stores.database import TIMEOUT_MS, Database, job_store_of

INDEXED_SPEC = ["spec.campaign", "spec.candidate_id"]


@explicit_serialize
class ScdmJobFiretask(JobFiretask):  # type: ignore[misc]
    """jobflow's task with the job store of the worker's own LaunchPad; its children run the same way."""

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        """Run the job."""
        launchpad = getattr(self, "launchpad", None)
        if launchpad is None or not launchpad.uri_mode:
            raise StoreError(
                "the worker's LaunchPad is not configured by URI (uri_mode: true), so its job store is unknown; "
                "use launchpad/my_launchpad.yaml as a template"
            )
        self["store"] = job_store_of(_with_name(launchpad.host, launchpad.name))
        try:
            action = super().run_task(fw_spec)
        finally:
            self["store"] = None  # never written back into the firework
        for workflow in (*action.detours, *action.additions):
            _own(workflow)
        return action


def _with_name(uri: str, name: str) -> str:
    """The URI with the database's name in its path."""
    head, _, query = uri.partition("?")
    scheme, _, rest = head.partition("://")
    host = rest.partition("/")[0]
    return f"{scheme}://{host}/{name}" + (f"?{query}" if query else "")


def _own(workflow: Workflow) -> Workflow:
    """Replace jobflow's tasks by ours, without a store."""
    for firework in workflow.fws:
        firework.tasks = [
            ScdmJobFiretask(job=task["job"], store=None) if isinstance(task, JobFiretask) else task
            for task in firework.tasks
        ]
        firework.spec["_tasks"] = [task.to_dict() for task in firework.tasks]
    return workflow


def launchpad_of(database: Database) -> LaunchPad:
    """The LaunchPad in the campaign's own database, made ready if it is new."""
    if database.uri is None:
        raise StoreError("FireWorks needs a database server; this database is in memory")
    name = database.uri.partition("?")[0].rsplit("/", 1)[-1]
    launchpad = LaunchPad(
        host=database.uri,
        name=name,
        uri_mode=True,
        user_indices=INDEXED_SPEC,
        mongoclient_kwargs={"serverSelectionTimeoutMS": TIMEOUT_MS},
        strm_lvl="WARNING",
    )
    if launchpad.fw_id_assigner.find_one({}) is None and launchpad.fireworks.find_one({}) is None:
        launchpad.reset("", require_password=False)  # empty: this only makes counters and indexes
    return launchpad


def submit(config: CampaignConfig, database: Database) -> int:
    """Put a campaign on the LaunchPad, one workflow for each shard; returns how many are new.

    The campaign document is written first; submitting again adds only what is missing.

    Raises
    ------
    CampaignError, EngineError
        See ``runner.register``.
    """
    register(config, database)
    launchpad = launchpad_of(database)
    there = {
        w["metadata"].get("shard")
        for w in launchpad.workflows.find({"metadata.campaign": config.name}, {"metadata": 1})
    }
    workflows = []
    for shard in range(shard_count(config)[0]):
        if shard not in there:
            metadata = {"campaign": config.name, "shard": shard}
            workflows.append(_own(flow_to_workflow(shard_flow(config, shard), store=None, metadata=metadata)))
    if workflows:
        launchpad.bulk_add_wfs(workflows)
    return len(workflows)


def collect_failures(database: Database, campaign: str | None = None) -> int:
    """Turn FIZZLED fireworks into failure documents; returns how many stages have failed on workers."""
    if database.uri is None:
        return 0
    launchpad = launchpad_of(database)
    criteria: dict[str, Any] = {"state": "FIZZLED", "spec.candidate_id": {"$exists": True}}
    if campaign is not None:
        criteria["spec.campaign"] = campaign
    fields = {"fw_id": 1, "spec.campaign": 1, "spec.candidate_id": 1, "spec.stage": 1}
    found = 0
    for firework in launchpad.fireworks.find(criteria, fields):
        found += 1
        spec = firework["spec"]
        failure_id = f"{spec['candidate_id']}:{spec['stage']}"
        if database.failures.query_one({"failure_id": failure_id}) is not None:
            continue
        launch = launchpad.launches.find_one({"fw_id": firework["fw_id"]}, sort=[("launch_id", -1)]) or {}
        stored = ((launch.get("action") or {}).get("stored_data") or {}).get("_exception") or {}
        trace = str(stored.get("_stacktrace", "no traceback was stored")).strip().splitlines()
        document = StageFailure(
            failure_id=failure_id,
            candidate_id=spec["candidate_id"],
            campaign=spec["campaign"],
            stage=spec["stage"],
            error_type=trace[-1].partition(":")[0][:100],
            message=trace[-1][:2000],
        )
        database.upsert(database.failures, [document.model_dump()])
    return found
