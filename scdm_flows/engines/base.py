"""What a campaign asks of an engine, and how force constants become a ``PhononDoc``. Knows no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from scdm_flows.analysis.stability import judge, phonon_bands
from scdm_flows.documents.base import Provenance
from scdm_flows.documents.stages import PhononDoc
from scdm_flows.provenance import git_commit, versions

if TYPE_CHECKING:
    from jobflow.core.job import Job
    from jobflow.core.maker import Maker
    from pymatgen.core.structure import Structure

    from scdm_flows.config import CampaignConfig
    from scdm_flows.documents.static import StaticSummary
    from scdm_flows.references.table import ReferenceTable


@dataclass(frozen=True)
class StageCost:
    """What a stage of one candidate takes, estimated: runs of so many atoms, k-points and bands; core hours of all."""

    stage: str
    runs: int
    atoms: int
    k_points: int
    bands: int
    core_hours: float


class Engine(Protocol):
    """What computes energies, forces, phonons and bands.

    scheme: name of its energies, which must be the reference table's; surrogate: whether a force field makes
    them; keeps_runs: whether the folders of its runs are kept; cannot: stage -> why the engine has no such stage,
    in which case its jobs are never asked for.
    """

    scheme: str
    surrogate: bool
    keeps_runs: bool
    cannot: Mapping[str, str]

    def check(self) -> list[str]:
        """What is missing to run, each in words with the remedy; empty when ready."""

    def check_elements(self, elements: Sequence[str]) -> list[str]:
        """Why some elements cannot be computed, with the remedy."""

    def layer_problems(self, structure: Structure, *, as_given: bool = False) -> list[str]:
        """Why a layer cannot be computed; as_given: as it lies in the user's file, not yet oriented."""

    def cost(self, structure: Structure | None, n_atoms: int = 0) -> list[StageCost]:
        """Each stage's estimated cost for a layer, or for a typical one of ``n_atoms``; empty for next to nothing."""

    def input_files(self, structure: Structure) -> dict[str, dict[str, str]]:
        """Run -> file name -> text of what the engine's program reads for a layer; empty where it reads no files."""

    def relax_maker(self) -> Maker:
        """A maker of a job or flow that relaxes atoms and the in-plane cell and keeps c."""

    def static_maker(self) -> Maker:
        """An atomate2 maker of a single-point energy."""

    def static_summary(self, task: Any) -> StaticSummary:
        """What the document of ``static_maker``'s job says."""

    def references(self) -> ReferenceTable:
        """The reference phases of ``scheme``; ``EngineError`` where there are none."""

    def phonon_jobs(self, config: CampaignConfig, candidate_id: str, structure: Structure) -> list[Job]:
        """Jobs that compute the phonons of a relaxed layer; the output of the last one is a ``PhononDoc``."""

    def band_jobs(
        self, config: CampaignConfig, candidate_id: str, structure: Structure, static: StaticSummary
    ) -> list[Job]:
        """Jobs that compute the bands of a relaxed layer; the output of the last one is a ``BandsDoc``."""


def phonon_document(
    phonon: Any,
    structure: Structure,
    *,
    candidate_id: str,
    campaign: str,
    scheme: str,
    surrogate: bool,
    displacement: float,
    n_displacements: int,
) -> PhononDoc:
    """Bands on the in-plane path and the verdict of a ``phonopy.Phonopy`` whose force constants are set.

    displacement: angstrom; n_displacements: supercells whose forces were computed.
    """
    bands = phonon_bands(phonon, structure)
    verdict = judge(bands)
    return PhononDoc(
        candidate_id=candidate_id,
        campaign=campaign,
        energy_scheme=scheme,
        surrogate=surrogate,
        supercell=[[int(x) for x in row] for row in phonon.supercell_matrix],
        displacement_angstrom=displacement,
        n_displacements=n_displacements,
        q_points=bands.q_points.round(6).tolist(),
        distances=bands.distances.round(6).tolist(),
        labels=bands.labels,
        frequencies_thz=bands.frequencies.round(5).tolist(),
        min_frequency_thz=verdict.min_frequency_thz,
        threshold_thz=verdict.threshold_thz,
        dynamically_stable=verdict.stable,
        reason=verdict.reason,
        provenance=Provenance(
            versions=versions(),
            git_commit=git_commit(),
            engine=f"{scheme} (surrogate)" if surrogate else scheme,
        ),
    )
