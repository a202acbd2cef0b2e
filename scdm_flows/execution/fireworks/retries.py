"""Which failed jobs are tried again, when, and which are given up.

What is no fault of the job (a lost worker, the database, memory, files, a killed program) is tried again up to a limit,
each time after a longer wait; an error of the science would only come again. A job whose time was over goes on until
its engine gives it up, and one that an attempt has brought further is forgiven the failures up to that attempt
(``FURTHER``). A job in which several workers were lost is quarantined: it would take one worker after the other with
it. All of this is read from the launches that FireWorks keeps, so nothing has to be counted and any number of processes
come to the same verdict.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks import FWAction
from pymongo import errors as mongo_errors

from scdm_flows.errors import OutputError, ProgramKilled, StoreError, Unfinished

if TYPE_CHECKING:
    from scdm_flows.config.settings import ScdmSettings

LOST, QUARANTINED = "WorkerLost", "Quarantined"
LONGEST_WAIT = timedelta(hours=6)
PARDON = "pardoned_launch"  # spec key: failures up to this launch are forgiven
FURTHER = "further_launch"  # spec key: the last launch that brought the job further; failures up to it count no more
RETRY_ALL = "`scdm campaign resume --retry-failed` tries it all the same"
FIELDS = {  # of launches, what ``failures_of`` needs
    "fw_id": 1,
    "launch_id": 1,
    "launch_dir": 1,
    "state_history.state": 1,
    "state_history.created_on": 1,
    "state_history.updated_on": 1,
    "action.stored_data._exception": 1,
}


class Trouble(StrEnum):
    """What is no fault of the job that failed."""

    LOST = "the worker was lost"
    DATABASE = "the database was in trouble"
    MEMORY = "there was not enough memory"
    SYSTEM = "a file or the system was in trouble"
    PROGRAM = "the program was killed"
    TIME = "its time was over"


def trouble_of(error: BaseException) -> Trouble | None:
    """The trouble that an error comes from; None where it is the job's own."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, mongo_errors.PyMongoError | StoreError):
            return Trouble.DATABASE
        if isinstance(found, MemoryError) or type(found).__name__ == "OutOfMemoryError":  # torch has its own
            return Trouble.MEMORY
        if isinstance(found, OSError | OutputError):
            return Trouble.SYSTEM
        if isinstance(found, ProgramKilled):
            return Trouble.PROGRAM
        if isinstance(found, Unfinished):
            return Trouble.TIME
        found = found.__cause__
    return None


class StageError(Exception):
    """A failed stage, as FireWorks stores it: ``to_dict`` goes into the launch's ``_details``."""

    def __init__(self, error: Exception) -> None:
        self.error_type, self.message = type(error).__name__, str(error)[:2000] or type(error).__name__
        self.trouble = trouble_of(error)
        super().__init__(f"{self.error_type}: {self.message}")

    def to_dict(self) -> dict[str, str | None]:
        """Kind and message of the original error, and the trouble behind it if it is not the job's own."""
        trouble = None if self.trouble is None else self.trouble.value
        return {"error_type": self.error_type, "message": self.message, "trouble": trouble}


def _trouble_named(name: str) -> Trouble | None:
    """The same from the name of an error's class, which is all that a worker leaves when FireWorks itself fails."""
    kind = getattr(mongo_errors, name, None) or getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, BaseException):
        return trouble_of(kind.__new__(kind))
    return Trouble.MEMORY if name == "OutOfMemoryError" else None


@dataclass(frozen=True)
class Failure:
    """How a launch ended: class of the error, what it said, the trouble behind it, when, and the launch."""

    error_type: str
    message: str
    trouble: Trouble | None
    at: datetime
    launch_id: int


def failure_of(launch: dict[str, Any]) -> Failure:
    """What a fizzled launch says of its end."""
    exception = ((launch.get("action") or {}).get("stored_data") or {}).get("_exception") or {}
    details, at, number = exception.get("_details"), last_sign(launch), int(launch["launch_id"])
    if isinstance(details, dict) and details.get("trouble") == Trouble.LOST:  # when it was lost, not when that was seen
        running = [entry for entry in launch["state_history"] if entry["state"] == "RUNNING"]
        at = last_sign({"state_history": running})
    if isinstance(details, dict) and {"error_type", "message"} <= details.keys():
        named = details.get("trouble")
        trouble = Trouble(named) if named in set(Trouble) else None
        return Failure(str(details["error_type"]), str(details["message"]), trouble, at, number)
    trace = str(exception.get("_stacktrace", "")).strip()
    if trace:
        kind, _, message = trace.splitlines()[-1].partition(": ")
        kind = kind.rpartition(".")[2][:100]
        return Failure(kind, (message or kind)[:2000], _trouble_named(kind), at, number)
    return Failure(
        LOST,
        "the worker ended without a word (killed, out of memory or lost); `scdm campaign resume` runs it again",
        Trouble.LOST,
        at,
        number,
    )


def lost_action(reason: str) -> dict[str, Any]:
    """The action of a launch whose worker is found to be lost, as FireWorks stores it; reason: how that is known."""
    details = {"error_type": LOST, "message": reason, "trouble": Trouble.LOST.value}
    exception = {"_stacktrace": "", "_details": details}
    action: dict[str, Any] = FWAction(stored_data={"_message": LOST, "_exception": exception}, exit=True).to_dict()
    return action


def never_started(spec: dict[str, Any]) -> Failure:
    """The failure of a firework that fizzled without a launch: FireWorks could not read it."""
    trace = str((spec.get("_exception_details") or {}).get("_stacktrace", "")).strip() or "FireWorks left no reason"
    return Failure("NotReadable", trace.splitlines()[-1][:2000], None, datetime.min.replace(tzinfo=UTC), 0)


def forgiven(spec: dict[str, Any]) -> int | None:
    """The launch up to which a firework's failures count no more; None where all count."""
    return max((int(spec[key]) for key in (PARDON, FURTHER) if spec.get(key) is not None), default=None)


def failures_of(launches: Iterable[dict[str, Any]], pardoned: int | None = None) -> list[Failure]:
    """The failures of a firework, oldest first, without those that are forgiven."""
    ordered = sorted(launches, key=lambda d: int(d["launch_id"]))
    return [failure_of(d) for d in ordered if pardoned is None or d["launch_id"] > pardoned]


def last_sign(launch: dict[str, Any]) -> datetime:
    """When a launch was last heard of, in UTC: began, pinged or ended."""
    times = [entry.get(key) for entry in launch.get("state_history", ()) for key in ("created_on", "updated_on")]
    return max((utc(t) for t in times if t is not None), default=datetime.min.replace(tzinfo=UTC))


def running_seconds(launch: dict[str, Any]) -> float:
    """How long (s) a launch was seen to run: to its last heartbeat, or the last change of a file where it ran."""
    running = [entry for entry in launch["state_history"] if entry["state"] == "RUNNING"]
    if not running:
        return 0.0
    begun, end = utc(running[0]["created_on"]), last_sign({"state_history": running})
    with suppress(OSError, ValueError):  # on another machine, empty or purged
        changed = max(path.stat().st_mtime for path in Path(str(launch["launch_dir"])).iterdir())
        end = max(end, datetime.fromtimestamp(changed, UTC))
    return max((end - begun).total_seconds(), 0.0)


def utc(time: str | datetime) -> datetime:
    """A time as FireWorks stores it, which is text here and a date there."""
    found = datetime.fromisoformat(time) if isinstance(time, str) else time
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


@dataclass(frozen=True)
class Verdict:
    """What becomes of a failed job: due: when it is tried again, None if never; the last failure, in words."""

    due: datetime | None
    error_type: str
    message: str


def judge(failures: Sequence[Failure], stage: str, settings: ScdmSettings) -> Verdict:
    """The verdict on a job of this stage with these failures, oldest first; one that is forgiven all is due at once."""
    if not failures:
        return Verdict(datetime.min.replace(tzinfo=UTC), "", "earlier failures are forgiven")
    last = failures[-1]
    lost = sum(f.trouble is Trouble.LOST for f in failures)
    if lost >= settings.lost_limit:
        message = f"{lost} workers were lost in this job, so it is not given to another; the last: {last.message}"
        return Verdict(None, QUARANTINED, f"{message}; {RETRY_ALL}")
    if last.trouble is None:
        return Verdict(None, last.error_type, last.message)
    tries = len(failures)
    limit = settings.retry_limits.get(stage, settings.retry_limit)
    if last.trouble not in (Trouble.LOST, Trouble.TIME) and tries > limit:
        message = f"{last.message} (tried {tries} time{'s' * (tries != 1)}; {RETRY_ALL})"
        return Verdict(None, last.error_type, message)
    wait = min(timedelta(seconds=settings.retry_wait_seconds) * 2 ** (min(tries, 30) - 1), LONGEST_WAIT)
    return Verdict(last.at + wait, last.error_type, last.message)
