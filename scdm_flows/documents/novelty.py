"""Whether a relaxed candidate is a known layer, and which: parts of ``CandidateDoc``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CAMPAIGN = "campaign "  # how the source of an equal candidate of another campaign begins; its name follows
# What the packaged known layers are of; a newer or larger collection may know more.
NEW_AGAINST = (
    "C2DB as of 27 March 2022 (4,030 layers of at most 20 atoms) and 2DMatPedia (5,913 layers, without f-block "
    "elements other than La and Ce)"
)


class KnownAs(BaseModel):
    """A known layer that is the same layer as the relaxed candidate, and what its source says of it."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="in its source; the candidate_id where that is a campaign")
    source: str = Field(description='"C2DB", "2DMatPedia", the name of a set of the user\'s, or "campaign NAME"')
    formula: str = Field(description="reduced formula")
    layer_group: int | None = Field(None, description="its layer group; null where unknown")
    displacement_angstrom: float | None = Field(
        None,
        description="root mean square distance of paired atoms, angstrom; null where they are equal through others",
    )
    e_above_hull: float | None = Field(None, description="what its source says, eV/atom")
    dynamically_stable: bool | None = Field(None, description="what its source says")
    band_gap: float | None = Field(None, description="what its source says, eV")

    @property
    def of_campaign(self) -> str | None:
        """The campaign whose candidate it is; None for an entry of a data set."""
        return self.source.removeprefix(CAMPAIGN) if self.source.startswith(CAMPAIGN) else None

    def __str__(self) -> str:
        apart = "" if self.displacement_angstrom is None else f", {self.displacement_angstrom:.2f} Å"
        return f"{self.formula} ({self.source} {self.id}{apart})"


class Novelty(BaseModel):
    """What ``novel``, ``known_as`` and ``duplicate_of`` were judged on, and against what."""

    model_config = ConfigDict(extra="forbid")

    judged_on: Literal["relaxed"] = Field("relaxed", description="the relaxed structure")
    structure: str = Field(description="12 hex digits of a sha256 of what is judged")
    version: str = Field("", description="of the known layers (KnownLayers.version); empty until it is judged")
    against: dict[str, int] = Field(default_factory=dict, description="data set -> number of its layers")
    reason: str | None = Field(None, description="why it could not be judged")
    first: str | None = Field(
        None,
        description="candidate_id of the first of those that relaxed to the same layer, of any campaign; null where "
        "no other did",
    )
    equal: int = Field(1, description="how many these are, itself among them")
