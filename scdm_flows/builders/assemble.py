"""One candidate document out of what its stages left. Pure: outputs in, documents and counts out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from scdm_flows.analysis.bands import spin_orbit_matters
from scdm_flows.builders.optimade import optimade_of
from scdm_flows.campaigns.plan import open_stages
from scdm_flows.documents import (
    OPENED_STAGES,
    BandsDoc,
    CandidateDoc,
    CandidateState,
    GateDoc,
    PhononDoc,
    ScreenedCandidate,
    StageFailure,
    StageName,
    StageRecord,
)
from scdm_flows.documents.static import VacuumLevels
from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.bulk_compounds import bulk_compound_known

logger = logging.getLogger(__name__)
Number = TypeVar("Number", int, float)
OF_SAMPLE = {"novel": "sample_novel", "known_as": "sample_known_as"}  # what the screen says -> what the candidate says
FROM_SCREEN = set(ScreenedCandidate.model_fields) & set(CandidateDoc.model_fields) - {
    "reason",
    "structure",
    "formula",
    *OF_SAMPLE,
}
FROM_GATE = set(GateDoc.model_fields) & set(CandidateDoc.model_fields) - {
    "candidate_id",
    "campaign",
    "reason",
    "schema_version",
    "provenance",
}


@dataclass
class Found:
    """What is known of a candidate.

    left_out: why a budget leaves out its phonons, None where it does not or has not decided; jobs: stage -> the job's
    document (uuid, metadata, completed_at) without its output.
    """

    verdict: ScreenedCandidate
    gate: GateDoc | None = None
    phonon: PhononDoc | None = None
    bands: BandsDoc | None = None
    failures: list[StageFailure] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: str | None = None


def assemble(found: Found, campaign: str) -> CandidateDoc:
    """The candidate document; an entry that could not be read has no atoms, no formula, and the reason."""
    verdict = found.verdict
    structure = verdict.structure
    elements = [] if structure is None else sorted({str(e) for e in structure.composition})
    formula = verdict.formula or ("" if structure is None else structure.composition.reduced_formula)
    document = CandidateDoc(
        **{name: getattr(verdict, name) for name in FROM_SCREEN},
        **{name: getattr(verdict, said) for said, name in OF_SAMPLE.items()},
        structure={} if structure is None else structure.as_dict(),
        formula=formula,
        campaign=campaign,
        chemsys="-".join(elements),
        elements=elements,
        nelements=len(elements),
        nsites=0 if structure is None else len(structure),
        layer_group=verdict.layer_group_generated,
        space_group=verdict.space_group_generated,
        bulk_compound=_bulk_compound(formula),
    )
    stages = {
        StageName.GENERATE.value: StageRecord(status="passed"),
        StageName.SCREEN.value: StageRecord(status="passed" if verdict.accepted else "rejected", reason=verdict.reason),
    }
    if not verdict.accepted:
        document.state, document.reason = CandidateState.REJECTED, verdict.reason
    if found.gate is not None:
        if found.left_out is not None and found.gate.phonon and found.phonon is None:
            found.gate.phonon = False
            found.gate.skipped[StageName.PHONON.value] = found.left_out
        _add_gate(document, found.gate, stages)
    if found.phonon is not None:
        document.dynamically_stable = found.phonon.dynamically_stable
        document.min_frequency_thz = found.phonon.min_frequency_thz
        stages[StageName.PHONON.value] = StageRecord(status="passed", reason=found.phonon.reason)
    if found.bands is not None:
        document.band_gap, document.gap_kind = found.bands.band_gap_ev, found.bands.gap_kind
        document.hse_gap = found.bands.hse_gap_ev
        stages[StageName.BANDS.value] = StageRecord(status="passed")
    static = None if found.gate is None else found.gate.static
    if static is not None and static.vacuum is not None:
        _add_vacuum(document, static.vacuum, found.bands)
    if document.band_gap is not None:
        coupled = found.bands is not None and found.bands.spin_orbit
        document.lacks_spin_orbit = not coupled and spin_orbit_matters(elements)
    _add_failures(document, found, stages)
    if document.state is CandidateState.PENDING and found.gate is not None:
        opened = {s for s in OPENED_STAGES if getattr(found.gate, s.value)}
        if not open_stages(opened, stages):
            document.state = CandidateState.COMPLETED
    for stage, job in found.jobs.items():
        record = stages.setdefault(stage, StageRecord(status="passed"))
        record.job_uuid = job["uuid"]
        record.completed_at, record.seconds = completed_at(job), (job.get("metadata") or {}).get("seconds")
    document.stages = stages
    document.passed = " ".join(s.value for s in StageName if s.value in stages and stages[s.value].status == "passed")
    document.optimade = optimade_of(document)
    return document


def _bulk_compound(formula: str) -> bool | None:
    if not formula:
        return None
    try:
        return bulk_compound_known(formula)
    except ReferenceDataError as error:
        logger.warning("whether a bulk compound of %s is known cannot be said: %s", formula, error)
        return None


def _add_gate(document: CandidateDoc, gate: GateDoc, stages: dict[str, StageRecord]) -> None:
    for name in FROM_GATE:
        value = getattr(gate, name)
        if value is not None:
            setattr(document, name, value.as_dict() if name == "relaxed_structure" else value)
    if gate.decomposition is not None:
        document.decomposition = without_dots(gate.decomposition)
    document.e_above_hull_gate = gate.e_above_hull
    if gate.static is not None:
        document.band_gap, document.gap_kind = gate.static.band_gap_ev, gate.static.gap_kind
        document.magnetic, document.total_magnetization = gate.static.magnetic, gate.static.total_magnetization
        document.magnetic_order = gate.static.magnetic_order
        document.antiferromagnetic_ev_per_atom = gate.static.antiferromagnetic_ev_per_atom
        document.magnetic_note = gate.static.magnetic_note
        document.engine_version, document.potentials = gate.static.engine_version, gate.static.potentials
    stages[StageName.RELAX.value] = StageRecord(status="passed" if gate.relax_converged else "failed")
    stages[StageName.STATIC.value] = StageRecord(status="passed")
    passed = gate.relax_converged and gate.one_layer is not False and gate.in_window
    stages[StageName.GATE.value] = StageRecord(status="passed" if passed else "rejected", reason=gate.reason)
    if document.state is CandidateState.REJECTED:
        return  # a duplicate in another shard, computed before that was known
    if not gate.relax_converged:
        stages[StageName.RELAX.value].reason = gate.reason
        document.state, document.reason = CandidateState.FAILED, gate.reason
    elif not passed:
        document.state, document.reason = CandidateState.REJECTED, gate.reason
    else:
        if not gate.phonon:
            reason = gate.skipped.get(StageName.PHONON.value, gate.reason)
            stages[StageName.PHONON.value] = StageRecord(status="skipped", reason=reason)
        if StageName.BANDS.value in gate.skipped:
            reason = gate.skipped[StageName.BANDS.value]
            stages[StageName.BANDS.value] = StageRecord(status="skipped", reason=reason)


def _add_vacuum(document: CandidateDoc, vacuum: VacuumLevels, bands: BandsDoc | None) -> None:
    """Work function, or band edges against the vacuum: of the bands where there are any, else of the static run."""
    top, bottom, fermi = vacuum.valence_maximum_ev, vacuum.conduction_minimum_ev, vacuum.fermi_level_ev
    if bands is not None:  # on the static run's density, and so on its scale
        fermi = bands.efermi_ev
        top, bottom = (
            None if edge is None else bands.energy_zero_ev + edge.energy_ev for edge in (bands.vbm, bands.cbm)
        )
    document.vacuum_level_difference = round(vacuum.above_ev - vacuum.below_ev, 4)
    if top is None or bottom is None:
        document.work_function = round(vacuum.mean_ev - fermi, 4)
    else:
        document.vbm_vs_vacuum, document.cbm_vs_vacuum = (round(e - vacuum.mean_ev, 4) for e in (top, bottom))


def _add_failures(document: CandidateDoc, found: Found, stages: dict[str, StageRecord]) -> None:
    """Failures count unless the stage has an output by now: it was run again, with success."""
    done = set(found.jobs)
    if found.gate is not None:
        done |= {StageName.RELAX, StageName.STATIC, StageName.GATE}
    if found.phonon is not None:
        done.add(StageName.PHONON)
    if found.bands is not None:
        done.add(StageName.BANDS)
    for failure in found.failures:
        if failure.stage in done:
            continue
        text = f"{failure.error_type}: {failure.message}"
        stages[failure.stage] = StageRecord(status="failed", reason=text, job_uuid=failure.job_uuid)
        if failure.stage != StageName.BANDS and document.state is CandidateState.PENDING:
            document.state, document.reason = CandidateState.FAILED, f"{failure.stage}: {text}"


def completed_at(job: Mapping[str, Any]) -> datetime | None:
    """When a job ended, UTC, in whole milliseconds.

    Our runner notes it in the metadata; of a job run by a FireWorks worker only jobflow's own time is there,
    which is local time without a zone and is taken for this machine's.
    """
    value = (job.get("metadata") or {}).get("completed_at") or job.get("completed_at")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).astimezone(UTC)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def without_dots(mapping: Mapping[str, Number]) -> dict[str, Number]:
    """The mapping with keys that a database takes: dots become underscores."""
    return {key.replace(".", "_"): value for key, value in mapping.items()}
