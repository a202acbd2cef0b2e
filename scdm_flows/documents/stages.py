"""Outputs of the campaign's own jobs, as they lie in the job store; the candidate builder assembles them.

Relaxation and static runs keep the documents that atomate2 writes; what the campaign needs of them is repeated in
``GateDoc``. All jobs of a candidate carry the metadata keys ``campaign``, ``candidate_id`` and ``stage``.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.base import Provenance, utc_now, versioned
from scdm_flows.documents.phonon import PhononDoc  # its dotted path in stored documents
from scdm_flows.documents.promotion import ParentRecord
from scdm_flows.documents.static import StaticSummary
from scdm_flows.documents.structure import ReadableStructure, StructureField

__all__ = ["GateDoc", "PhononDoc", "ScreenOutput", "ScreenedCandidate", "StageFailure"]


class _Output(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Stored(_Output):
    """A document of its own: it says its version and where it comes from."""

    schema_version: int = versioned(1)
    provenance: Provenance = Field(default_factory=Provenance, description="where this comes from")


class ScreenedCandidate(_Output):
    """One sample and the verdict of the screen; field meanings as in ``CandidateDoc``.

    ``novel`` and ``known_as`` are those of the sample (``sample_novel`` and ``sample_known_as`` there).
    """

    candidate_id: str
    index: int
    generator: str
    model_id: str | None = None
    seed: int | None = None
    source_id: str | None = None
    promoted_from: str | None = None
    parent: ParentRecord | None = None
    structure: ReadableStructure | None = Field(description="pymatgen's dict; null where the item could not be read")
    formula: str | None = None
    layer_group_requested: int | None = None
    layer_group_generated: int | None = None
    space_group_generated: int | None = Field(None, description="space group of the sample, symprec 1e-3 angstrom")
    min_distance_angstrom: float | None = None
    thickness_angstrom: float | None = None
    valid_distance: bool | None = None
    valid_radii: bool | None = None
    one_layer: bool | None = None
    duplicate_of: str | None = None
    novel: bool | None = Field(None, description="the sample equals no known layer")
    known_as: list[str] = Field(default_factory=list, description="ids of known layers that equal the sample")
    template: str | None = None
    new_template: bool | None = None
    prototype_distance: float | None = None
    accepted: bool = Field(description="goes on to relaxation")
    reason: str | None = Field(None, description="why it does not")


class ScreenOutput(_Stored):
    """Output of a screening job: every sample of one shard, accepted or not."""

    campaign: str
    shard: int = Field(description="number of the shard, from 0")
    candidates: list[ScreenedCandidate] = Field(description="every sample of the shard")


class GateDoc(_Stored):
    """Output of the gate job: the relaxed candidate, its energies, and which stages follow.

    Older outputs are read through ``documents.migrations``.
    """

    schema_version: int = versioned(2)  # 2: one energy above hull, of the energy model where surrogate
    candidate_id: str
    campaign: str
    relaxed_structure: StructureField
    relax_converged: bool = Field(description="the relaxation ended below its largest allowed force")
    relax_steps: int | None = Field(None, description="number of ionic steps; null where the engine does not say")
    max_force_ev_per_angstrom: float | None = Field(
        None, description="largest force on an atom at its end, eV/angstrom"
    )
    rmsd_to_relaxed_angstrom: float | None = None
    one_layer: bool | None = Field(None, description="still one connected layer after relaxation")
    thickness_angstrom: float | None = Field(None, description="distance between the outermost atoms, angstrom")
    area_per_atom_angstrom2: float | None = Field(None, description="area of the cell over its atoms, angstrom^2")
    layer_group: int | None = None
    space_group: int | None = None
    energy_per_atom: float = Field(
        description="total energy, eV/atom, of energy_scheme; where surrogate, predicted by the energy model"
    )
    energy_scheme: str
    surrogate: bool
    energy_model: str | None = None
    extrapolated: bool | None = None
    stable_probability: float | None = None
    nonmetal_probability: float | None = None
    magnetic_probability: float | None = None
    predicted_band_gap: float | None = None
    predicted_band_gap_error: float | None = None
    direct_gap_probability: float | None = None
    formation_energy_per_atom: float | None = None
    e_above_hull: float | None = None
    e_above_hull_error: float | None = None
    e_above_hull_lower_bound: bool | None = None
    missing_competitors: list[str] = Field(
        default_factory=list, description="compositions that belong on the hull and that the references lack"
    )
    decomposition: dict[str, float] | None = None
    exfoliation_mev_per_angstrom2: float | None = None
    bulk_parent: str | None = None
    reference_sha256: str | None = Field(None, description="sha256 of the frozen reference entries")
    in_window: bool = Field(description="e_above_hull within the campaign's window")
    phonon: bool = Field(description="phonons follow")
    bands: bool = Field(False, description="electronic bands follow")
    reason: str | None = Field(None, description="why no phonons, or why out of the window")
    skipped: dict[str, str] = Field(default_factory=dict, description="stage (phonon, bands) -> why it does not follow")
    static: StaticSummary | None = Field(None, description="what the static run says besides its energy")


class StageFailure(_Stored):
    """A stage that failed. Collection ``failures``, key ``failure_id`` (candidate id and stage)."""

    failure_id: str = Field(description="<candidate_id>:<stage>")
    candidate_id: str
    campaign: str
    stage: str = Field(description="name of the stage")
    error_type: str = Field(description="class of the error")
    message: str = Field(description="what it said")
    job_uuid: str | None = Field(None, description="jobflow uuid of the job")
    failed_at: datetime = Field(default_factory=utc_now, description="UTC time")
