"""rlaunch in processes of their own that can be killed at a named point, and a campaign of jobs that cost nothing.

What runs in the processes is rlaunch's own main function. Every job writes a line to the file that ``TRIVIAL_LOG`` names.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from jobflow import Flow, Response, job
from pymongo.errors import AutoReconnect
from support.forking import process_of

from scdm_flows.execution import fireworks as launch
from scdm_flows.execution import jobs as execution
from scdm_flows.execution.fireworks import firetask, worker_guard
from scdm_flows.stores import Database

LOG = "TRIVIAL_LOG"
FOLLOWERS = 3  # jobs that a gate adds
CANDIDATES = 2


def _say(name: str) -> None:
    with Path(os.environ[LOG]).open("a") as handle:
        handle.write(f"{name}\n")


def runs(log: Path) -> Counter[str]:
    """How often each job ran to its end."""
    return Counter(log.read_text().split("\n")[:-1]) if log.exists() else Counter()


def uuid_of(*names: object) -> str:
    """A deterministic uuid, as the product's jobs have."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, ":".join(map(str, names))))


def tagged(made: Any, stage: str, **metadata: Any) -> Any:
    """A job as the product makes it."""
    made.set_uuid(uuid_of(stage, *metadata.values()))
    made.name = f"{stage} {'-'.join(map(str, metadata.values()))}"
    made.metadata.update({"campaign": "t", "stage": stage, **metadata})
    return made


@job
def screen(candidates: int, seconds: float) -> Response[str]:
    """Adds a workflow for each candidate."""
    _say("screen")
    return Response(output="screen", addition=[candidate_flow(k, seconds) for k in range(candidates)])


@job(data="numbers")
def large(candidate: int, seconds: float) -> dict[str, Any]:
    """Leaves a large object."""
    time.sleep(seconds)
    _say(f"large {candidate}")
    return {"candidate": candidate, "numbers": list(range(1000))}


@job
def replaced(candidate: int, numbers: list[int]) -> Response[None]:
    """Hands its work to two jobs whose uuids nobody knows before, as atomate2's phonon jobs do."""
    assert len(numbers) == 1000
    _say(f"replaced {candidate}")
    parts = [part(candidate, 1), part(candidate, 2)]
    return Response(replace=Flow(parts, output=[p.output for p in parts]))


@job
def part(candidate: int, number: int) -> int:
    """One of the jobs that a replaced job adds."""
    _say(f"part {candidate} {number}")
    return number


@job
def gate(candidate: int, parts: list[int]) -> Response[str]:
    """Adds the stages that follow."""
    assert parts == [1, 2]
    _say(f"gate {candidate}")
    return Response(output="gate", addition=[follower_of(candidate, k) for k in range(FOLLOWERS)])


def follower_of(candidate: int, number: int) -> Any:
    """A job that a gate adds."""
    return tagged(follower(candidate, number), "phonon", candidate_id=f"c{candidate}", number=number)


@job
def follower(candidate: int, number: int) -> int:
    """A stage that follows the gate."""
    _say(f"follower {candidate} {number}")
    return number


def candidate_flow(candidate: int, seconds: float = 0.0) -> Flow:
    """relax (a large object) -> static (replaced by others) -> gate, which adds three."""
    name = {"candidate_id": f"c{candidate}"}
    first = tagged(large(candidate, seconds), "relax", **name)
    second = tagged(replaced(candidate, first.output["numbers"]), "static", **name)
    third = tagged(gate(candidate, second.output), "gate", **name)
    return Flow([first, second, third], name=f"candidate c{candidate}")


def put(database: Database, candidates: int = CANDIDATES, seconds: float = 0.0) -> Any:
    """Put the campaign ``t`` on the LaunchPad, which is returned; seconds: how long each first job takes."""
    from scdm_flows.execution.fireworks.firetask import workflow_of
    from scdm_flows.execution.fireworks.workflows import insert

    launchpad = launch.launchpad_of(database)
    shard = tagged(screen(candidates, seconds), "screen", shard=0)
    insert(launchpad, [workflow_of(shard, campaign="t", shard=0)])
    return launchpad


def check_all_done(database: Database, launchpad: Any, candidates: int = CANDIDATES) -> None:
    """Everything is completed once, with all outputs, and nothing was added twice."""
    fireworks = list(launchpad.fireworks.find({}, {"fw_id": 1, "state": 1, "name": 1}))
    assert Counter(f["state"] for f in fireworks) == {"COMPLETED": len(fireworks)}, fireworks
    # screen; per candidate large, replaced, its two parts and the job that collects them, gate, followers
    names = Counter(f["name"] for f in fireworks)
    assert len(fireworks) == 1 + candidates * (6 + FOLLOWERS), names
    nodes = [node for w in launchpad.workflows.find({}, {"nodes": 1}) for node in w["nodes"]]
    assert sorted(nodes) == sorted(f["fw_id"] for f in fireworks)  # each in one workflow
    for workflow in launchpad.workflows.find({}):
        assert set(workflow["fw_states"].values()) == {"COMPLETED"}
        assert workflow["state"] == "COMPLETED"
        assert "locked" not in workflow
    store = database.job_store
    assert store.docs_store.count() == len(fireworks)
    uuids = [d["uuid"] for d in store.docs_store.query({"index": 1}, properties=["uuid"])]
    assert execution.complete_among(store, uuids) == set(uuids)  # large objects included
    for k in range(candidates):
        assert store.get_output(uuid_of("relax", f"c{k}"), load=True)["numbers"] == list(range(1000))


# where a worker can be killed: the name of a patch below


def _die(*_: Any, **__: Any) -> None:
    """What happens at the point: the end, or for those that meet an outage there, waiting until it has begun."""
    if not _outage:
        os.kill(os.getpid(), signal.SIGKILL)
    while not _outage[0].exists():
        time.sleep(0.02)


_outage: list[Path] = []  # the file that says so


def _refuse(*_: Any) -> None:
    raise AutoReconnect("the blob store went away")


def _arm(point: str, name: str, here: Path) -> None:
    """Let this process die (or wait, see above) at a point of a job whose name begins so."""
    from fireworks import LaunchPad
    from fireworks.core import launchpad as module
    from maggma.stores import GridFSStore

    from scdm_flows.execution.fireworks import workflows

    running, completing = [""], [False]  # name of the job that is run; whether its end is being written

    def mine(*, at_end: bool | None = None) -> bool:
        return running[0].startswith(name) and at_end in (None, completing[0])

    def reach() -> None:
        here.touch()
        _die()

    def before(owner: Any, method: str, *, at_end: bool | None = None, act: Any = reach) -> None:
        real = getattr(owner, method)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if mine(at_end=at_end):
                act()
            return real(*args, **kwargs)

        setattr(owner, method, wrapped)

    real_claim, real_complete = LaunchPad._get_a_fw_to_run, LaunchPad.complete_launch

    def claim(*args: Any, **kwargs: Any) -> Any:
        found = real_claim(*args, **kwargs)
        if kwargs.get("checkout", True):  # else it only looks
            running[0] = found.name if found is not None else ""
            if point == "claimed" and mine():
                reach()
        return found

    def complete(*args: Any, **kwargs: Any) -> Any:
        completing[0] = True
        try:
            return real_complete(*args, **kwargs)
        finally:
            completing[0] = False

    LaunchPad._get_a_fw_to_run, LaunchPad.complete_launch = claim, complete
    if point == "launch recorded":
        before(LaunchPad, "_upsert_fws", at_end=False)
    elif point == "running":
        before(firetask, "run_job")
    elif point == "document stored":
        before(GridFSStore, "update")
    elif point == "blob store fails":  # alone: the documents are stored
        before(GridFSStore, "update", act=_refuse)
    elif point == "output stored":

        def run_job(*args: Any, **more: Any) -> Any:
            response = execution.run_job(*args, **more)
            if mine():
                reach()
            return response

        firetask.run_job = run_job
    elif point == "completion recorded":
        before(LaunchPad, "_refresh_wf", at_end=True)
    elif point == "first child inserted":  # the next one asks for its number
        asked: list[int] = []

        def second() -> None:
            asked.append(1)
            if len(asked) == 2:
                reach()

        before(LaunchPad, "get_new_fw_id", act=second)
    elif point == "children inserted":
        real_update = LaunchPad._update_wf

        def update(self: Any, workflow: Any, updated: Any) -> None:
            if mine(at_end=True):
                self._upsert_fws([workflow.id_fw[i] for i in updated])
                reach()
            real_update(self, workflow, updated)

        LaunchPad._update_wf = update
    elif point == "workflow written":  # but its lock held
        before(module.WFLock, "__exit__", at_end=True)
    elif point == "workflows inserted":  # of candidates, their fireworks not
        before(workflows, "_insert_fireworks")
    elif point != "claimed":
        raise AssertionError(point)


def _rlaunch(
    folder: str, log: str, point: str | None, name: str, arguments: list[str], outage: str | None, patience: float
) -> None:
    from fireworks.core import rocket
    from fireworks.scripts.rlaunch_run import rlaunch

    os.environ |= {LOG: log, "SCDM_DATA_DIR": folder}
    os.chdir(folder)
    quiet = os.open("rlaunch.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    rocket.PING_TIME_SECS = 1
    worker_guard.OUTAGE_SECONDS = patience
    if outage is not None:
        _outage.append(Path(outage))
    if point is not None:
        _arm(point, name, Path(folder) / f"at {point}")
    sys.argv = ["rlaunch", "-c", folder, *arguments]
    with suppress(SystemExit):
        rlaunch()


def _resume(uri: str, lost_after: float, log: str) -> None:
    from scdm_flows.stores.database import database_of

    with database_of(uri).connect() as database:
        items = launch.resume(database, lost_after=lost_after)
    with Path(log).open("a") as handle:
        handle.writelines(f"{item.kind.name} {item.fw_id}\n" for item in items)


def resume_together(database: Database, times: int, lost_after: float, folder: Path) -> Counter[str]:
    """Several resumes at the same moment, in processes of their own; what they say they did."""
    log = folder / "resumes.log"
    processes = [process_of(_resume, database.uri, lost_after, str(log)) for _ in range(times)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    return runs(log)


def _submit(config: str, uri: str, log: str) -> None:
    from scdm_flows.config import CampaignConfig
    from scdm_flows.stores.database import database_of

    with database_of(uri).connect() as database:
        added = launch.submit(CampaignConfig.model_validate_json(config), database)
    with Path(log).open("a") as handle:
        handle.write(f"{added}\n")


def submit_together(config: Any, database: Database, times: int, folder: Path) -> list[int]:
    """Several submissions at the same moment, in processes of their own; how many workflows each says it added."""
    log, arguments = folder / "submissions.log", (config.model_dump_json(), database.uri)
    processes = [process_of(_submit, *arguments, str(log)) for _ in range(times)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    return [int(line) for line in log.read_text().split()]


def _take_numbers(uri: str, folder: str, times: int) -> None:
    from scdm_flows.stores.database import database_of

    with database_of(uri).connect(indexes=False) as database:
        launchpad = launch.launchpad_of(database)
        numbers = [launchpad.get_new_launch_id() for _ in range(times)]
    (Path(folder) / f"numbers{os.getpid()}").write_text("\n".join(map(str, numbers)))


def take_numbers_together(database: Database, processes: int, times: int, folder: Path) -> list[int]:
    """The numbers for launches that several processes take at the same moment."""
    started = [process_of(_take_numbers, database.uri, str(folder), times) for _ in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(240)
        assert process.exitcode == 0
    return [int(n) for file in folder.glob("numbers*") for n in file.read_text().split()]


def kill_at_random(database: Database, folder: Path, rounds: int, seed: int, candidates: int) -> int:
    """Let two workers work, kill both at a random time, resume once; and again. Returns how many kills hit a worker.

    Afterwards the campaign is worked off and everything must be there, once.
    """
    random, kills = Random(seed), 0
    launchpad = put(database, candidates, 0.05)
    with Workers(database, folder) as workers:
        for _ in range(rounds):
            pair = [workers.start(), workers.start()]
            time.sleep(random.uniform(0.2, 2.5))
            for process in pair:
                kills += process.is_alive()
                process.kill()
                process.join()
                time.sleep(random.uniform(0, 0.2))
            time.sleep(0.3)
            launch.resume(database, lost_after=0.3)
        assert workers.run(seconds=900) == 0
        check_all_done(database, launchpad, candidates)
    return kills


class Workers:
    """Starts rlaunch processes for a database in a folder of their own; ends them with the context."""

    def __init__(self, database: Database, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        launch.write_worker_config(database, folder)
        (folder / "my_fworker.yaml").write_text("name: test worker\ncategory: ''\nquery: '{}'\n")
        self.folder, self.log, self.processes = folder, folder / "runs.log", list[Any]()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()

    def start(
        self, point: str | None = None, name: str = "", outage: Path | None = None, patience: float = 900.0
    ) -> Any:
        """Start one that ends when nothing is left to do, or dies at a point.

        outage: or waits at the point for this file; patience: how long it waits for a database that is away, s.
        """
        arguments = (str(self.folder), str(self.log), point, name, ["rapidfire", "--sleep", "1"])
        process = process_of(_rlaunch, *arguments, None if outage is None else str(outage), patience)
        process.start()
        self.processes.append(process)
        return process

    def wait_at(self, *points: str) -> None:
        """Wait until workers have come to their points."""
        deadline = time.monotonic() + 240
        while not all((self.folder / f"at {point}").exists() for point in points):
            assert time.monotonic() < deadline, (self.folder / "rlaunch.log").read_text()[-3000:]
            time.sleep(0.02)

    def run(
        self, point: str | None = None, name: str = "", seconds: float = 180, patience: float = 900.0
    ) -> int | None:
        """Start one and wait for its end; returns its exit code."""
        process = self.start(point, name, patience=patience)
        process.join(seconds)
        assert not process.is_alive(), (self.folder / "rlaunch.log").read_text()[-3000:]
        code: int | None = process.exitcode
        return code
