"""How quickly candidates get on the LaunchPad and jobs through workers, on the embedded server (`make bench`; alone,
with options: `python benchmarks/launchpad.py --help`).

Building: VASP candidates with all their jobs (relaxations, static, gate, phonons, bands; ten for graphene), built and
inserted by two processes, as two workers that screen do it; beside it jobflow alone, with its own check of output
names, `flow_to_workflow` and `add_wf`, in one process and a smaller number. The displaced supercells are made once for
all: they are phonopy's work (0.05 s a candidate) and not the flow's; `--displace` makes them for each.

Working: jobs that only add two numbers, through 1, 2 and 4 `rlaunch rapidfire`; from the first claim to the last
completion, so without the seconds that a worker takes to start.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

warnings.simplefilter("ignore")
SHARD = 100  # candidates inserted together, as a screen of a shard does


def campaign(name: str) -> Any:
    """A registered VASP campaign; its files are not looked at when flows are built."""
    from scdm_flows.config import parse_config
    from scdm_flows.config.science import Registered

    config = parse_config(
        {
            "name": name,
            "generator": {"kind": "files", "paths": ["."]},
            "engine": {"kind": "vasp", "references": "none.json"},
        }
    )
    return config.model_copy(update={"registered": Registered(config_hash=config.config_hash)})


def flows_of(config: Any, number: int) -> list[Any]:
    """The flows of a candidate of its own: graphene with a lattice constant that no other has."""
    from pymatgen.core import Lattice, Structure

    from scdm_flows.documents import ScreenedCandidate
    from scdm_flows.documents.static import StaticSummary
    from scdm_flows.flows.gate import bands_flow, phonon_flow
    from scdm_flows.flows.layer import candidate_flow

    layer = Structure(
        Lattice.hexagonal(2.46 + 1e-5 * number, 20.0), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]
    )
    candidate = ScreenedCandidate(
        candidate_id=f"{config.name}-{number:012x}",
        index=number,
        generator="files",
        structure=layer.as_dict(),
        accepted=True,
        formula="C",
    )
    static = StaticSummary(energy_per_atom=-9.2, folder=".")
    return [
        candidate_flow(config, candidate),
        phonon_flow(config, candidate.candidate_id, layer),
        bands_flow(config, candidate.candidate_id, layer, static),
    ]


def displace_once() -> None:
    """The engine's displaced supercells from memory: those of the first layer."""
    from scdm_flows.engines.vasp.engine import VaspEngine

    real: Any = VaspEngine.displaced
    kept: list[Any] = []

    def displaced(self: Any, structure: Any) -> Any:
        if not kept:
            kept.append(real(self, structure))
        return kept[0]

    VaspEngine.displaced = displaced  # type: ignore[method-assign]


def whole(config: Any, number: int) -> Any:
    """One flow of all of them."""
    from jobflow.core.flow import Flow

    flows = flows_of(config, number)
    jobs = [job for flow in flows for job in flow.jobs]
    for job in jobs:
        job.hosts = []
    return Flow(jobs, name=flows[0].name)


def build(uri: str, name: str, numbers: range, displace: bool) -> None:
    """Build and insert candidates, as a worker's screens do."""
    from scdm_flows.execution.fireworks import launchpad_of
    from scdm_flows.execution.fireworks.firetask import workflow_of
    from scdm_flows.execution.fireworks.workflows import insert
    from scdm_flows.stores.database import database_of

    if not displace:
        displace_once()
    config, launchpad = campaign(name), launchpad_of(database_of(uri))
    for start in numbers[::SHARD]:
        shard = range(start, min(start + SHARD, numbers.stop))
        made = [(whole(config, k), f"{name}-{k:012x}") for k in shard]
        insert(launchpad, [workflow_of(flow, campaign=name, candidate_id=c) for flow, c in made])


def build_with_jobflow_alone(launchpad: Any, config: Any, n: int, server: int) -> tuple[float, float]:
    """Seconds for a candidate, and seconds of processor time, the server's included."""
    from jobflow.core import reference
    from jobflow.managers.fireworks import flow_to_workflow

    import scdm_flows.flows.layer  # noqa: F401 (puts the memory in front)

    remembered: Any = reference.validate_schema_access
    reference.validate_schema_access = remembered.__wrapped__
    try:
        start, busy = time.perf_counter(), time.process_time() + processor_seconds(server)
        for number in range(n):
            launchpad.add_wf(flow_to_workflow(whole(config, number), store=None))
        busy = time.process_time() + processor_seconds(server) - busy
        return (time.perf_counter() - start) / n, busy / n
    finally:
        reference.validate_schema_access = remembered


def processor_seconds(server: int) -> float:
    """Processor time of the processes that have ended, and of the database server."""
    fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_building(uri: str, server: int, n: int, processes: int, alone: int, displace: bool) -> dict[str, Any]:
    """Candidates a second, ours and jobflow's."""
    from scdm_flows.execution.fireworks import launchpad_of
    from scdm_flows.stores.database import database_of

    if not displace:
        displace_once()
    launchpad = launchpad_of(database_of(uri))
    theirs, theirs_busy = build_with_jobflow_alone(launchpad, campaign("alone"), alone, server)
    before = launchpad.fireworks.count_documents({})
    bounds = [n * k // processes for k in range(processes + 1)]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=build, args=(uri, "bench", range(a, b), displace)) for a, b in itertools.pairwise(bounds)
    ]
    start, busy = time.perf_counter(), processor_seconds(server)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds, busy = time.perf_counter() - start, processor_seconds(server) - busy
    fireworks = launchpad.fireworks.count_documents({}) - before
    if (
        any(worker.exitcode for worker in workers)
        or launchpad.workflows.count_documents({"metadata.campaign": "bench"}) != n
    ):
        raise SystemExit("building failed")
    print(
        f"{n} candidates, {fireworks} jobs, built and inserted by {processes} processes: {seconds:.1f} s, "
        f"{n / seconds:.1f} candidates/s; {busy:.0f} s of processor time, the server's included"
    )
    print(
        f"jobflow alone, one process, {alone} candidates: {1 / theirs:.2f} candidates/s "
        f"({n * theirs / 60:.1f} min for {n}); ours is {n * theirs / seconds:.1f} times as quick, and takes "
        f"{n * theirs_busy / busy:.1f} times less processor time, the start of its processes included"
    )
    return {
        "seconds": seconds,
        "processor_s": busy,
        "candidates_per_s": n / seconds,
        "jobflow_alone_per_s": 1 / theirs,
        "processor": n * theirs_busy / busy,
    }


def measure_working(database: Any, folder: Path, jobs: int, counts: list[int]) -> dict[int, float]:
    """Workers -> jobs a second."""
    from jobflow import job

    from scdm_flows.execution.fireworks import launchpad_of, write_worker_config
    from scdm_flows.execution.fireworks.firetask import workflow_of
    from scdm_flows.execution.fireworks.workflows import insert

    write_worker_config(database, folder / "launchpad")
    launchpad = launchpad_of(database)
    rates = {}
    for workers in counts:
        name = f"work{workers}"
        workflows = []
        for number in range(jobs):
            added = job(sum)([number, 1])
            added.metadata = {"campaign": name, "candidate_id": str(number)}
            added.config.manager_config = {"_category": name}
            workflows.append(workflow_of(added, campaign=name, candidate_id=str(number)))
        insert(launchpad, workflows)
        worker_file = folder / f"{name}.yaml"
        worker_file.write_text(f"name: {name}\ncategory: {name}\nquery: '{{}}'\n")
        rlaunch = Path(sys.executable).with_name("rlaunch")
        command = [str(rlaunch), "-c", str(folder / "launchpad"), "-w", str(worker_file), "-s", "rapidfire"]
        running = []
        for k in range(workers):
            place = folder / f"{name}-{k}"
            place.mkdir()
            running.append(subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for process in running:
            process.wait()
        ids = [f["fw_id"] for f in launchpad.fireworks.find({"spec.campaign": name, "state": "COMPLETED"})]
        if len(ids) != jobs:
            raise SystemExit(f"{len(ids)} of {jobs} jobs completed")
        launches = list(launchpad.launches.find({"fw_id": {"$in": ids}}, {"time_start": 1, "time_end": 1}))

        times = [(_time(d["time_start"]), _time(d["time_end"])) for d in launches]
        seconds = max(t[1] for t in times) - min(t[0] for t in times)
        rates[workers] = jobs / seconds
        print(f"{jobs} jobs through {workers} worker{'s' * (workers > 1)}: {jobs / seconds:.1f} jobs/s")
    return rates


def _time(value: Any) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(value) if isinstance(value, str) else value).timestamp()


def main() -> None:
    """Run what the options say."""
    from scdm_flows.config.settings import ScdmSettings
    from scdm_flows.stores import EmbeddedServer, connect

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--alone", type=int, default=10, help="candidates for jobflow alone")
    parser.add_argument("--displace", action="store_true", help="make each candidate's displaced supercells")
    parser.add_argument("--jobs", type=int, default=120)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with TemporaryDirectory() as folder:
        settings = ScdmSettings(data_dir=Path(folder) / "data", database="build")
        numbers: dict[str, Any] = {}
        try:
            if options.candidates:
                with connect(settings) as database:
                    assert database.uri is not None
                    server = EmbeddedServer(settings.data_dir).status().pid
                    assert server is not None
                    numbers["building"] = measure_building(
                        database.uri,
                        server,
                        options.candidates,
                        options.processes,
                        options.alone,
                        options.displace,
                    )
            if options.workers:
                # the embedded server looks at every job that is ready when one is claimed: not among those of above
                with connect(settings.model_copy(update={"database": "work"})) as database:
                    numbers["jobs_per_s"] = measure_working(database, Path(folder), options.jobs, options.workers)
        finally:
            EmbeddedServer(settings.data_dir).stop()
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
