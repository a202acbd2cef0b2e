"""What a campaign may ask of each generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from scdm_flows.config.base import Frozen

MOST_SAMPLES = 10_000_000
LARGEST_SHARD = 100_000  # a job holds its samples in memory
MOST_PROMOTED = 10_000
NARROWEST_GAP_EV = 0.1
LONGEST_REQUEST = 1000  # characters; the symbols of all elements take 350


class ScdmGeneratorConfig(Frozen):
    """Candidates from the symmetry-constrained diffusion model."""

    kind: Literal["scdm"] = "scdm"
    n: int = Field(100, ge=1, le=MOST_SAMPLES, description="number of samples")
    seed: int = Field(
        0,
        ge=0,
        description="seed; a generation job's samples depend on it and on the index of the first",
    )
    checkpoint: str | None = Field(None, description="checkpoint file; the packaged one when absent")
    layer_group: int | None = Field(
        None, ge=1, le=80, description="layer group of every sample; drawn from the data when absent"
    )
    elements: str | None = Field(
        None,
        max_length=LONGEST_REQUEST,
        description="only these elements may occur, such as Mo,W,S,Se; any when absent",
    )
    formula: str | None = Field(
        None, max_length=LONGEST_REQUEST, description="reduced formula of every sample, such as MoS2; any when absent"
    )
    n_atoms: int | None = Field(None, ge=1, description="atoms in the primitive cell; any number when absent")
    stability: float | None = Field(
        0.2,
        description="largest energy above hull that the model is asked for, eV/atom; null asks for none. A condition "
        "of the model, not a filter",
    )
    weight: float = Field(1.5, ge=0, le=100, description="weight of classifier-free guidance towards what is asked for")
    letter_temperature: float = Field(
        1.0,
        ge=0.01,
        le=1000,
        description="temperature of the choice of Wyckoff positions: 1 keeps to known templates, whose samples are "
        "more often stable; warmer ones are newer",
    )
    unknown_formulas: bool = Field(False, description="only formulas of which no layer is known")
    max_predicted_e_hull: float | None = Field(
        None,
        ge=-1,
        le=10,
        description="draws whose energy above hull is predicted above this are passed over, eV/atom: by a surrogate, "
        "for the layer as drawn; none when absent",
    )
    gap: tuple[float, float] | None = Field(
        None,
        description="draws whose PBE band gap is not likely to lie in [lowest, highest] are passed over, eV: by a "
        "surrogate, for the layer as drawn; 0 is a metal; any when absent",
    )
    magnetic: bool | None = Field(
        None,
        description="draws that a surrogate predicts to be magnetic (or not, where false is asked) are kept, others "
        "passed over; both when absent",
    )
    guidance: bool = Field(True, description="pass over draws that are no bonded layer or repeat a sample's skeleton")
    steps: int | None = Field(None, ge=1, le=10_000, description="denoising steps; the model's default when absent")
    shard_size: int = Field(100, ge=1, le=LARGEST_SHARD, description="samples a generation job makes")

    @field_validator("elements", mode="before")
    @classmethod
    def _as_text(cls, elements: object) -> object:
        """A list, which is what YAML suggests, says the same: [Mo, S] is Mo,S."""
        return ",".join(map(str, elements)) if isinstance(elements, list | tuple) else elements

    @field_validator("gap")
    @classmethod
    def _ordered(cls, gap: tuple[float, float] | None) -> tuple[float, float] | None:
        if gap is not None and not 0 <= gap[0] <= gap[1] <= 100:
            raise ValueError(f"gap = {list(gap)} must be [lowest, highest] with 0 <= lowest <= highest <= 100, eV")
        if gap is not None and gap[1] > 0 and gap[1] - gap[0] < NARROWEST_GAP_EV:
            raise ValueError(
                f"gap = {list(gap)} must span at least {NARROWEST_GAP_EV:g} eV: no prediction is finer; [0, 0] asks "
                "for metals"
            )
        return gap

    @field_validator("checkpoint")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """Workers run elsewhere: a relative path is taken from the folder of the command that reads the file."""
        return None if path is None else str(Path(path).absolute())


class UnscdmGeneratorConfig(ScdmGeneratorConfig):
    """Candidates from the paper's control: the same network trained and sampled without symmetry."""

    kind: Literal["unscdm"] = "unscdm"  # type: ignore[assignment]


class FilesGeneratorConfig(Frozen):
    """Candidates from files (CIF, POSCAR, extxyz, JSON lines): bring your own structures."""

    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = Field(min_length=1, description="files or folders")
    shard_size: int = Field(100, ge=1, le=LARGEST_SHARD, description="structures a generation job reads")

    @field_validator("paths")
    @classmethod
    def _absolute(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        """Workers run elsewhere: a relative path is taken from the folder of the command that reads the file."""
        return tuple(str(Path(p).absolute()) for p in paths)


OneGeneratorConfig = Annotated[
    ScdmGeneratorConfig | UnscdmGeneratorConfig | FilesGeneratorConfig, Field(discriminator="kind")
]


class SeveralGeneratorConfig(Frozen):
    """Candidates from several generators, one after the other: such as a model and its control."""

    kind: Literal["several"] = "several"
    generators: tuple[OneGeneratorConfig, ...] = Field(description="the generators, in their order")
    shard_size: int = Field(
        100,
        ge=1,
        le=LARGEST_SHARD,
        description="structures that a generation job makes, of one generator or of two",
    )

    @field_validator("generators")
    @classmethod
    def _some(cls, generators: tuple[OneGeneratorConfig, ...]) -> tuple[OneGeneratorConfig, ...]:
        """At least one; asked here, as pydantic's own count does not see entries that are wrong themselves."""
        if not generators:
            raise ValueError("give at least one generator, such as {kind: scdm, n: 100}")
        return generators


class PromotedGeneratorConfig(Frozen):
    """The best candidates of another campaign, from their relaxed structures; written by ``scdm campaign promote``.

    What was asked for is in ``parent`` to ``core_hours``; what came of it is stored with the
    campaign, ``n`` records whose digest is ``sha256``.
    """

    kind: Literal["promoted"] = "promoted"
    parent: str = Field(description="name of the campaign that they come from")
    top: int = Field(ge=1, le=MOST_PROMOTED, description="how many of the best were asked for")
    where: dict[str, Any] = Field(default_factory=dict, description="filter -> value, as of `scdm candidates list`")
    within: float | None = Field(
        None,
        ge=0,
        description="largest energy above the lowest candidate of their formula, eV/atom; any when absent",
    )
    draw: int | None = Field(None, ge=0, description="seed of a random draw, which they are then instead of the best")
    core_hours: float | None = Field(
        None, gt=0, description="estimated core hours of all of them together that are not exceeded; any when absent"
    )
    candidates: tuple[str, ...] | None = Field(
        None, description="ids that were asked for instead of the best, of the parent or of other campaigns"
    )
    n: int = Field(ge=1, description="how many there are")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the stored records, 64 hex digits")
    shard_size: int = Field(100, ge=1, le=LARGEST_SHARD, description="records of a generation job")


GeneratorConfig = Annotated[
    ScdmGeneratorConfig
    | UnscdmGeneratorConfig
    | FilesGeneratorConfig
    | SeveralGeneratorConfig
    | PromotedGeneratorConfig,
    Field(discriminator="kind"),
]
