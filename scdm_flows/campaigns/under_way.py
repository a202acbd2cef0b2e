"""Says in the database that a process runs a campaign or a loop, so that nobody takes it away meanwhile.

The mark is a field of its document in ``scdm_controls`` and is renewed while the process lives: a killed run
is no hindrance.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from scdm_flows.documents import utc_now
from scdm_flows.stores.database import Database
from scdm_flows.stores.names import CONTROLS

RENEWED_SECONDS = 30.0
LOST_AFTER = timedelta(minutes=5)


@contextmanager
def running(database: Database, campaign: str) -> Iterator[None]:
    """A block in which this process runs the campaign, or the loop whose ``loop_key`` it is."""
    mine = {"host": socket.gethostname(), "pid": os.getpid()}
    key = {"_id": campaign}
    ended = threading.Event()

    def renew() -> None:
        with suppress(Exception):  # the run itself says what is wrong with the database
            database.mongo[CONTROLS].update_one(key, {"$set": {"run": {**mine, "seen": utc_now()}}}, upsert=True)

    def keep() -> None:
        while not ended.wait(RENEWED_SECONDS):
            renew()

    renew()
    thread = threading.Thread(target=keep, name="campaign under way", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(Exception):
            own = {**key, "run.host": mine["host"], "run.pid": mine["pid"]}
            database.mongo[CONTROLS].update_one(own, {"$unset": {"run": ""}})


def who_runs(mongo: Any, campaign: str) -> str | None:
    """The process that runs a campaign, in words; None where none does but this one. mongo: pymongo's database."""
    run = (mongo[CONTROLS].find_one({"_id": campaign}) or {}).get("run")
    if run is None:
        return None
    if run["host"] == socket.gethostname() and (run["pid"] == os.getpid() or not _lives(int(run["pid"]))):
        return None
    seen: datetime = run["seen"]
    if utc_now() - seen > LOST_AFTER:
        return None
    return f"process {run['pid']} on {run['host']}, last seen {seen:%H:%M:%S} UTC"


def _lives(pid: int) -> bool:
    if Path("/proc/self").exists():
        return Path(f"/proc/{pid}").exists()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
