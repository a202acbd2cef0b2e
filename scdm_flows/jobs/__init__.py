"""Thin ``@job`` wrappers around pure functions; a reader of the science can skip them."""

from __future__ import annotations

import uuid
from typing import Any

from jobflow import Response, job
from pymatgen.core import Structure

from scdm_flows.config import CampaignConfig
from scdm_flows.documents.stages import GateDoc, PhononDoc, ScreenedCandidate, ScreenOutput

NAMESPACE = uuid.UUID("6f0cbb52-0a3c-5d39-8c5b-3d5e0b3f5c11")


def job_uuid(config: CampaignConfig, item: str, stage: str) -> str:
    """The deterministic uuid of a stage: the same job again updates its output and never adds one."""
    return str(uuid.uuid5(NAMESPACE, f"{config.name}:{config.config_hash}:{item}:{stage}"))


@job(data="records")
def generate(config: dict[str, Any], shard: int) -> dict[str, Any]:
    """Records of one shard; the large part goes to the blob store."""
    from scdm_flows.generators import GENERATORS

    campaign = CampaignConfig.model_validate(config)
    generator = GENERATORS[campaign.generator.kind]
    size = campaign.generator.shard_size
    stop = min((shard + 1) * size, generator.count(campaign.generator))
    return {"shard": shard, "records": generator.generate(campaign.generator, shard * size, stop)}


@job(output_schema=ScreenOutput)
def screen(config: dict[str, Any], shard: int, records: list[dict[str, Any]]) -> Response[ScreenOutput]:
    """Verdicts of one shard; adds a flow for each accepted candidate."""
    from scdm_flows.analysis import screening
    from scdm_flows.flows import candidate_flow
    from scdm_models.datasets.fingerprints import FingerprintIndex

    campaign = CampaignConfig.model_validate(config)
    for record in records:  # jobflow hands pymatgen dictionaries over as objects
        if isinstance(record["structure"], Structure):
            record["structure"] = record["structure"].as_dict()
    verdicts = screening.screen(campaign, records, FingerprintIndex.load())
    flows = [candidate_flow(campaign, verdict) for verdict in verdicts if verdict.accepted]
    output = ScreenOutput(campaign=campaign.name, shard=shard, candidates=verdicts)
    return Response(output=output, addition=flows or None)


@job(output_schema=GateDoc)
def gate(
    config: dict[str, Any], screened: dict[str, Any], sample: Structure, relaxed: Any, static: Any
) -> Response[GateDoc]:
    """Energies against the references; adds the phonon job where the gate opens.

    screened: the verdict without its structure, which is ``sample``; relaxed, static: atomate2's documents.
    """
    from scdm_flows.analysis.gate import gate as decide
    from scdm_flows.engines import engine_of
    from scdm_flows.flows import phonon_job
    from scdm_flows.references.table import ReferenceTable

    campaign = CampaignConfig.model_validate(config)
    candidate = ScreenedCandidate.model_validate({**screened, "structure": sample.as_dict()})
    engine = engine_of(campaign.engine)
    table = ReferenceTable.load()
    structure: Structure = relaxed.structure
    forces = relaxed.output.forces
    doc = decide(
        campaign,
        candidate,
        structure,
        float(static.output.energy_per_atom),
        scheme=engine.scheme,
        surrogate=engine.surrogate,
        converged=bool(relaxed.is_force_converged),
        steps=relaxed.output.n_steps,
        max_force=None if forces is None else max(sum(x * x for x in f) ** 0.5 for f in forces),
        phases=table.entries([str(e) for e in structure.composition]),
        reference_sha256=table.sha256,
    )
    follow = phonon_job(campaign, candidate.candidate_id, structure) if doc.phonon else None
    return Response(output=doc, addition=follow)


@job(output_schema=PhononDoc)
def phonon(config: dict[str, Any], candidate_id: str, structure: Structure) -> PhononDoc:
    """Phonon bands of a relaxed candidate."""
    from scdm_flows.engines import engine_of

    campaign = CampaignConfig.model_validate(config)
    return engine_of(campaign.engine).phonons(candidate_id, campaign.name, structure)
