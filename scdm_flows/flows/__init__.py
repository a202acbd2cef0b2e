"""Flows: one shard of a campaign (generate -> screen), one candidate (relax -> static -> gate), its phonons.

A workflow holds one shard, so its size is bounded by the shard's; duplicates across shards are marked by the builder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymatgen.core import Structure

from scdm_flows import jobs
from scdm_flows.config import CampaignConfig
from scdm_flows.documents.stages import ScreenedCandidate
from scdm_flows.engines import engine_of
from scdm_flows.generators import GENERATORS

if TYPE_CHECKING:
    from jobflow import Flow, Job


def _tagged(job: Job, config: CampaignConfig, stage: str, **extra: Any) -> Job:
    """The job with its deterministic uuid, and with metadata and FireWorks spec keys to find it by."""
    item = str(extra.get("candidate_id", f"shard{extra.get('shard')}"))
    job.set_uuid(jobs.job_uuid(config, item, stage))
    metadata = {"campaign": config.name, "stage": stage, **extra}
    job.metadata.update(metadata)
    job.config.manager_config = {**job.config.manager_config, "_category": stage_category(stage), **metadata}
    job.name = f"{stage} {item}"
    return job


def stage_category(stage: str) -> str:
    """The FireWorks category a worker asks for: ``generate`` for sampling and screening, ``compute`` for the engines."""
    return "generate" if stage in ("generate", "screen") else "compute"


def shard_count(config: CampaignConfig) -> tuple[int, int]:
    """(number of shards, number of samples) of a campaign."""
    total = GENERATORS[config.generator.kind].count(config.generator)
    return -(-total // config.generator.shard_size), total


def shard_flow(config: CampaignConfig, shard: int) -> Flow:
    """generate -> screen of one shard; the screen adds the candidates' flows."""
    from jobflow import Flow

    dump = config.model_dump(mode="json")
    make = _tagged(jobs.generate(dump, shard), config, "generate", shard=shard)
    judge = _tagged(jobs.screen(dump, shard, make.output["records"]), config, "screen", shard=shard)
    return Flow([make, judge], name=f"{config.name} shard {shard}")


def candidate_flow(config: CampaignConfig, screened: ScreenedCandidate) -> Flow:
    """relax -> static -> gate of one candidate; the gate adds the phonon job where it opens."""
    from jobflow import Flow

    engine = engine_of(config.engine)
    structure = Structure.from_dict(screened.structure)
    identity = {"candidate_id": screened.candidate_id}
    relax = _tagged(engine.relax_maker().make(structure), config, "relax", **identity)
    static = _tagged(engine.static_maker().make(relax.output.structure), config, "static", **identity)
    dump = screened.model_dump(mode="json", exclude={"structure"})
    verdict = jobs.gate(config.model_dump(mode="json"), dump, structure, relax.output, static.output)
    return Flow([relax, static, _tagged(verdict, config, "gate", **identity)], name=f"candidate {screened.candidate_id}")


def phonon_job(config: CampaignConfig, candidate_id: str, structure: Structure) -> Job:
    """The phonon job of a relaxed candidate."""
    made = jobs.phonon(config.model_dump(mode="json"), candidate_id, structure)
    return _tagged(made, config, "phonon", candidate_id=candidate_id)
