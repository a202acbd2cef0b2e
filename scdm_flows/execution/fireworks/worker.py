"""A worker that runs jobs until there are none, its time is over or it is told to stop: ``scdm worker``.

What ``rlaunch rapidfire`` does, and besides: SIGTERM, SIGINT and the end of its time give the running job back and end
the loop; a database that goes away is waited for, and what could not be stored is stored when it is back; what a budget
held is let go when it may run.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from fireworks import FWAction, FWorker, LaunchPad
from fireworks.core.rocket_launcher import launch_rocket
from fireworks.utilities.fw_utilities import get_my_host
from pymongo.errors import PyMongoError

from scdm_flows.config import CATEGORIES
from scdm_flows.errors import EngineError, StoreError
from scdm_flows.execution.fireworks import liveness, repair, slots
from scdm_flows.execution.fireworks.delivery import Delivery, deliver, folders_of
from scdm_flows.execution.fireworks.firetask import job_store_on
from scdm_flows.execution.fireworks.keeping import keeps
from scdm_flows.execution.fireworks.launchpad import check_ours
from scdm_flows.execution.fireworks.worker_guard import (
    OUTAGE_SECONDS,
    PROGRAMS,
    SHIFT,
    signals_to_shift,
    worker_problem,
)
from scdm_flows.stores.driver_errors import explain, store_errors

logger = logging.getLogger(__name__)
RELEASE_SECONDS = 60.0  # between two looks at what is held
WALLTIME = "walltime"


@dataclass(frozen=True)
class Ending:
    """How a worker ended: jobs that it ran, and why it stopped; None where nothing was left to do."""

    jobs: int
    stopped: str | None
    exit_code: int = 0


def launchpad_in(folder: Path) -> LaunchPad:
    """The LaunchPad of ``my_launchpad.yaml`` in a folder, reached and ours.

    Raises
    ------
    StoreError
        If the file is missing, the server does not answer or refuses the login, or the LaunchPad is another program's.
    """
    path = folder / "my_launchpad.yaml"
    if not path.is_file():
        raise StoreError(f"{path} does not exist; `scdm doctor --init {folder}` writes it")
    try:
        launchpad = LaunchPad.from_file(str(path))
    except PyMongoError as error:
        raise StoreError(f"the database that {path} names {explain(error)}") from None
    with store_errors(str(launchpad.host)):
        launchpad.connection.admin.command("ping")
        check_ours(launchpad)
    return launchpad


def worker_of(categories: Sequence[str], name: str | None = None) -> FWorker:
    """A FireWorks worker for some categories, all that this machine can run when none is given.

    Raises
    ------
    EngineError
        If the category ``vasp`` or ``gpaw`` is asked for and the program is not there.
    """
    wanted = list(categories) or list(CATEGORIES)
    for program in sorted(PROGRAMS.intersection(wanted)):
        problem = worker_problem({"_category": program})
        if problem is not None:
            if categories:
                raise EngineError(problem)
            logger.info("jobs of %s are left to others: %s", program.upper(), problem)
            wanted.remove(program)
    if PROGRAMS.intersection(wanted) and "compute" not in wanted:
        wanted.append("compute")  # the gates between the program's runs
    return FWorker(name=name or f"scdm {'+'.join(wanted)} on {get_my_host()}", category=wanted)


def work(
    launchpad: LaunchPad,
    worker: FWorker,
    *,
    folder: Path,
    wait: bool = False,
    sleep: float = 10.0,
    walltime: float | None = None,
    most: int | None = None,
) -> Ending:
    """Run jobs, each in a folder of its own.

    Parameters
    ----------
    folder
        Where the jobs' folders are made; empty ones go again.
    wait
        Go on when nothing is left to do, and look again every ``sleep`` seconds.
    walltime
        Seconds after which the running job is given back.
    most
        Jobs after which to end.

    Raises
    ------
    StoreError
        If the database stays away for ``OUTAGE_SECONDS``.
    """
    jobs = 0
    released: float | None = None
    dropped = False  # whether a job's end was lost on the way to the database
    folder = folder.absolute()
    with _signals(), _alarm(walltime):
        SHIFT.keeps = keeps()
        while SHIFT.leaving is None and jobs != most:
            try:
                if dropped or released is None or time.monotonic() - released > RELEASE_SECONDS:
                    deliver_here(launchpad)
                    if dropped:
                        _give_back_dropped(launchpad)
                    slots.release(launchpad)
                    released, dropped = time.monotonic(), False
                exists = launchpad.run_exists(worker)
                SHIFT.away_since = None
                if exists:
                    dropped = True
                    jobs += _run_one(launchpad, worker, folder)
                    dropped = False
                    continue
                if slots.release(launchpad):
                    continue
                if not wait and not launchpad.future_run_exists(worker):
                    break
            except PyMongoError as error:
                SHIFT.away_since = SHIFT.away_since or time.monotonic()
                if time.monotonic() - SHIFT.away_since > OUTAGE_SECONDS:
                    raise StoreError(
                        f"database {explain(error)}; the worker waited {OUTAGE_SECONDS:g} s{_left_in(SHIFT.keeps)}"
                    ) from None
                logger.warning("database %s; the worker waits for it", explain(error))
            _pause(sleep)
        return Ending(jobs, SHIFT.leaving, SHIFT.exit_code)


def deliver_here(launchpad: LaunchPad) -> list[Delivery]:
    """Store what workers of this machine could not store; ``PyMongoError`` if the database goes away meanwhile."""
    folders = folders_of(launchpad)
    if not any(folder.is_dir() for folder in folders):
        return []
    store = job_store_on(launchpad)
    try:
        return deliver(launchpad, store, folders)
    finally:
        store.close()


def _give_back_dropped(launchpad: LaunchPad) -> None:
    """Give back the job whose end this process could not tell the database: what it has stored is not lost."""
    launch = launchpad.launches.find_one({"launch_id": SHIFT.launch_id, "state": "RUNNING"}, {"fw_id": 1})
    worker = launchpad.db[liveness.WORKERS].find_one({"_id": liveness.Process.this().key}, {"launch": 1})
    if launch is None or worker is None or worker["launch"] != SHIFT.launch_id:
        return
    query = {"fw_id": launch["fw_id"], "state": "RUNNING", "launches": SHIFT.launch_id}
    firework = launchpad.fireworks.find_one(query, {"launches": 1})
    workflow = launchpad.workflows.find_one({"nodes": launch["fw_id"]}, {"_id": 1})
    if firework is not None and workflow is not None:
        repair.settle(launchpad, {launch["fw_id"]: (workflow["_id"], firework["launches"])}, "READY")
    ended = {"state": "COMPLETED", "action": FWAction(stored_data={"given_back": "the database went away"}).to_dict()}
    launchpad.launches.update_one({"launch_id": SHIFT.launch_id, "state": "RUNNING"}, {"$set": ended})


def _left_in(folder: Path) -> str:
    """What to say of outputs that are still kept."""
    kept = len(list(folder.glob("*.json.gz")))
    return f"; {kept} output{'s' * (kept != 1)} kept in {folder} wait to be delivered" if kept else ""


def _run_one(launchpad: LaunchPad, worker: FWorker, folder: Path) -> int:
    place = Path(mkdtemp(prefix=time.strftime("launcher_%Y-%m-%d-%H-%M-%S-"), dir=folder))
    try:
        with chdir(place):
            return int(bool(launch_rocket(launchpad, worker, strm_lvl="CRITICAL")))
    finally:
        with suppress(OSError):  # of a job that left files
            place.rmdir()


def _pause(seconds: float) -> None:
    """Sleep, but not after a signal: its handler does not end a sleep."""
    end = time.monotonic() + seconds
    while SHIFT.leaving is None and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))


@contextmanager
def _signals() -> Iterator[None]:
    SHIFT.loop, SHIFT.leaving, SHIFT.exit_code = True, None, 0
    with signals_to_shift():
        try:
            yield
        finally:
            SHIFT.loop = False


@contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    """After so many seconds, what SIGTERM does; the reason is the wall time."""
    SHIFT.until = None if seconds is None else time.time() + seconds
    if seconds is None:
        yield
        return

    def ring() -> None:
        SHIFT.leaving = SHIFT.leaving or WALLTIME
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
