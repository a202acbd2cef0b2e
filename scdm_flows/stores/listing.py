"""Candidates in order, a part at a time, by key: stable while others insert, as quick at the end as at the beginning.

Order: documents with the sort field by its value, ties by ``candidate_id``; then those without it, by
``candidate_id``. Descending turns both around, and those without a value stay last. A cursor names the last
document of a page by value and id, so that nothing is counted and nothing skipped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.errors import ConfigError
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.table import KEY, After, Criteria, Table

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

_VERSION = 1


@dataclass(frozen=True)
class Order:
    """What a listing is sorted by."""

    field: str
    descending: bool = False

    def __str__(self) -> str:
        return f"{'-' * self.descending}{self.field}"


class Listing:
    """The candidates of a connected database in some order, read a part at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.catalogue = database.catalogue

    def read(
        self, criteria: Criteria, order: Order, limit: int, after: After | None = None, fields: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """The next ``limit`` documents, without ``_id``; ``fields``: only these, and those of the order."""
        table = self._table(criteria)
        rows = table.select(criteria, order.field, descending=order.descending, after=after)
        return self._documents(table, rows, limit, order, fields)

    def window(
        self, criteria: Criteria, order: Order, start: int, stop: int, fields: list[str] | None = None
    ) -> tuple[list[dict[str, Any]], int]:
        """As ``read``, the documents at places ``start`` to ``stop`` (not included), and how many match in all."""
        table = self._table(criteria)
        rows = table.select(criteria, order.field, descending=order.descending)
        return self._documents(table, rows[start:stop], stop - start, order, fields), len(rows)

    def columns(self, criteria: Criteria, fields: Iterable[str]) -> dict[str, NDArray[Any]]:
        """The values of fields in every candidate that matches, by id; texts as str."""
        table = self._table(criteria)
        chosen = table.mask(criteria)
        blank = np.full(len(table), np.nan)
        values = {field: table.columns.get(field, blank)[chosen] for field in fields}
        return {field: np.char.decode(v, "utf-8") if v.dtype.kind == "S" else v for field, v in values.items()}

    def _documents(
        self, table: Table, rows: NDArray[np.int64], limit: int, order: Order, fields: list[str] | None
    ) -> list[dict[str, Any]]:
        """Up to ``limit`` documents of rows of the table, those that were removed since left out."""
        projection = {**(dict.fromkeys([*fields, order.field, KEY], 1) if fields else {}), "_id": 0}
        found: list[dict[str, Any]] = []
        start = 0
        with store_errors(self._database.uri):
            while len(found) < limit and start < len(rows):  # again only where some were removed
                stop = start + limit - len(found)
                ids = [name.decode() for name in table.ids[rows[start:stop]].tolist()]
                start = stop
                answer = self._database.mongo["candidates"].find({KEY: {"$in": ids}}, projection)
                documents = {d[KEY]: d for d in answer}
                found += [documents[name] | table.rank_fields(name) for name in ids if name in documents]
        return found

    def count(self, criteria: Criteria) -> int:
        """How many candidates match."""
        return int(self._table(criteria).mask(criteria).sum())

    def rank_fields(self, campaign: str, candidate_id: str) -> dict[str, Any]:
        """What the ranking says of a candidate."""
        return self.catalogue.table(campaign).rank_fields(candidate_id)

    def _table(self, criteria: Criteria) -> Table:
        return self.catalogue.table(criteria.get("campaign", {}).get("$eq"))


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
        If it is damaged, or belongs to another question.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        check, text = text[:8], text[8:]
        version, sort, digest, value, candidate_id = json.loads(text)
        if check != _check(text) or version != _VERSION or not isinstance(candidate_id, str):
            raise ValueError(cursor)
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError(cursor)
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(
            f"cursor {str(cursor)[:40]!r} is damaged; take it as the page before gave it, or begin anew without"
        ) from None
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
