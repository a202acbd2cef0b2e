"""A convex hull: the phases of a chemical system as last computed. Collection ``hulls``, key ``chemsys``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.base import ScdmDocument


class HullPoint(BaseModel):
    """One phase, to be drawn."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="id in its source, or candidate_id")
    formula: str = Field(description="its formula")
    candidate: bool = Field(description="one of ours; else a reference phase")
    energy_per_atom: float = Field(description="eV/atom of energy_scheme; of candidates calibrated where surrogate")
    formation_energy_per_atom: float = Field(description="energy_per_atom relative to the elements, eV/atom")
    stable: bool | None = Field(None, description="on the hull; null where that was not worked out")


class HullDoc(ScdmDocument):
    """References and candidates of one chemical system and its subsystems."""

    chemsys: str = Field(description="elements in alphabetical order joined by -")
    energy_scheme: str = Field(description="what the energies are; schemes never mix")
    surrogate: bool = Field(description="whether the energies come from a force field")
    reference_sha256: str = Field(description="sha256 of the reference table")
    calibration_id: str | None = Field(None, description="calibration of the candidates, where surrogate")
    n_reference_phases: int = Field(description="reference phases that competed")
    inputs_sha256: str = Field(description="of all that went in; the same inputs are not computed again")
    candidates: dict[str, float] = Field(
        default_factory=dict, description="candidate_id of this chemical system -> e_above_hull, eV/atom"
    )
    errors: dict[str, str] = Field(default_factory=dict, description="candidate_id -> why it has no place")
    points: list[HullPoint] = Field(
        default_factory=list, description="phases to draw; of very many references only the lowest"
    )
