"""Flows of several VASP runs that end in one document: phonons and bands of a relaxed layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from atomate2.common.jobs.phonons import generate_frequencies_eigenvectors
from jobflow.core.flow import Flow
from jobflow.core.maker import Maker
from pymatgen.core.structure import Structure

from scdm_flows.config import CampaignConfig, VaspEngineConfig
from scdm_flows.documents.static import StaticSummary
from scdm_flows.engines import engine_of
from scdm_flows.engines.jobs import bands_summary, phonon_summary

THEIR_BAND_POINTS = 11  # a branch of atomate2's three-dimensional path, which a layer has no use for


@dataclass
class SlabPhononMaker(Maker):
    """A job for each displaced supercell, atomate2's phonon document, and the summary on the in-plane path.

    atomate2's ``PhononMaker`` makes the displacement jobs while it runs, with new uuids each time; here they are
    known when the gate opens, so an interrupted candidate finds its finished displacements again.
    """

    engine: VaspEngineConfig
    name: str = field(default="phonons", kw_only=True)

    def make(self, structure: Structure, config: CampaignConfig, candidate_id: str) -> Flow:
        """The flow of a relaxed layer; magnetic moments of its sites start the displaced runs."""
        engine: Any = engine_of(self.engine)
        plain = structure.copy()
        if "magmom" in plain.site_properties:
            plain.remove_site_property("magmom")
        matrix, supercells = engine.displaced(structure)
        maker = engine.displacement_maker(structure)
        runs = [maker.make(supercell) for supercell in supercells]
        for number, run in enumerate(runs, 1):
            run.name = f"phonon {number}/{len(runs)}"
        collected = generate_frequencies_eigenvectors(
            structure=plain,
            supercell_matrix=matrix,
            **engine.phonopy_arguments(),
            displacement_data={
                "displacement_number": list(range(len(runs))),
                "forces": [run.output.output.forces for run in runs],
                "uuids": [run.output.uuid for run in runs],
                "dirs": [run.output.dir_name for run in runs],
            },
            total_dft_energy=None,
            static_run_job_dir=None,
            static_run_uuid=None,
            born_run_job_dir=None,
            born_run_uuid=None,
            optimization_run_job_dir=None,
            optimization_run_uuid=None,
            create_thermal_displacements=False,
            store_force_constants=True,
            npoints_band=THEIR_BAND_POINTS,
        )
        summary = phonon_summary(
            config.model_dump(mode="json"),
            candidate_id,
            plain,
            collected.output,
            engine.config.phonon_displacement_angstrom,
            version=runs[0].output.vasp_version,
        )
        return Flow([*runs, collected, summary], name=self.name)


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
