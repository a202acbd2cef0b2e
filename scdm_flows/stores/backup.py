"""A whole database into files and back: between the embedded server and MongoDB, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdm_flows.documents.base import utc_now
from scdm_flows.documents.provenance import versions
from scdm_flows.errors import StoreError
from scdm_flows.stores.archive import Archive, Manifest, Writer, new_archive
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import BATCH, CHUNKS, CONTROLS, FILES

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

Report = Callable[[str, int, int], None]  # collection, documents done, documents in all

RESTORES = "scdm_restores"  # one document while a restore is under way
# who worked at a database when it was saved: not restored, but for the document among the workers that has its id
_WORKERS, _ID, _SLOTS, _RUN = "scdm_workers", ":database", "scdm_slots", "run"
_MANY, _LARGE = 500, 8 << 20  # documents and bytes of one request
_STEP = 1000  # documents between two reports


def _quiet(stage: str, done: int, total: int) -> None:
    pass


def collections(database: Database) -> list[str]:
    """The collections of a database in the order they are saved: chunks last.

    Job outputs are written before their large objects, so what is saved in this order lacks none of them.
    """
    names = [n for n in database.mongo.list_collection_names() if not n.startswith("system.") and n != RESTORES]
    return sorted(names, key=lambda name: (name.endswith(".chunks"), name.endswith(".files"), name))


def backup(database: Database, path: Path, report: Report = _quiet) -> Manifest:
    """Save every collection of the database: documents, large objects, job queue, indexes.

    It is no snapshot of one moment: what is stored while it runs may or may not be in it, each document whole.

    Parameters
    ----------
    path
        A folder that does not exist yet or is empty, or a file that ends in .tar.
    report
        Called as (collection, documents done, documents in all).

    Raises
    ------
    OutputError
        If it exists or cannot be written.
    StoreError
        If the database fails; then nothing is left behind.
    """
    from bson import json_util

    with new_archive(path) as folder, store_errors(database.uri):
        writer = Writer(folder, database.mongo.name)
        for name in collections(database):
            indexes = [dict(i) for i in _indexes(database.mongo[name])]
            metadata = {"options": {}, "indexes": indexes, "collectionName": name, "type": "collection"}
            text = json_util.dumps(metadata, json_options=json_util.CANONICAL_JSON_OPTIONS)
            writer.collection(name, _saved(database, name, report), text)
        return writer.finish(utc_now().isoformat(), versions())


def _indexes(collection: Any) -> Iterator[dict[str, Any]]:
    for name, about in collection.index_information().items():
        kept = {k: v for k, v in about.items() if k not in ("ns", "v", "key")}
        yield {"v": 2, "key": dict(about["key"]), "name": name, **kept}


def _saved(database: Database, name: str, report: Report) -> Iterator[bytes]:
    import bson

    total = database.mongo[name].estimated_document_count()
    done = 0
    for document in _documents(database, name):
        yield bson.encode(document)
        done += 1
        if done % _STEP == 0:
            report(name, min(done, total), total)
    report(name, done, done)


def _documents(database: Database, name: str) -> Iterator[dict[str, Any]]:
    """Every document of a collection; of large objects those of one file at a time, as each may have many megabytes."""
    if name != CHUNKS:
        yield from database.mongo[name].find({}, batch_size=BATCH)
        return
    for file in database.mongo[FILES].find({}, ["_id"]):
        yield from database.mongo[CHUNKS].find({"files_id": file["_id"]})


def restore(database: Database, path: Path, *, force: bool = False, report: Report = _quiet) -> Manifest:
    """Store everything that a backup holds, but for who worked at the database then.

    Every file is compared with the manifest before anything is written. One that was interrupted goes on where it
    was when it is called again with the same backup.

    Parameters
    ----------
    force
        Whether collections that hold documents may be emptied first; those that the backup does not name stay.

    Raises
    ------
    StoreError
        If the backup is damaged, the database holds documents (without ``force``), or it fails.
    """
    archive = Archive(path)
    try:
        archive.verify()
        manifest = archive.manifest
        with store_errors(database.uri):
            done = _begin(database, manifest, force=force)
            for name, total in manifest.collections.items():
                if name not in done:
                    _restore(database, archive, name, total, report)
                    database.mongo[RESTORES].update_one({"_id": manifest.id}, {"$addToSet": {"done": name}})
            for name in manifest.collections:
                _restore_indexes(database, name, archive.metadata(name))
            _compare(database, manifest)
            database.mongo[RESTORES].drop()
        return manifest
    finally:
        archive.close()


def _begin(database: Database, manifest: Manifest, *, force: bool) -> list[str]:
    """Note that a restore begins; returns the collections that an interrupted one has restored already."""
    mongo = database.mongo
    under_way = mongo[RESTORES].find_one({})
    if under_way is not None and under_way["_id"] == manifest.id:
        return list(under_way["done"])
    filled = [name for name in manifest.collections if mongo[name].find_one({}, ["_id"]) is not None]
    if under_way is not None and not force:
        raise StoreError(
            f"another backup (of {under_way['created_at']}) was being restored here and was interrupted; restore that "
            "one again to finish it, or --force to replace what it left"
        )
    if filled and not force:
        raise StoreError(
            f"the database holds documents already ({', '.join(filled)}); restore into another one "
            "(SCDM_DATABASE or SCDM_DATA_DIR), or --force to replace them"
        )
    mongo[RESTORES].delete_many({})
    mongo[RESTORES].insert_one(
        {"_id": manifest.id, "created_at": manifest.created_at, "done": [], "started": utc_now()}
    )
    for name in filled:
        mongo[name].delete_many({})
    if filled:  # launches of the restored queue may get numbers again that workers here have
        mongo[_SLOTS].delete_many({})
        mongo[_WORKERS].delete_many({"_id": {"$ne": _ID}})
    return []


def _restore(database: Database, archive: Archive, name: str, total: int, report: Report) -> None:
    """One collection. One that holds documents was interrupted: what is there is written again, by ``_id``."""
    from pymongo import ReplaceOne

    collection = database.mongo[name]
    again = collection.find_one({}, ["_id"]) is not None
    batch: list[Any] = []
    size = done = 0

    def flush() -> None:
        if batch and again:
            collection.bulk_write([ReplaceOne({"_id": d["_id"]}, d, upsert=True) for d in batch], ordered=False)
        elif batch:
            collection.insert_many(batch, ordered=False)
        batch.clear()
        report(name, done, total)

    for document in archive.documents(name):
        done += 1
        if name == _SLOTS or (name == _WORKERS and document["_id"] != _ID):
            continue
        plain = dict(document) if database.uri is None or name == CONTROLS else document
        if name == CONTROLS:
            plain.pop(_RUN, None)
        batch.append(plain)
        size += len(document.raw)
        if len(batch) >= _MANY or size >= _LARGE:
            flush()
            size = 0
    flush()


def _restore_indexes(database: Database, name: str, metadata: dict[str, Any]) -> None:
    collection = database.mongo[name]
    present = set(collection.index_information())
    for index in metadata["indexes"]:
        options = {k: v for k, v in index.items() if k not in ("v", "key", "name")}
        if index["name"] not in present and index["name"] != "_id_":
            collection.create_index(list(index["key"].items()), name=index["name"], **options)


def _compare(database: Database, manifest: Manifest) -> None:
    """Whether as many documents are there as the backup holds."""
    for name, total in manifest.collections.items():
        if name in (CHUNKS, _WORKERS, _SLOTS):
            continue  # counting chunks would read them all; of the others less is restored
        found = database.mongo[name].estimated_document_count()
        if found != total:
            raise StoreError(
                f"{name} holds {found} documents after the restore, the backup {total}; somebody else writes to this "
                "database: stop that, and restore again"
            )
