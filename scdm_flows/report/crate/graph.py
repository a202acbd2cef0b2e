"""What a crate says of its files: the campaign as a workflow that was run, by what, on what, with which results.

Workflow Run Crate 0.5 (doi:10.1371/journal.pone.0309210) on RO-Crate 1.1. Each campaign is a computational workflow,
written in its campaign file, and each of its runs an action. One action sampled a campaign's candidates, one for each
candidate relaxed it and what followed. So the way from a relaxed structure back to its sample, through a promotion too,
is that of results and objects of these actions. Pure; times are those of the results, so the same results give the same
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scdm_flows import __version__
from scdm_flows.documents import CampaignState, CandidateState
from scdm_flows.report.crate.campaigns import Exported, Ingredient
from scdm_flows.report.crate.folder import Written
from scdm_flows.report.crate.ids import fragment
from scdm_flows.report.crate.rights import Person
from scdm_flows.report.crate.steps import Software, Step, on_pypi, said_of

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

RUN_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
WORKFLOW_PROFILE = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
PARAMETER_PROFILE = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
COMPLETED, FAILED = "http://schema.org/CompletedActionStatus", "http://schema.org/FailedActionStatus"
# of RO-Crate 1.1's own terms none is a checksum
TERMS = {"sha256": "http://schema.org/sha256"}
CIF, JSON_LINES, YAML = "chemical/x-cif", "application/jsonl", "application/yaml"
FORMATS = {".jsonl": JSON_LINES, ".json": "application/json", ".yaml": YAML, ".cif": CIF, ".md": "text/markdown"}
LANGUAGE = "#campaign-file"
FLOWS = "#scdm-flows"
PAPER = "https://doi.org/10.1021/acs.jpcc.4c08681"
Properties = dict[str, Any]


@dataclass(frozen=True)
class Content:
    """A file or folder of results or inputs, as a parameter of the workflow. kind: File or Dataset."""

    name: str
    words: str
    kind: str = "File"
    is_input: bool = False


def describe(
    campaigns: Sequence[Exported],
    steps: Sequence[Step],
    files: Mapping[str, Written],
    contents: Sequence[Content],
    *,
    workflows: Mapping[str, str],
    published: datetime,
    license: str | None,  # noqa: A002 (schema.org's name)
    authors: Sequence[Person],
) -> ROCrate:
    """The crate's metadata; nothing is written.

    Parameters
    ----------
    campaigns
        The one that is exported, then those that it was promoted from.
    steps
        Candidates with a relaxed structure, of all campaigns.
    files
        Every file of the crate, by name.
    contents
        Inputs and results of the exported campaign among them.
    workflows
        Campaign -> name of its file.
    published
        When the last of the results changed.
    license
        Address; the crate says that none was stated where it is None.
    authors
        Who made the crate; nobody is named where there is none.
    """
    return _Graph(campaigns, steps, files, contents, workflows, published, license, authors).crate


class _Graph:
    def __init__(
        self,
        campaigns: Sequence[Exported],
        steps: Sequence[Step],
        files: Mapping[str, Written],
        contents: Sequence[Content],
        workflows: Mapping[str, str],
        published: datetime,
        licence: str | None,
        authors: Sequence[Person],
    ) -> None:
        from rocrate.rocrate import ROCrate

        self.crate = ROCrate(version="1.1")  # what the run profiles extend
        self.crate.metadata.extra_terms |= TERMS
        self.files, self.steps, self.workflows, self.authors = files, steps, workflows, authors
        self.relaxed = {step.candidate_id: step.relaxed for step in steps}
        self.parts: list[str] = []
        self.actions: list[str] = []
        for author in authors:
            self.thing(author.id, "Person", name=author.name)
        self.language()
        for campaign in campaigns:
            self.workflow(campaign)
        main = campaigns[0]
        self.plain_files(contents)
        for campaign in campaigns:
            self.run(campaign, contents if campaign is main else ())
        self.parameters(main, contents)
        self.root(main, published, licence)

    def thing(self, key: str, kind: str | list[str], /, **properties: Any) -> str:
        """A contextual entity, once; returns its id."""
        from rocrate.model import ContextEntity

        if key not in self.crate:
            known = {name: value for name, value in properties.items() if value is not None and value != []}
            self.crate.add(ContextEntity(self.crate, key, properties={"@type": kind, **known}))
        return key

    def file(self, name: str, kind: str | list[str] = "File", /, **properties: Any) -> str:
        """The entity of a file of the crate; returns its id."""
        from rocrate.model import File

        written = self.files[name]
        about = {
            "@type": kind,
            "contentSize": str(written.size),
            "sha256": written.sha256,
            "encodingFormat": FORMATS[name[name.rindex(".") :]],
            **{key: value for key, value in properties.items() if value is not None and value != []},
        }
        added: Any = self.crate.add(File(self.crate, dest_path=name, properties=about))
        key = str(added.id)
        self.parts.append(key)
        return key

    def language(self) -> None:
        from rocrate.model import ComputerLanguage

        words = "YAML: generator, screen, engine, gates, objective and budget; `scdm campaign run` executes it"
        about = {"name": "campaign file of scdm-flows", "version": __version__, "description": words}
        self.crate.add(ComputerLanguage(self.crate, LANGUAGE, properties=about))

    def workflow(self, campaign: Exported) -> None:
        """The campaign file as a workflow, the main one through rocrate, which says so in the descriptor too."""
        from rocrate.model import ComputationalWorkflow

        name = self.workflows[campaign.name]
        main = not self.parts
        about = campaign.document.description
        properties: Properties = {
            "name": f"campaign {campaign.name}",
            "description": about or f"{campaign.config.generator.kind} generator, {campaign.config.engine.kind} engine",
            "version": campaign.document.config_hash,
            "conformsTo": _refs([WORKFLOW_PROFILE]),
            "softwareRequirements": _refs([self.flows(campaign)]),
        }
        if not main:
            kinds = ComputationalWorkflow.TYPES
            self.file(name, kinds, programmingLanguage=_refs([LANGUAGE]), **properties)
            return
        written = self.files[name]
        properties |= {"contentSize": str(written.size), "sha256": written.sha256, "encodingFormat": YAML}
        language = self.crate.get(LANGUAGE)
        added = self.crate.add_workflow(dest_path=name, properties=properties, main=True, lang=language)
        self.parts.append(added.id)

    def flows(self, campaign: Exported) -> str:
        """scdm-flows, and the packages that it ran with in this campaign."""
        own = sorted(campaign.versions.get("scdm-flows", ()))
        packages = [
            self.software(Software(on_pypi(name, version), name, version, on_pypi(name, version)))
            for name, versions in sorted(campaign.versions.items())
            for version in sorted(versions)
            if name != "scdm-flows"
        ]
        commits = sorted(campaign.commits)
        return self.thing(
            f"{FLOWS}-{campaign.name}",
            "SoftwareApplication",
            name="scdm-flows",
            softwareVersion=", ".join(own) or None,
            identifier=_some([f"git commit {commit}" for commit in commits]),
            description=f"as it ran in campaign {campaign.name}",
            citation=_refs([self.paper()]),
            softwareRequirements=_refs(packages),
        )

    def software(self, found: Software) -> str:
        return self.thing(
            found.key, "SoftwareApplication", name=found.name, softwareVersion=found.version, url=found.url
        )

    def paper(self) -> str:
        title = "Discovery of 2D Materials via Symmetry-Constrained Diffusion Model"
        return self.thing(PAPER, "ScholarlyArticle", name=title, identifier=PAPER)

    def ingredient(self, found: Ingredient) -> str:
        return self.thing(
            fragment(found.name), "CreativeWork", name=found.name, description=found.what, sha256=found.sha256
        )

    def plain_files(self, contents: Sequence[Content]) -> None:
        """All files but the workflows; those of a folder are its parts."""
        from rocrate.model import Dataset

        described = {content.name: content.words for content in contents}
        folders = {
            name: [file for file in self.files if file.startswith(name)] for name in described if name[-1] == "/"
        }
        structures = {step.relaxed: step for step in self.steps} | {step.sample: step for step in self.steps}
        done = set(self.workflows.values())
        for folder, names in folders.items():
            before = len(self.parts)
            for name in names:
                self.structure(name, structures[name])
            inside, self.parts = self.parts[before:], self.parts[:before]
            about = {"name": folder, "description": described[folder], "hasPart": _refs(inside)}
            self.crate.add(Dataset(self.crate, dest_path=folder, properties=about))
            self.parts.append(folder)
            done |= set(names)
        for name in self.files:
            if name not in done:
                words = described.get(name) or _words_of(name)
                about = {"about": {"@id": "./"}} if name == "README.md" else {}
                self.file(name, name=name, description=words, **about)

    def structure(self, name: str, step: Step) -> None:
        """The file of a candidate's relaxed structure, or of its sample, which may be another's relaxed structure."""
        if name == step.relaxed:
            self.file(name, name=f"{step.candidate_id}, relaxed", description=step.words)
            return
        based_on = self.parent(step)
        self.file(
            name,
            name=f"{step.candidate_id}, sample",
            description=f"{step.formula}, before it was relaxed",
            isBasedOn=None if based_on is None else {"@id": based_on},
        )

    def parent(self, step: Step) -> str | None:
        """What a promoted sample is: a relaxed structure of the crate, or what is remembered of one that is gone."""
        name = step.promoted_from
        if name is None or name in self.relaxed:
            return None if name is None else self.relaxed[name]
        known = "" if step.parent is None else f" of campaign {step.parent.campaign}; {said_of(step.parent)}"
        return self.thing(f"#candidate-{name}", "CreativeWork", name=name, description=f"no longer stored{known}")

    def run(self, campaign: Exported, contents: Sequence[Content]) -> None:
        """The run of a campaign as a whole, and how it came to its samples."""
        own = [step for step in self.steps if step.campaign == campaign.name]
        parents = [parent for step in own if (parent := self.parent(step)) is not None]
        inputs = [content.name for content in contents if content.is_input]
        samplers = [self.ingredient(found) for found in campaign.ingredients if found.samples]
        judges = [self.ingredient(found) for found in campaign.ingredients if not found.samples]
        results = [content.name for content in contents if not content.is_input] or [step.relaxed for step in own]
        finished = campaign.document.state is CampaignState.COMPLETED
        ends = [step.ended for step in own if step.ended is not None]
        begins = [time for step in own for time in (step.began, step.sampled) if time is not None]
        funnel = campaign.document.funnel
        self.action(
            f"#run-{campaign.name}",
            f"run of campaign {campaign.name}",
            f"{funnel.generated} samples, {funnel.relaxed} relaxed, {funnel.in_window} within the window of energies "
            f"above hull, {funnel.dynamically_stable} of {funnel.phonon_done} phonon-stable"
            + ("" if finished else f"; not finished: {funnel.pending} pending"),
            instrument=self.workflows[campaign.name],
            object_=[*inputs, *samplers, *judges, *parents],
            result=results,
            began=min(begins, default=None),
            ended=max(ends, default=campaign.document.last_updated),
            status=COMPLETED if finished else None,
        )
        for step in own:
            self.step(step, judges)
        if own:
            sampled = [step.sampled for step in own if step.sampled is not None]
            self.action(
                f"#sampling-{campaign.name}",
                f"{'promotion' if campaign.parent else 'sampling'} and screening of campaign {campaign.name}",
                f"generator {campaign.config.generator.kind}; {funnel.generated} samples, {len(own)} relaxed ones here",
                instrument=self.flows(campaign),
                object_=parents or [*inputs, *samplers] or [self.workflows[campaign.name]],
                result=[step.sample for step in own],
                began=None,
                ended=max(sampled, default=None),
                status=COMPLETED,
            )

    def step(self, step: Step, judges: Sequence[str]) -> None:
        """The computation of a candidate, from its sample to its relaxed structure. judges: ids of what judged it."""
        self.action(
            f"#computing-{step.candidate_id}",
            f"relaxation of {step.candidate_id} and what followed",
            step.words,
            instrument=self.software(step.engine),
            object_=[step.sample, *judges],
            result=[step.relaxed],
            began=step.began,
            ended=step.ended,
            status={CandidateState.FAILED: FAILED, CandidateState.PENDING: None}.get(step.state, COMPLETED),
            error=step.reason if step.state is CandidateState.FAILED else None,
            identifier=_some(list(step.jobs)),
        )

    def action(
        self,
        key: str,
        name: str,
        words: str,
        *,
        instrument: str,
        object_: Iterable[str],
        result: Iterable[str],
        began: datetime | None,
        ended: datetime | None,
        status: str | None,
        **more: Any,
    ) -> None:
        self.thing(
            key,
            "CreateAction",
            name=name,
            description=words,
            instrument=_refs([instrument]),
            object=_refs(object_),
            result=_refs(result),
            startTime=_time(began),
            endTime=_time(ended),
            actionStatus=status,
            agent=_refs(author.id for author in self.authors),
            **more,
        )
        self.actions.append(key)

    def parameters(self, campaign: Exported, contents: Sequence[Content]) -> None:
        """Inputs and results of the main workflow as its formal parameters, both ways."""
        ways: dict[str, list[str]] = {"input": [], "output": []}
        for content in contents:
            key = f"#parameter-{content.name.rstrip('/')}"
            self.thing(
                key,
                "FormalParameter",
                name=content.name.rstrip("/"),
                description=content.words,
                additionalType=content.kind,
                conformsTo=_refs([PARAMETER_PROFILE]),
                workExample=_refs([content.name]),
            )
            self.crate.get(content.name)["exampleOfWork"] = {"@id": key}
            ways["input" if content.is_input else "output"].append(key)
        workflow = self.crate.get(self.workflows[campaign.name])
        for way, keys in ways.items():
            if keys:
                workflow[way] = _refs(keys)

    def root(self, campaign: Exported, published: datetime, licence: str | None) -> None:
        root = self.crate.root_dataset
        root["name"] = f"campaign {campaign.name}: two-dimensional materials by scdm-flows"
        about = campaign.document.description
        root["description"] = (
            f"{about + '. ' if about else ''}Configuration, code versions, inputs, candidates and their structures of "
            f"campaign {campaign.name}, with the way of each from its sample"
        )
        root["datePublished"] = _time(published)
        for key, name in RUN_PROFILES.items():
            self.thing(key, "CreativeWork", name=name, version=key.rpartition("/")[2])
        root["conformsTo"] = _refs(RUN_PROFILES)
        if licence is None:
            root["license"] = "not stated; ask those who made this crate before you use it"
        else:
            self.thing(licence, "CreativeWork", name=licence.rpartition("/")[2] or licence, url=licence)
            root["license"] = {"@id": licence}
        if self.authors:
            root["author"] = _refs(author.id for author in self.authors)
        root["hasPart"] = _refs(self.parts)
        root["mentions"] = _refs(self.actions)


def _words_of(name: str) -> str:
    if name.startswith("schemas/"):
        return f"every field of {name[8:-5]}, with its unit and meaning, as JSON Schema"
    if name.startswith("campaigns/"):
        return "a campaign that this one was promoted from: what was asked for, and how many passed each step"
    return {
        "README.md": "what is in this crate, and how to use it",
        "campaign.json": "the campaign's document: configuration, how many passed each step, code versions",
        "optimade.yaml": "how optimade-maker serves optimade.jsonl",
    }[name]


def _refs(keys: Iterable[str]) -> Any:
    """References to entities, one alone as RO-Crate wants it; None for none."""
    found = [{"@id": key} for key in dict.fromkeys(keys)]
    return _some(found)


def _some(values: list[Any]) -> Any:
    """A list, a single value as itself, None for none."""
    return values[0] if len(values) == 1 else values or None


def _time(time: datetime | None) -> str | None:
    """ISO 8601 in UTC, whole milliseconds, as the profiles want it."""
    if time is None:
        return None
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds")
