"""``scdm campaign resume`` after kills and outages: real server, real rlaunch processes, SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fireworks import FWorker
from fireworks.core.rocket_launcher import launch_rocket
from support.layers import mx2
from support.rlaunching import (
    FOLLOWERS,
    LOG,
    Workers,
    check_all_done,
    kill_at_random,
    put,
    resume_together,
    runs,
    submit_together,
    take_numbers_together,
    uuid_of,
)

from scdm_flows.config import parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.errors import CampaignError, EngineError
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution import jobs as execution
from scdm_flows.execution.fireworks import Kind, firetask
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.process import free_port

pytest.importorskip("secantus", reason="the embedded server is an optional extra")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed jobs are due at once."""
    monkeypatch.setenv("SCDM_RETRY_WAIT_SECONDS", "0")


def resume(database: Database, seconds: float = 0.3) -> Counter[Kind]:
    """One pass some time after the kill, with whatever gave no sign of life since then counted as lost."""
    time.sleep(seconds)
    return Counter(item.kind for item in launch.resume(database, lost_after=seconds))


# (point, job in which the worker dies, what resume finds); one after the other in one campaign
KILLS: list[tuple[str, str, dict[Kind, int]]] = [
    ("workflows inserted", "screen", {Kind.LOST: 1, Kind.RETRIED: 1}),
    ("claimed", "relax c0", {Kind.CLAIM: 1}),
    ("launch recorded", "relax c0", {Kind.LOST: 1, Kind.CLAIM: 1}),
    ("running", "relax c0", {Kind.LOST: 1, Kind.RETRIED: 1}),
    ("document stored", "relax c0", {Kind.LOST: 1, Kind.RETRIED: 1}),
    ("output stored", "relax c0", {Kind.LOST: 1, Kind.STORED: 1}),
    ("output stored", "static c0", {Kind.LOST: 1, Kind.STORED: 1}),  # it is replaced, but never said so
    ("first child inserted", "static c0", {Kind.LOCK: 1, Kind.CHILD: 1}),
    ("completion recorded", "gate c0", {Kind.STATE: 1}),
    ("workflow written", "static c1", {Kind.LOCK: 1}),
    ("children inserted", "gate c1", {Kind.LOCK: 1, Kind.CHILD: FOLLOWERS}),
]


@pytest.mark.slow
def test_a_kill_at_any_point_costs_nothing(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_LOST_LIMIT", "100")  # relax c0 is hit more often than by chance
    launchpad = put(database)
    with Workers(database, tmp_path / "work") as workers:
        for point, name, found in KILLS:
            assert workers.run(point, name) == -signal.SIGKILL, (point, name)
            items = resume(database)
            assert found.items() <= items.items(), (point, name, items)
            assert items.keys() <= {*found, Kind.STATE}, (point, name, items)
        assert workers.run() == 0
        check_all_done(database, launchpad)
        assert resume(database) == {}  # and nothing is left to do
        again = {name: times for name, times in runs(workers.log).items() if times > 1}
    # what was stored did not run again; static c0 was stored, but what it is replaced by was known to nobody
    assert again == {"screen": 2, "large 0": 2, "replaced 0": 2}


def test_several_resumes_at_once_do_everything_once(database: Database, tmp_path: Path) -> None:
    launchpad = put(database)
    with Workers(database, tmp_path / "work") as workers:
        assert workers.run("running", "relax c0") == -signal.SIGKILL
        assert workers.run("children inserted", "gate c1") == -signal.SIGKILL
        time.sleep(0.3)
        said = resume_together(database, 4, 0.3, tmp_path)
        # who came second left it to the first
        assert {what for what, times in said.items() if times > 1} <= {"BUSY None"}
        assert Counter(line.split()[0] for line in said)["CHILD"] == FOLLOWERS
        assert workers.run() == 0
        check_all_done(database, launchpad)


def test_resume_leaves_living_workers_alone(database: Database, tmp_path: Path) -> None:
    launchpad = put(database, seconds=2.5)
    with Workers(database, tmp_path / "work") as workers:
        pair = [workers.start(), workers.start()]
        while any(p.is_alive() for p in pair):
            items = launch.resume(database, lost_after=2.0)  # they ping every second, and the first jobs take longer
            assert {item.kind for item in items} <= {Kind.STATE, Kind.BUSY}, items
            time.sleep(0.1)
        check_all_done(database, launchpad)
        assert set(runs(workers.log).values()) == {1}


@pytest.mark.slow
def test_workers_killed_at_random_times(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_LOST_LIMIT", "100")  # it may hit the same job each time
    assert kill_at_random(database, tmp_path / "work", rounds=2, seed=1, candidates=2) > 0


def test_an_output_that_the_blob_store_refuses_is_stored_later(database: Database, tmp_path: Path) -> None:
    launchpad = put(database)
    with Workers(database, tmp_path / "work") as workers:
        assert workers.run("blob store fails", "relax c0", patience=0.1) == 0
        uuid = uuid_of("relax", "c0")
        # it refuses in that job only: with its next one the worker has stored what it had kept
        assert execution.complete_among(database.job_store, [uuid]) == {uuid}
        states = {f["name"]: f["state"] for f in launchpad.fireworks.find({}, {"name": 1, "state": 1})}
        assert (states["relax c0"], states["static c0"], states["gate c1"]) == ("FIZZLED", "WAITING", "COMPLETED")
        assert launch.collect_failures(database, "t") == 0  # it will be tried again: not failed yet
        items = resume(database)
        assert (items[Kind.STORED], items[Kind.RETRIED]) == (1, 0)
        assert workers.run() == 0
        check_all_done(database, launchpad)
        assert runs(workers.log)["large 0"] == 1


def test_lost_outputs_are_made_again(database: Database, tmp_path: Path) -> None:
    launchpad = put(database, candidates=1)
    with Workers(database, tmp_path / "work") as workers:
        workers.run("claimed", "static c0")
        database.mongo["outputs_blobs.files"].delete_many({})  # of relax c0, which is finished
        resume(database)
        workers.run()  # static c0 cannot read its input
        assert resume(database)[Kind.OUTPUT] == 1
        assert workers.run() == 0
        check_all_done(database, launchpad, 1)
        database.job_store.docs_store.remove_docs({"uuid": uuid_of("gate", "c0")})
        assert resume(database) == {Kind.OUTPUT: 1}
        assert workers.run() == 0
        check_all_done(database, launchpad, 1)  # a gate that runs again adds nothing
        assert runs(workers.log)["gate 0"] == 2


@pytest.mark.slow
def test_a_job_that_kills_its_workers_is_quarantined(database: Database, tmp_path: Path) -> None:
    launchpad = put(database)
    with Workers(database, tmp_path / "work") as workers:
        for _ in range(2):
            workers.run("running", "relax c0")
            assert resume(database)[Kind.RETRIED] == 1
        workers.run("running", "relax c0")
        assert resume(database)[Kind.QUARANTINED] == 1
        assert workers.run() == 0  # goes on with the other candidate
        states = Counter(f["state"] for f in launchpad.fireworks.find({}, {"state": 1}))
        assert states == {"FIZZLED": 1, "WAITING": 2, "COMPLETED": 7 + FOLLOWERS}
        assert launch.collect_failures(database, "t") == 1
        (failure,) = database.failures.query({})
        assert (failure["candidate_id"], failure["stage"], failure["error_type"]) == ("c0", "relax", "Quarantined")
        assert "3 workers were lost" in failure["message"]
        assert "--retry-failed" in failure["message"]
        # whoever has mended the cause lets it out
        assert [i.kind for i in launch.resume(database, retry_failed=True)] == [Kind.RETRIED]
        assert workers.run() == 0
        check_all_done(database, launchpad)
        assert launch.collect_failures(database, "t") == 0
        assert database.failures.count() == 0


@pytest.mark.usefixtures("quiet_place")
def test_a_failure_is_that_of_the_last_try(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed stage is its candidate's end: one that is tried again must not look so, nor keep a reason that was mended."""
    monkeypatch.setenv(LOG, str(tmp_path / "runs.log"))
    real, reason = execution.run_job, ["POTCAR of Mo is missing"]

    def run_job(job: Any, store: Any, **more: Any) -> Any:
        if job.name == "relax c0" and reason[0]:
            raise EngineError(reason[0])
        return real(job, store, **more)

    def work() -> None:
        with execution.hushed():
            while launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL"):
                pass

    def failures() -> list[str]:
        launch.collect_failures(database, "t")
        return [d["message"] for d in database.failures.query({})]

    monkeypatch.setattr(firetask, "run_job", run_job)
    launchpad = put(database, candidates=2)
    work()
    assert failures() == ["POTCAR of Mo is missing"]
    (before,) = database.failures.query({})
    assert resume(database) == {Kind.FAILED: 1}
    assert launch.resume(database, retry_failed=True, dry_run=True) != []
    assert list(database.failures.query({})) == [before]  # neither changes anything

    assert [i.kind for i in launch.resume(database, retry_failed=True)] == [Kind.RETRIED]
    assert database.failures.count() == 0
    assert failures() == []  # it is ready to run, which is no failure

    reason[0] = "ENCUT is too small"
    work()
    assert failures() == ["ENCUT is too small"]
    # put back by hand, so that nobody has forgotten the failure
    reason[0] = "the mesh is too coarse"
    launchpad.rerun_fw(launchpad.get_fw_ids({"state": "FIZZLED"})[0])
    work()
    assert failures() == ["the mesh is too coarse"]
    (found,) = database.failures.query({})
    assert failures() == ["the mesh is too coarse"]
    assert list(database.failures.query({})) == [found]  # what is known is not written again

    reason[0] = ""
    launch.resume(database, retry_failed=True)
    work()
    assert failures() == []
    check_all_done(database, launchpad)


# seconds; SCDM_TEST_OUTAGES=5,30,120 before a release, which takes ten minutes
OUTAGES = [float(s) for s in os.environ.get("SCDM_TEST_OUTAGES", "5").split(",")]
PHASES = ("claimed", "launch recorded", "running", "output stored", "completion recorded")


# of a test's worker that pings every second; no job of these lasts as long, also on a loaded machine
OUTAGE_LOST_AFTER_SECONDS = 3.0


@pytest.mark.slow
@pytest.mark.parametrize("seconds", OUTAGES)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM][: len(OUTAGES)])
def test_a_database_that_goes_away_loses_nothing(how: signal.Signals, seconds: float, tmp_path: Path) -> None:
    server, gone = EmbeddedServer(tmp_path / "data", free_port()), tmp_path / "gone"
    try:
        with connect(ScdmSettings(data_dir=server.data_dir, port=server.port)) as database:
            launchpad = put(database, len(PHASES))
            with Workers(database, tmp_path / "work") as workers:
                workers.run("claimed", "relax")  # the screen is done
                resume(database)
                for phase in PHASES:  # each worker is somewhere else when the database goes
                    workers.start(phase, "relax", outage=gone)
                workers.wait_at(*PHASES)
                server.stop() if how is signal.SIGTERM else os.kill(server.status().pid or 0, how)
                gone.touch()
                time.sleep(seconds)
                server.start()
                deadline = time.monotonic() + 5
                for process in workers.processes:  # those that have not given up go on
                    process.join(max(0.0, deadline - time.monotonic()))
                    process.kill()
                    process.join()
                # as from cron, beside a worker: it waits for a locked workflow, which a pass frees once its job was found lost
                worker = workers.start()
                deadline = time.monotonic() + 90
                while (
                    launchpad.fireworks.count_documents({"state": {"$ne": "COMPLETED"}}) and time.monotonic() < deadline
                ):
                    resume(database, OUTAGE_LOST_AFTER_SECONDS)
                    worker = worker if worker.is_alive() else workers.start()
                worker.join(240)
                assert worker.exitcode == 0, (tmp_path / "work" / "rlaunch.log").read_text()[-3000:]
                check_all_done(database, launchpad, len(PHASES))
    finally:
        server.stop()


def test_the_command_says_what_it_did(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scdm_flows.cli.resume import resume as command

    monkeypatch.setenv("SCDM_MONGO_URI", str(database.uri))

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(command, ["--lost-after", "0.3", *arguments])

    launchpad = put(database)
    with Workers(database, tmp_path / "work") as workers:
        workers.run("running", "relax c0")
        time.sleep(0.3)
        planned = call("--dry-run")
        assert "dry run" in planned.output
        assert Kind.LOST.value in planned.output
        assert launchpad.launches.count_documents({"state": "RUNNING"}) == 1  # nothing was written
        done = json.loads(call("--json").output)
        assert done["counts"] == {"lost": 1, "retried": 1}
        assert {item["name"] for item in done["items"]} == {"relax c0"}
        assert launchpad.launches.count_documents({"state": "RUNNING"}) == 0
        assert "nothing to repair" in call().output
    unknown = call("nobody")
    assert isinstance(unknown.exception, CampaignError)
    assert "nobody" in str(unknown.exception)


def test_two_submissions_at_once_give_one_set_of_workflows(database: Database, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        mx2("1H").to(str(tmp_path / f"{name}.cif"))
    config = parse_config(
        {
            "name": "t",
            "generator": {"kind": "files", "paths": [str(tmp_path)], "shard_size": 1},
            "engine": {"kind": "forcefield"},
        }
    )
    added = submit_together(config, database, 3, tmp_path)
    # each is added once; one that sees another's workflow without all its jobs yet helps to finish it, and counts it too
    assert 3 <= sum(added) <= 9
    launchpad = launch.launchpad_of(database)
    assert sorted(w["metadata"]["shard"] for w in launchpad.workflows.find({}, {"metadata": 1})) == [0, 1, 2]
    assert launch.status(database, "t") == {"generate": {"READY": 3}, "screen": {"WAITING": 3}}
    # a submission that was cut short is completed by resume, which knows the configuration
    nodes = [n for w in launchpad.workflows.find({"metadata.shard": {"$in": [0, 1]}}) for n in w["nodes"]]
    launchpad.workflows.delete_one({"metadata.shard": 0})
    launchpad.fireworks.delete_many({"fw_id": {"$in": nodes}})
    assert resume(database)[Kind.SUBMITTED] >= 1
    assert launch.status(database, "t") == {"generate": {"READY": 3}, "screen": {"WAITING": 3}}
    assert resume(database) == {}


def test_four_workers_run_each_job_once(database: Database, tmp_path: Path) -> None:
    launchpad = put(database, candidates=4)
    with Workers(database, tmp_path / "work") as workers:
        for process in [workers.start() for _ in range(4)]:
            process.join(120)
        check_all_done(database, launchpad, 4)
        assert set(runs(workers.log).values()) == {1}


def test_numbers_of_launches_are_given_once(database: Database, tmp_path: Path) -> None:
    # FireWorks' own way gave a quarter of them twice on the embedded server, and launches took each other's place
    numbers = take_numbers_together(database, 3, 100, tmp_path)
    assert sorted(numbers) == list(range(1, 301))
