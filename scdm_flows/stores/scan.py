"""Every document of a collection, one by one, in bounded memory here and on the server.

MongoDB hands a collection out as it reads it. The embedded server reads all that a request asks for before it answers,
so there a collection is asked for in ranges of its key: ids and uuids end or begin in digits as good as random.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scdm_flows.stores.indexes import BLOBS, OUTPUTS
from scdm_flows.stores.windows import Range

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

BATCH = 200
FILES, CHUNKS = f"{BLOBS}.files", f"{BLOBS}.chunks"
_DIGITS = [f"{step:02x}" for step in range(256)] + ["g"]
_ANY_UPPERCASE = [chr(letter) for letter in range(ord("A"), ord("Z") + 2)]


def scan(database: Database, name: str, *, fields: list[str] | None = None, raw: bool = False) -> Iterator[Any]:
    """All documents of the collection, once each, in no particular order.

    fields: only these; raw: as BSON (``bson.raw_bson.RawBSONDocument``) where the database is on a server. What is
    stored while this runs may or may not be among them.
    """
    collection = database.mongo[name]
    if raw and database.uri is not None:
        from bson.codec_options import CodecOptions
        from bson.raw_bson import RawBSONDocument

        collection = collection.with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
    projection = None if fields is None else [*fields, "_id"]
    if not database.sorts_before_it_limits:
        yield from collection.find({}, projection, batch_size=BATCH)
    elif name == CHUNKS:
        for file in database.mongo[FILES].find({}, ["_id"]):
            yield from collection.find({"files_id": file["_id"]}, projection)
    else:
        yield from _in_ranges(database, name, collection, projection)


def _in_ranges(database: Database, name: str, collection: Any, projection: list[str] | None) -> Iterator[Any]:
    key, cuts = _cuts(database, name)
    if not cuts:
        yield from collection.find({}, projection)
        return
    seen = 0
    for low, high in zip([None, *cuts], [*cuts, None], strict=True):
        criteria: dict[str, Any] = {key: Range(low, high, True, False).operators()}
        if low is None:
            criteria[key]["$gte"] = ""
        for document in collection.find(criteria, projection):
            seen += 1
            yield document
    if seen < database.mongo[name].estimated_document_count():  # some have no key, or a key that is no text
        yield from collection.find({key: {"$not": {"$type": "string"}}}, projection)


def _cuts(database: Database, name: str) -> tuple[str, list[str]]:
    """The key of a collection, and values between which few documents lie; none where the key says nothing."""
    from scdm_flows.stores.database import KEYS

    key = "uuid" if name == OUTPUTS else KEYS.get(name, "")
    if key == "uuid":
        return key, _DIGITS
    if key == "chemsys":
        return key, _ANY_UPPERCASE
    if key in ("candidate_id", "failure_id"):
        campaigns = [d["name"] for d in database.mongo["campaigns"].find({}, ["name"])]
        return key, sorted({f"{campaign}-{digits}" for campaign in campaigns for digits in _DIGITS})
    return key, []
