"""Candidates as columns: any filter and any order in milliseconds. Pure.

A hundred thousand candidates take 40 MB. Rows are in the order of ``candidate_id``, so ties in any sort go by it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.documents import Column
from scdm_flows.documents.candidate import RANK_FIELDS, queryable_fields

KEY = "candidate_id"
KNOWN_AS = "known_as"  # as a column: the ids, each between line breaks
TERM = "score_terms."
UNKNOWN = "score_unknown"
Criteria = Mapping[
    str, Any
]  # field -> operator -> value: $eq, $in, $nin, $gte, $gt, $lte, $lt; $all of elements, $has of texts
_EDGE: dict[str, Any] = {"$gte": np.greater_equal, "$gt": np.greater, "$lte": np.less_equal, "$lt": np.less}


def _is_text(field: str) -> bool:
    return field in (UNKNOWN, KNOWN_AS) or issubclass(queryable_fields().get(field, float), str)


# what a table is made of, besides the rank fields; the elements follow from the chemical system
LISTED = [f for f, kind in queryable_fields().items() if (kind is not list or f == KNOWN_AS) and f not in RANK_FIELDS]
RANKED = [f for f in RANK_FIELDS if f in queryable_fields()]


@dataclass(frozen=True)
class After:
    """The last row of the page before: its value of the sort field (None: not known), and its id."""

    value: Any
    candidate_id: str


class Table:
    """Candidates in id order. columns: field -> (n,) float64 (nan: not known) or UTF-8 bytes (empty: not known)."""

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self.columns = dict(columns)
        self._orders: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @classmethod
    def of(cls, documents: Sequence[Mapping[str, Any]]) -> Table:
        """The listed fields of stored documents of the current version, no rank fields."""
        chosen = sorted(documents, key=lambda d: str(d[KEY]))
        return cls({field: _column(field, [d.get(field) for d in chosen]) for field in LISTED})

    @property
    def ids(self) -> NDArray[np.bytes_]:
        """(n,) ids, ascending."""
        return self.columns[KEY]

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table) or self.columns.keys() != other.columns.keys() or len(self) != len(other):
            return NotImplemented if not isinstance(other, Table) else False
        return all(
            bool(np.array_equal(values, other.columns[field], equal_nan=values.dtype.kind == "f"))
            for field, values in self.columns.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def rows(self, chosen: NDArray[Any]) -> Table:
        """Some rows, by mask, ascending positions or slice."""
        return Table({field: values[chosen] for field, values in self.columns.items()})

    def with_columns(self, columns: Mapping[str, NDArray[Any]]) -> Table:
        """The same rows with these columns in place of all rank fields."""
        kept = {f: v for f, v in self.columns.items() if not _is_rank(f)}
        return Table({**kept, **columns})

    def updated(self, changed: Table) -> Table:
        """With rows added and replaced; the rank fields of those that are here stay."""
        ranks = [field for field in self.columns if _is_rank(field)]
        taken = {field: _blank(field, len(changed)) for field in ranks}
        if len(self):
            place = np.minimum(np.searchsorted(self.ids, changed.ids), len(self) - 1)
            here = self.ids[place] == changed.ids
            for field in ranks:
                old = self.columns[field]
                taken[field] = np.where(here, old[place], taken[field].astype(old.dtype))
        return joined([self.rows(~np.isin(self.ids, changed.ids)), Table({**changed.columns, **taken})])

    def mask(self, criteria: Criteria) -> NDArray[np.bool_]:
        """(n,) whether each row fits all criteria."""
        found = np.ones(len(self), dtype=bool)
        for field, condition in criteria.items():
            for operator, value in condition.items():
                found &= self._fits(field, operator, value)
        return found

    def _fits(self, field: str, operator: str, value: Any) -> NDArray[np.bool_]:
        if operator == "$all":
            systems, rows = self._systems
            wanted = set(value)
            return np.array([wanted <= system for system in systems], dtype=bool)[rows]
        values = self.columns.get(field, _blank(field, len(self)))
        if operator in _EDGE:
            return np.asarray(_EDGE[operator](values, float(value)), dtype=bool)
        if operator == "$nin":
            return ~self._fits(field, "$in", value)
        if operator == "$has":
            found: NDArray[np.bool_] = np.char.find(self.columns[field], value.encode()) >= 0
            return found
        asked = [value] if operator == "$eq" else list(value)
        if not asked:
            return np.zeros(len(self), dtype=bool)
        if values.dtype.kind == "S":
            asked = [str(getattr(v, "value", v)).encode() for v in asked]
        return values == asked[0] if len(asked) == 1 else np.isin(values, asked)

    @cached_property
    def _systems(self) -> tuple[list[set[str]], NDArray[np.int64]]:
        """The elements of each chemical system, and each row's system."""
        names, rows = np.unique(self.columns["chemsys"], return_inverse=True)
        return [set(name.decode().split("-")) for name in names], rows.ravel()

    def _order(self, field: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows with a value, by value and id, and rows without, by id."""
        if field not in self._orders:
            values = self.columns.get(field, _blank(field, len(self)))
            known = values != b"" if values.dtype.kind == "S" else ~np.isnan(values)
            rows = np.flatnonzero(known)
            self._orders[field] = rows[np.argsort(values[rows], kind="stable")], np.flatnonzero(~known)
        return self._orders[field]

    def select(
        self, criteria: Criteria, field: str, *, descending: bool = False, after: After | None = None
    ) -> NDArray[np.int64]:
        """Rows that fit, ordered by a field, ties by id; those without a value last, also when descending."""
        known, unknown = self._order(field)
        if after is not None and after.value is not None:
            values = self.columns[field][known]
            value = after.value.encode() if values.dtype.kind == "S" else float(after.value)
            low, high = np.searchsorted(values, value, "left"), np.searchsorted(values, value, "right")
            here = int(low) + self._beyond(known[low:high], after, descending)
            known = known[:here] if descending else known[here:]
        elif after is not None:
            here = self._beyond(unknown, after, descending)
            known, unknown = known[:0], unknown[:here] if descending else unknown[here:]
        parts = [known[::-1], unknown[::-1]] if descending else [known, unknown]
        rows = np.concatenate(parts)
        return rows[self.mask(criteria)[rows]] if criteria else rows

    def _beyond(self, rows: NDArray[np.int64], after: After, descending: bool) -> int:
        """How many rows, by id, come up to (not) including the last one shown."""
        found = np.searchsorted(self.ids[rows], after.candidate_id.encode(), "left" if descending else "right")
        return int(found)

    def rank_fields(self, candidate_id: str) -> dict[str, Any]:
        """``RANK_FIELDS`` of a candidate; as of one that has no rank where it is not here."""
        fields: dict[str, Any] = dict.fromkeys(RANKED)
        fields |= {"score_terms": {}, UNKNOWN: []}
        row = int(np.searchsorted(self.ids, candidate_id.encode()))
        if row == len(self) or self.ids[row] != candidate_id.encode():
            return fields
        for field, values in self.columns.items():
            if not _is_rank(field):
                continue
            value = values[row]
            if field == UNKNOWN:
                fields[UNKNOWN] = value.decode().split(",") if value else []
            elif not np.isnan(value):
                if field.startswith(TERM):
                    fields["score_terms"][field.removeprefix(TERM)] = float(value)
                else:
                    fields[field] = queryable_fields()[field](value)
        return fields


def joined(tables: Sequence[Table]) -> Table:
    """All rows in id order; a column that one of them lacks is not known there."""
    tables = [t for t in tables if len(t)] or list(tables[:1]) or [Table.of([])]
    if len(tables) == 1:
        return tables[0]
    fields = dict.fromkeys(field for t in tables for field in t.columns)
    columns = {f: np.concatenate([t.columns.get(f, _blank(f, len(t))) for t in tables]) for f in fields}
    order = np.argsort(columns[KEY], kind="stable")
    return Table({field: values[order] for field, values in columns.items()})


def _is_rank(field: str) -> bool:
    return field in RANK_FIELDS or field.startswith(TERM)


def _blank(field: str, n: int) -> NDArray[Any]:
    return np.zeros(n, "S1") if _is_text(field) else np.full(n, np.nan)


def _column(field: str, values: Sequence[Any]) -> NDArray[Any]:
    if field == KNOWN_AS:
        values = ["".join(f"\n{known['id']}\n" for known in several or ()) for several in values]
    if _is_text(field):
        texts = [b"" if v is None else str(v).encode() for v in values]
        return np.array(texts, dtype=bytes) if texts else np.zeros(0, "S1")
    return np.array([float(v) if isinstance(v, int | float) else np.nan for v in values], dtype="<f8")


def pack(table: Table) -> dict[str, Column]:
    """The columns as they are stored."""
    return {
        field: Column(dtype=values.dtype.str.lstrip("|"), data=zlib.compress(np.ascontiguousarray(values).tobytes(), 1))
        for field, values in table.columns.items()
    }


def unpack(columns: Mapping[str, Any]) -> Table:
    """The table of stored columns (field -> ``Column`` as a dictionary).

    Blocks that another version wrote may hold fields that are none any more, and lack new ones: those are not known.
    """
    if "sample_novel" not in columns and "novel" in columns:  # of a version that judged the sample alone
        columns = {"sample_novel" if field == "novel" else field: column for field, column in columns.items()}
    found = {
        field: np.frombuffer(zlib.decompress(c["data"]), dtype=np.dtype(c["dtype"]))
        for field, c in columns.items()
        if field in LISTED or _is_rank(field)
    }
    n = len(found[KEY])
    return Table({field: _blank(field, n) for field in LISTED} | found)
