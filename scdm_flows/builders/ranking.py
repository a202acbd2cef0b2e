"""Ranks the candidates of each campaign that are under way or done, no duplicates, and of known energy above hull."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.ranking import Objective, RankInput, RankResult, rank
from scdm_flows.builders.base import ScdmBuilder
from scdm_flows.documents import CandidateState, RankingDoc
from scdm_flows.documents.migrations import check_version
from scdm_flows.documents.provenance import made_here
from scdm_flows.errors import StoreError
from scdm_flows.stores.catalogue import candidates_in, read_all, store
from scdm_flows.stores.database import Database
from scdm_flows.stores.table import TERM, UNKNOWN, Table

ATTEMPTS = 20
_RANKED = np.array([CandidateState.PENDING.value, CandidateState.COMPLETED.value], dtype=bytes)


def rank_inputs(table: Table) -> list[RankInput]:
    """What ranking needs of the candidates that may be ranked."""
    chosen = table.rows(np.isin(table.columns["state"], _RANKED) & (table.columns["duplicate_of"] == b""))
    columns = [
        [name.decode() for name in chosen.ids.tolist()],
        _known(chosen, "e_above_hull", float),
        _known(chosen, "dynamically_stable", bool),
        _known(chosen, "novel", bool),
        _known(chosen, "layer_group", int),
        _known(chosen, "prototype_distance", float),
        _known(chosen, "band_gap", float),
        _known(chosen, "extrapolated", bool),
        _known(chosen, "stable_probability", float),
    ]
    return [RankInput(*values) for values in zip(*columns, strict=True)]


def _known(table: Table, field: str, kind: type) -> list[Any]:
    return [None if value != value else kind(value) for value in table.columns[field].tolist()]


def with_ranks(table: Table, results: Sequence[RankResult]) -> Table:
    """The table with these rank fields in place of any others."""
    n = len(table)
    names = np.array([r.candidate_id.encode() for r in results], dtype=bytes)
    rows: NDArray[np.int64] = np.searchsorted(table.ids, names)
    columns: dict[str, NDArray[Any]] = {
        "rank": _scattered(n, rows, [r.rank for r in results]),
        "score": _scattered(n, rows, [r.score for r in results]),
        "pareto_front": _scattered(n, rows, [r.front for r in results]),
    }
    for term in sorted({term for r in results for term in r.terms}):
        columns[TERM + term] = _scattered(n, rows, [r.terms.get(term) for r in results])
    texts = [",".join(r.unknown).encode() for r in results]
    unknown = np.zeros(n, f"S{max(map(len, texts), default=1) or 1}")
    unknown[rows] = texts
    return table.with_columns({**columns, UNKNOWN: unknown})


def _scattered(n: int, rows: NDArray[np.int64], values: Sequence[float | None]) -> NDArray[np.float64]:
    found = np.full(n, np.nan)
    found[rows] = [np.nan if v is None else v for v in values]
    return found


class RankingBuilder(ScdmBuilder):
    """``candidates`` -> ``rankings`` and their blocks, by each campaign's objective; rejected, failed and duplicates
    have no rank.

    everything: read every candidate again; otherwise only those that changed since the last ranking.
    """

    def __init__(
        self, database: Database, campaign: str | None = None, *, everything: bool = False, **kwargs: Any
    ) -> None:
        self.campaign, self.everything = campaign, everything
        self._same_number = False
        super().__init__(database, [database.candidates], [database.rankings, database.ranking_blocks], **kwargs)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Each campaign's objective and candidates."""
        if self.campaign is None:
            names = set(self.database.campaigns.distinct("name")) | set(self.database.rankings.distinct("campaign"))
        else:
            names = {self.campaign}
        self._same_number = len(self.database.catalogue.table()) == candidates_in(self.database)
        for name in sorted(names):
            yield self._read(name)

    def _read(self, name: str) -> dict[str, Any]:
        stored = self.database.campaigns.query_one({"name": name}, properties=["config.objective"]) or {}
        before = self.database.rankings.query_one({"campaign": name})
        if before is not None:
            check_version(RankingDoc, before, f"the ranking of {name}")
        taken_at = self.database.now()
        table = self.database.catalogue.table(name)
        set_back = before is not None and before["taken_at"] > taken_at  # a clock, which hides changes
        # one that was removed is in no change
        if self.everything or set_back or not (self._same_number or self._is_whole(name, len(table))):
            table = read_all(self.database, name)
        return {
            "campaign": name,
            "before": before,
            "taken_at": taken_at,
            "table": table,
            "config": stored.get("config"),
        }

    def _is_whole(self, name: str, n: int) -> bool:
        return bool(self.database.mongo["candidates"].count_documents({"campaign": name}) == n)

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with the ranked table and the document that names it."""
        objective = Objective.of(item["config"])
        table = with_ranks(item["table"], rank(rank_inputs(item["table"]), objective))
        document = RankingDoc(
            campaign=item["campaign"],
            revision="",
            taken_at=item["taken_at"],
            n_blocks=0,
            n_candidates=len(table),
            n_ranked=int(np.isfinite(table.columns["rank"]).sum()),
            objective={"weights": dict(objective.weights), "gap_ev": objective.gap},
            provenance=made_here(),
        )
        return {**item, "ranked": table, "document": document}

    def update_targets(self, items: list[dict[str, Any]]) -> None:
        """Replace the rankings that changed; where another builder was faster, rank again."""
        for item in items:
            for _ in range(ATTEMPTS):
                if self._write(item):
                    break
                item = self.process_item(self._read(item["campaign"]))
            else:
                raise StoreError(f"the ranking of {item['campaign']} changed {ATTEMPTS} times meanwhile; build again")

    def _write(self, item: dict[str, Any]) -> bool:
        before, document = item["before"], item["document"]
        if before is None:
            if not len(item["ranked"]):
                return True
        elif before["objective"] == document.model_dump(mode="json")["objective"]:
            stored = self.database.catalogue.stored(item["campaign"], before)
            if stored is not None and stored == item["ranked"]:
                self._note(before, document.taken_at)
                return True
        done = store(self.database, document, item["ranked"], before and before["revision"])
        self.written += done
        return done

    def _note(self, before: dict[str, Any], taken_at: datetime) -> None:
        """Nothing changed up to now."""
        same = {"campaign": before["campaign"], "revision": before["revision"]}
        self.database.mongo["rankings"].update_one(same, {"$set": {"taken_at": taken_at}})
