"""Ranks the candidates of each campaign that are in an end state with a known energy above hull."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scdm_flows.analysis.ranking import RankInput, rank
from scdm_flows.builders.base import ScdmBuilder
from scdm_flows.stores.database import Database


class RankingBuilder(ScdmBuilder):
    """``candidates`` -> their ``rank``, ``score`` and ``score_terms``."""

    def __init__(self, database: Database, campaign: str | None = None, **kwargs: Any) -> None:
        self.campaign = campaign
        super().__init__(database, [database.candidates], [database.candidates], **kwargs)

    def get_items(self) -> Iterator[list[dict[str, Any]]]:
        """The candidates of each campaign."""
        criteria = {"name": self.campaign} if self.campaign else {}
        for campaign in self.database.campaigns.query(criteria, properties=["name"]):
            yield list(self.database.candidates.query({"campaign": campaign["name"]}))

    def process_item(self, item: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The candidates with their new rank; rejected and failed ones lose theirs."""
        rankable = {d["candidate_id"] for d in item if d["state"] in ("completed", "pending")}
        inputs = [
            RankInput(d["candidate_id"], d["e_above_hull"], d["dynamically_stable"], d["novel"], d["layer_group"])
            for d in item
            if d["candidate_id"] in rankable
        ]
        results = {r.candidate_id: r for r in rank(inputs)}
        documents = []
        for document in item:
            result = results.get(document["candidate_id"])
            new = {k: v for k, v in document.items() if k != "_id"}
            new["rank"] = None if result is None else result.rank
            new["score"] = None if result is None else result.score
            new["score_terms"] = {} if result is None else result.terms
            documents.append(new)
        return documents

    def update_targets(self, items: list[list[dict[str, Any]]]) -> None:
        """Write what changed."""
        for documents in items:
            self.write_changed(self.database.candidates, documents)
