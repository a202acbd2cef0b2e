"""Workers that are killed at random times, and four workers that share 400 jobs: nothing is lost, nothing runs twice.

    python benchmarks/kills.py [--kills 20] [--jobs 400] [--seed 0]

Two workers at a time are killed with SIGKILL, then `resume` runs once; in the end everything must be there, once. The
jobs cost nothing (see tests/support/rlaunching.py, which also checks the results); database and workers are real.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

WORKERS = 4


def main() -> None:
    """Both, with their times."""
    from support.rlaunching import FOLLOWERS, Workers, check_all_done, kill_at_random, put, runs

    from scdm_flows.config.settings import ScdmSettings
    from scdm_flows.stores import EmbeddedServer, connect
    from scdm_flows.stores.process import free_port

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ |= {"SCDM_RETRY_WAIT_SECONDS": "0", "SCDM_LOST_LIMIT": "1000"}
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        try:
            with connect(ScdmSettings(data_dir=folder, port=port, database="kills")) as database:
                start, rounds = time.perf_counter(), -(-arguments.kills // 2)
                hits = kill_at_random(database, folder / "a", rounds, arguments.seed, candidates=rounds)
                seconds = time.perf_counter() - start
                print(
                    f"{hits} kills hit a worker, seed {arguments.seed}: all is there, once ({seconds:.0f} s)",
                    flush=True,
                )
            with connect(ScdmSettings(data_dir=folder, port=port, database="jobs")) as database:
                candidates = -(-arguments.jobs // (6 + FOLLOWERS))
                launchpad = put(database, candidates)
                start = time.perf_counter()
                with Workers(database, folder / "b") as workers:
                    for process in [workers.start() for _ in range(WORKERS)]:
                        process.join()
                    seconds = time.perf_counter() - start
                    check_all_done(database, launchpad, candidates)
                    times = set(runs(workers.log).values())
                jobs = 1 + candidates * (6 + FOLLOWERS)
                print(
                    f"{jobs} jobs, {WORKERS} workers, {jobs / seconds:.1f} jobs/s; times that a job ran: {times}",
                    flush=True,
                )
        finally:
            EmbeddedServer(folder).stop()


if __name__ == "__main__":
    main()
