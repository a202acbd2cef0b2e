"""Thin ``@job`` wrappers around pure functions; a reader of the science can skip them."""

from __future__ import annotations

import uuid
from typing import Any

from jobflow import Response, job
from pymatgen.core.structure import Structure

from scdm_flows.config import CampaignConfig
from scdm_flows.documents.bands import BandsDoc
from scdm_flows.documents.base import Provenance
from scdm_flows.documents.provenance import made_here
from scdm_flows.documents.stages import GateDoc, PhononDoc, ScreenedCandidate, ScreenOutput
from scdm_flows.documents.static import StaticSummary
from scdm_flows.errors import EngineError, ReferenceDataError
from scdm_flows.thermo.table import ReferenceTable

NAMESPACE = uuid.UUID("6f0cbb52-0a3c-5d39-8c5b-3d5e0b3f5c11")


def job_uuid(config: CampaignConfig, item: str, stage: str) -> str:
    """The deterministic uuid of a stage: the same job again updates its output and never adds one."""
    return str(uuid.uuid5(NAMESPACE, f"{config.name}:{config.config_hash}:{item}:{stage}"))


def _here(campaign: CampaignConfig, engine: str | None = None) -> Provenance:
    """The code that runs this job, which need not be the code that submitted it."""
    return made_here(engine=engine, config_hash=campaign.config_hash)


@job(data="records")
def generate(config: dict[str, Any], shard: int) -> dict[str, Any]:
    """Records of one shard; the large part goes to the blob store."""
    from scdm_flows.execution.jobs import current_progress
    from scdm_flows.generators import GENERATORS

    campaign = CampaignConfig.model_validate(config)
    generator = GENERATORS[campaign.generator.kind]
    size = campaign.generator.shard_size
    stop = min((shard + 1) * size, generator.count(campaign.generator))
    records = generator.generate(campaign.generator, shard * size, stop, progress=current_progress())
    return {"shard": shard, "records": records}


@job(output_schema=ScreenOutput)
def screen(config: dict[str, Any], shard: int, records: list[dict[str, Any]]) -> Response[ScreenOutput]:
    """Verdicts of one shard; adds a flow for each accepted candidate."""
    from scdm_flows.analysis import screening
    from scdm_flows.engines import engine_of
    from scdm_flows.flows.build import candidate_flow
    from scdm_flows.stores.known_sets import known_layers

    campaign = CampaignConfig.model_validate(config)
    for record in records:  # jobflow hands pymatgen dictionaries over as objects
        if isinstance(record["structure"], Structure):
            record["structure"] = record["structure"].as_dict()
    verdicts = screening.screen(campaign, records, known_layers())
    engine = engine_of(campaign.engine)
    flows = []
    for verdict in verdicts:
        if not verdict.accepted:
            continue
        try:
            problems = engine.layer_problems(Structure.from_dict(verdict.structure or {}))
            if not problems:
                flows.append(candidate_flow(campaign, verdict))
        except Exception as error:  # one odd structure must not end the shard
            problems = [f"{type(error).__name__}: {error}"]
        if problems:
            verdict.accepted = False
            verdict.reason = f"the {campaign.engine.kind} engine cannot compute it: {'; '.join(problems)}"
    output = ScreenOutput(campaign=campaign.name, shard=shard, candidates=verdicts, provenance=_here(campaign))
    return Response(output=output, addition=flows) if flows else Response(output=output)


@job(output_schema=GateDoc)
def gate(
    config: dict[str, Any], screened: dict[str, Any], sample: Structure, relaxed: Any, static: Any
) -> Response[GateDoc]:
    """Energies against the references; adds the jobs of the stages that the gate opens.

    screened: the verdict without its structure, which is ``sample``; relaxed, static: atomate2's documents.
    """
    from scdm_flows.analysis.gate import Relaxation
    from scdm_flows.analysis.gate import gate as decide
    from scdm_flows.engines import engine_of
    from scdm_flows.flows.build import bands_flow, phonon_flow

    campaign = CampaignConfig.model_validate(config)
    candidate = ScreenedCandidate.model_validate({**screened, "structure": sample.as_dict()})
    engine = engine_of(campaign.engine)
    summary = engine.static_summary(static)
    relaxation = Relaxation.of_task(relaxed)
    references: ReferenceTable | str
    predicted = None
    try:
        references, predicted = engine.references(), engine.predicted(relaxation.structure)
    except (EngineError, ReferenceDataError) as error:  # an element nobody knows, a force field without a model
        references = str(error)
    doc = decide(
        campaign,
        candidate,
        relaxation,
        summary.energy_per_atom,
        surrogate=engine.surrogate,
        references=references,
        predicted=predicted,
        scheme=engine.static_scheme,
        cannot=engine.cannot,
    )
    doc.static = summary
    doc.provenance = _here(campaign, engine.static_scheme + " (surrogate)" * engine.surrogate)
    relaxed_layer = Structure.from_dict(doc.relaxed_structure)
    flows = []
    if doc.phonon and campaign.budget.phonons is None:  # else the campaign chooses when all gates are closed
        flows.append(phonon_flow(campaign, candidate.candidate_id, relaxed_layer))
    if doc.bands:
        flows.append(bands_flow(campaign, candidate.candidate_id, relaxed_layer, summary))
    return Response(output=doc, addition=flows) if flows else Response(output=doc)


@job(output_schema=PhononDoc)
def phonon(config: dict[str, Any], candidate_id: str, structure: Structure) -> PhononDoc:
    """Phonon bands of a relaxed candidate from a force field, all in one job."""
    from scdm_flows.engines.forcefield.engine import ForceFieldEngine

    campaign = CampaignConfig.model_validate(config)
    if campaign.engine.kind != "forcefield":
        raise EngineError(f"phonons in one job are the forcefield engine's, campaign {campaign.name} has another")
    return ForceFieldEngine(campaign.engine).phonons(candidate_id, campaign.name, structure)


@job(output_schema=PhononDoc)
def phonon_summary(
    config: dict[str, Any],
    candidate_id: str,
    structure: Structure,
    phonons: Any,
    displacement: float,
    version: str | None = None,
) -> PhononDoc:
    """Phonon bands of a relaxed candidate from the force constants in atomate2's phonon document.

    atomate2's own bands follow a three-dimensional path; the sum rules are applied here. displacement:
    angstrom; version: what the engine's program printed.
    """
    import numpy as np
    from phonopy import Phonopy
    from pymatgen.io.phonopy import get_phonopy_structure

    from scdm_flows.engines import engine_of
    from scdm_flows.engines.base import PHONON_SYMPREC_ANGSTROM, phonon_document

    campaign = CampaignConfig.model_validate(config)
    engine = engine_of(campaign.engine)
    # the tolerance of the displacements: with another one, almost equal images would not share their force constants
    calculation = Phonopy(
        get_phonopy_structure(structure),
        phonons.supercell_matrix,
        primitive_matrix=np.eye(3),
        symprec=PHONON_SYMPREC_ANGSTROM,
    )
    calculation.force_constants = np.array(phonons.force_constants.force_constants)
    calculation.symmetrize_force_constants(level=2)
    document = phonon_document(
        calculation,
        structure,
        candidate_id=candidate_id,
        campaign=campaign.name,
        scheme=engine.static_scheme,
        surrogate=engine.surrogate,
        displacement=displacement,
        n_displacements=len(phonons.jobdirs.displacements_job_dirs or []),
    )
    if version is not None:
        document.provenance.engine = f"{engine.scheme}, version {version}"
    return document


@job(output_schema=BandsDoc)
def bands_summary(
    config: dict[str, Any], candidate_id: str, static: dict[str, Any], uniform: Any, line: Any
) -> BandsDoc:
    """Bands, gap, masses and density of states from atomate2's documents of the uniform and the line run."""
    from scdm_flows.analysis.bands import bands_document
    from scdm_flows.engines import engine_of

    campaign = CampaignConfig.model_validate(config)
    return bands_document(
        line.vasp_objects["bandstructure"],
        uniform.vasp_objects.get("bandstructure"),
        uniform.vasp_objects.get("dos"),
        candidate_id=candidate_id,
        campaign=campaign.name,
        scheme=engine_of(campaign.engine).scheme,
        static=StaticSummary.model_validate(static),
    )
