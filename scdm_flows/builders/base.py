"""What our builders share: the stores of one database, and writing only what changed."""

from __future__ import annotations

from typing import Any

from maggma.core import Builder, Store

from scdm_flows.documents.base import utc_now
from scdm_flows.stores.database import Database, strip

_VOLATILE = ("_id", "last_updated", "provenance")


class ScdmBuilder(Builder):
    """A builder over a ``Database``; ``written`` counts the documents it changed.

    ``finalize`` leaves the stores open: they belong to the caller's database.
    """

    def __init__(self, database: Database, sources: list[Store], targets: list[Store], **kwargs: Any) -> None:
        super().__init__(sources=sources, targets=targets, **kwargs)
        self.database, self.written = database, 0

    def connect(self) -> None:
        """The database is connected already."""

    def finalize(self) -> None:
        """Keep the stores open."""

    def write_changed(self, store: Store, documents: list[dict[str, Any]]) -> None:
        """Upsert the documents whose content differs from what is stored; times and provenance do not count."""
        key = str(store.key)
        keys = [d[key] for d in documents]
        known = {d[key]: strip(d) for d in store.query({key: {"$in": keys}})}
        changed = []
        for document in documents:
            before = known.get(document[key])
            if before is None or _content(before) != _content(document):
                changed.append({**document, "last_updated": utc_now()})
        self.database.upsert(store, changed)
        self.written += len(changed)


def _content(document: dict[str, Any]) -> dict[str, Any]:
    return {k: _comparable(v) for k, v in document.items() if k not in _VOLATILE}


def _comparable(value: Any) -> Any:
    """Enumerations as their values, tuples as lists, times without zone: as a database gives them back."""
    if isinstance(value, dict):
        return {str(k): _comparable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(v) for v in value]
    if hasattr(value, "tzinfo"):
        return value.replace(tzinfo=None)
    return str(value) if isinstance(value, str) else value
