"""The gate of a candidate: where its energies put it, and which stages that opens."""

from __future__ import annotations

from typing import Any

from jobflow import Response, job
from jobflow.core.flow import Flow
from jobflow.core.maker import Maker
from pymatgen.core.structure import Structure

from scdm_flows.analysis.gate import Relaxation
from scdm_flows.analysis.gate import gate as decide
from scdm_flows.config import CampaignConfig, check_contents, stored_config
from scdm_flows.documents import GateDoc, ScreenedCandidate, StageName, StaticSummary
from scdm_flows.documents.provenance import made_here
from scdm_flows.engines import engine_of
from scdm_flows.errors import EngineError, ReferenceDataError
from scdm_flows.flows.identity import stage_of_jobs
from scdm_flows.thermo.table import ReferenceTable


@job(output_schema=GateDoc)
def gate(
    config: dict[str, Any],
    screened: dict[str, Any],
    sample: Structure,
    relaxed: Any,
    static: Any,
    phonon_maker: Maker | None = None,
    bands_maker: Maker | None = None,
) -> Response[GateDoc]:
    """Energies against the references; adds the jobs of the stages that the gate opens.

    screened: the verdict without its structure, which is ``sample``; relaxed, static: atomate2's documents;
    phonon_maker, bands_maker: instead of the engine's.
    """
    campaign = stored_config(config)
    check_contents(campaign)
    candidate = ScreenedCandidate.model_validate({**screened, "structure": sample})
    engine = engine_of(campaign.engine)
    summary = engine.static_summary(static)
    relaxation = Relaxation.of_task(relaxed)
    if summary.magnetic_order is not None:  # what follows begins with the moments of the lowest order
        none = [0.0] * len(relaxation.structure)
        relaxation.structure.add_site_property("magmom", summary.atom_magnetizations or none)
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
        potentials=summary.potentials,
        cannot=engine.cannot,
    )
    doc.static = summary
    surrogate = " (surrogate)" if engine.surrogate else ""
    doc.provenance = made_here(engine=engine.static_scheme + surrogate, config_hash=campaign.config_hash)
    flows = []
    if doc.phonon and campaign.budget.phonons is None:  # else the campaign chooses when all gates are closed
        flows.append(phonon_flow(campaign, candidate.candidate_id, doc.relaxed_structure, phonon_maker))
    if doc.bands:
        flows.append(bands_flow(campaign, candidate.candidate_id, doc.relaxed_structure, summary, bands_maker))
    else:
        engine.no_bands_to_come(summary)
    return Response(output=doc, addition=flows) if flows else Response(output=doc)


def phonon_flow(config: CampaignConfig, candidate_id: str, structure: Structure, maker: Maker | None = None) -> Flow:
    """The phonon jobs of a relaxed candidate; the last one's output is its ``PhononDoc``. maker: not the engine's."""
    made: Any = maker or engine_of(config.engine).phonon_maker()
    jobs = stage_of_jobs(made.make(structure, config, candidate_id), config, StageName.PHONON, candidate_id)
    return Flow([*jobs], name=f"phonons {candidate_id}")


def bands_flow(
    config: CampaignConfig, candidate_id: str, structure: Structure, static: StaticSummary, maker: Maker | None = None
) -> Flow:
    """The band jobs of a relaxed candidate; the last one's output is its ``BandsDoc``. maker: not the engine's."""
    made: Any = maker or engine_of(config.engine).bands_maker()
    jobs = stage_of_jobs(made.make(structure, config, candidate_id, static), config, StageName.BANDS, candidate_id)
    return Flow([*jobs], name=f"bands {candidate_id}")
