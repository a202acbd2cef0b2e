"""Assembles candidate documents from the job outputs of a campaign, and counts its funnel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pymatgen.core import Structure

from scdm_flows.builders.base import ScdmBuilder
from scdm_flows.documents import (
    CampaignState,
    CandidateDoc,
    CandidateState,
    Funnel,
    GateDoc,
    PhononDoc,
    Provenance,
    ScreenedCandidate,
    StageFailure,
    StageName,
    StageRecord,
)
from scdm_flows.runner import _plain
from scdm_flows.stores.database import Database, strip
from scdm_models.matching import LayerMatcher

# fields that later builders own; a rebuild keeps them
LATER = ("score", "score_terms", "rank", "e_above_hull", "e_above_hull_raw", "e_above_hull_error", "calibration_id",
         "decomposition", "formation_energy_per_atom")  # fmt: skip


class CandidateBuilder(ScdmBuilder):
    """Job outputs and failures of each campaign -> ``candidates``, ``phonons`` and the funnel in ``campaigns``."""

    def __init__(self, database: Database, campaign: str | None = None, **kwargs: Any) -> None:
        self.campaign = campaign
        super().__init__(
            database,
            [database.job_store.docs_store, database.failures],
            [database.candidates, database.phonons, database.campaigns],
            **kwargs,
        )

    def get_items(self) -> Iterator[dict[str, Any]]:
        """One item for each campaign: its documents by stage."""
        criteria = {"name": self.campaign} if self.campaign else {}
        for name in sorted(d["name"] for d in self.database.campaigns.query(criteria, properties=["name"])):
            outputs = self.database.job_store.docs_store
            item: dict[str, Any] = {"campaign": self.database.campaign(name)}
            for stage in ("screen", "relax", "static", "gate", "phonon"):
                properties = ["uuid", "metadata", "completed_at"] + (["output"] if stage not in ("relax", "static") else [])
                item[stage] = list(
                    outputs.query({"metadata.campaign": name, "metadata.stage": stage}, properties=properties)
                )
            item["failures"] = [strip(d) for d in self.database.failures.query({"campaign": name})]
            yield item

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """The documents to write."""
        campaign = item["campaign"]
        by_stage = {
            stage: {d["metadata"]["candidate_id"]: d for d in item[stage]} for stage in ("relax", "static", "gate", "phonon")
        }
        failures = {d["candidate_id"]: StageFailure.model_validate(d) for d in item["failures"]}
        screened = sorted(
            (
                (ScreenedCandidate.model_validate(c), d["uuid"])
                for d in item["screen"]
                for c in _plain(d["output"])["candidates"]
            ),
            key=lambda pair: pair[0].index,
        )
        _mark_duplicates_across_shards([c for c, _ in screened], len(item["screen"]))
        candidates, phonons = [], []
        for verdict, screen_uuid in screened:
            key = verdict.candidate_id
            gate = by_stage["gate"].get(key)
            phonon = by_stage["phonon"].get(key)
            gate_doc = None if gate is None else GateDoc.model_validate(_plain(gate["output"]))
            phonon_doc = None if phonon is None else PhononDoc.model_validate(_plain(phonon["output"]))
            document = assemble(verdict, gate_doc, phonon_doc, failures.get(key), campaign.name)
            if document is None:
                continue
            document.stages["screen"].job_uuid = screen_uuid
            for stage, outputs in by_stage.items():
                if key in outputs:
                    record = document.stages.setdefault(stage, StageRecord(status="passed"))
                    record.job_uuid = outputs[key]["uuid"]
            document.provenance = Provenance(
                versions=campaign.provenance.versions,
                git_commit=campaign.provenance.git_commit,
                engine=None if gate_doc is None else gate_doc.energy_scheme + (" (surrogate)" if gate_doc.surrogate else ""),
                config_hash=campaign.config_hash,
                job_uuids={s: r.job_uuid for s, r in document.stages.items() if r.job_uuid},
            )
            candidates.append(document)
            if phonon_doc is not None:
                phonons.append(phonon_doc)
        campaign.funnel = funnel([c for c, _ in screened], candidates)
        shards = -(-(campaign.n_requested or 0) // int(campaign.config["generator"]["shard_size"]))
        if len(item["screen"]) >= shards and campaign.funnel.pending == 0:
            campaign.state = CampaignState.COMPLETED
        return {"campaign": campaign, "candidates": candidates, "phonons": phonons}

    def update_targets(self, items: list[dict[str, Any]]) -> None:
        """Write what changed, keeping the fields of later builders."""
        for item in items:
            keys = [c.candidate_id for c in item["candidates"]]
            known = {
                d["candidate_id"]: d
                for d in self.database.candidates.query({"candidate_id": {"$in": keys}}, properties=["candidate_id", *LATER])
            }
            documents = []
            for candidate in item["candidates"]:
                document = candidate.model_dump()
                before = known.get(candidate.candidate_id, {})
                document |= {k: before[k] for k in LATER if before.get(k) is not None}
                documents.append(document)
            self.write_changed(self.database.candidates, documents)
            self.write_changed(self.database.phonons, [p.model_dump() for p in item["phonons"]])
            self.write_changed(self.database.campaigns, [item["campaign"].model_dump()])


def _mark_duplicates_across_shards(verdicts: list[ScreenedCandidate], shards: int) -> None:
    """Within a shard the screen has compared; between shards it is done here, the lowest index staying."""
    if shards < 2:
        return
    alive = [v for v in verdicts if v.accepted and v.structure is not None]
    structures = [Structure.from_dict(v.structure) for v in alive]
    for group in LayerMatcher().group(structures, [v.layer_group_generated for v in alive]):
        for k in group[1:]:
            alive[k].duplicate_of = alive[group[0]].candidate_id
            alive[k].accepted = False
            alive[k].reason = f"duplicate: the same layer as {alive[group[0]].candidate_id} of another shard"


def assemble(
    verdict: ScreenedCandidate, gate: GateDoc | None, phonon: PhononDoc | None, failure: StageFailure | None, campaign: str
) -> CandidateDoc | None:
    """The candidate document of what is known; None for an entry that could not be read at all."""
    if verdict.structure is None or verdict.formula is None:
        return None
    structure = Structure.from_dict(verdict.structure)
    elements = sorted(str(e) for e in structure.composition)
    shared = set(ScreenedCandidate.model_fields) & set(CandidateDoc.model_fields) - {"reason"}
    document = CandidateDoc(
        **{name: getattr(verdict, name) for name in shared},
        campaign=campaign,
        chemsys="-".join(elements),
        elements=elements,
        nelements=len(elements),
        nsites=len(structure),
        layer_group=verdict.layer_group_generated,
        space_group=verdict.space_group_generated,
    )
    document.stages["generate"] = StageRecord(status="passed")
    document.stages["screen"] = StageRecord(status="passed" if verdict.accepted else "rejected", reason=verdict.reason)
    if not verdict.accepted:
        document.state, document.reason = CandidateState.REJECTED, verdict.reason
    if gate is not None:
        _add_gate(document, gate)
    if phonon is not None:
        document.dynamically_stable, document.min_frequency_thz = phonon.dynamically_stable, phonon.min_frequency_thz
        document.stages["phonon"] = StageRecord(status="passed", reason=phonon.reason)
        document.state = CandidateState.COMPLETED
    if failure is not None:
        document.stages[failure.stage] = StageRecord(status="failed", reason=f"{failure.error_type}: {failure.message}")
        document.state, document.reason = CandidateState.FAILED, f"{failure.stage}: {failure.message}"
    return document


def _add_gate(document: CandidateDoc, gate: GateDoc) -> None:
    shared = set(GateDoc.model_fields) & set(CandidateDoc.model_fields) - {"candidate_id", "campaign", "reason"}
    for name in shared:
        value = getattr(gate, name)
        if value is not None:
            setattr(document, name, value)
    document.e_above_hull_gate = gate.e_above_hull
    document.stages["relax"] = StageRecord(status="passed" if gate.relax_converged else "failed")
    document.stages["static"] = StageRecord(status="passed")
    computed = gate.relax_converged and bool(gate.one_layer) and gate.in_window
    document.stages["gate"] = StageRecord(status="passed" if computed else "rejected", reason=gate.reason)
    if document.state is CandidateState.REJECTED:
        return  # a duplicate of another shard, computed before it was known
    if not gate.relax_converged:
        document.state, document.reason = CandidateState.FAILED, gate.reason
    elif not computed:
        document.state, document.reason = CandidateState.REJECTED, gate.reason
    elif not gate.phonon:
        document.state = CandidateState.COMPLETED
        document.stages[StageName.PHONON.value] = StageRecord(status="skipped", reason=gate.reason)


def funnel(screened: list[ScreenedCandidate], candidates: list[CandidateDoc]) -> Funnel:
    """The counts of a campaign; each step counts what passed it and all before."""
    valid = [
        c for c in screened if c.accepted or c.duplicate_of is not None or (c.reason or "").startswith("known")
    ]
    unique = [c for c in valid if c.duplicate_of is None]
    by_id = {c.candidate_id: c for c in candidates}
    accepted = [by_id[c.candidate_id] for c in unique if c.accepted and c.candidate_id in by_id]
    relaxed = [c for c in accepted if c.stages.get("relax") and c.stages["relax"].status == "passed"]
    window = [c for c in relaxed if c.stages.get("gate") and c.stages["gate"].status == "passed"]
    return Funnel(
        generated=len(screened),
        valid=len(valid),
        unique=len(unique),
        novel=sum(c.novel is True for c in unique),
        relaxed=len(relaxed),
        in_window=len(window),
        phonon_done=sum(c.dynamically_stable is not None for c in accepted),
        dynamically_stable=sum(c.dynamically_stable is True for c in accepted),
        failed=sum(c.state is CandidateState.FAILED for c in candidates),
        pending=sum(c.state is CandidateState.PENDING for c in candidates),
    )
