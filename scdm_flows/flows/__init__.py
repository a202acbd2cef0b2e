"""Flows: one shard of a campaign (generate -> screen), one candidate (relax -> static -> gate), its phonons.

A workflow holds one shard, so its size is bounded by the shard's; duplicates across shards are marked by the
candidate builder.
"""

from __future__ import annotations

from typing import Any

from jobflow.core.flow import Flow
from jobflow.core.job import Job
from pymatgen.core.structure import Structure

from scdm_flows import jobs
from scdm_flows.config import CampaignConfig
from scdm_flows.documents import ScreenedCandidate, StageName
from scdm_flows.engines import engine_of
from scdm_flows.errors import StructureError
from scdm_flows.generators import GENERATORS

GENERATE_STAGES = (StageName.GENERATE, StageName.SCREEN)


def stage_category(stage: str) -> str:
    """FireWorks category of a stage: ``generate`` for sampling and screening, ``compute`` for the engines."""
    return "generate" if stage in GENERATE_STAGES else "compute"


def _tagged(job: Any, config: CampaignConfig, stage: StageName, **identity: Any) -> Job:
    """The job with its deterministic uuid and the metadata to find it by."""
    item = str(identity.get("candidate_id", f"shard{identity.get('shard')}"))
    job.set_uuid(jobs.job_uuid(config, item, stage.value))
    job.name = f"{stage.value} {item}"
    job.metadata.update({"campaign": config.name, "stage": stage.value, **identity})
    job.config.manager_config = {**job.config.manager_config, "_category": stage_category(stage.value)}
    job.config.pass_manager_config = False  # jobflow would overwrite the children's with this one
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
    """relax -> static -> gate of one candidate; the gate adds the phonon jobs where it opens.

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
    relax = _tagged(engine.relax_maker().make(structure), config, StageName.RELAX, **identity)
    static = _tagged(engine.static_maker().make(relax.output.structure), config, StageName.STATIC, **identity)
    dump = screened.model_dump(mode="json", exclude={"structure"})
    gate = jobs.gate(config.model_dump(mode="json"), dump, structure, relax.output, static.output)
    return Flow(
        [relax, static, _tagged(gate, config, StageName.GATE, **identity)],
        name=f"candidate {screened.candidate_id}",
    )


def phonon_flow(config: CampaignConfig, candidate_id: str, structure: Structure) -> Flow:
    """The engine's phonon jobs of a relaxed candidate; the last one's output is its ``PhononDoc``.

    Only that one is the stage ``phonon``, with its deterministic uuid: the stage is done when its output is
    there.
    """
    *inner, last = engine_of(config.engine).phonon_jobs(config, candidate_id, structure)
    for job in inner:
        job.metadata.update({"campaign": config.name, "candidate_id": candidate_id})
        job.config.manager_config = {
            **job.config.manager_config,
            "_category": stage_category(StageName.PHONON),
        }
    return Flow(
        [*inner, _tagged(last, config, StageName.PHONON, candidate_id=candidate_id)],
        name=f"phonons {candidate_id}",
    )
