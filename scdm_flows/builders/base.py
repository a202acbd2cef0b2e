"""What our builders share: one database, writing only what changed, and going on after a bad item."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from maggma.core import Builder, Store
from pydantic import ValidationError
from pymongo.errors import PyMongoError

from scdm_flows.documents import CampaignDoc
from scdm_flows.documents.base import utc_now
from scdm_flows.errors import ScdmError
from scdm_flows.stores.database import Database, strip
from scdm_flows.stores.driver_errors import store_errors
from scdm_models.errors import reason_of

logger = logging.getLogger(__name__)

UNREADABLE = (ScdmError, ValidationError, KeyError)  # what a document raises that another program wrote
# a new time or another version of the code alone is no change
_VOLATILE = ("_id", "last_updated", "provenance")


class ScdmBuilder(Builder):
    """A builder over a ``Database``.

    ``written`` counts the documents it changed, ``errors`` says what it could not use (key -> reason). It
    neither opens nor closes the stores, which belong to the caller's database, and leaves the root logger
    alone.
    """

    not_for_workers = frozenset({"database", "sources", "targets"})

    def __init__(self, database: Database, sources: list[Store], targets: list[Store], **kwargs: Any) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        self.database, self.written = database, 0
        self.errors: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For ``mrun``'s worker processes, which only process items: without stores and what was read from them."""
        return {k: v for k, v in self.__dict__.items() if k not in self.not_for_workers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def as_dict(self) -> dict[str, Any]:
        """What names the builder in a file for maggma's ``mrun``; the database is that of the settings."""
        return {"@module": type(self).__module__, "@class": type(self).__name__}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> ScdmBuilder:
        """The builder of such a file, with the options in it, on the database of the settings."""
        from scdm_flows.stores import connect

        return cls(connect(create=False), **{k: v for k, v in d.items() if not k.startswith("@")})

    def connect(self) -> None:
        """Nothing to do: the database is connected."""

    def finalize(self) -> None:
        """Nothing to do: the stores stay open."""

    def run(self, log_level: int | None = None) -> None:
        """Build everything. log_level: as maggma's builders take it, not used."""
        with store_errors(self.database.uri):
            for item in self.get_items():
                done = self.process_item(item)
                if done is not None:
                    self.update_targets([done])

    def skip(self, key: str, error: Exception) -> None:
        """Note an item that cannot be used, and go on."""
        self.errors[key] = " ".join(reason_of(error).split())[:500]
        logger.warning("%s left out %s: %s", type(self).__name__, key, self.errors[key])

    def readable_campaigns(self, names: Iterable[str]) -> Iterator[CampaignDoc]:
        """The stored campaigns of these names; one that cannot be read is noted and left out."""
        for name in names:
            try:
                campaign = self.database.campaign(name)
            except UNREADABLE as error:
                if isinstance(error.__context__, PyMongoError):
                    raise  # the database's fault, not the campaign's
                self.skip(f"campaign {name}", error)
                continue
            if campaign is not None:
                yield campaign

    def write_changed(self, store: Store, documents: list[dict[str, Any]]) -> None:
        """Upsert the documents whose content differs from the stored; times and provenance do not count."""
        key = str(store.key)
        keys = [d[key] for d in documents]
        known = {d[key]: strip(d) for d in store.query({key: {"$in": keys}})}
        changed = []
        for document in documents:
            before = known.get(document[key])
            if before is None or content(before) != content(document):
                changed.append({**document, "last_updated": utc_now()})
        self.database.upsert(store, changed)
        self.written += len(changed)


def content(document: Mapping[str, Any]) -> dict[str, Any]:
    """What counts when two versions of a document are compared."""
    return {k: comparable(v) for k, v in document.items() if k not in _VOLATILE}


def comparable(value: Any) -> Any:
    """Enumerations as values, tuples as lists, times in whole milliseconds: as a database returns them."""
    if isinstance(value, Mapping):
        return {str(k): comparable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(v) for v in value]
    if isinstance(value, datetime):
        return value.replace(tzinfo=None, microsecond=value.microsecond // 1000 * 1000)
    return str(value) if isinstance(value, str) else value


def batches(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """The items in lists of at most ``size``."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
