"""Looks for what should not be in a database; each finding names the document, the rule and what to do.

Reads everything once, in bounded memory but for the ids of large objects. Repairs only where nothing can be lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from scdm_flows.documents.base import utc_now
from scdm_flows.documents.migrations import NewerDocumentError, migrate, stored_version, version_of
from scdm_flows.errors import StoreError
from scdm_flows.stores.backup import RESTORES
from scdm_flows.stores.blobs import FRESH, REMOVED, pointers
from scdm_flows.stores.database import strip
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.indexes import duplicates, index_problems
from scdm_flows.stores.names import BATCH, CHUNKS, FILES, KEYS, OUTPUTS, SET_ASIDE
from scdm_flows.stores.upgrade import MODELS, why_invalid

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

CLOCKS_DIFFER = timedelta(minutes=5)  # clocks of two machines may differ by as much
_BUILD = "run `scdm build`, which writes it anew from the job outputs"

# what the provenance of a collection's documents has to say
PROVENANCE = {
    "candidates": ("versions", "config_hash", "job_uuids"),
    "campaigns": ("versions", "config_hash"),
    "phonons": ("versions", "engine", "config_hash", "job_uuids"),
    "bands": ("versions", "engine", "config_hash", "job_uuids"),
    "hulls": ("versions",),
    "failures": ("versions",),
    "rankings": ("versions",),
    "loops": ("versions", "config_hash"),
}

RULES = {
    "index": "every declared index exists",
    "key": "no two documents have the same key",
    "schema": "a document fits its schema",
    "newer": "no document is of a later version than this program",
    "older": "documents are of the current version",
    "campaign": "a candidate's campaign exists",
    "clock": "nothing was changed in the future",
    "blob-missing": "a large object that a job output names exists and is whole",
    "blob-dangling": "a large object belongs to a job output",
    "restore": "no restore was interrupted",
    "provenance": "a document says which code, configuration and jobs it comes from",
}


@dataclass(frozen=True)
class Finding:
    """Something that breaks a rule.

    rule: a key of ``RULES``; id: of the document; wrong: False where it is only to be known; repairable: ``repair``
    removes what is wrong without losing anything; repaired: it did.
    """

    rule: str
    collection: str
    id: str
    detail: str
    remedy: str
    wrong: bool = True
    repairable: bool = False
    repaired: bool = False


def check(database: Database, *, repair: bool = False) -> Iterator[Finding]:
    """Every finding, as it is found.

    Parameters
    ----------
    repair
        Whether to repair where nothing is lost: missing indexes are created, of documents that are equal but for
        ``_id`` and time all but one are removed, and times in the future become now.
    """
    with store_errors(database.uri):
        mongo = database.mongo
        under_way = mongo[RESTORES].find_one({})
        if under_way is not None:
            remedy = "restore the same backup again, which goes on where it was"
            detail = f"the backup of {under_way['created_at']} is restored in part only"
            yield Finding("restore", RESTORES, str(under_way["_id"]), detail, remedy)
        yield from _duplicates(database, repair=repair)
        for problem in index_problems(database):
            finding = Finding("index", problem.index.collection, str(problem.index), problem.detail, problem.remedy)
            yield _repaired(finding, lambda: _make_indexes(database), repair=repair)
        campaigns = {d["name"] for d in mongo["campaigns"].find({}, ["name"])}
        for name in KEYS:
            silent: Counter[str] = Counter()
            for document in mongo[name].find({}, batch_size=BATCH):
                yield from _document(database, name, document, campaigns, repair=repair)
                said = document.get("provenance") or {}
                silent.update(field for field in PROVENANCE.get(name, ()) if not said.get(field))
            if silent:
                detail = "documents that do not say their " + ", ".join(f"{f}: {n}" for f, n in silent.items())
                remedy = "none: they were written before that was noted, or by another program"
                yield Finding("provenance", name, "", detail, remedy, wrong=False)
        yield from _blobs(database)


def _repaired(finding: Finding, make: Callable[[], object], *, repair: bool) -> Finding:
    if repair:
        make()
    return replace(finding, repairable=True, repaired=repair)


def _make_indexes(database: Database) -> None:
    from scdm_flows.stores.indexes import ensure

    left = ensure(database)
    if left:
        raise StoreError("; ".join(f"{t.detail} ({t.remedy})" for t in left))


def _duplicates(database: Database, *, repair: bool) -> Iterator[Finding]:
    """Documents of one key; only where no unique index prevents them."""
    lacking = {t.index.collection: t.index.fields for t in index_problems(database) if t.index.unique}
    for name, fields in lacking.items():
        collection = database.mongo[name]
        for values, ids in duplicates(collection, fields):
            what = ", ".join(f"{field}={value!r}" for field, value in zip(fields, values, strict=True))
            same = _equal(collection, ids)
            finding = Finding(
                "key",
                name,
                what,
                f"{len(ids)} documents{' with the same content' if same else ' that differ'}: _id "
                + ", ".join(map(str, ids[:5])),
                "`scdm db check --repair` keeps one" if same else "look at them and remove all but one (deleteOne)",
                repairable=same,
            )
            if same:
                finding = _repaired(finding, partial(collection.delete_many, {"_id": {"$in": ids[1:]}}), repair=repair)
            yield finding


def _equal(collection: Any, ids: list[Any]) -> bool:
    seen = [collection.find_one({"_id": i}) for i in ids]
    kept = [{k: v for k, v in (d or {}).items() if k not in ("_id", "last_updated")} for d in seen]
    return all(d == kept[0] for d in kept)


def _document(
    database: Database, name: str, document: dict[str, Any], campaigns: set[str], *, repair: bool
) -> Iterator[Finding]:
    model, key = MODELS[name], str(document.get(KEYS[name], document["_id"]))
    try:
        model.model_validate(migrate(model, strip(document), f"{name} {key!r}"))
    except NewerDocumentError as error:
        detail, _, remedy = str(error).rpartition(": ")
        yield Finding("newer", name, key, detail, remedy)
        return
    except (ValidationError, StoreError, KeyError, TypeError, ValueError) as error:
        built = name in ("candidates", "phonons", "bands", "hulls", "rankings")
        remedy = _BUILD if built else "mend or remove it in the MongoDB shell"
        yield Finding("schema", name, key, why_invalid(error), remedy)
        return
    if stored_version(document) < version_of(model):
        detail = f"has schema version {stored_version(document)} of {version_of(model)}; it is read all the same"
        yield Finding("older", name, key, detail, "run `scdm db migrate`", wrong=False)
    if name == "candidates" and document["campaign"] not in campaigns:
        detail = f"its campaign {document['campaign']!r} does not exist"
        yield Finding(
            "campaign", name, key, detail, "restore the campaign's document from a backup, or submit it again"
        )
    changed = document.get("last_updated")
    if isinstance(changed, datetime) and _utc(changed) > utc_now() + CLOCKS_DIFFER:
        finding = Finding(
            "clock",
            name,
            key,
            f"was changed at {_utc(changed):%Y-%m-%d %H:%M:%S} UTC, which is still to come: a clock is or was wrong",
            "set the clocks of all machines (NTP), then `scdm db check --repair` sets the time to now",
        )
        now = {"$set": {"last_updated": utc_now()}}
        yield _repaired(finding, lambda: database.mongo[name].update_one({"_id": document["_id"]}, now), repair=repair)


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _blobs(database: Database) -> Iterator[Finding]:
    """Large objects without a job output, and the other way round."""
    named: dict[str, str] = {}
    for collection in (OUTPUTS, SET_ASIDE):
        for output in database.mongo[collection].find({}, batch_size=BATCH):
            if REMOVED in output:
                continue
            for _, blob in pointers(output.get("output")):
                named[blob] = f"{output.get('uuid')} index {output.get('index')}"
    whole = set()
    fresh = utc_now() - FRESH
    for file in database.mongo[FILES].find({}):
        blob = str((file.get("metadata") or {}).get("blob_uuid"))
        if blob in named:
            if _chunks_lacking(database, file):
                continue
            whole.add(blob)
        elif _utc(file["uploadDate"]) < fresh:
            remedy = "`scdm db prune` takes it away (its job was removed, or lost its document)"
            detail = f"{file['length']} bytes that no job output names"
            yield Finding("blob-dangling", FILES, str(file["_id"]), detail, remedy)
    for blob, owner in named.items():
        if blob not in whole:
            yield Finding(
                "blob-missing",
                OUTPUTS,
                owner,
                f"its large object {blob} is missing or has parts missing",
                "restore it from a backup; without one, remove that document of outputs and run the campaign again",
            )


def _chunks_lacking(database: Database, file: dict[str, Any]) -> bool:
    wanted = -(-int(file["length"]) // int(file["chunkSize"]))
    found = sum(1 for _ in database.mongo[CHUNKS].find({"files_id": file["_id"]}, ["n"]))
    return found < wanted
