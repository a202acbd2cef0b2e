"""Jobs that engines are made of: what ends a stage in its document. Thin wrappers around pure functions."""

from __future__ import annotations

from typing import Any

from jobflow import job
from pymatgen.core.structure import Structure

from scdm_flows.config import stored_config
from scdm_flows.documents.bands import BandsDoc
from scdm_flows.documents.phonon import PhononDoc
from scdm_flows.documents.static import StaticSummary
from scdm_flows.engines import engine_of
from scdm_flows.engines.base import layer_phonopy, phonon_document
from scdm_flows.errors import EngineError


@job(output_schema=PhononDoc)
def phonon(config: dict[str, Any], candidate_id: str, structure: Structure) -> PhononDoc:
    """Phonon bands of a relaxed candidate from a force field, all in one job."""
    campaign = stored_config(config)
    engine: Any = engine_of(campaign.engine)
    if campaign.engine.kind != "forcefield":
        raise EngineError(f"phonons in one job are the forcefield engine's, campaign {campaign.name} has another")
    found: PhononDoc = engine.phonons(candidate_id, campaign.name, structure)
    return found


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

    Of jobs that were put in a queue when VASP's phonons had such a document. displacement: angstrom; version: what
    the engine's program printed.
    """
    import numpy as np

    campaign = stored_config(config)
    engine = engine_of(campaign.engine)
    calculation = layer_phonopy(structure, phonons.supercell_matrix)
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

    campaign = stored_config(config)
    engine, summary = engine_of(campaign.engine), StaticSummary.model_validate(static)
    document = bands_document(
        line.vasp_objects["bandstructure"],
        uniform.vasp_objects.get("bandstructure"),
        uniform.vasp_objects.get("dos"),
        candidate_id=candidate_id,
        campaign=campaign.name,
        scheme=engine.scheme,
        static=summary,
        spin_orbit=bool(line.calcs_reversed[0].input.incar.get("LSORBIT")),
    )
    engine.no_bands_to_come(summary)
    return document
