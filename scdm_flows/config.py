"""The science of a campaign: one frozen model, read from a YAML file under ``launchpad/campaigns``.

Owns which structures are generated, how they are screened and computed, and where each gate closes. Where things
live (database, executables, directories) is the business of ``scdm_flows.settings``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from scdm_flows.errors import ConfigError


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScdmGeneratorConfig(_Frozen):
    """Candidates from the symmetry-constrained diffusion model."""

    kind: Literal["scdm"] = "scdm"
    n: int = Field(100, ge=1, description="number of samples")
    seed: int = Field(
        0,
        ge=0,
        description="seed; a generation job's samples depend on it and on the index of the first",
    )
    checkpoint: str | None = Field(None, description="checkpoint file; the packaged one when absent")
    layer_group: int | None = Field(
        None, ge=1, le=80, description="layer group of every sample; drawn from the data when absent"
    )
    elements: str | None = Field(None, description="only these elements may occur, such as Mo,W,S,Se; any when absent")
    formula: str | None = Field(None, description="reduced formula of every sample, such as MoS2; any when absent")
    n_atoms: int | None = Field(None, ge=1, description="atoms in the primitive cell; any number when absent")
    stability: float | None = Field(
        0.2,
        description="largest energy above hull that the model is asked for, eV/atom; null asks for none. A condition "
        "of the model, not a filter",
    )
    weight: float = Field(0.5, ge=0, description="weight of classifier-free guidance towards what is asked for")
    letter_temperature: float = Field(
        2.3,
        gt=0,
        description="temperature of the choice of Wyckoff positions: 1 keeps to known templates, whose samples are "
        "more often stable; warmer ones are newer",
    )
    guidance: bool = Field(True, description="pass over draws that are no bonded layer or repeat a sample's skeleton")
    steps: int | None = Field(None, ge=1, description="denoising steps; the model's default when absent")
    shard_size: int = Field(100, ge=1, description="samples a generation job makes")

    @field_validator("elements", mode="before")
    @classmethod
    def _as_text(cls, elements: object) -> object:
        """A list, which is what YAML suggests, is the same wish: [Mo, S] is Mo,S."""
        return ",".join(map(str, elements)) if isinstance(elements, list | tuple) else elements

    @field_validator("checkpoint")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """Workers run elsewhere: a relative path is taken from the folder of the command that reads the file."""
        return None if path is None else str(Path(path).absolute())


class UnscdmGeneratorConfig(ScdmGeneratorConfig):
    """Candidates from the paper's control: the same network trained and sampled without symmetry."""

    kind: Literal["unscdm"] = "unscdm"  # type: ignore[assignment]


class FilesGeneratorConfig(_Frozen):
    """Candidates from files (CIF, POSCAR, extxyz, JSON lines): bring your own structures."""

    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = Field(min_length=1, description="files or folders")
    shard_size: int = Field(100, ge=1, description="structures a generation job reads")

    @field_validator("paths")
    @classmethod
    def _absolute(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        """Workers run elsewhere: a relative path is taken from the folder of the command that reads the file."""
        return tuple(str(Path(p).absolute()) for p in paths)


OneGeneratorConfig = Annotated[
    ScdmGeneratorConfig | UnscdmGeneratorConfig | FilesGeneratorConfig, Field(discriminator="kind")
]


class SeveralGeneratorConfig(_Frozen):
    """Candidates from several generators, one after the other: such as a model and its control."""

    kind: Literal["several"] = "several"
    generators: tuple[OneGeneratorConfig, ...] = Field(description="the generators, in their order")
    shard_size: int = Field(100, ge=1, description="structures that a generation job makes, of one generator or of two")

    @field_validator("generators")
    @classmethod
    def _some(cls, generators: tuple[OneGeneratorConfig, ...]) -> tuple[OneGeneratorConfig, ...]:
        """At least one; asked here, as pydantic's own count does not see entries that are wrong themselves."""
        if not generators:
            raise ValueError("give at least one generator, such as {kind: scdm, n: 100}")
        return generators


GeneratorConfig = Annotated[
    ScdmGeneratorConfig | UnscdmGeneratorConfig | FilesGeneratorConfig | SeveralGeneratorConfig,
    Field(discriminator="kind"),
]


DEFAULT_FORCE_FIELD = "CHGNet"
CHGNETS = ("CHGNet",)
SEVENNETS = ("SevenNet-0", "SevenNet-l3i5", "SevenNet-MF-0")
# atomate2.forcefields.MLFF without its placeholder and without CHGNet, which is above; to import it takes seconds
ATOMATE2 = (
    "MACE",
    "MACE-MP-0",
    "MACE-MPA-0",
    "MACE-MP-0b3",
    "GAP",
    "M3GNet",
    "NEP",
    "Nequip",
    "SevenNet",
    "MatPES-r2SCAN",
    "MatPES-PBE",
    "DeepMD",
    "Allegro",
    "FAIRChem",
    "MatterSim",
    "UPET",
)
IMPORT_PATH = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


def check_force_field(name: str, options: Mapping[str, Any] | None = None) -> None:
    """``ValueError``, with the remedy, for a name that no force field has, or options that it does not take."""
    known = (*CHGNETS, *SEVENNETS, *ATOMATE2)
    if ":" in name:
        if re.fullmatch(IMPORT_PATH, name) is None:
            raise ValueError(f"{name!r} is no import path of an ASE calculator; write it like ase.calculators.emt:EMT")
    elif name not in known:
        lower = {k.lower(): k for k in known}
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        raise ValueError(
            f"no force field is called {name!r}; "
            + (f"did you mean {lower[near[0]]!r}? " if near else "")
            + f"There are {', '.join(known)}, and import paths such as ase.calculators.emt:EMT"
        )
    elif options and (name in SEVENNETS or (name in CHGNETS and set(options) != {"weights"})):
        taken = "weights, the path of a file," if name in CHGNETS else "no options"
        raise ValueError(
            f"{name} takes {taken} and force_field_options = {dict(options)}; leave them out, or name an ASE "
            "calculator by its import path"
        )


class ForceFieldEngineConfig(_Frozen):
    """Relaxation, energies and phonons from a machine-learned force field. Its energies are surrogate energies."""

    kind: Literal["forcefield"] = "forcefield"
    force_field: str = Field(
        DEFAULT_FORCE_FIELD,
        description="CHGNet, SevenNet-0, SevenNet-l3i5, SevenNet-MF-0, a name of atomate2's such as MACE-MP-0, or the "
        "import path of an ASE calculator, package.module:Class",
    )
    force_field_options: dict[str, Any] = Field(
        default_factory=dict,
        description="keyword arguments of the calculator, for atomate2's names and import paths; of CHGNet: weights, "
        "the file of a network that was trained further",
    )
    energy_model: str | None = Field(
        None,
        description="file of an energy model made by `scdm refs fit`; the packaged one of the force field when absent",
    )
    references: str | None = Field(
        None,
        description="file of reference phases with energies of this force field itself, scheme = its scheme name; then "
        "no energy model is used",
    )
    fmax_ev_per_angstrom: float = Field(0.02, gt=0, description="relaxation ends below this largest force, eV/angstrom")
    max_relax_steps: int = Field(300, ge=1, description="relaxation steps before it counts as failed")
    fix_symmetry: bool = Field(
        False, description="keep the symmetry operations of the sample (to 0.01 angstrom) while it relaxes"
    )
    phonon_min_length_angstrom: float = Field(
        12.0, gt=0, description="shortest in-plane edge of the phonon supercell, angstrom"
    )
    phonon_displacement_angstrom: float = Field(
        0.05, gt=0, description="finite displacement, angstrom; CHGNet's energies are rough on the scale of 0.01"
    )

    @field_validator("energy_model", "references")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """Workers run elsewhere: a relative path is taken from the folder of the command that reads the file."""
        return None if path is None else str(Path(path).absolute())

    @field_validator("force_field")
    @classmethod
    def _known(cls, name: str) -> str:
        check_force_field(name)
        return name

    @model_validator(mode="after")
    def _consistent(self) -> ForceFieldEngineConfig:
        check_force_field(self.force_field, self.force_field_options)
        if self.energy_model is not None and self.references is not None:
            raise ValueError("energy_model and references exclude each other; give one of them")
        return self


class VaspEngineConfig(_Frozen):
    """VASP through atomate2's makers with input sets for slabs: PBE (``GGA = PE``) and PAW, as in the paper, no +U."""

    kind: Literal["vasp"] = "vasp"
    references: str | None = Field(
        None,
        description="JSON file of computed entries (GGA, one scheme) that the energies are judged by; without one a "
        "campaign is refused",
    )

    encut_ev: float = Field(520, gt=0, description="plane-wave cut-off, eV; 520 is what Materials Project's GGA uses")
    kpoint_spacing_per_angstrom: float = Field(
        0.2, gt=0, description="largest in-plane distance of k-points, 1/angstrom, 2 pi included; 1 point along c"
    )
    dos_kpoint_spacing_per_angstrom: float = Field(
        0.1, gt=0, description="the same for the density of states, 1/angstrom"
    )
    ediff_ev: float = Field(1e-6, gt=0, description="electronic convergence of the cell, eV")
    phonon_ediff_ev: float = Field(1e-8, gt=0, description="electronic convergence of displaced supercells, eV")
    max_electronic_steps: int = Field(
        100, ge=1, description="electronic steps (NELM) before a run counts as unconverged"
    )
    fmax_ev_per_angstrom: float = Field(
        0.005, gt=0, description="largest force at the end of the second relaxation, eV/angstrom"
    )
    first_fmax_ev_per_angstrom: float = Field(
        0.02, gt=0, description="largest force at the end of the first relaxation, eV/angstrom"
    )
    max_relax_steps: int = Field(100, ge=1, description="ionic steps (NSW) of each of the two relaxations")
    smearing: Literal["gaussian", "fermi", "methfessel-paxton"] = Field(
        "gaussian", description="how occupations are smeared; tetrahedra need k-points along c"
    )
    sigma_ev: float = Field(0.05, gt=0, description="width of the smearing, eV")
    spin: Literal["auto", "on", "off"] = Field(
        "auto",
        description="spin polarisation; auto: where an element may carry a moment (Ti to Cu, Ru, Rh, Os, Ir, f metals)",
    )
    initial_moments: dict[str, float] = Field(
        default_factory=dict,
        description="element -> initial moment in Bohr magnetons, over the defaults (high spin: 5 for d, 7 for f "
        "metals that may carry a moment, 0.6 for the rest)",
    )
    vdw: Literal["none", "D3"] = Field(
        "none", description="dispersion correction: none, or DFT-D3 (zero damping); then references must be vasp-pbe-d3"
    )
    dipole_correction: Literal["auto", "on", "off"] = Field(
        "auto", description="dipole correction along c; auto: for layer groups without an operation z -> -z"
    )
    potcar_functional: Literal["PBE", "PBE_52", "PBE_54", "PBE_64"] = Field(
        "PBE", description="release of the PAW potentials; PBE is what Materials Project's GGA uses"
    )
    potcar_symbols: dict[str, str] = Field(
        default_factory=dict, description="element -> potential such as Mo_pv, over Materials Project's choice"
    )

    cell_constraint: Literal["lattice_constraints", "optcell"] = Field(
        "lattice_constraints",
        description="what holds c: LATTICE_CONSTRAINTS (VASP 6.4 or newer), or an OPTCELL file for a VASP patched to "
        "read it",
    )
    optcell: str = Field(
        "110",
        description="content of the OPTCELL file, where that holds c; patches differ, 110 is the most common form",
    )
    vasp_version: str | None = Field(
        None, description="version of the VASP that will run, such as 6.4.3; SCDM_VASP_VERSION when absent"
    )
    min_vacuum_angstrom: float = Field(
        10.0, gt=0, description="least distance between a layer and its image along c, angstrom"
    )

    phonon_min_length_angstrom: float = Field(
        12.0, gt=0, description="shortest in-plane edge of the phonon supercell (n, m, 1), angstrom"
    )
    phonon_displacement_angstrom: float = Field(0.01, gt=0, description="finite displacement, angstrom")
    band_points: int = Field(121, ge=11, description="k-points on the in-plane path of the bands")
    band_nbands_factor: float = Field(
        1.2, ge=1, description="bands of the band runs, as a multiple of the static run's"
    )
    dos_points: int = Field(2001, ge=101, description="energies of the density of states (NEDOS)")

    walltime_s: int | None = Field(
        None, gt=0, description="seconds that a VASP run may take before it is told to stop; no limit when absent"
    )
    max_custodian_errors: int = Field(5, ge=0, description="errors that custodian mends in one run before it gives up")

    @field_validator("references")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """Workers run elsewhere: a relative path is taken from the folder of the command that reads the file."""
        return None if path is None else str(Path(path).absolute())

    @field_validator("vasp_version")
    @classmethod
    def _version(cls, version: str | None) -> str | None:
        if version is not None:
            check_version(version)
        return version


def check_version(version: str) -> tuple[int, ...]:
    """Numbers of a version such as 6.4.3; ``ValueError`` where it has none."""
    match = re.match(r"\d+(\.\d+)*", version)
    if match is None:
        raise ValueError(f"{version!r} is not a version; write it like 6.4.3")
    return tuple(int(part) for part in match[0].split("."))


EngineConfig = Annotated[ForceFieldEngineConfig | VaspEngineConfig, Field(discriminator="kind")]


class ScreenConfig(_Frozen):
    """What a structure must be before anything is computed."""

    min_distance_angstrom: float = Field(
        0.5, ge=0, description="shortest allowed distance between atoms, angstrom (the paper's 0.5)"
    )
    require_radii: bool = Field(True, description="also require the covalent-radii check")
    require_one_layer: bool = Field(True, description="require one connected layer")
    require_novel: bool = Field(True, description="drop what the training data already hold")
    max_atoms: int = Field(40, ge=1, description="largest number of atoms in the cell (the paper's 40)")


class GateConfig(_Frozen):
    """Which relaxed candidates go on to phonons and bands."""

    max_e_above_hull: float = Field(0.6, ge=0, description="largest energy above hull, eV/atom (the paper's 0.6)")
    phonon_max_e_above_hull: float = Field(0.2, ge=0, description="largest energy above hull for phonons, eV/atom")
    phonon_max_atoms: int = Field(12, ge=1, description="largest primitive cell for phonons")
    bands_max_e_above_hull: float = Field(
        0.2, ge=0, description="largest energy above hull for electronic bands, eV/atom"
    )
    bands_max_atoms: int = Field(20, ge=1, description="largest primitive cell for electronic bands")


class ObjectiveConfig(_Frozen):
    """What the ranking prefers; a changed objective ranks anew and computes nothing again."""

    stability: float = Field(0.6, ge=0, description="weight of the energy above hull, 0 to 0.6 eV/atom")
    dynamics: float = Field(0.3, ge=0, description="weight of phonon stability")
    novelty: float = Field(0.05, ge=0, description="weight of not being a known layer")
    prototype: float = Field(0.02, ge=0, description="weight of the distance to the nearest known prototype")
    symmetry: float = Field(0.03, ge=0, description="weight of the order of the point group")
    gap: float = Field(0.0, ge=0, description="weight of a band gap within gap_ev")
    gap_ev: tuple[float, float] | None = Field(None, description="lowest and highest wished band gap, eV")

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


Category = Literal["generate", "compute", "vasp"]  # of FireWorks, by what a job needs: a GPU, a CPU, VASP
CATEGORIES: tuple[str, ...] = get_args(Category)
# (part, kind, field, default): fields that are younger than stored campaigns, whose hash must not change
ADDED_LATER: tuple[tuple[str, str, str, Any], ...] = (
    ("engine", "forcefield", "fix_symmetry", False),
    ("engine", "forcefield", "force_field_options", {}),
    ("engine", "forcefield", "energy_model", None),
    ("engine", "forcefield", "references", None),
)
LONGEST_NAME = 63
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"


class PhononBudgetConfig(_Frozen):
    """Phonons of the best candidates only: chosen by the ranking when every candidate has passed its gate or ended."""

    best: int = Field(ge=1, description="candidates whose phonons are computed, of those that the gate lets on to them")
    novel_only: bool = Field(True, description="choose among layers that the training data do not hold")

    def __str__(self) -> str:
        return f"the {self.best} best {'new ' * self.novel_only}candidates"


class BudgetConfig(_Frozen):
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
        description="category (generate, compute, vasp) -> jobs of the campaign that run at the same time on FireWorks "
        "workers",
    )


class CampaignConfig(_Frozen):
    """A discovery campaign."""

    name: Annotated[str, Field(pattern=NAME, description="letters, digits, - and _")]
    description: str = Field("", description="free text")
    generator: GeneratorConfig = Field(default_factory=ScdmGeneratorConfig)
    screen: ScreenConfig = Field(default_factory=ScreenConfig)
    engine: EngineConfig = Field(default_factory=ForceFieldEngineConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)

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
        """sha256 of the canonical JSON form, 64 hex digits; of what is computed, so without objective and budget."""
        computed = self.model_dump(mode="json", exclude={"objective", "budget"})
        for part, kind, field, default in ADDED_LATER:
            if computed[part]["kind"] == kind and computed[part][field] == default:
                computed[part].pop(field)
        canonical = json.dumps(computed, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


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


KINDS = ("scdm", "unscdm", "files", "several", "forcefield", "vasp")  # pydantic names them in the place of a mistake


def parse_config(data: Any, origin: str = "campaign") -> CampaignConfig:
    """The validated campaign of a mapping; every mistake is named with the key, the value and the rule.

    Raises
    ------
    ConfigError
        If anything is wrong; all mistakes are listed, and an unknown key gets the nearest known one.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: a campaign is a mapping of keys to values, found {type(data).__name__}")
    try:
        return CampaignConfig.model_validate(data)
    except ValidationError as error:
        known = _known_keys(CampaignConfig, set())
        lines = []
        for item in error.errors():
            path = ".".join(str(part) for part in item["loc"] if part not in KINDS)
            if item["type"] == "extra_forbidden":
                near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
                lines.append(f"unknown key '{path}'" + (f"; did you mean '{near[0]}'?" if near else "; remove it"))
            else:
                lines.append(f"{path or 'campaign'} = {item['input']!r}: {item['msg']}")
        raise ConfigError(f"{origin}: " + "; ".join(lines)) from None


def load_config(path: str | Path) -> CampaignConfig:
    """The campaign of a YAML file; ``ConfigError`` when it is missing, not YAML or wrong."""
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"campaign file {path} does not exist; launchpad/campaigns holds examples") from None
    except OSError as error:
        raise ConfigError(f"campaign file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"campaign file {path} is not YAML: {error}") from None
    return parse_config(data, origin=str(path))
