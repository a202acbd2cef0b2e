"""A convex hull: the phases of a chemical system as last computed. Collection ``hulls``, key ``hull_id``."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.base import ScdmDocument, versioned

NAMED = 5  # of the compositions that are missing
LOWER_BOUND_MARK = "≥"
LOWER_BOUND_WORDS = "a lower bound: competing phases are missing among the references"


def at_least(words: str, lower_bound: bool | None) -> str:
    """An energy above hull in words, marked where it is a lower bound."""
    return f"{LOWER_BOUND_MARK} {words}" if lower_bound else words


def missing_words(missing: Sequence[str]) -> str:
    """The first of the compositions that are missing, and how many more."""
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return ", ".join(missing[:NAMED]) + more


class HullPoint(BaseModel):
    """One phase, to be drawn."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="id in its source, or candidate_id")
    formula: str = Field(description="its formula")
    candidate: bool = Field(description="one of ours; else a reference phase")
    energy_per_atom: float = Field(description="eV/atom of energy_scheme; of candidates predicted where surrogate")
    formation_energy_per_atom: float = Field(description="energy_per_atom relative to the elements, eV/atom")
    stable: bool | None = Field(None, description="on the hull; null where that was not worked out")


class LowerPhase(BaseModel):
    """A candidate below the hull of the references: the only kind that moves other candidates."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="candidate_id")
    formula: str = Field(description="its formula")
    energy_per_atom: float = Field(description="eV/atom of energy_scheme, predicted where surrogate")


class HullDoc(ScdmDocument):
    """References and candidates of one chemical system; those of subsystems compete too."""

    schema_version: int = versioned(3)  # 2: several references in one database; revisions. 3: no calibration
    hull_id: str = Field(description="references and chemical system, <references>:<chemsys>")
    references: str = Field(description="what the candidates are judged by: the energy scheme, and a file's sha256")
    chemsys: str = Field(description="elements in alphabetical order joined by -")
    elements: list[str] = Field(description="elements in alphabetical order")
    energy_scheme: str = Field(description="what the energies are; schemes never mix")
    surrogate: bool = Field(description="whether the candidates' energies come from a force field")
    basis_sha256: str = Field(description="of reference table and algorithm: another basis, another hull")
    reference_sha256: str = Field(description="sha256 of the reference table")
    revision: int = Field(0, description="how often it was written: a writer that read an older one starts again")
    spread: bool = Field(True, description="larger systems have followed the last change of ``lower``")
    n_reference_phases: int = Field(description="number of reference phases that competed")
    missing_competitors: list[str] = Field(
        default_factory=list,
        description="compositions that belong on this hull and of which the references have no phase: where there are "
        "any, the hull lies too high and energies above it are lower bounds",
    )
    n_candidates: int = Field(description="number of candidates of this chemical system, those in errors included")
    candidates: dict[str, float] = Field(
        default_factory=dict, description="candidate_id of this chemical system -> e_above_hull, eV/atom"
    )
    lower: list[LowerPhase] = Field(
        default_factory=list, description="candidates of this chemical system below the hull of the references"
    )
    errors: dict[str, str] = Field(default_factory=dict, description="candidate_id -> why it has no place")
    points: list[HullPoint] = Field(
        default_factory=list, description="phases to draw; of very many references only the lowest"
    )
