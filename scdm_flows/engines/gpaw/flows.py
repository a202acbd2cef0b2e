"""What follows the gate of a layer: phonons with C2DB's criteria, and bands with spin-orbit coupling."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jobflow import job
from jobflow.core.flow import Flow
from jobflow.core.maker import Maker
from pymatgen.core.structure import Structure

from scdm_flows.analysis.bands import document_of_path, of_path
from scdm_flows.analysis.phonons import in_plane_path, restoring_forces
from scdm_flows.analysis.stability import c2db_criteria
from scdm_flows.analysis.symmetrise import symmetrised
from scdm_flows.config import CampaignConfig, GpawEngineConfig, stored_config
from scdm_flows.documents.bands import BandsDoc, DosData
from scdm_flows.documents.phonon import PhononDoc
from scdm_flows.documents.static import StaticSummary
from scdm_flows.engines import engine_of
from scdm_flows.engines.base import phonon_document
from scdm_flows.engines.gpaw import process
from scdm_flows.engines.gpaw.inputs import DENSITY, bands_task
from scdm_flows.engines.gpaw.makers import GpawForcesMaker, GpawStiffnessMaker
from scdm_flows.engines.vasp.inputs import corrects_dipole


@dataclass
class GpawPhononMaker(Maker):
    """A job for each displaced supercell, one for it at rest, one for the stiffness tensor, and C2DB's verdict."""

    engine: GpawEngineConfig
    name: str = field(default="phonons", kw_only=True)

    def make(self, structure: Structure, config: CampaignConfig, candidate_id: str) -> Flow:
        """The flow of a relaxed layer; magnetic moments of its sites start the displaced runs."""
        engine: Any = engine_of(self.engine)
        supercells = engine.displaced(structure)[1]
        maker = GpawForcesMaker(engine=self.engine, dipole=corrects_dipole(self.engine.dipole_correction, structure))
        runs = [maker.make(supercell) for supercell in supercells]
        for number, run in enumerate(runs, 1):
            run.name = f"phonon {number}/{len(runs)}"
        at_rest = maker.make(engine.at_rest(structure))
        at_rest.name, at_rest.metadata["run"] = "phonon undisplaced", "undisplaced"
        stiffness = GpawStiffnessMaker(engine=self.engine).make(structure)
        dump, forces = config.model_dump(mode="json"), [run.output.output.forces for run in runs]
        summary = phonons_of_forces(
            dump,
            candidate_id,
            structure,
            forces,
            stiffness.output,
            runs[0].output.engine_version,
            at_rest=at_rest.output.output.forces,
        )
        return Flow([*runs, at_rest, stiffness, summary], name=self.name)


@job(output_schema=PhononDoc)
def phonons_of_forces(
    config: dict[str, Any],
    candidate_id: str,
    structure: Structure,
    forces: list[Any],
    stiffness: list[list[float]],
    version: str,
    at_rest: Any = None,
) -> PhononDoc:
    """Phonons of a relaxed candidate, judged as C2DB judges them.

    forces: of each displaced supercell (n_atoms, 3), eV/angstrom, in the order of ``GpawEngine.displaced``; stiffness:
    (3, 3) N/m; version: of GPAW; at_rest: forces of the undisplaced supercell, which jobs in a queue may lack.
    """
    campaign = stored_config(config)
    engine: Any = engine_of(campaign.engine)
    phonon, supercells = engine.displaced(structure)
    phonon.forces = restoring_forces(forces, np.zeros(3) if at_rest is None else at_rest)
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants(level=2)
    document = phonon_document(
        phonon,
        structure,
        candidate_id=candidate_id,
        campaign=campaign.name,
        scheme=engine.scheme,
        surrogate=False,
        displacement=engine.config.phonon_displacement_angstrom,
        n_displacements=len(supercells),
        criteria=c2db_criteria(phonon, np.array(stiffness)),
        at_rest=None if at_rest is None else np.array(at_rest),
    )
    document.provenance.engine = f"{engine.scheme}, GPAW {version}, preset {engine.config.preset}"
    return document


@dataclass
class GpawBandsMaker(Maker):
    """Bands and density of states of a relaxed layer, in one job."""

    engine: GpawEngineConfig
    name: str = field(default="bands", kw_only=True)

    def make(self, structure: Structure, config: CampaignConfig, candidate_id: str, static: StaticSummary) -> Flow:
        """A flow of one job; its output is a ``BandsDoc``."""
        made = bands(config.model_dump(mode="json"), candidate_id, structure, static.model_dump(mode="json"))
        return Flow([made], name=self.name)


@job(output_schema=BandsDoc)
def bands(config: dict[str, Any], candidate_id: str, structure: Structure, static: dict[str, Any]) -> BandsDoc:
    """Bands on the in-plane path and on a mesh, with spin-orbit coupling, from the static run's density.

    static: the ``StaticSummary``; where its density does not lie on this machine, it is computed anew.
    """
    campaign = stored_config(config)
    engine: Any = engine_of(campaign.engine)
    summary = StaticSummary.model_validate(static)
    density = None if summary.folder is None else str(Path(summary.folder) / DENSITY)
    task = bands_task(engine.config, structure, density)
    answer = process.run(task, Path.cwd(), walltime=engine.config.walltime_s)
    _, distances, labels = in_plane_path(symmetrised(structure), engine.config.band_points)  # whose path it was
    path = of_path(np.array(task["k_points"]), {"up": np.array(answer["path"])}, distances, labels)
    mesh = of_path(np.array(answer["mesh_k_points"]), {"up": np.array(answer["mesh"])})
    summary.engine_version = answer["version"]
    return document_of_path(
        path,
        mesh,
        answer["fermi_level"],
        DosData(energies_ev=answer["dos_energies"], densities={"up": answer["dos"]}),
        candidate_id=candidate_id,
        campaign=campaign.name,
        scheme=engine.scheme,
        static=summary,
        spin_orbit=True,
    )
