"""Whether the worker of a launch lives: what it says of itself, whom to ask, and when nobody could say anything.

Every worker has a document in the collection ``scdm_workers``: its process, the launch that it runs, and when it was
last seen, by the clock of the database. A process of the same machine is asked whether it runs; of others only the
heartbeat tells. A heartbeat cannot come while the database is away, so one more document there (``:database``) keeps
when the database was last reached by anybody, and the times in which nobody reached it.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from fireworks import LaunchPad
from pymongo import ReturnDocument

from scdm_flows.execution.fireworks.retries import last_sign, utc

WORKERS = "scdm_workers"
DATABASE = {"_id": ":database"}
HEARTBEAT_SECONDS = 60.0
LOST_AFTER_SECONDS = 300.0  # a job without a heartbeat for so long has lost its worker
REMEMBERED = 20  # times in which nobody reached the database


def two_heartbeats() -> timedelta:
    """For how long a living worker may be silent: one heartbeat can be late or lost."""
    return 2 * timedelta(seconds=HEARTBEAT_SECONDS)


@cache
def place() -> str:
    """Where processes have numbers in common with this one: host, its boot, and the container (Linux)."""
    parts = [socket.gethostname()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(file)
        if path.is_symlink():
            parts.append(str(path.readlink()))
        elif path.exists():
            parts.append(path.read_text().strip())
    return " ".join(parts)


def _start_of(pid: int) -> str | None:
    """When a process began, which tells it from a later one of its number; None if it does not run."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        status = Path(f"/proc/{pid}/stat")  # in ticks since the boot: the clock may be set meanwhile
        return status.read_text().rpartition(")")[2].split()[19] if status.exists() else f"{process.create_time():.0f}"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


@dataclass(frozen=True)
class Process:
    """A process: where it runs (``place``), its number, and when it began."""

    place: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        return cls(place(), os.getpid(), str(_start_of(os.getpid())))

    @property
    def key(self) -> str:
        """The ``_id`` of its document."""
        return f"{self.place}:{self.pid}:{self.started}"

    def runs(self) -> bool | None:
        """Whether it still runs; None where that cannot be asked from here."""
        return _start_of(self.pid) == self.started if self.place == place() else None


def process_in(document: dict[str, Any]) -> Process:
    """The process that a document names."""
    return Process(document["place"], document["pid"], document["started"])


def announce(launchpad: LaunchPad, launch_id: int, fw_id: int, keeps: Path) -> None:
    """Say that this process runs a launch; keeps: folder of outputs that it could not store."""
    me = Process.this()
    said = {**vars(me), "host": socket.gethostname(), "launch": launch_id, "fw_id": fw_id, "keeps": str(keeps)}
    launchpad.db[WORKERS].update_one({"_id": me.key}, {"$set": said, "$currentDate": {"seen": True}}, upsert=True)


def beat(launchpad: LaunchPad, launch_id: int, away: float = 0.0) -> None:
    """A heartbeat of this process, which runs a launch; away: seconds for which the last ones did not come through."""
    query = {"_id": Process.this().key, "launch": launch_id}
    launchpad.db[WORKERS].update_one(query, {"$currentDate": {"seen": True}})
    note(launchpad, away)


def note(launchpad: LaunchPad, away: float = 0.0) -> str:
    """Note that the database is reached, and since when it was not; returns the id of the database.

    away: seconds for which this process tried in vain, if it did.
    """
    workers = launchpad.db[WORKERS]
    before = workers.find_one(DATABASE) or {}
    after = workers.find_one_and_update(
        DATABASE,
        {"$currentDate": {"reached": True}, "$setOnInsert": {"database": uuid.uuid4().hex}},
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    now = utc(after["reached"])
    silences = _silences(before, now)
    tried = now - timedelta(seconds=away)
    if away and silences and silences[-1].until > tried:
        silences[-1] = Silence(silences[-1].since, silences[-1].until, tried_in_vain=True)
    if silences != _silences(before):
        workers.update_one(DATABASE, {"$set": {"silences": [vars(s) for s in silences[-REMEMBERED:]]}})
    return str(after["database"])


@dataclass(frozen=True)
class Silence:
    """A time in which nobody reached the database; tried_in_vain: somebody tried, so the database was away."""

    since: datetime
    until: datetime
    tried_in_vain: bool = False

    def __str__(self) -> str:
        what = "the database was away" if self.tried_in_vain else "nobody reached the database"
        return f"{what} from {clock(self.since)} to {clock(self.until)}"


def _silences(document: dict[str, Any], now: datetime | None = None) -> list[Silence]:
    """Those that a document names, with the one that ends now."""
    found = [Silence(utc(s["since"]), utc(s["until"]), s["tried_in_vain"]) for s in document.get("silences", ())]
    reached = document.get("reached")
    if now is not None and reached is not None and (now - utc(reached)).total_seconds() > 1.5 * HEARTBEAT_SECONDS:
        found.append(Silence(utc(reached), now))
    return found


def clock(time: datetime) -> str:
    """A time for people."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class Standing:
    """What is known of a launch that is called running: its last sign of life, and what follows from that.

    lost: its worker is lost; due: when it will count as lost if no sign comes, None for one that is known to live;
    reason: in words.
    """

    sign: datetime
    lost: bool
    due: datetime | None
    reason: str


class Watch:
    """What the workers and the database said, read once, to judge launches by. reached: note that it is reached."""

    def __init__(self, launchpad: LaunchPad, *, reached: bool = True) -> None:
        before = launchpad.db[WORKERS].find_one(DATABASE) or {}
        self.now = utc(launchpad.connection.admin.command("hello")["localTime"])
        self.silences = _silences(before, self.now)
        documents = list(launchpad.db[WORKERS].find({"launch": {"$exists": True}}))
        self.workers = {int(d["launch"]): d for d in documents}
        self.folders = {Path(d["keeps"]) for d in documents}
        if reached:
            note(launchpad)

    def standing(self, launch: dict[str, Any], lost_after: timedelta) -> Standing:
        """Judge a launch that is called running; lost_after: for how long its heartbeat may be missing.

        A worker that cannot be asked may miss two heartbeats in any case, and none counts as missed before the
        database is back.
        """
        worker = self.workers.get(int(launch["launch_id"]))
        sign = last_sign(launch) if worker is None else utc(worker["seen"])
        if worker is not None:
            process = process_in(worker)
            runs = process.runs()
            if runs:
                return Standing(sign, lost=False, due=None, reason=f"process {process.pid} runs")
            if runs is False:
                ended = f"lost: its process {process.pid} on {worker['host']} has ended"
                reason = "; ".join([ended, f"last sign of life {clock(sign)}", *self._after(sign)])
                return Standing(sign, lost=True, due=self.now, reason=reason)
            lost_after = max(lost_after, two_heartbeats())
        due = max([sign, *(s.until for s in self._hiding(sign))]) + lost_after
        reason = "; ".join([f"lost: no heartbeat since {clock(sign)}", *self._after(sign)])
        return Standing(sign, lost=due <= self.now, due=due, reason=reason)

    def _hiding(self, sign: datetime) -> list[Silence]:
        """Silences in which a worker that was seen then may have lived on."""
        return [s for s in self.silences if s.since - two_heartbeats() <= sign <= s.until]

    def _after(self, sign: datetime) -> list[str]:
        return [str(s) for s in self.silences if s.until > sign]

    def gone(self) -> set[int]:
        """Launches whose worker is known to run no more."""
        return {launch for launch, worker in self.workers.items() if process_in(worker).runs() is False}

    def forget(self, launchpad: LaunchPad, running: Collection[int]) -> None:
        """Remove the documents of workers of this machine that have ended, and keep nothing."""
        for launch in self.gone() - set(running):
            worker = self.workers[launch]
            keeps = Path(worker["keeps"])
            if not (keeps.is_dir() and any(path.is_file() for path in keeps.iterdir())):
                launchpad.db[WORKERS].delete_one({"_id": worker["_id"], "launch": launch})
