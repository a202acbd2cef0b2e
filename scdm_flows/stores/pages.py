"""Sorted pages of candidates by key: stable while others insert, as quick at the end as at the beginning.

Order: documents with the sort field by its value, ties by ``candidate_id``; then those without it, by
``candidate_id``. Descending turns both around, and those without a value stay last. A cursor names the last
document of a page by value and id, so that nothing is counted and nothing skipped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from scdm_flows.errors import ConfigError
from scdm_flows.stores.indexes import plain_indexes
from scdm_flows.stores.trouble import store_errors
from scdm_flows.stores.windows import KEY, Criteria, Range, WindowedReader, for_an_index, take_sample

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

_FIRST = {str: "", bool: False, int: float("-inf"), float: float("-inf")}  # nothing of the type sorts before
_VERSION = 1


@dataclass(frozen=True)
class Order:
    """What a listing is sorted by. kind: the field's type, which says where its values begin."""

    field: str
    kind: type
    descending: bool = False

    def __str__(self) -> str:
        return f"{'-' * self.descending}{self.field}"


@dataclass(frozen=True)
class After:
    """The last document of the page before: its value of the sort field, and its id."""

    value: Any
    candidate_id: str


class Pages:
    """Reads pages of the candidates of a connected database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(
        self, criteria: Criteria, order: Order, limit: int, after: After | None = None, fields: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """The next ``limit`` documents, without ``_id``; ``fields``: only these, and those of the order."""
        found: list[dict[str, Any]] = []
        projection = {**(dict.fromkeys([*fields, order.field, KEY], 1) if fields else {}), "_id": 0}
        find = partial(self._find, projection)
        with store_errors(self._database.uri):
            for conditions, field, inside in _parts(criteria, order, after):
                wanted = limit - len(found)
                if self._windows is None:
                    asked = {**conditions, field: inside.operators()}
                    found += find(asked, field, order.descending, wanted, None)
                else:
                    found += self._windows.read(find, conditions, field, inside, order.descending, wanted)
                if len(found) >= limit:
                    break
        return found

    def count(self, criteria: Criteria) -> int:
        """How many candidates match."""
        with store_errors(self._database.uri):
            if self._database.sorts_before_it_limits:
                criteria = for_an_index(criteria)
            return int(self._database.mongo["candidates"].count_documents(criteria))

    def _find(
        self,
        projection: dict[str, int],
        criteria: Criteria,
        field: str,
        descending: bool,
        limit: int,
        only: list[str] | None,
    ) -> list[dict[str, Any]]:
        order = dict.fromkeys([field, KEY], -1 if descending else 1)
        asked = {f: c for f, c in criteria.items() if c != {}}
        if only is not None:
            projection = {**dict.fromkeys(only, 1), "_id": 0}
        return list(self._database.mongo["candidates"].find(asked, projection).sort(list(order.items())).limit(limit))

    @cached_property
    def _windows(self) -> WindowedReader | None:
        if not self._database.sorts_before_it_limits:
            return None
        campaigns = sorted(d["name"] for d in self._database.mongo["campaigns"].find({}, {"name": 1}))
        sample = take_sample(self._database.mongo["candidates"], campaigns)
        indexes = [fields for fields, _ in plain_indexes(self._database.mongo["candidates"])]
        return None if sample is None else WindowedReader(sample, indexes)


def _parts(criteria: Criteria, order: Order, after: After | None) -> Iterator[tuple[Criteria, str, Range]]:
    """The parts that make up the order from ``after`` on: conditions, and the field that sorts, within a range."""
    field = order.field
    beyond = Range() if after is None else _beyond(order, after.candidate_id)
    if field == KEY:
        yield _without(criteria, KEY), KEY, _narrowed(beyond, criteria.get(KEY))
        return
    condition = criteria.get(field)
    values = _values(condition)
    if values is not None:  # equal values: only the id sorts
        for value in sorted(values, reverse=order.descending):
            if after is None or not _before(order, value, after.value):
                same = after is not None and value == after.value
                yield {**criteria, field: value}, KEY, beyond if same else Range()
        return
    whole = _narrowed(Range(_FIRST[order.kind]), condition)
    others = _without(criteria, field)
    if after is not None and after.value is not None:
        yield {**others, field: after.value}, KEY, beyond
        whole = _narrowed(whole, _beyond(order, after.value).operators())
    if after is None or after.value is not None:
        yield others, field, whole
    if condition is None:
        yield {**others, field: None}, KEY, beyond if after is not None and after.value is None else Range()


def _values(condition: Any) -> list[Any] | None:
    """The values that a condition allows, where it names them."""
    if isinstance(condition, Mapping):
        if "$in" in condition:
            return [v for v in condition["$in"] if _allows(condition, v)]
        if "$eq" in condition:
            return [condition["$eq"]] if _allows(condition, condition["$eq"]) else []
    return None


def _allows(condition: Mapping[str, Any], value: Any) -> bool:
    bounds = {o: b for o, b in condition.items() if o in ("$gte", "$gt", "$lte", "$lt")}
    equal = "$eq" not in condition or condition["$eq"] == value
    return equal and _narrowed(Range(), bounds).holds(value)


def _before(order: Order, value: Any, other: Any) -> bool:
    return bool(value > other if order.descending else value < other)


def _beyond(order: Order, value: Any) -> Range:
    """What comes after a value."""
    if order.descending:
        return Range(high=value, high_inclusive=False)
    return Range(low=value, low_inclusive=False)


def _narrowed(whole: Range, condition: Any) -> Range:
    """The range within the bounds of a condition, too."""
    if not isinstance(condition, Mapping):
        return whole if condition is None else Range(condition, condition)
    for operator, bound in condition.items():
        inclusive = operator.endswith("e")
        if operator in ("$gte", "$gt") and (
            whole.low is None or bound > whole.low or (bound == whole.low and not inclusive)
        ):
            whole = replace(whole, low=bound, low_inclusive=inclusive)
        elif operator in ("$lte", "$lt") and (
            whole.high is None or bound < whole.high or (bound == whole.high and not inclusive)
        ):
            whole = replace(whole, high=bound, high_inclusive=inclusive)
        elif operator == "$eq":
            whole = Range(bound, bound)
    return whole


def _without(criteria: Criteria, field: str) -> Criteria:
    return {f: c for f, c in criteria.items() if f != field}


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
