"""Says in the database that a process runs a campaign or a loop: nobody takes it away or runs it as well meanwhile.

The mark is a field of its document in ``scdm_controls`` and is renewed while the process lives: a killed run
is no hindrance. On its own machine it is known to be gone at once, on others after five minutes without a sign of it.
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

from pymongo.errors import DuplicateKeyError, PyMongoError

from scdm_flows.campaigns.controls import loop_key
from scdm_flows.documents import utc_now
from scdm_flows.errors import CampaignError
from scdm_flows.stores.database import Database
from scdm_flows.stores.names import CONTROLS

RENEWED_SECONDS = 30.0
LOST_AFTER = timedelta(minutes=5)


@contextmanager
def running(database: Database, campaign: str) -> Iterator[None]:
    """A block in which this process runs the campaign, or the loop whose ``loop_key`` it is.

    Raises
    ------
    CampaignError
        If another process does.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": utc_now()}
    key = {"_id": campaign}
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(RENEWED_SECONDS):
            with suppress(Exception):  # also where another has taken over, as this one was lost for so long
                _claim(database.mongo, campaign, mine)

    with suppress(PyMongoError):  # the run itself says what is wrong with the database
        other = _claim(database.mongo, campaign, mine)
        if other is not None:
            raise _refused(campaign, other)
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


def _claim(mongo: Any, campaign: str, mine: dict[str, Any]) -> str | None:
    """Mark the campaign as run by this process, or renew that; the process that runs it already, in words."""
    while True:
        there = (mongo[CONTROLS].find_one({"_id": campaign}) or {}).get("run")
        other = _other(there)
        if other is not None:
            return other
        as_read = {f"run.{k}": there[k] for k in ("host", "pid")} if there else {"run": {"$exists": False}}
        with suppress(DuplicateKeyError):
            done = mongo[CONTROLS].update_one(
                {"_id": campaign, **as_read}, {"$set": {"run": {**mine, "seen": utc_now()}}}, upsert=not there
            )
            if done.matched_count or done.upserted_id is not None:
                return None
        # another has marked it in this moment: look again


def _refused(campaign: str, other: str) -> CampaignError:
    loops = loop_key("")
    what = f"loop {campaign.removeprefix(loops)!r}" if campaign.startswith(loops) else f"campaign {campaign!r}"
    return CampaignError(
        f"{what} is run by another process already ({other}); wait for its end, or stop it with Ctrl-C. One that was "
        f"killed on another machine counts as ended {LOST_AFTER.seconds // 60} minutes after it was last seen"
    )


def who_runs(mongo: Any, campaign: str) -> str | None:
    """The process that runs a campaign, in words; None where none does but this one. mongo: pymongo's database."""
    return _other((mongo[CONTROLS].find_one({"_id": campaign}) or {}).get("run"))


def _other(run: dict[str, Any] | None) -> str | None:
    """The process of a mark in words; None where there is none, it is this one, or gone."""
    if run is None:
        return None
    if run["host"] == socket.gethostname() and (run["pid"] == os.getpid() or not _lives(int(run["pid"]))):
        return None
    seen: datetime = run["seen"]
    if utc_now() - seen > LOST_AFTER:
        return None
    # earlier versions do not say since when
    since = f", since {run['since']:%Y-%m-%d %H:%M:%S} UTC" if "since" in run else ""
    return f"process {run['pid']} on {run['host']}{since}, last seen {seen:%H:%M:%S} UTC"


def _lives(pid: int) -> bool:
    """Whether a process of this machine is there; one that was killed and that nobody has waited for is not."""
    if Path("/proc/self").exists():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return state not in ("Z", "X")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
