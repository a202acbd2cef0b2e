"""A database in this process's memory, of mongomock-ng, which behaves as one on a server does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any
from unittest.mock import patch

import mongomock_ng
from jobflow import JobStore
from maggma.stores import MemoryStore

from scdm_flows.documents import utc_now
from scdm_flows.stores.database import Database
from scdm_flows.stores.names import BLOBS, KEYS, OUTPUTS


class _MemoryDatabase(Database):
    """What a server answers that mongomock-ng 7 does not know."""

    def now(self) -> datetime:
        return utc_now()

    def stamped(self, change: dict[str, Any]) -> dict[str, Any]:
        # its $currentDate is stored with a time zone, and then it cannot compare it
        return {**change, "$set": {**change["$set"], "last_updated": utc_now()}}


def memory_database() -> Database:
    """A connected database of its own, empty."""
    memory: Any = mongomock_ng.MongoClient(tz_aware=True)["scdm"]

    def store(collection: str, key: str = "uuid") -> Any:
        made: Any = MemoryStore(collection, key=key)
        made._coll = memory[collection]  # one database for all, as on a server
        return made

    job_store = JobStore(store(OUTPUTS), additional_stores={"data": store(BLOBS)})
    return _MemoryDatabase(job_store=job_store, **{name: store(name, key) for name, key in KEYS.items()}).connect()


@contextmanager
def killed_at(step: int, *changes: str) -> Iterator[None]:
    """A block in which the change of any collection after so many is a ``KeyboardInterrupt``. changes: the methods."""
    left = iter(range(step))

    def killed(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **more: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*arguments, **more)

        return change

    with ExitStack() as patched:
        for name in changes:
            real = getattr(mongomock_ng.Collection, name)
            patched.enter_context(patch.object(mongomock_ng.Collection, name, killed(real)))
        yield
