"""Flows of several VASP runs that end in one document: phonons with the stiffness, and bands of a relaxed layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jobflow import job
from jobflow.core.flow import Flow
from jobflow.core.maker import Maker
from pymatgen.core.structure import Structure

from scdm_flows.analysis.phonons import restoring_forces
from scdm_flows.analysis.stiffness import strains
from scdm_flows.config import CampaignConfig, VaspEngineConfig, stored_config
from scdm_flows.documents.phonon import PhononDoc
from scdm_flows.documents.static import StaticSummary
from scdm_flows.engines import engine_of
from scdm_flows.engines.base import phonon_document
from scdm_flows.engines.jobs import bands_summary
from scdm_flows.engines.vasp.strained import StrainRun, stiffness_of


@dataclass
class SlabPhononMaker(Maker):
    """A job for each displaced supercell, one for it at rest, one for each strained cell, and the summary.

    atomate2's ``PhononMaker`` makes the displacement jobs while it runs, with new uuids each time; here they are
    known when the gate opens, so an interrupted candidate finds its finished displacements again.
    """

    engine: VaspEngineConfig
    name: str = field(default="phonons", kw_only=True)

    def make(self, structure: Structure, config: CampaignConfig, candidate_id: str) -> Flow:
        """The flow of a relaxed layer; magnetic moments of its sites start all runs."""
        engine: Any = engine_of(self.engine)
        maker, strain_maker = engine.displacement_maker(structure), engine.strain_maker(structure)
        runs = [maker.make(supercell) for supercell in engine.displaced(structure)[1]]
        for number, run in enumerate(runs, 1):
            run.name = f"phonon {number}/{len(runs)}"
        at_rest = maker.make(engine.at_rest(structure))
        at_rest.name, at_rest.metadata["run"] = "phonon undisplaced", "undisplaced"
        strained = []
        for strain in strains(structure, self.engine.strain):
            run = strain_maker.make(strain.of(structure))
            run.name = run.metadata["run"] = f"strain {strain.name}"
            strained.append(run)
        summary = slab_phonons(
            config.model_dump(mode="json"),
            candidate_id,
            structure,
            [run.output.output.forces for run in runs],
            at_rest.output.output.forces,
            [run.output for run in strained],
            version=at_rest.output.vasp_version,
        )
        return Flow([*runs, at_rest, *strained, summary], name=self.name)


@job(output_schema=PhononDoc)
def slab_phonons(
    config: dict[str, Any],
    candidate_id: str,
    structure: Structure,
    forces: list[Any],
    at_rest: Any,
    strained: list[StrainRun],
    version: str,
) -> PhononDoc:
    """Phonons and stiffness of a relaxed candidate.

    forces: of each displaced supercell (n_atoms, 3), eV/angstrom, in the order of ``VaspEngine.displaced``; at_rest:
    the same of the undisplaced one; strained: in the order of ``strains``; version: of VASP.
    """
    campaign = stored_config(config)
    engine: Any = engine_of(campaign.engine)
    phonon = engine.phonon_of(structure, restoring_forces(forces, at_rest))
    runs = [StrainRun.model_validate(run) for run in strained]
    stiffness, note = stiffness_of(structure, engine.config.strain, runs)
    document = phonon_document(
        phonon,
        structure,
        candidate_id=candidate_id,
        campaign=campaign.name,
        scheme=engine.static_scheme,
        surrogate=False,
        displacement=engine.config.phonon_displacement_angstrom,
        n_displacements=len(forces),
        stiffness=stiffness,
        at_rest=np.array(at_rest),
    )
    document.stiffness_note = note
    document.provenance.engine = f"{engine.scheme}, version {version}"
    return document


@dataclass
class SlabBandsFlowMaker(Maker):
    """Uniform and line runs on the static run's charge density, their summary, and the gap of HSE06 where asked."""

    uniform_maker: Maker
    line_maker: Maker
    hse_maker: Maker | None = None
    name: str = field(default="bands", kw_only=True)

    def make(self, structure: Structure, config: CampaignConfig, candidate_id: str, static: StaticSummary) -> Flow:
        """The flow of a relaxed layer."""
        uniform: Any = self.uniform_maker
        line: Any = self.line_maker
        uniform_run = uniform.make(structure, prev_dir=static.folder, mode="uniform")
        line_run = line.make(structure, prev_dir=static.folder, mode="line")
        dump = config.model_dump(mode="json")
        summary = bands_summary(dump, candidate_id, static.model_dump(mode="json"), uniform_run.output, line_run.output)
        runs = [uniform_run, line_run, summary]
        if self.hse_maker is not None:
            from scdm_flows.engines.vasp.hybrid import with_hybrid_gap

            hybrid: Any = self.hse_maker
            gap = hybrid.make(structure, summary.output)
            runs += [gap, with_hybrid_gap(summary.output, gap.output)]
        return Flow(runs, name=self.name)
