"""Flows: one shard of a campaign (generate -> screen), one candidate (relax -> static -> gate), its phonons and bands.

Each becomes a workflow of its own, the phonons and bands in their candidate's; duplicates across shards are marked by
the candidate builder.
"""

from __future__ import annotations

import json
from typing import Any

from jobflow.core.flow import Flow
from jobflow.core.job import Job
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core.structure import Structure

from scdm_flows.config import CampaignConfig
from scdm_flows.documents import ScreenedCandidate, StageName, StaticSummary
from scdm_flows.engines import engine_of
from scdm_flows.errors import StructureError
from scdm_flows.flows import jobs
from scdm_flows.flows.schema import remember_schemas
from scdm_flows.generators import GENERATORS

remember_schemas()
GENERATE_STAGES = (StageName.GENERATE, StageName.SCREEN)


def stage_category(config: CampaignConfig, stage: str) -> str:
    """FireWorks category of a stage, by what its worker must have.

    ``generate``: sampling and screening (a GPU helps); the engine's own (``compute`` for a CPU, ``vasp``) for what it
    computes; ``compute`` for the gate.
    """
    if stage in GENERATE_STAGES:
        return "generate"
    return "compute" if stage == StageName.GATE else engine_of(config.engine).category


def _tagged(job: Any, config: CampaignConfig, stage: StageName, **identity: Any) -> Job:
    """The job with its deterministic uuid and the metadata to find it by."""
    item = str(identity.get("candidate_id", f"shard{identity.get('shard')}"))
    job.set_uuid(jobs.job_uuid(config, item, stage.value))
    job.name = f"{stage.value} {item}"
    _describe(job, config, stage, {"stage": stage.value, **identity}, False)
    tagged: Job = job
    return tagged


def shard_count(config: CampaignConfig) -> tuple[int, int]:
    """(number of shards, number of samples) of a campaign."""
    total = GENERATORS[config.generator.kind].count(config.generator)
    return -(-total // config.generator.shard_size), total


def shard_flow(config: CampaignConfig, shard: int) -> Flow:
    """generate -> screen of one shard; the screen adds the candidates' flows."""
    dump = config.model_dump(mode="json")
    made = _tagged(jobs.generate(dump, shard), config, StageName.GENERATE, shard=shard)
    screen = jobs.screen(dump, shard, made.output["records"])
    return Flow([made, _tagged(screen, config, StageName.SCREEN, shard=shard)], name=f"{config.name} shard {shard}")


def candidate_flow(config: CampaignConfig, screened: ScreenedCandidate) -> Flow:
    """relax -> static -> gate of one candidate; the gate adds the jobs of the stages that it opens.

    Raises
    ------
    StructureError
        If the candidate has no structure.
    """
    if screened.structure is None:
        raise StructureError(f"candidate {screened.candidate_id} has no structure ({screened.reason}); screen it out")
    engine = engine_of(config.engine)
    structure = Structure.from_dict(screened.structure)
    identity = {"candidate_id": screened.candidate_id}
    relaxations = _stage(engine.relax_maker().make(structure), config, StageName.RELAX, **identity)
    relax = relaxations[-1]
    static_runs = _stage(engine.static_maker().make(relax.output.structure), config, StageName.STATIC, **identity)
    static = static_runs[-1]
    dump = screened.model_dump(mode="json", exclude={"structure"})
    gate = jobs.gate(config.model_dump(mode="json"), dump, structure, relax.output, static.output)
    return Flow(
        [*relaxations, *static_runs, _tagged(gate, config, StageName.GATE, **identity)],
        name=f"candidate {screened.candidate_id}",
    )


def phonon_flow(config: CampaignConfig, candidate_id: str, structure: Structure) -> Flow:
    """The engine's phonon jobs of a relaxed candidate; the last one's output is its ``PhononDoc``."""
    made = engine_of(config.engine).phonon_jobs(config, candidate_id, structure)
    return Flow(_stage(made, config, StageName.PHONON, candidate_id=candidate_id), name=f"phonons {candidate_id}")


def bands_flow(config: CampaignConfig, candidate_id: str, structure: Structure, static: StaticSummary) -> Flow:
    """The engine's band jobs of a relaxed candidate; the last one's output is its ``BandsDoc``."""
    made = engine_of(config.engine).band_jobs(config, candidate_id, structure, static)
    return Flow(_stage(made, config, StageName.BANDS, candidate_id=candidate_id), name=f"bands {candidate_id}")


def _stage(made: Flow | Job | list[Job], config: CampaignConfig, stage: StageName, candidate_id: str) -> list[Any]:
    """The jobs of one stage, with their deterministic uuids.

    Only the last is the stage, which is done when its output is there; the others carry the metadata key
    ``part_of``. References among the jobs follow their new uuids.
    """
    if isinstance(made, Flow):
        jobs_ = [job for job, _ in made.iterflow()]
        for job in jobs_:
            job.hosts = []  # they become members of the candidate's flow
    else:
        jobs_ = [made] if isinstance(made, Job) else made
    if len(jobs_) > 1:
        # a reference is a copy of its uuid wherever an output was used: rename them in the queue's own form
        text = json.dumps(jobs_, cls=MontyEncoder)
        for number, job in enumerate(jobs_[:-1], 1):
            text = text.replace(job.uuid, jobs.job_uuid(config, candidate_id, f"{stage.value}:{number}"))
        text = text.replace(jobs_[-1].uuid, jobs.job_uuid(config, candidate_id, stage.value))
        jobs_ = MontyDecoder().decode(text)
    folders = engine_of(config.engine).keeps_runs
    for job in jobs_[:-1]:
        _describe(job, config, stage, {"part_of": stage.value, "candidate_id": candidate_id}, folders)
        job.name = f"{job.name} {candidate_id}"
    last = _tagged(jobs_[-1], config, stage, candidate_id=candidate_id)
    if folders:
        last.metadata["keep_folder"] = True
    return [*jobs_[:-1], last]


def _describe(job: Any, config: CampaignConfig, stage: StageName, metadata: dict[str, Any], folders: bool) -> None:
    job.metadata.update({"campaign": config.name, **metadata, **({"keep_folder": True} if folders else {})})
    job.config.manager_config = {**job.config.manager_config, "_category": stage_category(config, stage.value)}
    job.config.pass_manager_config = False  # jobflow would overwrite the children's with this one
