"""Ranks the candidates of each campaign that are under way or done and whose energy above hull is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scdm_flows.analysis.ranking import Objective, RankInput, rank
from scdm_flows.builders.base import ScdmBuilder
from scdm_flows.documents import CandidateState
from scdm_flows.stores.database import Database

_INPUTS = {"novel": "novel", "new_template": "new_prototype", "band_gap": "band_gap"}
_NEEDED = ["candidate_id", "state", "e_above_hull", "dynamically_stable", "layer_group", *_INPUTS]
_RANKED = (CandidateState.PENDING.value, CandidateState.COMPLETED.value)


def rank_input(candidate: dict[str, Any]) -> RankInput:
    """What ranking needs of a candidate document."""
    return RankInput(
        candidate["candidate_id"],
        candidate.get("e_above_hull"),
        candidate.get("dynamically_stable"),
        layer_group=candidate.get("layer_group"),
        **{argument: candidate.get(name) for name, argument in _INPUTS.items()},
    )


class RankingBuilder(ScdmBuilder):
    """``candidates`` -> their rank fields by their campaign's objective; rejected and failed ones have none."""

    def __init__(self, database: Database, campaign: str | None = None, **kwargs: Any) -> None:
        self.campaign = campaign
        super().__init__(database, [database.candidates], [database.candidates], **kwargs)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Each campaign's objective and candidates."""
        names = [self.campaign] if self.campaign else sorted(self.database.candidates.distinct("campaign"))
        for name in names:
            stored = self.database.campaigns.query_one({"name": name}, properties=["config.objective"]) or {}
            candidates = list(self.database.candidates.query({"campaign": name}, properties=_NEEDED))
            yield {"config": stored.get("config") or {}, "candidates": candidates}

    def process_item(self, item: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """candidate_id -> the new values of its rank fields."""
        inputs = [rank_input(d) for d in item["candidates"] if d["state"] in _RANKED]
        none: dict[str, Any] = {
            "rank": None,
            "score": None,
            "score_terms": {},
            "score_unknown": [],
            "pareto_front": None,
        }
        fields: dict[str, dict[str, Any]] = {d["candidate_id"]: none for d in item["candidates"]}
        for result in rank(inputs, Objective.of(item["config"])):
            fields[result.candidate_id] = {
                "rank": result.rank,
                "score": result.score,
                "score_terms": dict(result.terms),
                "score_unknown": list(result.unknown),
                "pareto_front": result.front,
            }
        return fields

    def update_targets(self, items: list[dict[str, dict[str, Any]]]) -> None:
        """Write what changed."""
        for fields in items:
            self.update_fields(self.database.candidates, fields)
