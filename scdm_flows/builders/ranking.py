"""Ranks the candidates of each campaign that are under way or done, no duplicates, and of known energy above hull.

Ranks are fields of the candidates, and one new candidate can move thousands of them; only those that changed are
written, each only over the candidate as it was read. The campaign's document in ``rankings`` says before the first is
written that the ranking is incomplete, and after the last one that it is complete: what was interrupted is done anew
by the next build. Of two builders at once the one that began earlier finds the other's revision there, and ranks again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from scdm_flows.analysis.ranking import Objective, RankInput, RankResult, rank
from scdm_flows.builders.base import UNREADABLE, ScdmBuilder, batches, comparable
from scdm_flows.documents import CandidateState, RankingDoc
from scdm_flows.documents.candidate import RANK_FIELDS
from scdm_flows.documents.migrations import migrate
from scdm_flows.documents.provenance import made_here
from scdm_flows.errors import StoreError
from scdm_flows.stores.database import Database, strip
from scdm_flows.stores.names import BATCH

ATTEMPTS = 20
MARGIN = timedelta(seconds=5)  # a write may be seen this much later than the time that it carries
_RANKED = (CandidateState.PENDING.value, CandidateState.COMPLETED.value)
_INPUTS = (  # of RankInput, behind the id and in its order
    "e_above_hull",
    "dynamically_stable",
    "novel",
    "layer_group",
    "prototype_distance",
    "band_gap",
    "extrapolated",
    "stable_probability",
    "predicted_band_gap",
)


def rank_fields(result: RankResult | None) -> dict[str, Any]:
    """``RANK_FIELDS`` of a candidate; result: None where it cannot be ranked."""
    if result is None:
        result = RankResult("", None, None, {})
    return {
        "rank": result.rank,
        "score": result.score,
        "score_terms": result.terms,
        "score_unknown": list(result.unknown),
        "pareto_front": result.front,
    }


class RankingBuilder(ScdmBuilder):
    """``candidates`` -> their ``RANK_FIELDS``, by each campaign's objective; rejected, failed and duplicates have no
    rank.

    everything: rank every campaign again; otherwise only those of which something changed since they were ranked.
    """

    def __init__(
        self, database: Database, campaign: str | None = None, *, everything: bool = False, **kwargs: Any
    ) -> None:
        self.campaign, self.everything = campaign, everything
        super().__init__(database, [database.candidates], [database.candidates, database.rankings], **kwargs)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """What there is to rank of each campaign of which something changed."""
        if self.campaign is None:
            names = set(self.database.campaigns.distinct("name")) | set(self.database.rankings.distinct("campaign"))
        else:
            names = {self.campaign}
        for name in sorted(names):
            try:
                item = self._read(name)
            except UNREADABLE as error:
                self.skip(f"campaign {name}", error)
                continue
            if self.everything or self._has_changed(item):
                yield {**item, **self._inputs(name)}

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with the result of each candidate that may be ranked."""
        return {**item, "results": {r.candidate_id: r for r in rank(item["inputs"], item["objective"])}}

    def update_targets(self, items: list[dict[str, Any]]) -> None:
        """Write the ranks that changed; where candidates changed or another builder ranked meanwhile, rank again."""
        for item in items:
            name = item["campaign"]
            for _ in range(ATTEMPTS):
                if self._write(item):
                    break
                item = self.process_item({**self._read(name), **self._inputs(name)})
            else:
                raise StoreError(f"the candidates of {name} changed {ATTEMPTS} times while ranked; build again")

    def _read(self, name: str) -> dict[str, Any]:
        """The campaign's objective and its ranking as it is stored."""
        stored = self.database.campaigns.query_one({"name": name}, properties=["config.objective"]) or {}
        found = self.database.rankings.query_one({"campaign": name})
        before = found and RankingDoc.model_validate(migrate(RankingDoc, strip(found), f"the ranking of {name}"))
        return {
            "campaign": name,
            "before": before,
            "revision": found and found.get("revision"),  # also of an earlier version of the document
            "taken_at": self.database.now(),
            "objective": Objective.of(stored.get("config") or {}),
        }

    def _has_changed(self, item: dict[str, Any]) -> bool:
        """Whether anything may have changed since the ranking was taken; one that was removed is in no change."""
        before: RankingDoc | None = item["before"]
        campaign = {"campaign": item["campaign"]}
        if before is None:
            return self._candidates.find_one(campaign, {"_id": 1}) is not None
        # taken in the future: by a clock that was set back since, which hides changes
        if not before.complete or before.objective != _said(item["objective"]) or before.taken_at > item["taken_at"]:
            return True
        since = {**campaign, "last_updated": {"$gte": before.taken_at - MARGIN}}
        if self._candidates.find_one(since, {"_id": 1}) is not None:
            return True
        return int(self._candidates.count_documents(campaign)) != before.n_candidates

    def _inputs(self, name: str) -> dict[str, Any]:
        """What ranking needs of the candidates that may be ranked, and when each candidate was changed last."""
        fields = dict.fromkeys(["candidate_id", *_INPUTS, "state", "duplicate_of", "last_updated"], 1)
        inputs, seen = [], {}
        for candidate in self._candidates.find({"campaign": name}, fields, batch_size=BATCH):
            seen[candidate["candidate_id"]] = candidate.get("last_updated")
            if candidate.get("state") in _RANKED and candidate.get("duplicate_of") is None:
                inputs.append(RankInput(candidate["candidate_id"], *(_known(candidate.get(f)) for f in _INPUTS)))
        return {"inputs": inputs, "seen": seen}

    def _write(self, item: dict[str, Any]) -> bool:
        """Write what changed; False where a candidate did meanwhile, or another builder ranked them."""
        before: RankingDoc | None = item["before"]
        results: dict[str, RankResult] = item["results"]
        document = RankingDoc(
            campaign=item["campaign"],
            revision=1 if before is None else before.revision + 1,
            taken_at=item["taken_at"],
            n_candidates=len(item["seen"]),
            n_ranked=sum(r.rank is not None for r in results.values()),
            objective=_said(item["objective"]),
            provenance=made_here(),
        )
        if not self._begin(document, item["revision"], first=before is None):
            return False
        meanwhile = False
        for changes in batches(self._changes(item["campaign"], results, item["seen"]), BATCH):
            done = self._candidates.bulk_write(changes, ordered=False)
            self.written += int(done.modified_count)
            meanwhile = meanwhile or done.matched_count < len(changes)
        own = {"campaign": document.campaign, "revision": document.revision}
        ended = self._rankings.update_one(own, {"$set": {"complete": not meanwhile}})
        return bool(ended.matched_count) and not meanwhile

    def _begin(self, document: RankingDoc, revision: Any, *, first: bool) -> bool:
        """Replace the campaign's ranking of the revision that was read; False if another builder was faster."""
        key = {"campaign": document.campaign}
        if not first:
            found = self._rankings.replace_one({**key, "revision": revision}, document.model_dump())
            return bool(found.matched_count)
        try:
            found = self._rankings.update_one(key, {"$setOnInsert": document.model_dump()}, upsert=True)
        except DuplicateKeyError:
            return False
        return found.upserted_id is not None

    def _changes(
        self, campaign: str, results: Mapping[str, RankResult], seen: Mapping[str, datetime | None]
    ) -> Iterator[UpdateOne]:
        """Updates of the candidates whose stored rank fields are not those of the results."""
        fields = dict.fromkeys(["candidate_id", *RANK_FIELDS], 1)
        unranked = rank_fields(None)
        for stored in self._candidates.find({"campaign": campaign}, fields, batch_size=BATCH):
            name = stored["candidate_id"]
            if name not in seen:
                continue  # it came after the others were read: the next build ranks it
            new = rank_fields(results.get(name))
            if comparable({field: stored.get(field, unranked[field]) for field in RANK_FIELDS}) != comparable(new):
                yield UpdateOne({"candidate_id": name, "last_updated": seen[name]}, {"$set": new})

    @property
    def _candidates(self) -> Any:
        return self.database.candidates._collection

    @property
    def _rankings(self) -> Any:
        return self.database.rankings._collection


def _known(value: Any) -> Any:
    """The number or truth value; None for anything else, as one odd document must not end a ranking."""
    return value if isinstance(value, int | float) and value == value else None


def _said(objective: Objective) -> dict[str, Any]:
    """The objective as it is stored."""
    return {"weights": dict(objective.weights), "gap_ev": None if objective.gap is None else list(objective.gap)}
