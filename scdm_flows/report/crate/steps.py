"""What was done to a candidate, as a crate tells it: from its sample to its relaxed structure. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from scdm_flows.config.engines import EngineConfig
from scdm_flows.documents import CandidateDoc, CandidateState, ParentRecord, StageName
from scdm_flows.query.words import above_hull_in_full
from scdm_flows.report.crate.ids import fragment

SAMPLED = (StageName.GENERATE, StageName.SCREEN)
PYPI = "https://pypi.org/project"


@dataclass(frozen=True)
class Software:
    """A program. key: its id in the crate, an address where it has one; version: None where none was noted."""

    key: str
    name: str
    version: str | None
    url: str | None


@dataclass(frozen=True)
class Step:
    """How a candidate came from its sample to its relaxed structure.

    sample, relaxed: names of files in the crate; promoted_from: the candidate whose relaxed structure the sample is;
    parent: what is remembered of that; sampled: when the sample was screened; began, ended: of the relaxation and what
    followed; state, reason: the candidate's; jobs: stages with their uuids.
    """

    candidate_id: str
    campaign: str
    formula: str
    words: str
    engine: Software
    sample: str
    relaxed: str
    promoted_from: str | None
    parent: ParentRecord | None
    sampled: datetime | None
    began: datetime | None
    ended: datetime | None
    state: CandidateState
    reason: str | None
    jobs: tuple[str, ...]


def step_of(document: CandidateDoc, engine: EngineConfig, sample: str, relaxed: str) -> Step:
    """The step of a candidate that has a relaxed structure."""
    ended = [
        (record.completed_at, record.completed_at - timedelta(seconds=record.seconds or 0))
        for stage, record in document.stages.items()
        if stage not in SAMPLED and record.completed_at is not None
    ]
    screened = document.stages.get(StageName.SCREEN.value)
    return Step(
        document.candidate_id,
        document.campaign,
        document.formula,
        f"{document.formula}, {document.state.value}; {said_of(document)}",
        engine_software(document, engine),
        sample,
        relaxed,
        document.promoted_from,
        document.parent,
        None if screened is None else screened.completed_at,
        min((begin for _, begin in ended), default=None),
        max((end for end, _ in ended), default=None),
        document.state,
        document.reason,
        tuple(
            f"{stage} {record.job_uuid}"
            for stage, record in document.stages.items()
            if stage not in SAMPLED and record.job_uuid
        ),
    )


def said_of(document: CandidateDoc | ParentRecord) -> str:
    """What is claimed of a relaxed candidate, with its fidelity, in words."""
    fidelity = f"{document.energy_scheme}{', surrogate' if document.surrogate else ''}"
    said = []
    if document.e_above_hull is not None:
        said.append(f"E_hull {above_hull_in_full(document)} eV/atom ({fidelity})")
    if document.dynamically_stable is not None:
        said.append("phonon-stable" if document.dynamically_stable else "not phonon-stable")
    if document.band_gap is not None:
        said.append(f"band gap {document.band_gap:.2f} eV")
    if document.rank is not None:
        said.append(f"rank {document.rank}")
    return "; ".join(said) or "nothing is known of its energy"


def engine_software(document: CandidateDoc, engine: EngineConfig) -> Software:
    """The program that computed a candidate, in the version that was noted."""
    version = document.engine_version
    if engine.kind == "gpaw":
        return Software(fragment(f"gpaw-{version or 'unknown'}"), "GPAW", version, "https://gpaw.readthedocs.io/")
    if engine.kind == "vasp":
        return Software(fragment(f"vasp-{version or 'unknown'}"), "VASP", version, "https://www.vasp.at/")
    name, versions = engine.force_field, document.provenance.versions
    package = "chgnet" if "chgnet" in name.lower() else "sevenn" if "seven" in name.lower() else None
    if package is None or package not in versions:
        return Software(fragment(f"force-field-{name}"), name, version, None)
    key = fragment(f"force-field-{name}-{versions[package]}")
    return Software(key, f"{name} of {package}", versions[package], on_pypi(package, versions[package]))


def on_pypi(package: str, version: str) -> str:
    """Where the Python Package Index has a release; what stands behind a + is a build of one's own."""
    return f"{PYPI}/{package}/{version.partition('+')[0]}/"
