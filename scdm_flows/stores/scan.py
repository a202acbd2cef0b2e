"""Every document of a collection, one by one, in bounded memory here and on the server.

MongoDB hands a collection out as it reads it. The embedded server reads all that a request asks for before it answers,
so there a collection is asked for in ranges of its key: ids and uuids end or begin in digits as good as random.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from scdm_flows.stores.names import CHUNKS, FILES, KEYS, OUTPUTS

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

BATCH = 200
_DIGITS = [f"{step:02x}" for step in range(256)] + ["g"]
_ANY_UPPERCASE = [chr(letter) for letter in range(ord("A"), ord("Z") + 2)]


def scan(
    database: Database, name: str, *, fields: list[str] | None = None, raw: bool = False, campaign: str | None = None
) -> Iterator[Any]:
    """All documents of the collection, once each, in no particular order.

    fields: only these; raw: as BSON (``bson.raw_bson.RawBSONDocument``) where the database is on a server; campaign:
    only the candidates of this one. What is stored while this runs may or may not be among them.
    """
    collection = database.mongo[name]
    if raw and database.uri is not None:
        from bson.codec_options import CodecOptions
        from bson.raw_bson import RawBSONDocument

        collection = collection.with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
    projection = None if fields is None else [*fields, "_id"]
    if not database.sorts_before_it_limits:
        yield from collection.find({} if campaign is None else {"campaign": campaign}, projection, batch_size=BATCH)
    elif campaign is not None:
        yield from _of_campaign(collection, campaign, projection)
    elif name == CHUNKS:
        for file in database.mongo[FILES].find({}, ["_id"]):
            yield from collection.find({"files_id": file["_id"]}, projection)
    else:
        yield from _in_ranges(database, name, collection, projection)


def _of_campaign(collection: Any, campaign: str, projection: list[str] | None) -> Iterator[Any]:
    first, last = f"{campaign}-{_DIGITS[0]}", f"{campaign}-{_DIGITS[-1]}"
    seen = 0
    for low, high in pairwise(_DIGITS):
        # the range alone: with the campaign beside it the server would take that one's index
        inside = {"$gte": f"{campaign}-{low}", "$lt": f"{campaign}-{high}"}
        for document in collection.find({"candidate_id": inside}, projection):
            seen += 1
            yield document
    if seen < collection.count_documents({"campaign": campaign}):  # ids of another kind
        for document in collection.find({"campaign": campaign}, projection):
            if not first <= document["candidate_id"] < last:
                yield document


def _in_ranges(database: Database, name: str, collection: Any, projection: list[str] | None) -> Iterator[Any]:
    key, cuts = _cuts(database, name)
    if not cuts:
        yield from collection.find({}, projection)
        return
    seen = 0
    for low, high in zip([None, *cuts], [*cuts, None], strict=True):
        inside = {"$gte": low or ""} | ({} if high is None else {"$lt": high})
        for document in collection.find({key: inside}, projection):
            seen += 1
            yield document
    if seen < database.mongo[name].estimated_document_count():  # some have no key, or a key that is no text
        yield from collection.find({key: {"$not": {"$type": "string"}}}, projection)


def _cuts(database: Database, name: str) -> tuple[str, list[str]]:
    """The key of a collection, and values between which few documents lie; none where the key says nothing."""
    key = "uuid" if name == OUTPUTS else KEYS.get(name, "")
    if key == "uuid":
        return key, _DIGITS
    if key == "chemsys":
        return key, _ANY_UPPERCASE
    if key in ("candidate_id", "failure_id"):
        campaigns = [d["name"] for d in database.mongo["campaigns"].find({}, ["name"])]
        return key, sorted({f"{campaign}-{digits}" for campaign in campaigns for digits in _DIGITS})
    return key, []
