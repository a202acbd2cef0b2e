"""Large objects of job outputs: their kinds, the room that they take, and how long they stay.

One that a job's output names stays as long as the output: a job whose large objects are gone counts as not done. One of
an output that was set aside stays until somebody lets go of those older than so many days; the output itself stays. One
that no output names, left by a kill between two writes or by a removal, stays an hour, as its job may be storing still.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from scdm_flows.documents.base import utc_now
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import BATCH, CHUNKS, FILES, OUTPUTS, SET_ASIDE

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

FRESH = timedelta(hours=1)  # a job in this hour may still be storing its large objects
REMOVED = "large_objects_removed_at"  # field of an output that was set aside
OF_OUTPUT, ASIDE, NOBODY = "of an output", "of one set aside", "of none"
FIELDS = {"uuid": 1, "index": 1, "output": 1, "metadata.stage": 1, "metadata.part_of": 1, "set_aside_at": 1, REMOVED: 1}


@dataclass(frozen=True)
class Owner:
    """The output that names a large object: its collection and _id, what the object is of it, when it was set aside."""

    collection: str
    id: Any
    kind: str
    set_aside_at: datetime | None = None


@dataclass(frozen=True)
class Room:
    """Large objects of a kind, such as "bands dos", and what they belong to; bytes as they are stored."""

    kind: str
    belongs: str
    objects: int
    bytes: int


def pointers(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key where it stands, blob_uuid) of every reference to a large object in an output."""
    if isinstance(value, Mapping):
        if isinstance(value.get("blob_uuid"), str):
            yield key, value["blob_uuid"]
        for name, part in value.items():
            yield from pointers(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from pointers(part, key)


def owners(database: Database) -> dict[str, Owner]:
    """blob_uuid -> the output that names it; without those whose large objects were let go."""
    found: dict[str, Owner] = {}
    for collection in (SET_ASIDE, OUTPUTS):  # what both name, after a kill, is in use
        for output in database.mongo[collection].find({}, FIELDS, batch_size=BATCH):
            about = output.get("metadata") or {}
            stage = str(about.get("stage") or about.get("part_of") or "other")
            if REMOVED in output:
                continue
            for key, blob in pointers(output.get("output")):
                found[blob] = Owner(collection, output["_id"], f"{stage} {key}".strip(), output.get("set_aside_at"))
    return found


def rooms(database: Database) -> list[Room]:
    """The room that large objects take, by kind and by what they belong to; the largest first."""
    with store_errors(database.uri):
        named = owners(database)
        objects: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for file in database.mongo[FILES].find({}, {"length": 1, "metadata.blob_uuid": 1}):
            owner = named.get(_blob(file))
            belongs = NOBODY if owner is None else ASIDE if owner.collection == SET_ASIDE else OF_OUTPUT
            objects[("" if owner is None else owner.kind, belongs)].append(int(file["length"]))
    found = [Room(kind, belongs, len(sizes), sum(sizes)) for (kind, belongs), sizes in objects.items()]
    return sorted(found, key=lambda room: -room.bytes)


def prune(database: Database, set_aside_days: float | None = None, *, dry_run: bool = False) -> list[Room]:
    """Let go of the large objects that the rule lets go; returns the room that they took, by kind.

    set_aside_days: also of those of outputs that were set aside longer ago; the outputs stay. dry_run: nothing is
    removed.
    """
    with store_errors(database.uri):
        mongo, now = database.mongo, utc_now()
        named, gone = owners(database), defaultdict[tuple[str, str], list[int]](list)
        for file in list(mongo[FILES].find({}, {"length": 1, "metadata.blob_uuid": 1, "uploadDate": 1})):
            owner = named.get(_blob(file))
            if owner is None:
                if _utc(file["uploadDate"]) > now - FRESH:
                    continue
            elif (
                owner.set_aside_at is None
                or owner.collection != SET_ASIDE
                or set_aside_days is None
                or _utc(owner.set_aside_at) > now - timedelta(days=set_aside_days)
            ):
                continue
            gone[("" if owner is None else owner.kind, NOBODY if owner is None else ASIDE)].append(int(file["length"]))
            if dry_run:
                continue
            if owner is not None:  # first, so that a kill leaves objects of nobody and no output that lacks its own
                mongo[SET_ASIDE].update_one({"_id": owner.id}, {"$set": {REMOVED: now}})
            mongo[CHUNKS].delete_many({"files_id": file["_id"]})
            mongo[FILES].delete_one({"_id": file["_id"]})
    return [Room(kind, belongs, len(sizes), sum(sizes)) for (kind, belongs), sizes in gone.items()]


def _blob(file: Mapping[str, Any]) -> str:
    return str((file.get("metadata") or {}).get("blob_uuid"))


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
