"""What a loop of rounds is asked for: one frozen model, read from a YAML file under ``launchpad/loops``."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from scdm_flows.config.base import Frozen
from scdm_flows.config.campaign import (
    NAME,
    CampaignConfig,
    GateConfig,
    ObjectiveConfig,
    ScreenConfig,
    in_words,
    read_mapping,
)
from scdm_flows.config.engines import EngineConfig, ForceFieldEngineConfig
from scdm_flows.config.generators import FilesGeneratorConfig, ScdmGeneratorConfig, UnscdmGeneratorConfig
from scdm_flows.config.science import science
from scdm_flows.errors import ConfigError

MOST_ROUNDS = 99
LONGEST_LOOP_NAME = 50  # its campaigns are called NAME-r07-gpaw
By = Literal["chance", "improvement", "bound", "rank", "random"]


class CandidatesConfig(Frozen):
    """Where the candidates of every round come from: a campaign with a surrogate."""

    generator: Annotated[
        ScdmGeneratorConfig | UnscdmGeneratorConfig | FilesGeneratorConfig, Field(discriminator="kind")
    ] = Field(
        default_factory=ScdmGeneratorConfig,
        description="as in campaign files; round k has the seed + k - 1, files are read in the first round alone",
    )
    screen: ScreenConfig = Field(default_factory=ScreenConfig)
    engine: ForceFieldEngineConfig = Field(default_factory=ForceFieldEngineConfig)
    gate: GateConfig = Field(
        default_factory=lambda: GateConfig(phonon_max_atoms=1, bands_max_atoms=1),
        description="as in campaign files; without phonons and bands when absent",
    )
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig, description="what `by: rank` ranks by")


class ComputeConfig(Frozen):
    """How the chosen are computed: a promoted campaign of every round."""

    engine: EngineConfig = Field(description="as in campaign files")
    gate: GateConfig = Field(
        default_factory=lambda: GateConfig(phonon_max_atoms=1, bands_max_atoms=1),
        description="as in campaign files; without phonons and bands when absent",
    )


class ChooseConfig(Frozen):
    """Which candidates a round computes: new layers that are stable, or have the properties asked for as well."""

    n: int = Field(6, ge=1, le=10_000, description="candidates that a round computes")
    by: By = Field(
        "chance",
        description="chance: probability of being what is looked for; improvement: expected energy below `stable_ev`; "
        "bound: lowest energy that the error allows; rank: the ranking of the surrogate campaigns; random: none",
    )
    stable_ev: float = Field(0.1, ge=-10, le=10, description="largest energy above hull that is looked for, eV/atom")
    gap_ev: tuple[float, float] | None = Field(
        None, description="lowest and highest PBE band gap that is looked for, eV; any when absent"
    )
    max_atoms: int | None = Field(None, ge=1, description="largest relaxed cell that is computed; any when absent")
    diversity: float = Field(
        0.5,
        ge=0,
        le=1,
        description="factor on the value for every chosen candidate of the same chemical system, and its square root "
        "for every one of the same Wyckoff template: 1 asks for none",
    )
    per_hour: bool = Field(True, description="value for the estimated core hours instead of value alone")
    seed: int = Field(0, ge=0, description="of `by: random`")

    @field_validator("gap_ev")
    @classmethod
    def _ordered(cls, gap: tuple[float, float] | None) -> tuple[float, float] | None:
        if gap is not None and not 0 <= gap[0] <= gap[1]:
            raise ValueError(f"gap_ev = {list(gap)} must be [lowest, highest] with 0 <= lowest <= highest, eV")
        return gap


class LearnConfig(Frozen):
    """What the rounds learn."""

    energies: bool = Field(True, description="the energy model learns from every computed layer of the database")
    generator: bool = Field(True, description="the generator learns from what was found, from the second round on")
    steps: int = Field(200, ge=1, le=100_000, description="training steps of the generator in a round")
    pull: float = Field(
        1.0, ge=0, le=100, description="weight of the starting model's own samples, which hold it near to what it was"
    )


class LoopConfig(Frozen):
    """Rounds of generate, relax, choose, compute, learn."""

    name: Annotated[str, Field(pattern=NAME, max_length=LONGEST_LOOP_NAME, description="letters, digits, - and _")]
    description: str = Field("", description="free text")
    candidates: CandidatesConfig = Field(default_factory=CandidatesConfig)
    compute: ComputeConfig | None = Field(
        None, description="how the chosen are computed; when absent nobody is chosen, and the generator alone learns"
    )
    choose: ChooseConfig = Field(default_factory=ChooseConfig)
    learn: LearnConfig = Field(default_factory=LearnConfig)
    rounds: int = Field(3, ge=1, le=MOST_ROUNDS, description="at most so many; a raised number goes on")
    core_hours: float | None = Field(
        None,
        gt=0,
        description="wall time of all jobs by the cores of each (SCDM_VASP_RANKS of VASP's, one of all others), beyond "
        "which no round and nothing chosen begins; what a round generates and relaxes is not stopped; node hours where "
        "that is not set; no limit when absent",
    )

    def campaign(self, number: int, checkpoint: str | None = None) -> CampaignConfig | None:
        """The surrogate campaign of a round, the first is 1; None where there is nothing new to generate.

        checkpoint: of the round's generator, where it has learned.
        """
        generator = self.candidates.generator
        if isinstance(generator, FilesGeneratorConfig):
            if number > 1:
                return None
        else:
            generator = generator.model_copy(update={"seed": generator.seed + number - 1})
            if checkpoint is not None:
                generator = generator.model_copy(update={"checkpoint": checkpoint})
        return CampaignConfig(
            name=f"{self.name}-r{number:02d}",
            description=f"round {number} of the loop {self.name}",
            generator=generator,
            screen=self.candidates.screen,
            engine=self.candidates.engine,
            gate=self.candidates.gate,
            objective=self.candidates.objective,
        )

    def computed(self, number: int) -> str | None:
        """Name of the campaign that computes what a round has chosen; None where nothing is computed."""
        return None if self.compute is None else f"{self.name}-r{number:02d}-{self.compute.engine.kind}"

    def computing(self) -> CampaignConfig:
        """A campaign that computes as the loop does, for what that costs and means; the surrogate's where none does."""
        first = self.campaign(1)
        assert first is not None
        how = self.candidates if self.compute is None else self.compute
        return first.model_copy(update={"engine": how.engine, "gate": how.gate})

    @property
    def config_hash(self) -> str:
        """Of what may not change between rounds, 64 hex digits; how many there are, and the budget, may."""
        parts = [
            science(self.campaign(1)),
            science(self.computing()),
            self.compute is None,
            self.choose.model_dump(mode="json"),
            self.learn.model_dump(mode="json"),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def round_of(campaign: str) -> tuple[str, int] | None:
    """The loop, and the number of its round, whose campaign would be called so; None where no loop's would."""
    found = re.fullmatch(r"(.+)-r(\d\d)(?:-[a-z]+)?", campaign)  # as ``campaign`` and ``computed`` call them
    return None if found is None else (found[1], int(found[2]))


def parse_loop(data: Any, origin: str = "loop") -> LoopConfig:
    """The validated loop of a mapping; ``ConfigError`` with every mistake, its key, value and rule."""
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: a loop is a mapping of keys to values, found {type(data).__name__}")
    try:
        return LoopConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {in_words(error, LoopConfig)}") from None


def load_loop(path: str | Path) -> LoopConfig:
    """The loop of a YAML file; ``ConfigError`` when it is missing, not YAML or wrong."""
    return parse_loop(read_mapping(path, "loop", "launchpad/loops"), origin=str(path))
