"""OPTIMADE's entry collections: candidates from the catalogue's table, and a few records held here."""

from __future__ import annotations

import difflib
import logging
import threading
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pymongo
from lark import Transformer
from numpy.typing import NDArray
from optimade.exceptions import BadRequest, NotFound
from optimade.models import EntryResource, StructureResource
from optimade.server.config import ServerConfig
from optimade.server.entry_collections import EntryCollection
from optimade.server.mappers import BaseResourceMapper, StructureMapper
from optimade.server.query_params import EntryListingQueryParams, SingleEntryQueryParams
from optimade.warnings import OptimadeWarning

from scdm_flows.documents import CandidateDoc
from scdm_flows.documents.migrations import NewerDocumentError, migrate
from scdm_flows.errors import StoreError
from scdm_flows.server.columns import Columns, Mask, Records, Scalar
from scdm_flows.server.filters import evaluate, parse
from scdm_flows.server.modified import BusyError, Modified
from scdm_flows.server.structures import SORTABLE, StructureColumns, UnreadableError, provider_fields, resource
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.table import KEY

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

logger = logging.getLogger(__name__)

DATABASE_SECONDS = 10.0  # that one request may wait for the database
_AGAIN = 1.0  # s; until then requests after a failure do not wait for the database again
Answer = tuple[list[dict[str, Any]], int | None, bool]


class Collection(EntryCollection):  # type: ignore[misc] # optimade has no type information
    """What both kinds share: filters on columns, pages by key where nothing else is asked for, no way to write."""

    def __init__(self, resource_cls: type[EntryResource], mapper: BaseResourceMapper, config: ServerConfig) -> None:
        super().__init__(resource_cls, mapper, Transformer(), config)
        self.parser = _Parser()

    def insert(self, data: list[EntryResource | dict[str, Any]]) -> None:
        """Nothing is written here."""
        raise NotImplementedError("this server only reads")

    def count(self, **kwargs: Any) -> int:
        """Number of entries that match a filter."""
        raise NotImplementedError("listings count what they find")

    def handle_query_params(self, params: EntryListingQueryParams | SingleEntryQueryParams) -> dict[str, Any]:
        """optimade's, with the id of a single entry taken as it is, whatever characters are in it."""
        if isinstance(params, SingleEntryQueryParams):
            text, params.filter = params.filter, ""
            criteria: dict[str, Any] = super().handle_query_params(params)
            criteria["id"] = text.removeprefix('id="').removesuffix('"')
            return criteria
        listing: dict[str, Any] = super().handle_query_params(params)
        return listing

    def get_next_query_params(
        self, params: EntryListingQueryParams, results: dict[str, Any] | list[dict[str, Any]] | None
    ) -> dict[str, list[str]]:
        """Where the next page begins: after the last id, or by number where numbers or a sort were asked for."""
        limit = params.page_limit or self.config.page_limit
        if isinstance(params.page_number, int) and not params.page_offset:
            return {"page_number": [str(max(params.page_number, 1) + 1)]}
        if params.page_offset or params.sort:
            return {"page_offset": [str(params.page_offset + limit)]}
        assert isinstance(results, list)
        return {"page_above": [str(results[-1]["id"])]} if results else {}

    def _rows(self, criteria: dict[str, Any], columns: Columns) -> tuple[NDArray[np.int64], int]:
        """Rows of the page and all after it in order, and how many match in all."""
        tree = criteria["filter"]
        mask: Mask = evaluate(tree, columns, self.provider_prefix) if tree else np.ones(len(columns), dtype=bool)
        order = self._order(tuple((name, way < 0) for name, way in criteria.get("sort", [])), columns)
        rows = order[mask[order]]
        total = len(rows)
        if "page_above" in criteria:
            if criteria.get("sort"):
                raise BadRequest("page_above counts by id and does not go with sort; use page_offset")
            ids = columns.get("id")
            assert isinstance(ids, Scalar)
            rows = rows[ids.values[rows] > criteria["page_above"].encode("utf-8", "replace")]
        return rows[criteria.get("skip", 0) :], total

    def _order(self, sort: tuple[tuple[str, bool], ...], columns: Columns) -> NDArray[np.int64]:
        raise NotImplementedError


class _Parser:
    """Stands where optimade keeps its own parser."""

    def parse(self, text: str) -> Any:
        return parse(text)


class RecordCollection(Collection):
    """A few entries that are part of the program, such as references."""

    def __init__(
        self,
        resource_cls: type[EntryResource],
        mapper: BaseResourceMapper,
        config: ServerConfig,
        records: Sequence[dict[str, Any]],
    ) -> None:
        super().__init__(resource_cls, mapper, config)
        self._records = [{"type": mapper.ENDPOINT, **r} for r in sorted(records, key=lambda r: str(r["id"]))]
        self._columns = Records(self._records, sorted(self.all_fields))

    def __len__(self) -> int:
        return len(self._records)

    def _run_db_query(self, criteria: dict[str, Any], single_entry: bool = False) -> Answer:
        if single_entry:
            found = [record for record in self._records if record["id"] == criteria["id"]]
            if not found:
                raise NotFound(_missing(criteria["id"], [record["id"] for record in self._records]))
            return [dict(found[0])], 1, False
        rows, total = self._rows(criteria, self._columns)
        page = rows[: criteria["limit"]]
        return [dict(self._records[row]) for row in page], total, len(page) < len(rows)

    def _order(self, sort: tuple[tuple[str, bool], ...], columns: Columns) -> NDArray[np.int64]:
        order = list(range(len(self)))
        for name, descending in reversed(sort):
            known = [row for row in order if self._records[row].get(name) is not None]
            try:
                known.sort(key=lambda row: self._records[row][name], reverse=descending)
            except TypeError:
                raise BadRequest(f"{name} has no order; sort by id") from None
            order = known + [row for row in order if self._records[row].get(name) is None]
        return np.array(order, dtype=np.int64)


class CandidateCollection(Collection):
    """Candidates of a connected database. Only ids and times are ever part of a query to it."""

    def __init__(self, database: Database, config: ServerConfig) -> None:
        super().__init__(StructureResource, StructureMapper(config), config)
        self._database = database
        self._catalogue = database.catalogue
        self._modified = Modified(database)
        self._columns: StructureColumns | None = None
        self._lock = threading.Lock()
        self._failure: tuple[float, StoreError] | None = None

    def __len__(self) -> int:
        return len(self.columns())

    def columns(self) -> StructureColumns:
        """The candidates as they are now.

        Raises
        ------
        StoreError
            If the database does not answer; those who ask within a second do not wait for it again.
        """
        if not self._lock.acquire(timeout=2 * DATABASE_SECONDS):
            raise BusyError("the database takes too long to answer; try again")
        try:
            if self._failure is not None and time.monotonic() - self._failure[0] < _AGAIN:
                raise self._failure[1]
            try:
                with pymongo.timeout(DATABASE_SECONDS):
                    table = self._catalogue.table()
            except StoreError as error:
                self._failure = time.monotonic(), error
                logger.warning("%s", error)
                raise
            self._failure = None
            if self._columns is None or self._columns.table is not table:
                self._columns = StructureColumns(table, self._modified)
            return self._columns
        finally:
            self._lock.release()

    def _run_db_query(self, criteria: dict[str, Any], single_entry: bool = False) -> Answer:
        columns = self.columns()
        try:
            return self._answer(columns, criteria, single_entry)
        except StoreError as error:
            logger.warning("%s", error)
            raise

    def _answer(self, columns: StructureColumns, criteria: dict[str, Any], single_entry: bool) -> Answer:
        with store_errors(self._database.uri):
            if single_entry:
                name = criteria["id"]
                found = self._read(columns, [name])
                if not found:
                    raise NotFound(_missing(name, _near(columns, name)))
                return [found[0]], 1, False
            rows, total = self._rows(criteria, columns)
            limit, start = criteria["limit"], 0
            page: list[dict[str, Any]] = []
            while start < len(rows) and len(page) < limit:
                stop = start + limit - len(page)
                page += self._read(columns, [name.decode() for name in columns.table.ids[rows[start:stop]].tolist()])
                start = stop
                if "skip" in criteria or criteria.get("sort"):
                    break  # pages by number: the next one begins where this one ends, whatever was left out
            return page, total, start < len(rows)

    def _read(self, columns: StructureColumns, names: list[str]) -> list[dict[str, Any]]:
        """Resources of these ids; what was removed or cannot be read is left out, the latter with a warning."""
        with pymongo.timeout(DATABASE_SECONDS):
            found = self._database.mongo["candidates"].find({KEY: {"$in": names}}, _PROJECTION)
            documents = {document[KEY]: document for document in found}
        resources, left_out = [], 0
        for name in names:
            if name not in documents:
                continue
            try:
                current = migrate(CandidateDoc, documents[name] | columns.table.rank_fields(name))
                resources.append(resource(current))
            except (NewerDocumentError, UnreadableError) as error:
                logger.warning("left out of a page: %s", error)
                left_out += 1
        if left_out:
            warnings.warn(
                OptimadeWarning(detail=f"{left_out} of this page cannot be read and are left out"), stacklevel=2
            )
        return resources

    def _order(self, sort: tuple[tuple[str, bool], ...], columns: Columns) -> NDArray[np.int64]:
        assert isinstance(columns, StructureColumns)
        sort = tuple((self.resource_mapper.get_optimade_field(name), descending) for name, descending in sort)
        for name, _ in sort:
            if name not in SORTABLE and not provider_fields().get(name, {}).get("sortable"):
                raise BadRequest(f"{name} cannot be sorted by; /info/structures says which properties can")
        if len(sort) > _MOST_SORTS:
            raise BadRequest(f"{len(sort)} properties to sort by are too many; {_MOST_SORTS} are allowed")
        return columns.order(sort)


_MOST_SORTS = 5
_PROJECTION = {
    **dict.fromkeys(["structure", "relaxed_structure", "last_updated", "schema_version", "provenance.versions"], 1),
    **dict.fromkeys([KEY, *(entry["field"] for entry in provider_fields().values())], 1),
    "_id": 0,
}


def _missing(name: str, near: Sequence[str]) -> str:
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"there is no entry with the id {name[:100]!r}{hint}"


def _near(columns: StructureColumns, name: str) -> list[str]:
    """Ids next to this one in order, the nearest first."""
    ids = columns.table.ids
    place = int(np.searchsorted(ids, name.encode("utf-8", "replace")))
    around = [found.decode() for found in ids[max(0, place - 25) : place + 25].tolist()]
    return difflib.get_close_matches(name[:100], around, n=1)
