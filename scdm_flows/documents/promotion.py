"""What a promoted candidate keeps of the one that it was promoted from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ParentRecord(BaseModel):
    """A candidate as it was when it was promoted; field meanings as in ``CandidateDoc``.

    It stays as it is when the parent is computed again or removed.
    """

    model_config = ConfigDict(extra="forbid")

    candidate_id: str = Field(description="of the parent")
    campaign: str = Field(description="of the parent")
    rank: int | None = Field(None, description="1 is best within the parent's campaign")
    score: float | None = Field(None, description="ranking score, 0 to 1, dimensionless")
    energy_scheme: str | None = Field(None, description="what energy_per_atom is")
    surrogate: bool | None = Field(None, description="whether the energies come from a force field")
    energy_model: str | None = Field(None, description="id of the energy model that predicted them")
    extrapolated: bool | None = Field(None, description="outside what the energy model has learned from")
    energy_per_atom: float | None = Field(None, description="eV/atom, of energy_scheme")
    formation_energy_per_atom: float | None = Field(None, description="eV/atom, of energy_scheme")
    e_above_hull: float | None = Field(None, description="eV/atom, above the hull of energy_scheme")
    e_above_hull_lower_bound: bool | None = Field(
        None, description="e_above_hull is a lower bound, as competing phases are missing among the references"
    )
    e_above_hull_error: float | None = Field(
        None, description="half-width of the interval around e_above_hull that holds nine in ten, eV/atom"
    )
    dynamically_stable: bool | None = Field(None, description="no imaginary mode; null where unknown")
    band_gap: float | None = Field(None, description="eV")
    layer_group: int | None = Field(None, description="after relaxation, symprec 0.05 angstrom")
    thickness_angstrom: float | None = Field(None, description="of the relaxed structure, angstrom")
    area_per_atom_angstrom2: float | None = Field(None, description="of the relaxed structure, angstrom^2")
