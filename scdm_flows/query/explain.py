"""Which index serves each filter and each sort that is offered, and what a first page reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from scdm_flows.documents import StageName
from scdm_flows.documents.candidate import queryable_fields, sort_fields
from scdm_flows.query.conditions import KNOWN_AS, RANGES, Criteria, criteria_of
from scdm_flows.query.listing import Order
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.indexes import wanted

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

PAGE = 20
_SAMPLES = 200  # candidates that example values are taken from


@dataclass(frozen=True)
class Plan:
    """How a question is answered.

    asked: the filter with its example, or the sort; declared: fields of the index that is made for it, None where
    there is none; used: name of the index that the server takes, None where it reads the collection or does not say;
    examined, returned: documents that it read and answered with, None where it does not say.
    """

    asked: str
    declared: str | None
    used: str | None = None
    examined: int | None = None
    returned: int | None = None


def plans(database: Database) -> Iterator[Plan]:
    """The plan of each filter alone, then of each sort of all candidates, for a page of ``PAGE``."""
    declared: dict[str, str] = {}  # first field -> all fields of an index
    for index in wanted(database):
        first, *rest = index.fields
        if index.collection == "candidates" and (rest == ["candidate_id"] or first not in declared):
            declared[first] = ", ".join(index.fields)
    with store_errors(database.uri):
        samples = list(islice(database.mongo["candidates"].find({}, limit=_SAMPLES), _SAMPLES))
    for name, value in _filters(samples):
        criteria = criteria_of({name: value})
        yield _plan(database, f"{name}={value}", declared.get(next(iter(criteria))), criteria, [])
    for field in sort_fields():
        for sort in (field, f"-{field}"):
            order = Order(field, sort.startswith("-"))
            yield _plan(database, f"sort={sort}", declared.get(field), {}, order.sort)


def _filters(samples: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Every filter that is offered, with a value that occurs among the samples where there is one."""
    for field, kind in queryable_fields().items():
        value = next((d[field] for d in samples if d.get(field) not in (None, "", [])), None)
        if field == KNOWN_AS:
            yield field, "MoS2-165798ab5e33" if value is None else value[0]["id"]
        elif field == "passed":
            yield from ((field, stage.value) for stage in StageName)
        elif value is None:
            continue  # nobody has one yet
        elif kind is list:
            yield field, ",".join(value)
        else:
            yield field, value
            if kind in (int, float):
                yield from ((f"{edge}_{field}", value) for edge in RANGES)
    yield from (("chemsys", "Mo-*"), ("crystal_system", "hexagonal"), ("text", "4f2a"))


def _plan(
    database: Database, asked: str, declared: str | None, criteria: Criteria, sort: list[tuple[str, int]]
) -> Plan:
    with store_errors(database.uri):
        said = database.mongo["candidates"].find(criteria, sort=sort or None, limit=PAGE).explain()
    stats = said.get("executionStats") or {}
    used = next(_index_names(said.get("queryPlanner", {}).get("winningPlan")), None)
    return Plan(asked, declared, used, stats.get("totalDocsExamined"), stats.get("nReturned"))


def _index_names(stage: Any) -> Iterator[str]:
    """Names of the indexes in a plan, which is a tree of stages."""
    if isinstance(stage, Mapping):
        if isinstance(stage.get("indexName"), str):
            yield stage["indexName"]
        for part in stage.values():
            yield from _index_names(part)
    elif isinstance(stage, list):
        for part in stage:
            yield from _index_names(part)
