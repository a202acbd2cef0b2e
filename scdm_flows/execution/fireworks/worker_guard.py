"""What surrounds a job on a worker: its heartbeat, its budget, and a clean stop. Works under stock ``rlaunch`` too.

A heartbeat of our own goes out every minute, whatever ``PING_TIME_SECS`` a worker's FireWorks has (an hour, where its
configuration is not found; ``rlaunch multi`` never looks at a job's modules).

On SIGTERM the job is given back as if it had not been claimed: the programs that it started are ended, the firework is
READY again, and the process exits with 0. Under ``scdm worker`` the loop ends instead. What the job has stored stays.

A job whose end the database cannot take waits for it: what it has computed is kept on disk meanwhile, and its heartbeat
goes on as soon as there is an answer.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import psutil
from fireworks import FWAction, LaunchPad
from fireworks.fw_config import FWData
from pymongo.errors import ConnectionFailure, PyMongoError

from scdm_flows.campaigns.controls import Control, control_of
from scdm_flows.campaigns.node_hours import add_lost
from scdm_flows.execution.fireworks import liveness, slots
from scdm_flows.execution.fireworks.keeping import keeps
from scdm_flows.execution.fireworks.retries import StageError
from scdm_flows.stores.driver_errors import explain

logger = logging.getLogger(__name__)
PROGRAMS = frozenset({"gpaw", "vasp"})  # categories of jobs that need one
OUTAGE_SECONDS = 900.0  # how long a worker waits for a database that has gone away
RETRY_SECONDS = 2.0  # between two looks whether it is back
CHILDREN_END_SECONDS = 5.0  # for the programs of a job to end by themselves
UNFIT = 2  # exit code of a worker that cannot run what it claims
RunTask = Callable[[Any, dict[str, Any]], FWAction]


class Stopped(BaseException):
    """A signal asks the worker to stop; no job may take it for its own failure."""


class Shift:
    """What this process knows of its work and its stop.

    loop: whether ``scdm worker`` runs the jobs and ends by itself; until: when its time is over (``time.time``);
    keeps: folder of outputs that could not be stored; launch_id: of the job that runs, 0 without one; begun: when it
    began (``time.monotonic``); database: id of the LaunchPad's database; away_since: since when this process finds no
    database (``time.monotonic``).
    """

    def __init__(self) -> None:
        self.loop = False
        self.until: float | None = None
        self.keeps = Path()
        self.launch_id = 0
        self.begun = 0.0
        self.database = ""
        self.away_since: float | None = None
        self.job_runs = False
        self.leaving: str | None = None  # why
        self.exit_code = 0

    def on_signal(self, number: int, frame: object) -> None:
        """Stop the job that runs; without one, or a second time, only remember it."""
        self.leaving = self.leaving or signal.Signals(number).name
        if self.job_runs:
            self.job_runs = False
            raise Stopped(self.leaving)


SHIFT = Shift()


def guarded(run_task: RunTask) -> RunTask:
    """A firetask's ``run_task`` that runs its job only where budget and worker allow, and gives it back on SIGTERM."""

    @wraps(run_task)
    def run(task: Any, fw_spec: dict[str, Any]) -> FWAction:
        launchpad: LaunchPad | None = getattr(task, "launchpad", None)
        if launchpad is None:  # offline mode, which run_task refuses
            return run_task(task, fw_spec)
        # a worker is one core's work unless its environment says more: several that each take all cores hinder each
        # other (torch looks when the first job imports it)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        fw_id = int(task.fw_id)
        SHIFT.begun = time.monotonic()
        if not SHIFT.loop:
            SHIFT.keeps = keeps()
        try:
            launch_id = _launch_of(launchpad, fw_id)
            SHIFT.launch_id, SHIFT.database = launch_id or 0, liveness.note(launchpad)
            if launch_id is None:
                return run_task(task, fw_spec)
            liveness.announce(launchpad, launch_id, fw_id, SHIFT.keeps)
            unfit = worker_problem(fw_spec)
            if unfit is not None:
                return _leave(launchpad, fw_id, launch_id, unfit, code=UNFIT)
            control = control_of(launchpad.db, fw_spec.get("campaign"))
            refused = _refused(launchpad, fw_spec, control, fw_id, launch_id)
        except PyMongoError as error:
            raise StageError(error) from error
        if refused is not None:
            return FWAction(stored_data={"given_back": refused})
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        try:
            with _heartbeat(launchpad, launch_id), _stops_on_signals():
                try:
                    action = run_task(task, fw_spec)
                except Exception:
                    wait_for(launchpad)
                    _count(launchpad, fw_spec)
                    raise
                wait_for(launchpad)  # FireWorks drops the end of a job when the database is away
                return action
        except Stopped as stop:
            _end_children(before)
            _count(launchpad, fw_spec)
            return _leave(launchpad, fw_id, launch_id, str(stop))
        finally:
            if control.budget.jobs:
                slots.free_slot(launchpad, fw_id, launch_id)

    return run


def _count(launchpad: LaunchPad, spec: dict[str, Any]) -> None:
    """Count the time of an attempt that leaves no output."""
    with suppress(PyMongoError):  # a stop is not to wait for a database that is away
        add_lost(launchpad.db, spec.get("campaign"), time.monotonic() - SHIFT.begun)


def _refused(launchpad: LaunchPad, spec: dict[str, Any], control: Control, fw_id: int, launch_id: int) -> str | None:
    """Why the job may not run now, and it is given back; None where it may."""
    if control.cancelled is not None:
        give_back(launchpad, fw_id, launch_id, cancelled=True)
        return "the campaign is cancelled"
    reason = slots.refusal(launchpad, spec, control, fw_id, launch_id)
    if reason is None:
        return None
    give_back(launchpad, fw_id, launch_id, held=slots.HELD[reason])
    slots.release(launchpad, spec["campaign"])  # a slot may have become free meanwhile
    return slots.HELD[reason]


def worker_problem(spec: dict[str, Any]) -> str | None:
    """Why this worker cannot run a job of VASP or GPAW, in words; None where it can, and for other jobs."""
    match spec.get("_category"):
        case "vasp":
            return _vasp_problem()
        case "gpaw":
            from scdm_flows.engines.gpaw.process import problem

            missing = problem()
            return None if missing is None else f"{missing}; or give the worker another category"
    return None


def _vasp_problem() -> str | None:
    import shlex
    import shutil

    from scdm_flows.config.settings import get_settings
    from scdm_flows.engines.vasp.checks import command_problem

    if get_settings().vasp_cmd:
        return command_problem()
    from atomate2 import SETTINGS

    command = str(SETTINGS.VASP_CMD)
    if shutil.which((shlex.split(command) or [""])[0]) is not None:
        return None
    return (
        f"this worker has no VASP: SCDM_VASP_CMD is not set, and {command!r} of atomate2's settings is not on the "
        "PATH; set SCDM_VASP_CMD, or give the worker another category (my_fworker.compute.yaml)"
    )


def _launch_of(launchpad: LaunchPad, fw_id: int) -> int | None:
    found = launchpad.fireworks.find_one({"fw_id": fw_id, "state": "RUNNING"}, {"launches": 1})
    return int(found["launches"][-1]) if found and found["launches"] else None


def give_back(
    launchpad: LaunchPad, fw_id: int, launch_id: int, *, held: str | None = None, cancelled: bool = False
) -> bool:
    """Make a running firework READY again, as if this launch had not been; returns whether it was still its.

    held: the worker that it waits for (``slots.HELD``); cancelled: DEFUSED instead, as ``cancel`` leaves jobs.
    """
    change: dict[str, Any] = {"state": "READY", "launches": [], "updated_on": datetime.now(UTC)}
    if held is not None:
        change["spec._fworker"] = held
    if cancelled:
        change |= {"state": "DEFUSED", "spec.cancelled_from": "READY"}
    found = launchpad.fireworks.update_one(
        {"fw_id": fw_id, "state": "RUNNING", "launches": launch_id},
        {"$set": change, "$push": {"archived_launches": launch_id}},
    )
    if found.matched_count:
        launchpad._refresh_wf(fw_id)
    return bool(found.matched_count)


def _leave(launchpad: LaunchPad, fw_id: int, launch_id: int, why: str, code: int = 0) -> FWAction:
    """Give the job back and end the worker."""
    action = FWAction(stored_data={"given_back": why})
    SHIFT.leaving, SHIFT.exit_code = why, code
    try:
        give_back(launchpad, fw_id, launch_id)
        sys.stderr.write(f"firework {fw_id} is given back: {why}\n")
        if SHIFT.loop:
            return action
        slots.free_slot(launchpad, fw_id, launch_id)
        launchpad.complete_launch(launch_id, action, "COMPLETED")  # of the launch alone: the firework has it no more
    except PyMongoError as error:
        sys.stderr.write(
            f"firework {fw_id} is stopped ({why}) but not given back, the database {explain(error)}; "
            "`scdm campaign resume` does that\n"
        )
        if SHIFT.loop:
            return action
    if FWData().MULTIPROCESSING:
        FWData().Running_IDs[os.getpid()] = None
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)  # rlaunch would take the next job, and its threads wait for their own time


@contextmanager
def _heartbeat(launchpad: LaunchPad, launch_id: int) -> Iterator[None]:
    stop = threading.Event()

    def beat() -> None:
        through, missed = time.monotonic(), False
        while not stop.wait(RETRY_SECONDS if missed else liveness.HEARTBEAT_SECONDS):
            try:
                launchpad.ping_launch(launch_id)
                liveness.beat(launchpad, launch_id, time.monotonic() - through if missed else 0.0)
            except Exception as error:
                if not missed:
                    logger.warning("no heartbeat of launch %d: %s; it is tried until it goes out", launch_id, error)
                missed = True
            else:
                through, missed = time.monotonic(), False

    thread = threading.Thread(target=beat, name=f"heartbeat of launch {launch_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def wait_for(launchpad: LaunchPad) -> bool:
    """Wait until the database answers, at most ``OUTAGE_SECONDS`` in all; returns whether it does."""
    while True:
        asked = time.monotonic()
        try:
            launchpad.connection.admin.command("ping")
        except ConnectionFailure as error:
            if SHIFT.away_since is None:
                SHIFT.away_since = asked  # the driver waits for an answer, too
                logger.warning("database %s; the worker waits for it", explain(error))
            if time.monotonic() - SHIFT.away_since > OUTAGE_SECONDS:
                return False
            time.sleep(RETRY_SECONDS)
        except PyMongoError:  # it answers, and whoever asks it for more is told the same
            break
        else:
            break
    SHIFT.away_since = None
    return True


@contextmanager
def undisturbed() -> Iterator[None]:
    """A signal that asks to stop is heeded at the end of this, not in it."""
    job_runs, SHIFT.job_runs = SHIFT.job_runs, False
    try:
        yield
    finally:
        SHIFT.job_runs = job_runs
    if job_runs and SHIFT.leaving is not None:
        SHIFT.job_runs = False
        raise Stopped(SHIFT.leaving)


@contextmanager
def signals_to_shift() -> Iterator[None]:
    """SIGTERM and SIGINT go to ``SHIFT.on_signal`` in here; only in the main thread."""
    before = {number: signal.signal(number, SHIFT.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _stops_on_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise ``Stopped`` in here; other threads than the main one cannot have signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with signals_to_shift():
        SHIFT.job_runs = True
        try:
            yield
        finally:
            SHIFT.job_runs = False


def _end_children(before: set[int]) -> None:
    """End the programs that the job has started, VASP above all: they would go on without their worker.

    before: ids of processes that were there when it began.
    """
    children = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    for child in children:
        try:
            child.terminate()
        except psutil.NoSuchProcess:
            continue
    for child in psutil.wait_procs(children, timeout=CHILDREN_END_SECONDS)[1]:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
