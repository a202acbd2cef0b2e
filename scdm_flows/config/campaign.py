"""The science of a campaign: one frozen model, read from a YAML file under ``launchpad/campaigns``.

Owns which structures are generated, how they are screened and computed, and where each gate closes. Where things
live (database, executables, directories) is the business of ``scdm_flows.config.settings``.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from scdm_flows.config.base import Frozen
from scdm_flows.config.engines import EngineConfig, ForceFieldEngineConfig
from scdm_flows.config.generators import GeneratorConfig, ScdmGeneratorConfig
from scdm_flows.config.science import Registered, science_hash
from scdm_flows.config.yaml_files import YamlRuleError, read_yaml
from scdm_flows.errors import ConfigError

WINDOW_EV = 0.6  # eV/atom above hull: nothing above is computed further (the paper, doi:10.1021/acs.jpcc.4c08681)


class ScreenConfig(Frozen):
    """What a structure must be before anything is computed."""

    min_distance_angstrom: float = Field(
        0.5, ge=0, description="shortest allowed distance between atoms, angstrom (the paper's 0.5)"
    )
    require_radii: bool = Field(True, description="also require the covalent-radii check")
    require_one_layer: bool = Field(True, description="require one connected layer")
    require_novel: bool = Field(True, description="drop what the training data already hold")
    max_atoms: int = Field(40, ge=1, description="largest number of atoms in the cell (the paper's 40)")


class GateConfig(Frozen):
    """Which relaxed candidates go on to phonons and bands."""

    max_e_above_hull: float = Field(WINDOW_EV, ge=0, description="largest energy above hull, eV/atom (the paper's 0.6)")
    phonon_max_e_above_hull: float = Field(0.2, ge=0, description="largest energy above hull for phonons, eV/atom")
    phonon_max_atoms: int = Field(12, ge=1, description="largest primitive cell for phonons")
    bands_max_e_above_hull: float = Field(
        0.2, ge=0, description="largest energy above hull for electronic bands, eV/atom"
    )
    bands_max_atoms: int = Field(20, ge=1, description="largest primitive cell for electronic bands")


class ObjectiveConfig(Frozen):
    """What the ranking prefers; a changed objective ranks anew and computes nothing again."""

    stability: float = Field(0.6, ge=0, description="weight of the energy above hull, 0 to 0.6 eV/atom")
    dynamics: float = Field(0.3, ge=0, description="weight of phonon stability")
    novelty: float = Field(0.05, ge=0, description="weight of not being a known layer")
    prototype: float = Field(0.02, ge=0, description="weight of the distance to the nearest known prototype")
    symmetry: float = Field(0.03, ge=0, description="weight of the order of the point group")
    gap: float = Field(0.0, ge=0, description="weight of a band gap within gap_ev")
    gap_ev: tuple[float, float] | None = Field(None, description="lowest and highest target band gap, eV")

    @model_validator(mode="after")
    def _sensible(self) -> ObjectiveConfig:
        weights = (self.stability, self.dynamics, self.novelty, self.prototype, self.symmetry, self.gap)
        if not sum(weights) > 0:
            raise ValueError("all weights are 0; give at least one term a weight")
        if (self.gap > 0) != (self.gap_ev is not None):
            raise ValueError("gap, the weight, and gap_ev, the range in eV, go together; give both or none")
        if self.gap_ev is not None and not 0 <= self.gap_ev[0] <= self.gap_ev[1]:
            raise ValueError(f"gap_ev = {list(self.gap_ev)} must be [lowest, highest] with 0 <= lowest <= highest, eV")
        return self


Category = Literal["generate", "compute", "gpaw", "vasp"]  # of FireWorks, by what a job needs: a GPU, a CPU, or it
CATEGORIES: tuple[str, ...] = get_args(Category)
LONGEST_NAME = 63
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"


class PhononBudgetConfig(Frozen):
    """Phonons of the best candidates only: chosen by the ranking when every candidate has passed its gate or ended."""

    best: int = Field(ge=1, description="candidates whose phonons are computed, of those that the gate lets on to them")
    novel_only: bool = Field(True, description="choose among layers that the training data do not hold")

    def __str__(self) -> str:
        return f"the {self.best} best {'new ' * self.novel_only}candidates"


class BudgetConfig(Frozen):
    """What a campaign may use; another budget computes nothing again, and submitting the file again applies it."""

    max_candidates: int | None = Field(None, ge=1, description="candidates that go past the screen; all when absent")
    node_hours: float | None = Field(
        None,
        gt=0,
        description="wall time of all jobs together, hours; when it is used up no new candidate starts, and those that "
        "have begun go on",
    )
    phonons: PhononBudgetConfig | None = Field(
        None, description="phonons of the best candidates only; of all that the gate lets on to them when absent"
    )
    jobs: dict[Category, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="category (generate, compute, gpaw, vasp) -> jobs of the campaign that run at the same time on "
        "FireWorks workers",
    )


class CampaignConfig(Frozen):
    """A discovery campaign."""

    name: Annotated[str, Field(pattern=NAME, description="letters, digits, - and _")]
    description: str = Field("", description="free text")
    generator: GeneratorConfig = Field(default_factory=ScdmGeneratorConfig)
    screen: ScreenConfig = Field(default_factory=ScreenConfig)
    engine: EngineConfig = Field(default_factory=ForceFieldEngineConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    registered: Registered | None = Field(None, description="what registration has fixed; not for files")

    @field_validator("name", mode="before")
    @classmethod
    def _plain_name(cls, name: Any) -> Any:
        """Names are keys, folders and parts of queries: what would need quoting in one of them is refused."""
        if isinstance(name, str) and re.fullmatch(NAME, name) is None:
            plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:LONGEST_NAME]
            raise ValueError(
                f"must be 1 to {LONGEST_NAME} letters, digits, - and _, the first a letter or digit"
                + (f"; {plain!r} would do" if plain else "")
            )
        return name

    @property
    def config_hash(self) -> str:
        """Who the campaign is, 64 hex digits: the hash under which it is registered, else that of its science."""
        return science_hash(self) if self.registered is None else self.registered.config_hash


def _known_keys(model: Any, found: set[str]) -> set[str]:
    for name, field in model.model_fields.items():
        found.add(name)
        stack = [field.annotation]
        while stack:
            annotation = stack.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                _known_keys(annotation, found)
            stack.extend(getattr(annotation, "__args__", ()))
    return found


GENERATOR_KINDS = ("scdm", "unscdm", "files", "several", "promoted")
ENGINE_KINDS = ("forcefield", "gpaw", "vasp")
KINDS = GENERATOR_KINDS + ENGINE_KINDS  # pydantic names them in the place of a mistake
MOST_MISTAKES = 50  # that a message lists
_SHORT = reprlib.Repr()  # of what a mistake's value is: a page of it helps nobody
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 20
_SHORT.maxlevel = 4


def parse_config(data: Any, origin: str = "campaign") -> CampaignConfig:
    """The validated campaign of a mapping that a person wrote; every mistake with the key, the value and the rule.

    Raises
    ------
    ConfigError
        If anything is wrong; the first ``MOST_MISTAKES`` are listed, and an unknown key or kind gets the nearest known
        one.
    """
    if isinstance(data, dict) and data.get("registered") is not None:
        raise ConfigError(f"{origin}: 'registered' is what a registration has fixed; leave it out")
    return validated(data, origin)


def validated(data: Any, origin: str) -> CampaignConfig:
    """The same, also of what is stored."""
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: a campaign is a mapping of keys to values, found {type(data).__name__}")
    try:
        return CampaignConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {in_words(error, CampaignConfig)}") from None


def in_words(error: ValidationError, model: type[BaseModel]) -> str:
    """All mistakes that pydantic found in what was to be a model; the first ``MOST_MISTAKES`` are listed."""
    mistakes, known = error.errors(), _known_keys(model, set())
    lines = [_in_words(item, known) for item in mistakes[:MOST_MISTAKES]]
    if len(mistakes) > MOST_MISTAKES:
        lines.append(f"and {len(mistakes) - MOST_MISTAKES} more")
    return "; ".join(lines)


def _in_words(mistake: Any, known: Iterable[str]) -> str:
    """One of pydantic's mistakes: key, value, rule and, where there is one, the nearest known name."""
    path = _cut(".".join(str(part) for part in mistake["loc"] if part not in KINDS))
    if mistake["type"] == "extra_forbidden":
        near = _nearest(str(mistake["loc"][-1]), known)
        return f"unknown key '{path}'" + (f"; did you mean '{near}'?" if near else "; remove it")
    if mistake["type"] == "union_tag_invalid":
        kind, kinds = str(mistake["ctx"]["tag"]), str(mistake["ctx"]["expected_tags"])
        near = _nearest(kind, re.findall("'([^']+)'", kinds))
        return f"{path}.kind = {_shown(kind)}: must be one of {kinds}" + (f"; did you mean '{near}'?" if near else "")
    if mistake["type"] == "union_tag_not_found":
        known = ENGINE_KINDS if path == "engine" else GENERATOR_KINDS
        return f"{path} = {_shown(mistake['input'])}: must name its kind, one of {', '.join(known)}"
    return f"{path or 'campaign'} = {_shown(mistake['input'])}: {_cut(mistake['msg'])}"


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name[:100], known, n=1)), None)


def _shown(value: Any) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"({type(value).__name__})"


def _cut(text: str) -> str:
    return text if len(text) <= 1000 else f"{text[:1000]}..."


def load_config(path: str | Path) -> CampaignConfig:
    """The campaign of a YAML file; ``ConfigError`` when it is missing, not YAML or wrong."""
    return parse_config(read_mapping(path, "campaign", "launchpad/campaigns"), origin=str(path))


def read_mapping(path: str | Path, what: str, examples: str) -> Any:
    """What a YAML file holds; ``ConfigError`` where it cannot be read. what: it is; examples: a folder of such."""
    path = Path(path)
    try:
        return read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{what} file {path} does not exist; {examples} holds examples") from None
    except OSError as error:
        raise ConfigError(f"{what} file {path} cannot be read: {error.strerror}") from None
    except YamlRuleError as error:
        raise ConfigError(f"{what} file {path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} file {path} is not YAML: {_cut(str(error))}") from None
