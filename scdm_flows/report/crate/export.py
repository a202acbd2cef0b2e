"""Writes a campaign as an RO-Crate: candidates one by one, in bounded memory but for a line on each relaxed one.

The same stored documents give the same bytes. ``ro-crate-metadata.json`` comes last: a folder without it is no crate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml
from pydantic import BaseModel
from pymatgen.core.structure import Structure

from scdm_flows.documents import CampaignState, CandidateDoc, StageName
from scdm_flows.errors import OutputError
from scdm_flows.query import CandidateDB
from scdm_flows.query.candidate_files import as_cif
from scdm_flows.report.crate.campaigns import Exported, candidates_of, exported
from scdm_flows.report.crate.folder import Folder, Lines
from scdm_flows.report.crate.graph import Content, describe
from scdm_flows.report.crate.private import Private
from scdm_flows.report.crate.readme import readme
from scdm_flows.report.crate.rights import Person
from scdm_flows.report.crate.steps import Step, step_of

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

METADATA = "ro-crate-metadata.json"
WORKFLOW, GIVEN = "campaign.yaml", "inputs.jsonl"
CANDIDATES, ANCESTORS, PHONONS, BANDS = "candidates.jsonl", "ancestors.jsonl", "phonons.jsonl", "bands.jsonl"
FAILURES, OPTIMADE = "failures.jsonl", "optimade.jsonl"
SAMPLES, RELAXED = "samples/", "structures/"
CONTENTS = (
    Content(GIVEN, "structures that the campaign was given, in the setting of the screen", is_input=True),
    Content(ANCESTORS, "the candidates that these were promoted from, with all that is known of them", is_input=True),
    Content(CANDIDATES, "every candidate with all that is known of it, the best first"),
    Content(PHONONS, "phonons: bands, density of states, the verdict"),
    Content(BANDS, "electronic bands and densities of states"),
    Content(FAILURES, "stages that failed, with the reason"),
    Content(OPTIMADE, "the candidates as OPTIMADE entries"),
    Content(SAMPLES, "samples of the candidates that were relaxed", kind="Dataset"),
    Content(RELAXED, "relaxed structures", kind="Dataset"),
)
SCHEMAS = {
    CANDIDATES: "CandidateDoc",
    PHONONS: "PhononDoc",
    BANDS: "BandsDoc",
    FAILURES: "StageFailure",
    "campaign.json": "CampaignDoc",
}
OPTIMADE_YAML = """\
# for `optimake serve .` of optimade-maker
config_version: 0.1.0
database_description: candidates of campaign {name}, two-dimensional materials by scdm-flows
entries:
  jsonl_path: {file}
"""


class EntryFile(Protocol):
    """Lines of an OPTIMADE file; see ``scdm_flows.server.optimade_file``."""

    def head(self) -> list[dict[str, Any]]:
        """What comes before the entries."""

    def entry(self, document: CandidateDoc) -> dict[str, Any] | None:
        """A candidate's entry; None where it has none."""

    def tail(self) -> list[dict[str, Any]]:
        """What comes after the entries."""


@dataclass
class Counts:
    """What is in a crate.

    without_entry: candidates that OPTIMADE has no words for; missing: in words, what is not there.
    """

    candidates: int = 0
    relaxed: int = 0
    promoted_from: int = 0
    phonons: int = 0
    bands: int = 0
    failures: int = 0
    entries: int = 0
    without_entry: int = 0
    missing: list[str] = field(default_factory=list)


def write_crate(
    database: Database,
    name: str,
    root: Path,
    entries: EntryFile,
    *,
    license: str | None = None,  # noqa: A002 (schema.org's name)
    authors: Sequence[Person] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Write the crate of a campaign into an empty folder; it is read as it was built last.

    Parameters
    ----------
    database, name
        The campaign's; nothing is written there.
    root
        The folder.
    entries
        Makes the OPTIMADE file.
    license, authors
        As ``rights`` reads them.
    progress
        Called with (done, all) candidates.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    OutputError
        If it has no candidates.
    """
    return _Crate(database, name, root, entries).write(license, authors, progress)


class _Crate:
    def __init__(self, database: Database, name: str, root: Path, entries: EntryFile) -> None:
        self.database, self.entries = database, entries
        self.query, self.folder, self.counts = CandidateDB(database), Folder(root), Counts()
        self.campaigns, gone = exported(self.query, name)
        self.main = self.campaigns[0]
        self.private = Private({path: place for one in self.campaigns for path, place in one.folders().items()})
        self.steps: list[Step] = []
        self.parents: set[str] = set()
        self.changed: datetime = self.main.document.last_updated
        if gone is not None:
            self.counts.missing.append(f"campaign {gone}, which it was promoted from, is no longer stored")

    def write(
        self, licence: str | None, authors: Sequence[Person], progress: Callable[[int, int], None] | None
    ) -> Counts:
        self._candidates(progress)
        if not self.counts.candidates:
            error = OutputError(
                f"campaign {self.main.name} has no candidates yet; run it, or `scdm build --campaign {self.main.name}`"
            )
            error.exit_code = 2
            raise error
        self._ancestors()
        self._failures()
        for one in self.campaigns:
            one.find_ingredients(self.database)
        workflows = self._workflows()
        contents = [content for content in CONTENTS if self._is_there(content.name)]
        for file, document in SCHEMAS.items():
            if file in self.folder.files or file == "campaign.json":
                schema = files("scdm_flows.documents.schemas").joinpath(f"{document}.json").read_text()
                self.folder.write(f"schemas/{document}.json", schema)
        self.folder.write("optimade.yaml", OPTIMADE_YAML.format(name=self.main.name, file=OPTIMADE))
        said = [(content.name, content.words) for content in contents]
        self.folder.write("README.md", readme(self.main.document, said, self.counts.missing, licence))
        crate = describe(
            self.campaigns,
            self.steps,
            self.folder.files,
            contents,
            workflows=workflows,
            published=self.changed,
            license=licence,
            authors=authors,
        )
        crate.metadata.write(self.folder.root)
        return self.counts

    def _is_there(self, name: str) -> bool:
        return any(file == name or (name[-1] == "/" and file.startswith(name)) for file in self.folder.files)

    def _plain(self, document: BaseModel) -> dict[str, Any]:
        """A document as JSON, without what must not leave the house; what is no number is null."""
        found: dict[str, Any] = self.private(json.loads(document.model_dump_json()))
        return found

    def _candidates(self, progress: Callable[[int, int], None] | None) -> None:
        given: dict[int, dict[str, Any]] = {}
        total = self.query.count(campaign=self.main.name)
        with ExitStack() as stack:
            candidates, phonons, bands, optimade = (
                stack.enter_context(Lines(self.folder, name)) for name in (CANDIDATES, PHONONS, BANDS, OPTIMADE)
            )
            optimade.extend(self.entries.head())
            head = optimade.count
            for document in self.query.stream(campaign=self.main.name, sort="rank"):
                candidates.write(self._plain(document))
                if (entry := self.entries.entry(document)) is not None:
                    optimade.write(self.private(entry))
                if document.generator == "files" and document.promoted_from is None and document.structure:
                    given[document.index] = {"id": document.source_id, "structure": document.structure}
                if StageName.PHONON.value in document.passed.split():
                    phonons.extend(map(self._plain, filter(None, [self.query.phonon(document.candidate_id)])))
                if StageName.BANDS.value in document.passed.split():
                    bands.extend(map(self._plain, filter(None, [self.query.bands(document.candidate_id)])))
                self._note(document, self.main)
                if progress is not None:
                    progress(candidates.count, max(total, candidates.count))
            entries = optimade.count - head
            optimade.extend(self.entries.tail())
            found = self.counts
            found.candidates, found.phonons, found.bands = candidates.count, phonons.count, bands.count
            found.entries, found.without_entry = entries, candidates.count - entries
        found.relaxed = len(self.steps)
        with Lines(self.folder, GIVEN) as lines:
            lines.extend(self.private(record) for _, record in sorted(given.items()))

    def _note(self, document: CandidateDoc, campaign: Exported) -> None:
        """Write the structures of a candidate, and keep what the crate says of it."""
        campaign.note(document)
        self.changed = max(self.changed, document.last_updated)
        if document.promoted_from is not None:
            self.parents.add(document.promoted_from)
        if document.relaxed_structure is None:
            return
        sample, relaxed = f"{SAMPLES}{document.candidate_id}.cif", f"{RELAXED}{document.candidate_id}.cif"
        self.folder.write(sample, as_cif(Structure.from_dict(document.structure)))
        self.folder.write(relaxed, as_cif(Structure.from_dict(document.relaxed_structure)))
        step = step_of(document, campaign.config.engine, sample, relaxed)
        self.steps.append(replace(step, reason=self.private(step.reason)))

    def _ancestors(self) -> None:
        """The candidates that those of the crate were promoted from, back to the first."""
        by_name = {one.name: one for one in self.campaigns}
        done: set[str] = set()
        with Lines(self.folder, ANCESTORS) as lines:
            while wanted := sorted(self.parents - done):
                for document in candidates_of(self.query, wanted):
                    lines.write(self._plain(document))
                    if (campaign := by_name.get(document.campaign)) is not None:
                        self._note(document, campaign)
                done |= set(wanted)
            self.counts.promoted_from = lines.count
        if gone := len(done) - self.counts.promoted_from:
            self.counts.missing.append(
                f"{gone} of the candidates that these were promoted from are no longer stored; what is remembered of "
                f"them is in {CANDIDATES}"
            )

    def _failures(self) -> None:
        with Lines(self.folder, FAILURES) as lines:
            lines.extend(map(self._plain, self.query.failures(self.main.name)))
            self.counts.failures = lines.count

    def _workflows(self) -> dict[str, str]:
        """Write each campaign's configuration and document; campaign -> the former's name."""
        found = {}
        for one in self.campaigns:
            main = one is self.main
            stem = WORKFLOW.removesuffix(".yaml") if main else f"campaigns/{one.name}"
            config = one.portable_config(GIVEN if main and GIVEN in self.folder.files else None)
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            self.folder.write(f"{stem}.yaml", text)
            about = self.private.text(one.document.description)
            one.document = one.document.model_copy(update={"config": config, "description": about})
            document = json.dumps(self._plain(one.document), indent=1, ensure_ascii=False)
            self.folder.write(f"{stem}.json", document + "\n")
            found[one.name] = f"{stem}.yaml"
            if one.document.state is not CampaignState.COMPLETED:
                pending = one.document.funnel.pending
                self.counts.missing.append(f"what is to come of campaign {one.name}, of which {pending} are pending")
        return found
