"""Ranks the candidates of each campaign that are under way or done and whose energy above hull is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scdm_flows.analysis.ranking import RankInput, rank
from scdm_flows.builders.base import ScdmBuilder
from scdm_flows.documents import CandidateState
from scdm_flows.stores.database import Database

_NEEDED = ["candidate_id", "state", "e_above_hull", "dynamically_stable", "novel", "layer_group"]
_RANKED = (CandidateState.PENDING.value, CandidateState.COMPLETED.value)


class RankingBuilder(ScdmBuilder):
    """``candidates`` -> their ``rank``, ``score`` and ``score_terms``; rejected and failed ones have none."""

    def __init__(self, database: Database, campaign: str | None = None, **kwargs: Any) -> None:
        self.campaign = campaign
        super().__init__(database, [database.candidates], [database.candidates], **kwargs)

    def get_items(self) -> Iterator[list[dict[str, Any]]]:
        """The candidates of each campaign."""
        names = [self.campaign] if self.campaign else sorted(self.database.candidates.distinct("campaign"))
        for name in names:
            yield list(self.database.candidates.query({"campaign": name}, properties=_NEEDED))

    def process_item(self, item: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """candidate_id -> the new values of its rank fields."""
        inputs = [
            RankInput(
                d["candidate_id"],
                d.get("e_above_hull"),
                d.get("dynamically_stable"),
                d.get("novel"),
                d.get("layer_group"),
            )
            for d in item
            if d["state"] in _RANKED
        ]
        fields: dict[str, dict[str, Any]] = {
            d["candidate_id"]: {"rank": None, "score": None, "score_terms": {}} for d in item
        }
        for result in rank(inputs):
            fields[result.candidate_id] = {
                "rank": result.rank,
                "score": result.score,
                "score_terms": dict(result.terms),
            }
        return fields

    def update_targets(self, items: list[dict[str, dict[str, Any]]]) -> None:
        """Write what changed."""
        for fields in items:
            self.update_fields(self.database.candidates, fields)
