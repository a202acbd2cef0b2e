"""Candidates in order, a page at a time, by key: stable while others insert, as quick at the end as at the beginning.

Order: documents with the sort field by its value, ties by ``candidate_id``; then those without it, by
``candidate_id``. Descending turns both around, and those without a value stay last. A cursor names the last
document of a page by value and id, so that nothing is counted and nothing skipped.

MongoDB sorts what has no value before all values. So a listing is read in phases, each of them one range of the index
of (sort field, candidate_id): what ties with the last document, what lies beyond it, and what has no value.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scdm_flows.errors import ConfigError
from scdm_flows.query.conditions import Criteria, both
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import BATCH

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

KEY = "candidate_id"
_VERSION = 2  # of cursors


@dataclass(frozen=True)
class Order:
    """What a listing is sorted by."""

    field: str
    descending: bool = False

    def __str__(self) -> str:
        return f"{'-' * self.descending}{self.field}"

    @property
    def sort(self) -> list[tuple[str, int]]:
        """The same for MongoDB."""
        direction = -1 if self.descending else 1
        return [(name, direction) for name in dict.fromkeys((self.field, KEY))]

    @property
    def beyond(self) -> str:
        """The operator of what comes later."""
        return "$lt" if self.descending else "$gt"


@dataclass(frozen=True)
class After:
    """The last document of the page before: its value of the sort field (None: it has none), and its id."""

    value: Any
    candidate_id: str


class Listing:
    """The candidates of a connected database that match, in an order; fields: only these, and those of the order."""

    def __init__(self, database: Database, criteria: Criteria, order: Order, fields: list[str] | None = None) -> None:
        self._database, self._criteria, self._order = database, criteria, order
        shown = dict.fromkeys([*fields, order.field, KEY], 1) if fields else {}
        self._projection = {**shown, "_id": 0}

    def read(self, limit: int | None = None, after: After | None = None) -> Iterator[dict[str, Any]]:
        """The documents, at most ``limit``, one by one, without ``_id``; few are in memory at a time."""
        left = limit
        for criteria in self.phases(after):
            for document in self._find(criteria, limit=left or 0):
                yield document
                left = None if left is None else left - 1
            if left == 0:
                return

    def window(self, start: int, stop: int) -> list[dict[str, Any]]:
        """The documents at places ``start`` to ``stop``, not included."""
        found: list[dict[str, Any]] = []
        passed = 0  # documents of the phases before
        for criteria in self.phases():
            skip = max(0, start - passed)
            some = list(self._find(criteria, limit=stop - start - len(found), skip=skip))
            found += some
            if len(found) == stop - start:
                break
            passed += skip + len(some) if some or not skip else self._count(criteria)
        return found

    def count(self, most: int) -> int:
        """How many match; counted up to ``most``."""
        return self._count(self._criteria, limit=most)

    def phases(self, after: After | None = None) -> list[Criteria]:
        """The queries that one after the other give the listing, or what comes after a document of it."""
        field, criteria = self._order.field, self._criteria
        if field == KEY:
            return [criteria if after is None else both(criteria, KEY, {self._order.beyond: after.candidate_id})]
        unknown = [] if field in criteria else [both(criteria, field, {"$eq": None})]
        if after is None:
            if not unknown or self._order.descending:
                return [criteria]  # in which those without a value come last by themselves
            return [both(criteria, field, {"$ne": None}), *unknown]
        if after.value is None:
            return [both(part, KEY, {self._order.beyond: after.candidate_id}) for part in unknown]
        ties = both(both(criteria, field, {"$eq": after.value}), KEY, {self._order.beyond: after.candidate_id})
        return [ties, both(criteria, field, {self._order.beyond: after.value}), *unknown]

    def _find(self, criteria: Criteria, *, limit: int, skip: int = 0) -> Iterator[dict[str, Any]]:
        with store_errors(self._database.uri):
            yield from self._database.mongo["candidates"].find(
                criteria, self._projection, sort=self._order.sort, skip=skip, limit=limit, batch_size=BATCH
            )

    def _count(self, criteria: Criteria, **limit: int) -> int:
        with store_errors(self._database.uri):
            return int(self._database.mongo["candidates"].count_documents(criteria, **limit))


def write_cursor(order: Order, criteria: Criteria, last: Mapping[str, Any]) -> str:
    """The cursor after a document: text that means nothing to people."""
    value = last.get(order.field)
    text = json.dumps([_VERSION, str(order), _digest(criteria), value, last[KEY]], separators=(",", ":"))
    return base64.urlsafe_b64encode((_check(text) + text).encode()).decode().rstrip("=")


def read_cursor(cursor: str, order: Order, criteria: Criteria) -> After:
    """What a cursor says.

    Raises
    ------
    ConfigError
        If it is damaged, of an earlier version, or belongs to another question.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        check, text = text[:8], text[8:]
        version, sort, digest, value, candidate_id = json.loads(text)
        if check != _check(text) or not isinstance(candidate_id, str):
            raise ValueError(cursor)
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError(cursor)
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(
            f"cursor {str(cursor)[:40]!r} is damaged; take it as the page before gave it, or begin anew without"
        ) from None
    if version != _VERSION:
        raise ConfigError("the cursor is one of another version of scdm-flows; begin anew without")
    if (sort, digest) != (str(order), _digest(criteria)):
        raise ConfigError(
            f"the cursor belongs to another listing (sorted by {sort}); ask with the sort and filters of the page that "
            "gave it, or begin anew without"
        )
    return After(value, candidate_id)


def _digest(criteria: Criteria) -> str:
    return hashlib.sha256(json.dumps(criteria, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _check(text: str) -> str:
    return hashlib.sha256(f"scdm-flows cursor {text}".encode()).hexdigest()[:8]
