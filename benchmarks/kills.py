"""Workers that are killed at random times, four workers that share 400 jobs, and a database that goes away.

    python benchmarks/kills.py [--kills 20] [--jobs 400] [--seed 0] [--outages 5 100] [--long]

Two workers at a time are killed with SIGKILL, then `resume` runs once; in the end everything must be there, once. The
jobs cost nothing (see tests/support/rlaunching.py, which also checks the results); database and workers are real.

In an outage the server is killed while two workers compute, and started again: one waits for it, the other gives up
after 30 s and leaves its result on disk. `resume` runs every minute meanwhile, as cron does, and once more as soon as
the server answers. The table says what that one did, and how often a job ran twice. `--long` adds an outage of 400 s,
more than the time after which a worker without a heartbeat counts as lost.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from pymongo.errors import PyMongoError

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

WORKERS = 4
PATIENCE_SECONDS = 30.0
CRON_SECONDS = 60.0


def outage(folder: Path, seconds: float) -> str:
    """One outage; returns its line of the table."""
    from support.rlaunching import Workers, check_all_done, put, runs

    from scdm_flows.config.settings import ScdmSettings
    from scdm_flows.errors import ScdmError
    from scdm_flows.execution.fireworks import Kind, resume
    from scdm_flows.stores import EmbeddedServer, connect
    from scdm_flows.stores.process import free_port

    server, gone = EmbeddedServer(folder / "data", free_port()), folder / "gone"
    try:
        with (
            connect(ScdmSettings(data_dir=server.data_dir, port=server.port)) as database,
            Workers(database, folder / "work") as workers,
        ):
            launchpad = put(database)
            workers.run("claimed", "relax c0")  # the screen is done
            resume(database, lost_after=0.01)
            patient = workers.start("running", "relax c0", outage=gone)
            workers.wait_at("running")
            (workers.folder / "at running").unlink()
            workers.start("running", "relax c1", outage=gone, patience=PATIENCE_SECONDS)
            workers.wait_at("running")
            os.kill(server.status().pid or 0, signal.SIGKILL)
            gone.touch()
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(CRON_SECONDS, left))
                if left > CRON_SECONDS:
                    with suppress(PyMongoError, ScdmError):
                        resume(database)
            server.start()
            start = time.perf_counter()
            found = Counter(item.kind for item in resume(database))
            patient.join(120)
            workers.run(seconds=120)
            check_all_done(database, launchpad)
            twice = sum(times > 1 for times in runs(workers.log).values())
            counts = [found[kind] for kind in (Kind.DELIVERED, Kind.SILENT, Kind.LOST)]
            return "".join(
                f"{n:>10}" for n in (f"{seconds:g} s", *counts, twice, f"{time.perf_counter() - start:.0f} s")
            )
    finally:
        server.stop()


def main() -> None:
    """All of it, with its times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outages", type=float, nargs="*", default=[5.0, 100.0], help="seconds of each")
    parser.add_argument("--long", action="store_true", help="an outage of 400 s too")
    arguments = parser.parse_args()
    os.environ |= {"SCDM_RETRY_WAIT_SECONDS": "0", "SCDM_LOST_LIMIT": "1000"}
    if arguments.kills or arguments.jobs:
        kills_and_jobs(arguments.kills, arguments.jobs, arguments.seed)
    print("".join(f"{title:>10}" for title in ("outage", "delivered", "silent", "lost", "twice", "then done")))
    for seconds in [*arguments.outages, *([400.0] if arguments.long else [])]:
        with tempfile.TemporaryDirectory() as name:
            print(outage(Path(name), seconds), flush=True)


def kills_and_jobs(kills: int, jobs: int, seed: int) -> None:
    """Kills at random times, then jobs that four workers share."""
    from support.rlaunching import FOLLOWERS, Workers, check_all_done, kill_at_random, put, runs

    from scdm_flows.config.settings import ScdmSettings
    from scdm_flows.stores import EmbeddedServer, connect
    from scdm_flows.stores.process import free_port

    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        try:
            with connect(ScdmSettings(data_dir=folder, port=port, database="kills")) as database:
                start, rounds = time.perf_counter(), -(-kills // 2)
                hits = kill_at_random(database, folder / "a", rounds, seed, candidates=rounds)
                seconds = time.perf_counter() - start
                print(
                    f"{hits} kills hit a worker, seed {seed}: all is there, once ({seconds:.0f} s)",
                    flush=True,
                )
            with connect(ScdmSettings(data_dir=folder, port=port, database="jobs")) as database:
                candidates = -(-jobs // (6 + FOLLOWERS))
                launchpad = put(database, candidates)
                start = time.perf_counter()
                with Workers(database, folder / "b") as workers:
                    for process in [workers.start() for _ in range(WORKERS)]:
                        process.join()
                    seconds = time.perf_counter() - start
                    check_all_done(database, launchpad, candidates)
                    times = set(runs(workers.log).values())
                done = 1 + candidates * (6 + FOLLOWERS)
                print(
                    f"{done} jobs, {WORKERS} workers, {done / seconds:.1f} jobs/s; times that a job ran: {times}",
                    flush=True,
                )
        finally:
            EmbeddedServer(folder).stop()


if __name__ == "__main__":
    main()
