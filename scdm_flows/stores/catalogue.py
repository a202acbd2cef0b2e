"""The table of all candidates, as stored with the rankings and up to date with what changed since.

A listing of candidates is answered from this table, then only the documents of its page are read: so any filter and any
sort costs the same, also on a server that reads all that matches before it cuts a page. Every writer of candidates lets
the database set ``last_updated``, so one clock says what changed after a ranking was taken.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.documents import CandidateDoc, RankingBlock, RankingDoc
from scdm_flows.documents.migrations import NewerDocumentError, migrate
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.table import KEY, LISTED, Table, joined, pack, unpack

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

logger = logging.getLogger(__name__)

BLOCKS = "ranking_blocks"
BLOCK = 5000  # candidates in a block
MARGIN = timedelta(seconds=5)  # a write may be seen this much later than the time that it carries
ABANDONED = timedelta(hours=1)  # blocks that no ranking names are left over from a builder that died
_ATTEMPTS = 5


@dataclass
class _Known:
    """What is known of a campaign: its ranking's revision, the table, and up to when changes are in it."""

    revision: str | None
    table: Table
    seen: datetime
    recent: dict[str, Any] = field(default_factory=dict)  # id -> time of the last changes, which are asked for again


class Catalogue:
    """The table of a connected database's candidates; may be shared by threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, _Known] = {}
        self._joined: tuple[list[Table], Table] | None = None
        self._lock = threading.Lock()

    def table(self, campaign: str | None = None) -> Table:
        """All candidates (of a campaign) as they are stored now. Removed ones stay until the next ranking."""
        with self._lock, store_errors(self._database.uri):
            criteria = {} if campaign is None else {"campaign": campaign}
            heads = {d["campaign"]: d for d in self._database.mongo["rankings"].find(criteria)}
            if campaign is not None:
                return self._of(campaign, heads.get(campaign))
            tables = [self._of(name, heads.get(name)) for name in sorted({*self.campaigns(), *heads})]
            if self._joined is None or not _same(self._joined[0], tables):
                self._joined = tables, joined(tables)
            return self._joined[1]

    def campaigns(self) -> list[str]:
        """Names of all campaigns."""
        return sorted(d["name"] for d in self._database.mongo["campaigns"].find({}, ["name"]))

    def stored(self, campaign: str, head: dict[str, Any]) -> Table | None:
        """The table as it is in the blocks of a ranking; None where they are gone."""
        found = list(self._database.mongo[BLOCKS].find({"campaign": campaign, "revision": head["revision"]}))
        return joined([unpack(block["columns"]) for block in found]) if len(found) == head["n_blocks"] else None

    def _of(self, campaign: str, head: dict[str, Any] | None) -> Table:
        revision = None if head is None else str(head["revision"])
        known = self._known.get(campaign)
        if known is None or known.revision != revision:
            known = self._load(campaign, head)
        criteria = {"campaign": campaign, "last_updated": {"$gte": known.seen - MARGIN}}
        fields = dict.fromkeys([*LISTED, "schema_version", "last_updated"], 1)
        found = list(self._database.mongo["candidates"].find(criteria, fields))
        new = [d for d in found if known.recent.get(d[KEY]) != d["last_updated"]]
        if new:
            known.table = known.table.updated(_table(new))
            known.seen = max([known.seen, *(d["last_updated"] for d in found)])
            known.recent = {d[KEY]: d["last_updated"] for d in found if d["last_updated"] >= known.seen - MARGIN}
        self._known[campaign] = known
        return known.table

    def _load(self, campaign: str, head: dict[str, Any] | None) -> _Known:
        for _ in range(_ATTEMPTS):
            if head is None:
                break
            table = self.stored(campaign, head)
            if table is not None:
                return _Known(str(head["revision"]), table, head["taken_at"])
            head = self._database.mongo["rankings"].find_one({"campaign": campaign})  # replaced meanwhile
        else:
            logger.warning("blocks of the ranking of %s are missing, so it is listed slowly; `scdm build`", campaign)
        now = self._database.now()
        return _Known(None if head is None else str(head["revision"]), read_all(self._database, campaign), now)


def _same(before: Iterable[Table], now: Iterable[Table]) -> bool:
    return [id(t) for t in before] == [id(t) for t in now]


def candidates_in(database: Database) -> int:
    """How many candidates are stored, of all campaigns; the embedded server counts 100,000 in half a second."""
    return int(database.mongo["candidates"].estimated_document_count())


def _table(documents: Iterable[dict[str, Any]]) -> Table:
    """The table of stored documents; one of a later version as it is, who reads it whole leaves it out."""
    current = []
    for document in documents:
        try:
            current.append(migrate(CandidateDoc, document))
        except NewerDocumentError:
            current.append(document)
    return Table.of(current)


def read_all(database: Database, campaign: str) -> Table:
    """The campaign's candidates from their documents alone, none of them ranked."""
    from scdm_flows.stores.scan import scan

    tables: list[Table] = []
    documents = scan(database, "candidates", fields=[*LISTED, "schema_version"], campaign=campaign)
    while batch := list(islice(documents, BLOCK)):
        tables.append(_table(batch))
    return joined(tables)


def store(database: Database, ranking: RankingDoc, table: Table, before: str | None) -> bool:
    """Replace a campaign's ranking of revision ``before`` (None: there is none); False if another builder did so.

    The ranking's revision is set here. Readers see the old one or the new one, never a part; a kill leaves blocks that
    nobody names, which a later call removes.
    """
    from pymongo.errors import DuplicateKeyError

    mongo, now = database.mongo, database.now()
    ranking.revision = secrets.token_hex(8)
    own = {"campaign": ranking.campaign, "revision": ranking.revision}
    blocks = []
    for number, start in enumerate(range(0, len(table), BLOCK)):
        part = table.rows(np.arange(start, min(start + BLOCK, len(table))))
        block = RankingBlock(
            block_id=f"{ranking.campaign}:{ranking.revision}:{number}",
            n_candidates=len(part),
            written_at=now,
            columns=pack(part),
            **own,
        )
        blocks.append(block.model_dump())
    ranking.n_blocks = len(blocks)
    if blocks:
        mongo[BLOCKS].insert_many(blocks)
    heads, key = mongo["rankings"], {"campaign": ranking.campaign}
    try:
        if before is None:
            found = heads.update_one(key, {"$setOnInsert": ranking.model_dump()}, upsert=True)
            won = found.upserted_id is not None
        else:
            won = bool(heads.replace_one({**key, "revision": before}, ranking.model_dump()).matched_count)
    except DuplicateKeyError:
        won = False
    if not won:
        mongo[BLOCKS].delete_many(own)
        return False
    left_over = {"written_at": {"$lt": now - ABANDONED}, "revision": {"$ne": ranking.revision}}
    for gone in ({"revision": before}, left_over):
        mongo[BLOCKS].delete_many({"campaign": ranking.campaign, **gone})
    return True
