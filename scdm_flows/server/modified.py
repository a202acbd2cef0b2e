"""When candidates were last changed, as a column: read once, then only what changed since."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pymongo
from numpy.typing import NDArray

from scdm_flows.errors import StoreError
from scdm_flows.stores.catalogue import MARGIN
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.table import KEY, Table

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database
WAIT_SECONDS = 30.0
_READ_SECONDS = 600.0


class BusyError(StoreError):
    """An answer that takes longer than a request may; its words are for whoever asked."""


class Modified:
    """Times of the last change of a connected database's candidates; may be shared by threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._times: dict[bytes, float] = {}
        self._seen: dict[str, datetime] = {}  # campaign -> the latest change that is known
        self._column: tuple[Table, NDArray[np.float64]] | None = None
        self._lock = threading.Lock()
        self._reading: Future[None] | None = None

    def __call__(self, table: Table) -> NDArray[np.float64]:
        """(n,) seconds since 1970 of the table's rows, nan where a candidate is gone.

        The first reading of 100,000 may take longer than a request may; it goes on, and a later request has its result.

        Raises
        ------
        StoreError
            If the database does not answer, or not in time.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            column = self._column
            if column is not None and column[0] is table:
                return column[1]
            with self._lock:
                if self._reading is None or self._reading.done():
                    self._reading = Future()
                    # a thread that does not keep the process from ending
                    threading.Thread(target=self._update, args=(table, self._reading), daemon=True).start()
                reading = self._reading
            try:
                reading.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise BusyError("the times of last change are being read, which takes a while; try again") from None

    def _update(self, table: Table, done: Future[None]) -> None:
        try:
            with store_errors(self._database.uri), pymongo.timeout(_READ_SECONDS):
                for campaign in np.unique(table.columns["campaign"]).tolist():
                    self._read(campaign.decode())
            times = np.array([self._times.get(name, np.nan) for name in table.ids.tolist()], dtype=float)
            self._column = table, times
            done.set_result(None)
        except Exception as error:  # for those who wait
            done.set_exception(error)

    def _read(self, campaign: str) -> None:
        seen = self._seen.get(campaign)
        since = {} if seen is None else {"last_updated": {"$gte": seen - MARGIN}}
        found = self._database.mongo["candidates"].find(
            {"campaign": campaign, **since}, {KEY: 1, "last_updated": 1, "_id": 0}
        )
        latest = seen
        for document in found:
            moment = document.get("last_updated")
            if isinstance(moment, datetime):
                moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
                self._times[str(document[KEY]).encode()] = moment.timestamp()
                latest = moment if latest is None or moment > latest else latest
        if latest is not None:
            self._seen[campaign] = latest
