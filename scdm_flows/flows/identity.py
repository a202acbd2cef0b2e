"""Who a job is: the deterministic uuid of a stage, and the metadata that it is found by.

The same stage of the same candidate has the same uuid whoever builds its job and how often: running it again updates
its output and never adds one.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from jobflow.core.flow import Flow
from jobflow.core.job import Job
from jobflow.core.reference import OutputReference, find_and_get_references

from scdm_flows.config import CampaignConfig
from scdm_flows.documents import SHARD_STAGES, StageName
from scdm_flows.engines import engine_of

NAMESPACE = uuid.UUID("6f0cbb52-0a3c-5d39-8c5b-3d5e0b3f5c11")


def job_uuid(config: CampaignConfig, item: str, stage: str) -> str:
    """The uuid of a stage. item: the candidate, or ``shard<number>``."""
    return str(uuid.uuid5(NAMESPACE, f"{config.name}:{config.config_hash}:{item}:{stage}"))


def stage_category(config: CampaignConfig, stage: str) -> str:
    """FireWorks category of a stage, by what its worker must have.

    ``generate``: sampling and screening (a GPU helps); the engine's own (``compute`` for a CPU, ``gpaw``, ``vasp``) for
    what it computes; ``compute`` for the gate.
    """
    if stage in SHARD_STAGES:
        return "generate"
    return "compute" if stage == StageName.GATE else engine_of(config.engine).category


def identified(job: Any, config: CampaignConfig, stage: StageName, **identity: Any) -> Job:
    """The job of a stage, with its uuid and metadata. identity: ``candidate_id`` or ``shard``."""
    item = str(identity.get("candidate_id", f"shard{identity.get('shard')}"))
    job.set_uuid(job_uuid(config, item, stage.value))
    job.name = f"{stage.value} {item}"
    _describe(job, config, stage, {"stage": stage.value, **identity}, keeps_folder=False)
    found: Job = job
    return found


def stage_of_jobs(made: Flow | Job, config: CampaignConfig, stage: StageName, candidate_id: str) -> list[Job]:
    """The jobs of one stage of a candidate, with their uuids.

    Only the last is the stage, which is done when its output is there; the others carry the metadata key
    ``part_of``. References among the jobs follow their new uuids, which are those of the job's number, or of what the
    maker has put in its metadata under ``run``: a job that joins a stage later must not take another one's number.
    """
    if isinstance(made, Flow):
        jobs = [job for job, _ in made.iterflow()]
        for job in jobs:
            job.hosts = []  # they become members of the candidate's flow
    else:
        jobs = [made]
    runs = {job.uuid: job.metadata.pop("run", None) for job in jobs}
    numbers = itertools.count(1)
    new = {
        old: job_uuid(config, candidate_id, f"{stage.value}:{next(numbers) if run is None else run}")
        for old, run in runs.items()
    }
    new[jobs[-1].uuid] = job_uuid(config, candidate_id, stage.value)
    for job in jobs:
        _refer(job, new)
    folders = engine_of(config.engine).keeps_runs
    for job in jobs[:-1]:
        job.set_uuid(new[job.uuid])
        _describe(job, config, stage, {"part_of": stage.value, "candidate_id": candidate_id}, keeps_folder=folders)
        job.name = f"{job.name} {candidate_id}"
    last = identified(jobs[-1], config, stage, candidate_id=candidate_id)
    if folders:
        last.metadata["keep_folder"] = True
    return [*jobs[:-1], last]


def _refer(job: Job, new: Mapping[str, str]) -> None:
    """Let the references in a job's arguments follow the new uuids."""
    arguments = [job.function_args, job.function_kwargs]
    found = list(_references(arguments))
    hidden = len(find_and_get_references(arguments)) - len(found)
    if hidden:
        raise TypeError(
            f"{hidden} arguments of job {job.name!r} refer to other jobs from inside an object; hand them over as "
            "arguments, or in a list, tuple or dictionary"
        )
    for reference in found:
        reference.set_uuid(new.get(reference.uuid, reference.uuid))


def _references(held: Any) -> Iterator[OutputReference]:
    if isinstance(held, OutputReference):
        yield held
    elif isinstance(held, Mapping):
        for value in held.values():
            yield from _references(value)
    elif isinstance(held, list | tuple):
        for value in held:
            yield from _references(value)


def _describe(
    job: Any, config: CampaignConfig, stage: StageName, metadata: dict[str, Any], *, keeps_folder: bool
) -> None:
    job.metadata.update({"campaign": config.name, **metadata, **({"keep_folder": True} if keeps_folder else {})})
    job.config.manager_config = {**job.config.manager_config, "_category": stage_category(config, stage.value)}
    job.config.pass_manager_config = False  # jobflow would overwrite the children's with this one
