"""The campaigns of a crate: the one that is exported, and those that it was promoted from.

Structures that a campaign was given go along as the screen has set them (c along the vacuum), and not the user's files,
which may hold anything. Models and files of reference phases go by their sha256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdm_flows.campaigns.stored import outputs
from scdm_flows.config import CampaignConfig, stored_config
from scdm_flows.config.base import FILE, marked
from scdm_flows.documents import CampaignDoc, CandidateDoc, StageName
from scdm_flows.errors import CampaignError, CheckpointError
from scdm_flows.query import CandidateDB
from scdm_flows.report.crate.private import FOLDER, Private
from scdm_flows.thermo.energy_model import PACKAGED, load_energy_model_card

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

BATCH = 500  # ids of one query


@dataclass(frozen=True)
class Ingredient:
    """A model or a table that results depend on.

    sha256: 64 hex digits; None where it is not here to be read; samples: whether it made the samples, and did not judge
    what came of them.
    """

    name: str
    what: str
    sha256: str | None
    samples: bool = False


@dataclass
class Exported:
    """A campaign of the crate.

    document, config: the campaign's; versions: package -> versions that made its results; commits: of their source
    trees; ingredients: what its results depend on.
    """

    document: CampaignDoc
    config: CampaignConfig
    versions: dict[str, set[str]] = field(default_factory=dict)
    commits: set[str] = field(default_factory=set)
    ingredients: list[Ingredient] = field(default_factory=list)
    _samplers: set[str] = field(default_factory=set)
    _energy_models: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The campaign's."""
        return self.document.name

    @property
    def parent(self) -> str | None:
        """Name of the campaign that it was promoted from."""
        generator = self.config.generator
        return generator.parent if generator.kind == "promoted" else None

    def note(self, document: CampaignDoc | CandidateDoc) -> None:
        """Note the code, and the models, that a document of the campaign owes itself to."""
        for package, version in document.provenance.versions.items():
            self.versions.setdefault(package, set()).add(version)
        if document.provenance.git_commit is not None:
            self.commits.add(document.provenance.git_commit)
        if isinstance(document, CandidateDoc):
            if document.model_id is not None and document.promoted_from is None:
                self._samplers.add(document.model_id)
            if document.energy_model is not None:
                self._energy_models.add(document.energy_model)

    def find_ingredients(self, database: Database) -> None:
        """Set ``ingredients``, when all documents have been noted."""
        noted = {} if self.config.registered is None else self.config.registered.contents
        samplers, energy_model = _checkpoints(self.config), _packaged_energy_model()
        what = "generated the samples; the sha256 is that of its tensors"
        found = [Ingredient(name, what, samplers.get(name), samples=True) for name in sorted(self._samplers)]
        for name in sorted(self._energy_models):
            sha256 = noted.get("energy_model") or energy_model.get(name)
            found.append(Ingredient(name, "predicted the energies; the sha256 is that of its file", sha256))
        gates = outputs(database, self.name, StageName.GATE, ["output.reference_sha256"])
        for sha256 in sorted({str((gate.get("output") or {}).get("reference_sha256") or "") for gate in gates} - {""}):
            name = f"reference-phases-{sha256[:8]}"
            found.append(Ingredient(name, "the competing phases that energies above hull were judged by", sha256))
        for name, path in _files(self.config):
            if name not in ("energy_model", "checkpoint", "references"):  # which are above
                found.append(Ingredient(Path(path).name, f"engine.{name}", noted.get(name) or _sha256(path)))
        self.ingredients = found

    def portable_config(self, given: str | None) -> dict[str, Any]:
        """The configuration without the paths of a machine. given: the file with the structures that it was given."""
        data = self.config.model_dump(mode="json", exclude={"registered"})
        for one in (data["generator"], *data["generator"].get("generators", ())):
            if "paths" in one and given is not None:
                one["paths"] = [given]
        paths = [*_given(self.config), *(path for _, path in _files(self.config))]
        found: dict[str, Any] = Private({path: Path(path).name for path in paths})(data)
        return found

    def folders(self) -> dict[str, str]:
        """Folders of the files that the campaign was given, which may have spaces in their names, for ``Private``."""
        paths = [*_given(self.config), *(path for _, path in _files(self.config))]
        return {str(Path(path).parent): FOLDER for path in paths if len(Path(path).parts) > 2}


def exported(query: CandidateDB, name: str) -> tuple[list[Exported], str | None]:
    """The campaign and those that its candidates come from, the nearest first; and the name of one that is gone.

    ``CampaignError`` where there is no campaign of this name.
    """
    found, gone = [_exported(query.campaign(name))], None
    for one in found:  # grows
        for parent in _parents(query, one):
            if parent in {other.name for other in found}:
                continue
            try:
                found.append(_exported(query.campaign(parent)))
            except CampaignError:
                gone = gone or parent
    return found, gone


def _parents(query: CandidateDB, one: Exported) -> list[str]:
    """Campaigns that a campaign was promoted from; a list of candidates may be of several, as a loop's round is."""
    named = sorted(getattr(one.config.generator, "candidates", None) or ())
    of_candidates = {candidate.campaign for candidate in candidates_of(query, named)}
    return list(dict.fromkeys([*([one.parent] if one.parent is not None else []), *sorted(of_candidates)]))


def candidates_of(query: CandidateDB, ids: Sequence[str]) -> Iterator[CandidateDoc]:
    """The candidates of many ids, in their order within each request."""
    for start in range(0, len(ids), BATCH):
        yield from query.find(sort="candidate_id", candidate_id=ids[start : start + BATCH])


def _exported(document: CampaignDoc) -> Exported:
    made = Exported(document, stored_config(document.config, origin=f"campaign {document.name}"))
    made.note(document)
    return made


def _generators(config: CampaignConfig) -> tuple[Any, ...]:
    generator: Any = config.generator
    return tuple(generator.generators) if generator.kind == "several" else (generator,)


def _given(config: CampaignConfig) -> list[str]:
    """Paths of the structures that the campaign was given."""
    return [path for one in _generators(config) for path in getattr(one, "paths", ())]


def _files(config: CampaignConfig) -> list[tuple[str, str]]:
    """(field, path) of the files of models and tables that the campaign names."""
    found = [("checkpoint", getattr(one, "checkpoint", None)) for one in _generators(config)]
    found += [(name, getattr(config.engine, name)) for name in marked(config.engine, FILE)]
    found.append(("force_field_options.weights", getattr(config.engine, "force_field_options", {}).get("weights")))
    return [(name, path) for name, path in found if isinstance(path, str)]


def _sha256(path: str) -> str | None:
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return None


def _checkpoints(config: CampaignConfig) -> dict[str, str]:
    """Model id -> sha256 of the checkpoints that the campaign names, where they are here."""
    from scdm_models.model.checkpoint import identity

    found = {}
    for one in _generators(config):
        if one.kind in ("scdm", "unscdm"):
            try:
                name, sha256 = identity(one.checkpoint, packaged=one.kind)
                found[name] = sha256
            except CheckpointError:
                continue
    return found


def _packaged_energy_model() -> dict[str, str]:
    data = files("scdm_flows.thermo").joinpath("data", PACKAGED).read_bytes()
    return {str(load_energy_model_card()["id"]): hashlib.sha256(data).hexdigest()}
