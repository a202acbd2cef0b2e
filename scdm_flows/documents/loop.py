"""A loop of rounds: what was chosen in each, why, and what it gave. Collection ``loops``, key ``name``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.base import ScdmDocument


class Choice(BaseModel):
    """A candidate that was chosen to be computed, and what was known of it then."""

    model_config = ConfigDict(extra="forbid")

    candidate_id: str = Field(description="of a surrogate campaign of the loop")
    formula: str = Field(description="reduced formula")
    value: float = Field(
        description="by which it was chosen, larger is better; what the loop's `by` names, dimensionless or eV/atom"
    )
    chance: float = Field(
        description="probability that it is what is looked for, by the energy model of the round, dimensionless"
    )
    e_above_hull: float = Field(description="predicted by that model, eV/atom")
    e_above_hull_error: float = Field(description="half-width that holds nine in ten, eV/atom")
    core_hours: float | None = Field(
        None,
        description="estimated cost, h of cores, or of nodes where the ranks are not known; null where the engine "
        "costs next to nothing",
    )
    why: str = Field(description="the same in words")


class LoopRound(BaseModel):
    """A round: candidates, the choice among all that no round has chosen yet, and what the computation found."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(description="1 is the first")
    surrogate: str | None = Field(None, description="campaign that generated and relaxed; null where none was needed")
    computed: str | None = Field(None, description="campaign that computes the chosen; null where none was chosen")
    generator_model: str | None = Field(None, description="id of a generator's model that had learned; else null")
    energy_model: str = Field(description="id of the energy model that chose")
    learned_from: int = Field(description="computed layers which that model has learned from, besides its own data")
    samples: int | None = Field(None, description="samples that the surrogate campaign made; null without one")
    promising: int = Field(0, description="of these, new layers whose predicted energy above hull is as looked for")
    pool: int = Field(description="candidates to choose from: new, no duplicates, small enough, computable")
    expected: float = Field(
        description="how many of the chosen are what is looked for, by the energy model, dimensionless"
    )
    expected_by_rank: float = Field(
        description="of as many of the pool by rank alone, by the same model, dimensionless"
    )
    expected_at_random: float = Field(description="of as many of the pool at random, by the same model, dimensionless")
    chosen: list[Choice] = Field(default_factory=list, description="in the order of the choice")
    finished: bool = Field(False, description="everything that was chosen has an end, or ran out of the budget")
    ended: int | None = Field(
        None, description="chosen ones that have an energy above hull now, or whose computation failed"
    )
    found: int | None = Field(None, description="of these, those that are what is looked for")
    found_ids: list[str] = Field(default_factory=list, description="their candidate ids, as computed")
    core_hours: float | None = Field(
        None,
        description="wall time of all jobs of the round by their cores, or nodes where the ranks are not known, h",
    )


class Taught(BaseModel):
    """A generator that has learned, or why it could not."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(description="round whose generator it is")
    checkpoint: str | None = Field(None, description="its file; null where the one of the start goes on")
    model_id: str | None = Field(None, description="as in the candidates' model_id")
    why_not: str | None = Field(None, description="why it could not learn")


class LoopDoc(ScdmDocument):
    """A loop."""

    name: str = Field(description="unique name; the names of its campaigns begin with it")
    description: str = Field("", description="free text")
    config: dict[str, Any] = Field(description="what was asked for, as in the file")
    config_hash: str = Field(description="sha256 of what may not change between its rounds")
    ended: str | None = Field(None, description="why there are no more rounds; null while there may be")
    taught: list[Taught] = Field(default_factory=list, description="generators that have learned, the first one first")
    rounds: list[LoopRound] = Field(default_factory=list, description="the first one first")

    def checkpoint(self, number: int) -> str | None:
        """File of the generator of a round that has learned; None where the one of the start goes on."""
        return next((one.checkpoint for one in self.taught if one.number == number), None)
