"""What a campaign asks of an engine, and how force constants become a ``PhononDoc``. Knows no engine."""

from __future__ import annotations

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
    from scdm_flows.references.table import ReferenceTable


class Engine(Protocol):
    """What computes energies, forces and phonons.

    scheme: name of its energies, which must be the reference table's; surrogate: whether a force field makes
    them.
    """

    scheme: str
    surrogate: bool

    def check(self) -> list[str]:
        """What is missing to run, each in words with the remedy; empty when ready."""

    def relax_maker(self) -> Maker:
        """An atomate2 maker that relaxes atoms and the in-plane cell and keeps c."""

    def static_maker(self) -> Maker:
        """An atomate2 maker of a single-point energy."""

    def references(self) -> ReferenceTable:
        """The reference phases of ``scheme``; ``EngineError`` where there are none."""

    def phonon_jobs(self, config: CampaignConfig, candidate_id: str, structure: Structure) -> list[Job]:
        """Jobs that compute the phonons of a relaxed layer; the output of the last one is a ``PhononDoc``."""


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
