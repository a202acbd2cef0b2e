"""Every index of the database, declared once: created at connect, looked at by ``scdm doctor``.

The candidates' indexes follow from what their fields declare. Each field that listings may be sorted by has one with
``candidate_id`` behind it, which goes through a listing from any place on, and finds values and ranges of that field.
An embedded server, which cannot sort by an index, only has those of fields with ``indexed=True`` and the fixed ones.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scdm_flows.documents import CandidateDoc, StageName
from scdm_flows.documents.candidate import sort_fields
from scdm_flows.errors import StoreError
from scdm_flows.stores.driver_errors import READ_ONLY, store_errors
from scdm_flows.stores.embedded_faults import slow_to_index, sorts_by_index
from scdm_flows.stores.names import BLOBS, KEYS, OUTPUTS

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

logger = logging.getLogger(__name__)

REMEDY = "run `scdm db index`"
_BY_ITSELF = (
    "run `scdm db index` (the embedded server takes about 4 ms a document for each, and must not be stopped), "
    "or `scdm db backup FILE.tar` and restore it in a new SCDM_DATA_DIR, which is quicker"
)
BUDGET = 63  # indexes of a collection, _id's included: MongoDB allows 64, and each makes every write slower
_SHOWN = 3  # duplicates that a message names
_INDEX_CONFLICTS = (85, 86)  # the same fields or the same name with other options


@dataclass(frozen=True)
class Index:
    """An ascending index; unique: no two documents may have equal values of all fields; for_listings: it serves only
    listings, and them only where the server also sorts by it.
    """

    collection: str
    fields: tuple[str, ...]
    unique: bool = False
    for_listings: bool = False

    def __str__(self) -> str:
        return f"{self.collection} ({', '.join(self.fields)}){' unique' if self.unique else ''}"


_FIXED = (
    # jobflow makes no index but _id, and its upserts can duplicate without the unique one
    Index(OUTPUTS, ("uuid", "index"), unique=True),
    Index(OUTPUTS, ("metadata.campaign", "metadata.stage")),
    Index(OUTPUTS, ("metadata.candidate_id",)),
    Index(OUTPUTS, ("name",)),
    Index(OUTPUTS, ("completed_at",)),
    # maggma's GridFSStore keeps the properties of a blob in the metadata of its file
    Index(f"{BLOBS}.files", ("metadata.blob_uuid",)),
    Index("failures", ("campaign", "failure_id")),
    Index("failures", ("candidate_id",)),
    Index("candidates", ("campaign", "last_updated")),  # what changed since a ranking was taken
    Index("candidates", ("novelty.version",)),
    Index("candidates", ("known_as.id",)),
    Index("candidates", ("known_as.source",)),
    Index("candidates", ("campaign", "rank", "candidate_id")),  # what is asked for most: the best of a campaign
    Index("candidates", ("campaign", "e_above_hull", "candidate_id"), for_listings=True),
    Index("hulls", ("elements",)),
    Index("hulls", ("references", "basis_sha256")),
    Index("hulls", ("references", "spread")),
)
# stages that select: nearly all candidates passed the others, or one of these too
_SELECTIVE = (StageName.PHONON, StageName.BANDS)
# what OPTIMADE filters and sorts by besides the queryable fields
_OPTIMADE = ("last_updated",) + tuple(
    f"optimade.{name}"
    for name in (
        "elements",
        "nelements",
        "nsites",
        "chemical_formula_reduced",
        "chemical_formula_anonymous",
        "chemical_formula_descriptive",
    )
)


def _indexed() -> list[str]:
    """Fields of ``CandidateDoc`` that declare themselves ``indexed``."""
    return [
        name
        for name, field in CandidateDoc.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("indexed")
    ]


def passed_field(stage: str) -> str:
    """The field of a candidate that is "passed" where it passed the stage."""
    return f"stages.{stage}.status"


def declared(keys: dict[str, str]) -> list[Index]:
    """All indexes. keys: collection -> its key, which is unique."""
    unique = [Index(collection, (key,), unique=True) for collection, key in keys.items()]
    always = _indexed()
    fields = dict.fromkeys([*always, *map(passed_field, _SELECTIVE), *_OPTIMADE, *sort_fields()])
    alone = [
        Index("candidates", (name, "candidate_id"), for_listings=name not in always)
        for name in fields
        if name != "candidate_id"
    ]
    return [*unique, *_FIXED, *alone]


def wanted(database: Database) -> list[Index]:
    """The declared indexes that are of use on the database's server."""
    with store_errors(database.uri):
        sorting = sorts_by_index(database.mongo)
    return [index for index in declared(KEYS) if sorting or not index.for_listings]


@dataclass(frozen=True)
class IndexProblem:
    """An index that is not as declared: ``missing`` or ``different``, in words, and what to do."""

    index: Index
    state: str
    detail: str
    remedy: str = REMEDY


def index_problems(database: Database) -> list[IndexProblem]:
    """Indexes that are missing or different; writes nothing, so any user who may read can ask."""
    found: dict[str, list[tuple[tuple[str, ...], bool]]] = {}
    problems = []
    with store_errors(database.uri):
        for index in wanted(database):
            if index.collection not in found:
                found[index.collection] = plain_indexes(database.mongo[index.collection])
            same = [unique for fields, unique in found[index.collection] if fields == index.fields]
            if not same:
                problems.append(IndexProblem(index, "missing", f"{index} is missing"))
            elif index.unique and not any(same):
                problems.append(IndexProblem(index, "different", f"{index} is there, but not unique"))
    return problems


def plain_indexes(collection: Any) -> list[tuple[tuple[str, ...], bool]]:
    """(fields, unique) of the plain ascending indexes of a collection; none where it does not exist yet.

    Partial, sparse and descending ones do not serve our queries, so they do not count.
    """
    found = []
    for about in collection.index_information().values():
        plain = all(direction == 1 for _, direction in about["key"])
        if plain and "partialFilterExpression" not in about and not about.get("sparse"):
            found.append((tuple(name for name, _ in about["key"]), bool(about.get("unique"))))
    return found


def ensure(database: Database, *, in_passing: bool = False) -> list[IndexProblem]:
    """Create what is missing; returns what was not made: for lack of rights, because of duplicates, or for its size.

    in_passing: leave out what would take the server long (``slow_to_index``).

    Raises
    ------
    StoreError
        If the database fails in any other way.
    """
    left = []
    slow: dict[str, bool] = {}
    for problem in index_problems(database):
        name = problem.index.collection
        if in_passing and name not in slow:
            with store_errors(database.uri):
                slow[name] = slow_to_index(database.mongo, name)
        unmade = replace(problem, remedy=_BY_ITSELF) if slow.get(name) else _create(database, problem)
        if unmade is not None:
            left.append(unmade)
    return left


def _create(database: Database, problem: IndexProblem) -> IndexProblem | None:
    from pymongo.errors import DuplicateKeyError, OperationFailure

    index = problem.index
    collection = database.mongo[index.collection]
    with store_errors(database.uri):
        try:
            if problem.state == "different":
                _drop(collection, index.fields)
            collection.create_index([(name, 1) for name in index.fields], unique=index.unique)
        except DuplicateKeyError:
            if problem.state == "different":  # what was there is better than nothing
                collection.create_index([(name, 1) for name in index.fields])
            return IndexProblem(
                index,
                problem.state,
                f"{index} cannot be made: {duplicates_in_words(collection, index.fields)}",
                "see `scdm db check`, remove all but one of each, then run `scdm db index`",
            )
        except OperationFailure as error:
            if error.code in READ_ONLY:
                remedy = "ask a user who may write to run `scdm db index`"
                return IndexProblem(index, problem.state, f"{problem.detail}, and this user may only read", remedy)
            if error.code in _INDEX_CONFLICTS:
                remedy = "drop it in the MongoDB shell (db.COLLECTION.dropIndex), then run `scdm db index`"
                return IndexProblem(index, "different", f"{index} is there with other options", remedy)
            raise
    return None


def _drop(collection: Any, fields: tuple[str, ...]) -> None:
    for name, about in collection.index_information().items():
        if tuple(field for field, _ in about["key"]) == fields:
            collection.drop_index(name)


def duplicates(collection: Any, fields: tuple[str, ...]) -> list[tuple[tuple[Any, ...], list[Any]]]:
    """(values, ``_id`` of the documents) of every set of documents that share the values of all fields."""
    group = {"_id": {f"f{i}": f"${name}" for i, name in enumerate(fields)}, "ids": {"$push": "$_id"}, "n": {"$sum": 1}}
    found = collection.aggregate([{"$group": group}, {"$match": {"n": {"$gt": 1}}}], allowDiskUse=True)
    return [(tuple(d["_id"].get(f"f{i}") for i in range(len(fields))), d["ids"]) for d in found]


def duplicates_in_words(collection: Any, fields: tuple[str, ...]) -> str:
    """Which values several documents share."""
    found = duplicates(collection, fields)
    shown = "; ".join(
        f"{len(ids)} documents have "
        + ", ".join(f"{name}={value!r}" for name, value in zip(fields, values, strict=True))
        for values, ids in found[:_SHOWN]
    )
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return shown + more if shown else "several documents have the same values"


def ensure_or_warn(database: Database) -> None:
    """At connect: create what is missing and warn of what cannot be; a user who may only read goes without."""
    left = [p for p in ensure(database, in_passing=True) if "only read" not in p.detail]
    slow = [p for p in left if p.remedy == _BY_ITSELF]
    if slow:
        logger.warning("%d indexes are missing, so listings are slow; %s", len(slow), _BY_ITSELF)
    for problem in left:
        if problem not in slow:
            logger.warning("%s; %s", problem.detail, problem.remedy)


def ensure_or_raise(database: Database) -> int:
    """Create what is missing; returns how many were made.

    Raises
    ------
    StoreError
        Naming what could not be made, and why.
    """
    before = len(index_problems(database))
    left = ensure(database)
    if left:
        raise StoreError("; ".join(f"{p.detail} ({p.remedy})" for p in left))
    return before
