"""Gathers the job outputs of a campaign into candidate documents."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from scdm_flows.analysis.duplicates import across_shards
from scdm_flows.builders.assemble import Found, assemble
from scdm_flows.builders.base import UNREADABLE, ScdmBuilder, batches, content
from scdm_flows.builders.hulls import pending_token
from scdm_flows.builders.novelty import is_sample_duplicate, judged_token
from scdm_flows.campaigns.choice import why_not
from scdm_flows.campaigns.controls import control_of
from scdm_flows.campaigns.removal import is_being_removed
from scdm_flows.campaigns.stored import without_class_marks
from scdm_flows.documents import (
    BandsDoc,
    CampaignDoc,
    CandidateDoc,
    GateDoc,
    Novelty,
    PhononDoc,
    Provenance,
    ScreenedCandidate,
    StageFailure,
    StageName,
)
from scdm_flows.documents.candidate import HULL_FIELDS, NOVELTY_FIELDS, RANK_FIELDS
from scdm_flows.documents.migrations import migrate
from scdm_flows.documents.provenance import made_here
from scdm_flows.errors import CampaignError, StoreError
from scdm_flows.stores.database import Database, plain_values, strip

BATCH = 200
_WITH_OUTPUT: dict[str, type[BaseModel]] = {
    StageName.GATE.value: GateDoc,
    StageName.PHONON.value: PhononDoc,
    StageName.BANDS.value: BandsDoc,
}
_WITHOUT_OUTPUT = (StageName.RELAX.value, StageName.STATIC.value)


class CandidateBuilder(ScdmBuilder):
    """Job outputs and failures -> ``candidates``, ``phonons`` and ``bands``."""

    def __init__(self, database: Database, campaign: str | None = None, **kwargs: Any) -> None:
        self.campaign = campaign
        super().__init__(
            database,
            [database.job_store, database.failures],
            [database.candidates, database.phonons, database.bands],
            **kwargs,
        )

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Batches of a campaign's samples with what is known of them.

        Raises
        ------
        CampaignError
            If a campaign was named that the database does not hold.
        """
        names = sorted(self.database.campaigns.distinct("name"))
        if self.campaign is not None and self.campaign not in names:
            near = difflib.get_close_matches(self.campaign, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; submit it first"
            raise CampaignError(f"no campaign is called {self.campaign!r}{hint}")
        for campaign in self.readable_campaigns(names if self.campaign is None else [self.campaign]):
            try:
                left_out = self._left_out(campaign)
            except UNREADABLE as error:  # a budget that another program wrote
                self.skip(f"campaign {campaign.name}", error)
                continue
            shards = self._shards(campaign.name)
            self._mark_duplicates([[v for v, _ in shard] for shard in shards])
            for batch in batches((pair for shard in shards for pair in shard), BATCH):
                found = self._found(batch)
                for one in found:
                    one.left_out = left_out(one.verdict.candidate_id)
                yield {"campaign": campaign, "found": found}

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """The documents of a batch; a sample that cannot be used is noted and left out."""
        campaign: CampaignDoc = item["campaign"]
        candidates = []
        for found in item["found"]:
            try:
                candidates.append(self._document(found, campaign).model_dump())
            except Exception as error:
                self.skip(found.verdict.candidate_id, error)
        phonons = [_with_origin(f, f.phonon, campaign) for f in item["found"] if f.phonon is not None]
        bands = [_with_origin(f, f.bands, campaign) for f in item["found"] if f.bands is not None]
        return {"campaign": campaign, "candidates": candidates, "phonons": phonons, "bands": bands}

    def update_targets(self, items: list[dict[str, Any]]) -> None:
        """Write what changed; nothing of a campaign that was removed since it was read."""
        for item in items:
            name = item["campaign"].name
            if self._is_gone(name):
                continue
            new = self._write_candidates(item["candidates"])
            self.write_changed(self.database.phonons, item["phonons"])
            self.write_changed(self.database.bands, item["bands"])
            if self._is_gone(name):  # the removal began meanwhile, and may have looked here before
                self._take_back(name, new, item)

    def _is_gone(self, campaign: str) -> bool:
        """Whether a campaign was removed, or is being."""
        there = self.database.mongo["campaigns"].find_one({"name": campaign}, {"_id": 1})
        return there is None or is_being_removed(self.database.mongo, campaign)

    def _take_back(self, campaign: str, new: list[str], item: dict[str, Any]) -> None:
        """Delete what a batch has written; a removal that is given up leaves it to the next build."""
        written = {"candidates": new} | {k: [d["candidate_id"] for d in item[k]] for k in ("phonons", "bands")}
        for collection, ids in written.items():
            self.database.mongo[collection].delete_many({"campaign": campaign, "candidate_id": {"$in": ids}})

    def _left_out(self, campaign: CampaignDoc) -> Callable[[str], str | None]:
        """What says why a candidate's phonons are left out by the campaign's budget; None where they are not."""
        control = control_of(self.database.mongo, campaign.name)
        budget, picks = control.budget.phonons, control.chosen
        if budget is None or picks is None:
            return lambda candidate: None
        kept, reason = set(picks), why_not(budget)
        return lambda candidate: None if candidate in kept else reason

    def _shards(self, campaign: str) -> list[list[tuple[ScreenedCandidate, dict[str, Any]]]]:
        """The verdicts of each screened shard by index, with the job that gave them."""
        criteria = {"metadata.campaign": campaign, "metadata.stage": StageName.SCREEN.value}
        outputs: dict[int, dict[str, Any]] = {}
        for output in self.database.job_store.docs_store.query(criteria):
            outputs[int(output["metadata"].get("shard", 0))] = output
        shards = []
        for shard, output in sorted(outputs.items()):
            job = {k: output.get(k) for k in ("uuid", "metadata", "completed_at")}
            job["provenance"] = without_class_marks(output["output"]).get("provenance")
            verdicts = []
            for data in without_class_marks(output["output"]).get("candidates", []):
                try:
                    verdicts.append((ScreenedCandidate.model_validate(data), job))
                except ValidationError as error:
                    self.skip(f"{campaign} shard {shard} {data.get('candidate_id', 'sample')}", error)
            shards.append(sorted(verdicts, key=lambda pair: pair[0].index))
        return shards

    def _mark_duplicates(self, shards: list[list[ScreenedCandidate]]) -> None:
        if len(shards) < 2:
            return
        ids = [v.candidate_id for verdicts in shards for v in verdicts if v.accepted]
        known: dict[str, str | None] = {}
        for batch in batches(ids, BATCH):
            stored = self.database.candidates.query(
                {"candidate_id": {"$in": batch}}, properties=["candidate_id", "duplicate_of", "stages.screen.status"]
            )
            known |= {d["candidate_id"]: d["duplicate_of"] if is_sample_duplicate(d) else None for d in stored}
        found = across_shards(shards, known)
        for verdicts in shards:
            for verdict in verdicts:
                first = found.get(verdict.candidate_id)
                if first is not None:
                    verdict.duplicate_of, verdict.accepted = first, False
                    verdict.reason = f"duplicate: the same layer as {first}"

    def _found(self, batch: list[tuple[ScreenedCandidate, dict[str, Any]]]) -> list[Found]:
        """What the database knows of each sample of a batch."""
        ids = [verdict.candidate_id for verdict, _ in batch]
        jobs: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        documents: dict[str, dict[str, Any]] = {stage: {} for stage in _WITH_OUTPUT}
        failures: dict[str, list[StageFailure]] = defaultdict(list)
        head = ["uuid", "metadata", "completed_at"]
        criteria = {"metadata.candidate_id": {"$in": ids}}
        for stages, fields in ((_WITHOUT_OUTPUT, head), (_WITH_OUTPUT, [*head, "output"])):
            wanted = {**criteria, "metadata.stage": {"$in": list(stages)}}
            for job in self.database.job_store.docs_store.query(wanted, properties=fields):
                candidate, stage = job["metadata"]["candidate_id"], job["metadata"]["stage"]
                if "output" in fields:
                    try:
                        documents[stage][candidate] = _output(stage, candidate, without_class_marks(job.pop("output")))
                    except (StoreError, ValidationError) as error:
                        failures[candidate].append(_unreadable(job, error))
                        continue
                jobs[candidate][stage] = job
        for data in self.database.failures.query({"candidate_id": {"$in": ids}}):
            try:
                failures[data["candidate_id"]].append(StageFailure.model_validate(strip(data)))
            except ValidationError as error:
                self.skip(str(data.get("failure_id")), error)
        return [
            Found(
                verdict,
                gate=documents[StageName.GATE.value].get(verdict.candidate_id),
                phonon=documents[StageName.PHONON.value].get(verdict.candidate_id),
                bands=documents[StageName.BANDS.value].get(verdict.candidate_id),
                failures=failures[verdict.candidate_id],
                jobs={StageName.SCREEN.value: screened, **jobs[verdict.candidate_id]},
            )
            for verdict, screened in batch
        ]

    def _document(self, found: Found, campaign: CampaignDoc) -> CandidateDoc:
        document = assemble(found, campaign.name)
        surrogate = " (surrogate)" if document.surrogate else ""
        version = f", version {document.engine_version}" if document.engine_version else ""
        ran = _origin(found, campaign)
        document.provenance = Provenance(
            versions=ran.versions,
            git_commit=ran.git_commit,
            engine=None if document.energy_scheme is None else document.energy_scheme + surrogate + version,
            config_hash=campaign.config_hash,
            job_uuids={s: r.job_uuid for s, r in document.stages.items() if r.job_uuid},
        )
        return document

    def _write_candidates(self, documents: list[dict[str, Any]]) -> list[str]:
        """Write what changed; returns the ids that are new. Fields of later builders stay as they are, also if these
        write at the same time; where a candidate has another relaxed structure or brings another energy to the hull,
        its novelty or its hull fields begin anew and it is marked (no version, pending). The database sets the time, so
        that one clock says what changed since a ranking.
        """
        from pymongo import UpdateOne

        self.database.refuse_to_replace_newer(self.database.candidates, documents)
        stored = self.database.candidates.query({"candidate_id": {"$in": [d["candidate_id"] for d in documents]}})
        known = {d["candidate_id"]: strip(d) for d in stored}
        updates = []
        for document in documents:
            key = {"candidate_id": document["candidate_id"]}
            before = known.get(document["candidate_id"])
            judged = _begin_novelty(document, before or {})
            token = pending_token(document)
            document["hull_pending"] = token
            values = {k: v for k, v in plain_values(document).items() if k != "last_updated"}
            if before is None:
                rest = {k: values.pop(k) for k in (*NOVELTY_FIELDS, *HULL_FIELDS, *RANK_FIELDS, "hull_pending")}
                change = {"$set": values, "$setOnInsert": rest}
                updates.append(UpdateOne(key, self.database.stamped(change), upsert=True))
                continue
            left = {"last_updated", *RANK_FIELDS, *judged}
            if pending_token(before) == token and "hull_revision" in before:
                left |= {*HULL_FIELDS, "hull_pending"}
            own = {k: v for k, v in values.items() if k not in left}
            if content({k: v for k, v in before.items() if k not in left}) != content(own):
                gone = {k: "" for k in before if k not in own and k not in left}
                change = {"$set": own} | ({"$unset": gone} if gone else {})
                updates.append(UpdateOne(key, self.database.stamped(change)))
        if updates:
            self.database.candidates._collection.bulk_write(updates, ordered=False)
        self.written += len(updates)
        return [name for name in (d["candidate_id"] for d in documents) if name not in known]


def _begin_novelty(document: dict[str, Any], before: dict[str, Any]) -> set[str]:
    """Set the novelty fields of a candidate; returns which of them are the stored ones, as the same is judged."""
    token = judged_token(document)
    if token is None:
        return set()
    if (before.get("novelty") or {}).get("structure") != token:
        document["novelty"] = Novelty(structure=token).model_dump()
        return set()
    kept = set(NOVELTY_FIELDS) - ({"duplicate_of"} if is_sample_duplicate(document) else set())
    document |= {name: before[name] for name in kept}
    return kept


def _origin(found: Found, campaign: CampaignDoc) -> Provenance:
    """The code that ran the candidate's latest stage that says so, else the code that submitted the campaign."""
    screened = found.jobs[StageName.SCREEN.value].get("provenance") or {}
    said = [] if found.gate is None else [found.gate.provenance]
    said += [Provenance.model_validate(screened), campaign.provenance]
    return next((p for p in said if p.versions), campaign.provenance)


def _with_origin(found: Found, document: PhononDoc | BandsDoc, campaign: CampaignDoc) -> dict[str, Any]:
    """The document of a stage with the campaign's configuration and its candidate's jobs in its provenance."""
    document.provenance.config_hash = campaign.config_hash
    document.provenance.job_uuids |= {stage: job["uuid"] for stage, job in found.jobs.items()}
    return document.model_dump()


def _output(stage: str, candidate: str, output: Any) -> BaseModel:
    """The document of a stage, also where an earlier scdm-flows wrote it."""
    model = _WITH_OUTPUT[stage]
    if isinstance(output, dict):
        output = migrate(model, output, f"the output of {stage} of {candidate}")
    return model.model_validate(output)


def _unreadable(job: dict[str, Any], error: StoreError | ValidationError) -> StageFailure:
    """A stored output that does not fit its document counts as a failure of its stage."""
    metadata, why = job["metadata"], str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}; run the stage again"
    return StageFailure(
        failure_id=f"{metadata['candidate_id']}:{metadata['stage']}",
        candidate_id=metadata["candidate_id"],
        campaign=metadata["campaign"],
        stage=metadata["stage"],
        error_type=type(error).__name__,
        message=f"its output cannot be read: {why}",
        job_uuid=job["uuid"],
        provenance=made_here(),
    )
