"""OPTIMADE's entries, looked up in MongoDB by optimade's own collection: one page a request, nothing is kept."""

from __future__ import annotations

import difflib
import json
import logging
import math
import time
import warnings
from collections.abc import Iterable
from typing import Any

import pymongo
from optimade.exceptions import BadRequest, NotFound
from optimade.models import EntryResource
from optimade.server.config import ServerConfig
from optimade.server.entry_collections import EntryCollection
from optimade.server.entry_collections.mongo import MongoCollection
from optimade.server.mappers import BaseResourceMapper
from optimade.server.query_params import EntryListingQueryParams, SingleEntryQueryParams
from optimade.warnings import OptimadeWarning
from pymongo.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError

from scdm_flows.errors import StoreError
from scdm_flows.server.filters import Filters, Parser
from scdm_flows.server.security import DATABASE_SECONDS
from scdm_flows.stores.driver_errors import store_errors

logger = logging.getLogger(__name__)

_COUNT_SECONDS = 3.0  # that one request may wait for the number of entries
_COUNTED_FOR = 10  # times as long as counting took, a number is kept
_AGAIN = 1.0  # s; until then requests after a failure do not wait for the database again
_NO_QUERY = {2, 9}  # codes of what MongoDB does not take for a query: BadValue, FailedToParse
Query = dict[str, Any]
Answer = tuple[list[dict[str, Any]], int | None, bool]


class Entries(MongoCollection):  # type: ignore[misc] # optimade has no type information
    """optimade's collection over one that is connected already, with pages that follow one another by id.

    Parameters
    ----------
    inside
        Where relationships are stored, ending in a dot; empty: beside the other properties.
    sortable
        Properties that can be sorted by; None: all.
    uri
        Of the database, for the log.
    """

    def __init__(
        self,
        collection: Any,
        resource_cls: type[EntryResource],
        mapper: BaseResourceMapper,
        config: ServerConfig,
        *,
        inside: str = "",
        sortable: set[str] | None = None,
        uri: str | None = None,
    ) -> None:
        # not MongoCollection's own, which connects once more
        EntryCollection.__init__(self, resource_cls, mapper, Filters(mapper, inside), config)
        self.parser, self.collection = Parser(), collection
        self._id, self._type = mapper.get_backend_field("id"), mapper.get_backend_field("type")
        self._sortable, self._uri = sortable, uri
        self._failure: tuple[float, StoreError] | None = None
        self._counted = 0, -math.inf  # how many, and until when that holds

    def __len__(self) -> int:
        """How many entries there are; of stored documents, where counting those that are served takes too long."""
        number, until = self._counted
        started = time.monotonic()
        if started < until:
            return number
        with store_errors(self._uri):
            try:
                with pymongo.timeout(_COUNT_SECONDS):
                    number = self.collection.count_documents({self._type: self.resource_mapper.ENDPOINT})
            except PyMongoError as error:
                if not error.timeout:
                    raise
                with pymongo.timeout(DATABASE_SECONDS):
                    number = self.collection.estimated_document_count()
        now = time.monotonic()
        self._counted = int(number), now + _COUNTED_FOR * (now - started)
        return int(number)

    def handle_query_params(self, params: EntryListingQueryParams | SingleEntryQueryParams) -> Query:
        """optimade's, with the id of a single entry taken as it is, whatever characters are in it."""
        name = None
        if isinstance(params, SingleEntryQueryParams):
            name, params.filter = params.filter.removeprefix('id="').removesuffix('"'), ""
        criteria: Query = EntryCollection.handle_query_params(self, params)
        criteria["projection"]["_id"] = False
        if name is not None:
            return criteria | {"filter": {self._id: name}}
        if criteria.get("sort") and "page_above" in criteria:
            raise BadRequest("page_above counts by id and does not go with sort; use page_offset")
        return criteria

    def parse_sort_params(self, sort_params: str) -> Iterable[tuple[str, int]]:
        """optimade's, for what can be sorted by."""
        for name in sort_params.split(","):
            if self._sortable is not None and name.lstrip("-") not in self._sortable:
                raise BadRequest(
                    f"{name.lstrip('-')[:100]} cannot be sorted by; /info/{self.resource_mapper.ENDPOINT} says what can"
                )
        found: Iterable[tuple[str, int]] = super().parse_sort_params(sort_params)
        return found

    def get_next_query_params(
        self, params: EntryListingQueryParams, results: dict[str, Any] | list[dict[str, Any]] | None
    ) -> dict[str, list[str]]:
        """Where the next page begins: after the last id, or by number where numbers or a sort were asked for."""
        if isinstance(params.page_number, int) and not params.page_offset:
            return {"page_number": [str(max(params.page_number, 1) + 1)]}
        if params.page_offset or params.sort or not results:
            return {"page_offset": [str((params.page_offset or 0) + params.page_limit)]}
        assert isinstance(results, list)
        return {"page_above": [str(results[-1]["id"])]}

    def _run_db_query(self, criteria: Query, single_entry: bool = False) -> Answer:
        if self._failure is not None and time.monotonic() - self._failure[0] < _AGAIN:
            raise self._failure[1]
        try:
            with store_errors(self._uri), pymongo.timeout(DATABASE_SECONDS):
                return self._single(criteria) if single_entry else self._listing(criteria)
        except StoreError as error:
            if isinstance(error.__context__, ServerSelectionTimeoutError):  # gone, not slow
                self._failure = time.monotonic(), error
            raise

    def _single(self, criteria: Query) -> Answer:
        found = self._readable(self.collection.find(criteria["filter"], criteria["projection"]).limit(1))
        if not found:
            name = criteria["filter"][self._id][:100]
            following = self.collection.find({self._id: {"$gte": name}}, [self._id]).sort(self._id, 1).limit(1)
            near = difflib.get_close_matches(name, [entry[self._id] for entry in following])
            hint = f"; did you mean {near[0]}?" if near else ""
            raise NotFound(f"there is no entry with the id {name!r}{hint}")
        return found, 1, False

    def _listing(self, criteria: Query) -> Answer:
        limit, skip = criteria["limit"], criteria.get("skip", 0)
        try:
            found, total = self._page(criteria, limit + 1, skip)
        except OverflowError:
            raise BadRequest(f"a page that begins at {skip:.3g} does not exist; ask for one that does") from None
        except OperationFailure as error:
            if error.code in _NO_QUERY:
                raise BadRequest(f"the database cannot answer this filter: {str(error)[:200]}") from None
            raise
        return self._readable(found[:limit]), total, len(found) > limit

    def _page(self, criteria: Query, limit: int, skip: int) -> tuple[list[dict[str, Any]], int]:
        """Documents, and how many match in all."""
        where = _both({self._type: self.resource_mapper.ENDPOINT}, criteria["filter"])
        above = {self._id: {"$gt": criteria["page_above"]}} if "page_above" in criteria else {}
        order = [*criteria.get("sort", []), (self._id, 1)]
        up = order[0][0] if order[0] != (self._id, 1) and order[0][1] > 0 else None
        # what is not known comes last, where MongoDB has it first if it sorts upwards
        known, unknown = ({up: {"$ne": None}}, {up: None}) if up else ({}, {})
        if criteria["filter"]:  # the page and the number of one reading, as the embedded server reads all that match
            stages = [{"$match": _both(known, above)}, {"$sort": dict(order)}, {"$skip": skip}, {"$limit": limit}]
            parts = {"page": [*stages, {"$project": criteria["projection"]}], "total": [{"$count": "n"}]}
            (read,) = self.collection.aggregate([{"$match": where}, {"$facet": parts}])
            found, total = read["page"], sum(counted["n"] for counted in read["total"])
        else:
            found, total = self._find(_both(where, _both(known, above)), criteria, order, limit, skip), len(self)
        if up and len(found) < limit:
            left = max(0, skip - self.collection.count_documents(_both(where, known))) if skip else 0
            found += self._find(_both(where, unknown), criteria, order, limit - len(found), left)
        return found, total

    def _find(
        self, where: Query, criteria: Query, order: list[tuple[str, int]], limit: int, skip: int
    ) -> list[dict[str, Any]]:
        return list(self.collection.find(where, criteria["projection"], sort=order, limit=limit, skip=skip))

    def _readable(self, documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """What can be sent as an entry; the rest is left out with a warning."""
        found, left_out = [], 0
        for document in documents:
            try:
                entry = self.resource_mapper.map_back(document)
                self.resource_cls.model_validate(entry)
                json.dumps(entry, allow_nan=False, default=str)
                found.append(document)
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                logger.warning("left out of a page: %s: %s", document.get(self._id), error)
                left_out += 1
        if left_out:
            said = f"{left_out} of this page cannot be read and are left out; the server's log says why"
            warnings.warn(OptimadeWarning(detail=said), stacklevel=2)
        return found


def _both(one: Query, other: Query) -> Query:
    """The query for what both ask for."""
    return {"$and": [one, other]} if one and other else {**one, **other}
