"""The database goes away and comes back: what is finished is kept and delivered, what lives is not declared lost."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from fireworks import FWorker, LaunchPad
from jobflow import job
from pymongo.errors import AutoReconnect
from support.rlaunching import Workers, check_all_done, put, runs, uuid_of

from scdm_flows.cli import cli
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.errors import OutputError
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution import jobs as execution
from scdm_flows.execution.fireworks import Kind, keeping, liveness, worker
from scdm_flows.execution.fireworks.delivery import Outcome, deliver, folders_of
from scdm_flows.execution.fireworks.firetask import workflow_of
from scdm_flows.execution.fireworks.workflows import insert
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.backup import backup, restore
from scdm_flows.stores.process import free_port

pytest.importorskip("secantus", reason="the embedded server is an optional extra")


class Outage:
    """A server that can be taken away, and a worker that meets the outage in the middle of a job."""

    def __init__(self, folder: Path) -> None:
        self.server, self.gone = EmbeddedServer(folder / "data", free_port()), folder / "gone"

    def begin(self) -> None:
        """Kill the server, then let the workers that wait at their point go on."""
        os.kill(self.server.status().pid or 0, signal.SIGKILL)
        self.gone.touch()

    def end(self) -> None:
        """Start it again."""
        self.server.start()


@pytest.fixture
def outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outage]:
    monkeypatch.setenv("SCDM_RETRY_WAIT_SECONDS", "0")
    made = Outage(tmp_path)
    yield made
    made.server.stop()


@pytest.fixture
def database(outage: Outage) -> Iterator[Database]:
    with connect(ScdmSettings(data_dir=outage.server.data_dir, port=outage.server.port)) as connected:
        yield connected


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "work" / keeping.FOLDER).glob(f"*{keeping.SUFFIX}"))


def wait_until(what: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_worker_waits_with_its_output_and_goes_on(outage: Outage, database: Database, tmp_path: Path) -> None:
    launchpad = put(database, 1)
    with Workers(database, tmp_path / "work") as workers:
        workers.run("claimed", "relax c0")  # the screen is done
        launch.resume(database, lost_after=0.01)
        process = workers.start("running", "relax c0", outage=outage.gone)
        workers.wait_at("running")
        outage.begin()
        wait_until(lambda: len(kept(tmp_path)) == 1)  # it has computed, and kept what it cannot store
        time.sleep(3)
        outage.end()
        process.join(180)
        assert process.exitcode == 0
        check_all_done(database, launchpad, 1)
        assert set(runs(workers.log).values()) == {1}
        assert kept(tmp_path) == []


def end_with_an_output(
    outage: Outage, database: Database, workers: Workers, tmp_path: Path, candidates: int = 1
) -> Any:
    """Let a worker compute ``relax c0`` while the database is away, and kill it while it waits; gives the LaunchPad."""
    launchpad = put(database, candidates)
    workers.run("claimed", "relax c0")
    launch.resume(database, lost_after=0.01)
    process = workers.start("running", "relax c0", outage=outage.gone)
    workers.wait_at("running")
    outage.begin()
    wait_until(lambda: len(kept(tmp_path)) == 1)
    process.kill()
    process.join()
    outage.end()
    return launchpad


def test_resume_delivers_what_a_worker_could_not_store(outage: Outage, database: Database, tmp_path: Path) -> None:
    with Workers(database, tmp_path / "work") as workers:
        launchpad = end_with_an_output(outage, database, workers, tmp_path)
        (path,) = kept(tmp_path)
        assert path.name.startswith(uuid_of("relax", "c0"))
        planned = launch.resume(database, dry_run=True)
        assert (Kind.DELIVERED, "relax c0") in {(i.kind, i.name) for i in planned}
        assert kept(tmp_path) == [path]
        items = launch.resume(database)  # the time after which workers count as lost is far from over
        assert [(i.kind, i.name) for i in items if i.kind is not Kind.STATE] == [(Kind.DELIVERED, "relax c0")]
        assert kept(tmp_path) == []
        states = {f["name"]: f["state"] for f in launchpad.fireworks.find({}, {"name": 1, "state": 1})}
        assert (states["relax c0"], states["static c0"]) == ("COMPLETED", "READY")
        assert launchpad.launches.count_documents({"state": "FIZZLED"}) == 0  # nobody says that it failed
        assert workers.run() == 0
        check_all_done(database, launchpad, 1)
        assert set(runs(workers.log).values()) == {1}


def test_the_next_worker_delivers(outage: Outage, database: Database, tmp_path: Path) -> None:
    with Workers(database, tmp_path / "work") as workers:
        launchpad = end_with_an_output(outage, database, workers, tmp_path, candidates=2)
        assert workers.run() == 0  # stock rlaunch, which begins with the other candidate
        check_all_done(database, launchpad)
        assert set(runs(workers.log).values()) == {1}
        assert kept(tmp_path) == []


def test_a_worker_killed_while_it_stores_loses_nothing(
    outage: Outage, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launchpad = put(database, 1, seconds=keeping.AHEAD_SECONDS + 0.5)  # what takes so long is kept before it is stored
    with Workers(database, tmp_path / "work") as workers:
        assert workers.run("document stored", "relax c0") == -signal.SIGKILL
        assert execution.complete_among(database.job_store, [uuid_of("relax", "c0")]) == set()
        assert Kind.DELIVERED in {i.kind for i in launch.resume(database)}
        assert workers.run() == 0
        check_all_done(database, launchpad, 1)
        assert set(runs(workers.log).values()) == {1}


def test_what_no_job_waits_for_is_put_aside_and_named(outage: Outage, database: Database, tmp_path: Path) -> None:
    with Workers(database, tmp_path / "work") as workers:
        launchpad = end_with_an_output(outage, database, workers, tmp_path)
    (path,) = kept(tmp_path)
    folder, content = path.parent, path.read_bytes()
    found = keeping.read(path)
    (folder / f"damaged{keeping.SUFFIX}").write_bytes(content[:100])
    launchpad.fireworks.update_one({"fw_id": found.fw_id}, {"$set": {"spec.job_uuid": "another"}})
    items = [i for i in launch.resume(database) if i.kind is Kind.ASIDE]
    assert len(items) == 2
    assert {"its job is on the LaunchPad no more" in i.detail for i in items} == {True, False}
    assert {"cannot be read" in i.detail for i in items} == {True, False}
    assert sorted(p.name for p in (folder / "aside").iterdir()) == sorted([path.name, f"damaged{keeping.SUFFIX}"])
    # a later run has stored the same job: its output stays
    launchpad.fireworks.update_one({"fw_id": found.fw_id}, {"$set": {"spec.job_uuid": uuid_of("relax", "c0")}})
    found.output.write(database.job_store)
    database.job_store.docs_store._collection.update_one(
        {"uuid": uuid_of("relax", "c0")}, {"$set": {"completed_at": "2030-01-01T00:00:00"}}
    )
    path.write_bytes(content)
    (one,) = deliver(launchpad, database.job_store, [folder])
    assert (one.outcome, "a later run" in one.detail) == (Outcome.ASIDE, True)
    # of another database: not touched
    path.write_bytes(content)
    launchpad.db[liveness.WORKERS].update_one(liveness.DATABASE, {"$set": {"database": "restored elsewhere"}})
    (one,) = deliver(launchpad, database.job_store, [folder])
    assert (one.outcome, path.exists()) == (Outcome.WAITS, True)


def test_a_living_worker_is_not_lost_after_an_outage(
    outage: Outage, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launchpad = put(database, 1)
    with Workers(database, tmp_path / "work") as workers:
        workers.run("claimed", "relax c0")
        launch.resume(database, lost_after=0.01)
        process = workers.start("running", "relax c0", outage=outage.gone)
        workers.wait_at("running")
        said = launchpad.db[liveness.WORKERS].find_one({"pid": process.pid})
        assert said is not None  # which process runs the launch
        os.kill(outage.server.status().pid or 0, signal.SIGKILL)  # the worker stays at its point: a long job
        time.sleep(3)
        outage.end()
        items = launch.resume(database, lost_after=1.0)
        assert not {Kind.LOST, Kind.SILENT} & {i.kind for i in items}, items
        process.kill()
        process.join()
        (lost,) = [i for i in launch.resume(database) if i.kind is Kind.LOST]  # at once: nobody is there
        assert f"its process {process.pid} on" in lost.detail
        assert "has ended" in lost.detail
        assert workers.run() == 0
        check_all_done(database, launchpad, 1)


def test_a_worker_elsewhere_has_time_to_be_heard_after_an_outage(
    outage: Outage, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 2.0)
    launchpad = put(database, 1)
    workers_said = launchpad.db[liveness.WORKERS]
    with Workers(database, tmp_path / "work") as workers:
        workers.start("running", "screen", outage=outage.gone)
        workers.wait_at("running")
        workers_said.update_one({"pid": {"$exists": True}}, {"$set": {"place": "another"}})  # cannot be asked
        os.kill(outage.server.status().pid or 0, signal.SIGKILL)
        time.sleep(5)
        outage.end()
        (silent,) = launch.resume(database, lost_after=1.0)
        assert silent.kind is Kind.SILENT
        assert silent.detail.startswith("counts as lost from ")
        assert "nobody reached the database from" in silent.detail
        time.sleep(4.5)  # more than two heartbeats without an outage
        assert Kind.LOST in {item.kind for item in launch.resume(database, lost_after=1.0)}
    (action,) = [d["action"] for d in launchpad.launches.find({"state": "FIZZLED"}, {"action": 1})]
    message = action["stored_data"]["_exception"]["_details"]["message"]
    assert message.startswith("lost: no heartbeat since ")
    assert "nobody reached the database from" in message


def test_it_is_noted_when_the_database_was_away(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.5)
    launchpad = launch.launchpad_of(database)
    first = liveness.note(launchpad)
    time.sleep(1.0)
    assert liveness.note(launchpad) == first  # the id of the database
    (silence,) = liveness.Watch(launchpad).silences
    assert 0.75 < (silence.until - silence.since).total_seconds() < 60
    assert str(silence).startswith("nobody reached the database from")
    liveness.note(launchpad, away=1.0)  # a worker whose heartbeats failed in that time
    (known,) = liveness.Watch(launchpad).silences
    assert (known.since, known.until, known.tried_in_vain) == (silence.since, silence.until, True)


def test_a_lost_job_in_a_locked_workflow_takes_one_resume(outage: Outage, database: Database, tmp_path: Path) -> None:
    launchpad = put(database, 1)
    with Workers(database, tmp_path / "work") as workers:
        assert workers.run("running", "relax c0") == -signal.SIGKILL
        launchpad.workflows.update_one({"_id": "t:c0"}, {"$set": {"locked": True}})
        found = {i.kind for i in launch.resume(database)}
        assert {Kind.LOST, Kind.LOCK, Kind.RETRIED} <= found
        assert Kind.BUSY not in found
        assert workers.run() == 0
        check_all_done(database, launchpad, 1)


NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def watch(document: dict[str, Any] | None, *silences: tuple[int, int, bool]) -> liveness.Watch:
    """At ``NOW``; times of silences in seconds before it."""
    made = object.__new__(liveness.Watch)
    made.now, made.folders = NOW, set()
    made.workers = {} if document is None else {7: document}
    made.silences = [liveness.Silence(before(a), before(b), tried) for a, b, tried in silences]
    return made


def before(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def elsewhere(seconds: float) -> dict[str, Any]:
    """The document of a worker on another machine, seen so many seconds ago."""
    return {"place": "another", "pid": 1, "started": "1", "host": "another", "seen": before(seconds)}


@pytest.mark.parametrize(
    ("sign", "silences", "lost", "due"),
    [
        (299, [], False, 1),
        (301, [], True, -1),
        (350, [(330, 10, True)], False, 290),  # away for all but 30 s of it: counted from its return
        (700, [(680, 310, True)], True, -10),  # back for long, and no sign
        (700, [(350, 10, True)], True, -400),  # silent for longer than two heartbeats before it went away
    ],
)
def test_a_worker_elsewhere_is_judged_by_the_time_in_which_it_could_be_heard(
    sign: float, silences: list[tuple[int, int, bool]], lost: bool, due: float
) -> None:
    found = watch(elsewhere(sign), *silences).standing({"launch_id": 7}, timedelta(seconds=300))
    assert (found.lost, found.due) == (lost, NOW + timedelta(seconds=due))
    assert found.reason.startswith(f"lost: no heartbeat since {before(sign):%Y-%m-%d %H:%M:%S} UTC")
    assert ("the database was away from" in found.reason) is bool(silences)


def test_two_heartbeats_may_always_be_missed() -> None:
    found = watch(elsewhere(110)).standing({"launch_id": 7}, timedelta(seconds=90))
    assert (found.lost, found.due) == (False, NOW + timedelta(seconds=10))


def test_a_worker_s_loop_gives_back_the_job_whose_end_was_lost(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launchpad, ran = launch.launchpad_of(database), tmp_path / "ran"
    made = job(subprocess.call)(["sh", "-c", f"echo once >> {ran}"])
    made.metadata = {"campaign": "d", "candidate_id": "0", "stage": "relax"}
    insert(launchpad, [workflow_of(made, campaign="d", candidate_id="0")])
    real, times = LaunchPad.complete_launch, []

    def away(*arguments: Any, **more: Any) -> Any:
        times.append(1)
        if len(times) <= 2:  # FireWorks tries to complete it, and then to call it failed
            raise AutoReconnect("the database went away")
        return real(*arguments, **more)

    monkeypatch.setattr(LaunchPad, "complete_launch", away)
    with execution.hushed():
        ending = worker.work(launchpad, FWorker(), folder=tmp_path, sleep=0.1)
    assert ending.stopped is None
    assert [f["state"] for f in launchpad.fireworks.find({}, {"state": 1})] == ["COMPLETED"]
    assert launchpad.launches.count_documents({"state": "RUNNING"}) == 0
    assert ran.read_text() == "once\n"  # its output was stored


def keep(launchpad: LaunchPad, folder: Path, name: str = "", **changes: Any) -> Path:
    """An output of the LaunchPad's one job, kept by a worker that has ended; another name: a copy of it by this one."""
    firework = launchpad.fireworks.find_one({}, {"fw_id": 1, "name": 1, "spec.job_uuid": 1})
    numbers = Random(0).randbytes(1 << 15).hex()  # what gzip makes little smaller
    document = {"uuid": firework["spec"]["job_uuid"], "index": 1, "completed_at": "2026-01-01", "output": numbers}
    made = keeping.Kept(
        database=(liveness.note(launchpad), launchpad.name),
        launch_id=1,
        fw_id=firework["fw_id"],
        name=firework["name"],
        again=False,
        process=liveness.Process(liveness.place(), 1, "long ago"),
        host="here",
        output=execution.Output(document, {}),
    )
    path = replace(made, **changes).write(folder)
    return path.rename(folder / f"{name}{keeping.SUFFIX}") if name else path


def zero(path: Path, begin: int) -> None:
    """What a disk can leave of a file: a block of zeros in it."""
    content = bytearray(path.read_bytes())
    content[begin : begin + 4096] = bytes(4096)
    path.write_bytes(content)


def test_a_copy_of_the_database_leaves_what_is_kept_for_the_first(
    outage: Outage, database: Database, tmp_path: Path
) -> None:
    launchpad, folder = put(database, 1), tmp_path / "undelivered"
    backup(database, tmp_path / "early")
    path = keep(launchpad, folder)
    liveness.announce(launchpad, 1, 1, folder)
    backup(database, tmp_path / "late")
    for name in ("early", "late"):  # before the database had an id, and with it
        settings = ScdmSettings(data_dir=outage.server.data_dir, port=outage.server.port, database=name)
        with connect(settings) as copy:
            restore(copy, tmp_path / name)
            trial = launch.launchpad_of(copy)
            assert folder not in folders_of(trial)
            found = deliver(trial, copy.job_store, [folder])  # with the same data folder
            assert {one.outcome for one in found} <= {Outcome.WAITS}
            assert all("belongs to the database 'scdm', of which this one is a copy" in one.detail for one in found)
            assert len(found) == (name == "late")
            assert copy.job_store.docs_store.count() == 0
            # of a job that is younger than the backup
            trial.fireworks.delete_many({})
            assert {one.outcome for one in deliver(trial, copy.job_store, [folder])} <= {Outcome.WAITS}
            assert path.exists()
    # a database that was lost and comes back under its name is the same
    database.mongo.client.drop_database(database.mongo.name)
    restore(database, tmp_path / "late")
    (one,) = deliver(launch.launchpad_of(database), database.job_store, [folder])
    assert (one.outcome, path.exists()) == (Outcome.STORED, False)
    assert database.job_store.docs_store.count() == 1


def test_one_damaged_file_does_not_keep_the_others_from_being_stored(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launchpad, folder = put(database, 1), tmp_path / "undelivered"
    damaged = keep(launchpad, folder, "0 its middle is zero")
    zero(damaged, 8192)
    with pytest.raises(OutputError, match="cannot be read"):
        keeping.read(damaged)
    damaged = keep(launchpad, folder, "1 all but its head is zero")
    zero(damaged, 10)  # what no compression begins with: zlib's own error, neither an OSError nor a ValueError
    with pytest.raises(OutputError, match=r"cannot be read \(error: Error -3"):
        keeping.read(damaged)
    less = keep(launchpad, folder, "2 less in it than there should be")
    content = json.loads(gzip.decompress(less.read_bytes()))
    del content["document"]["completed_at"], content["document"]["index"]
    less.write_bytes(gzip.compress(json.dumps(content).encode()))
    (folder / f"3 another thing{keeping.SUFFIX}").write_bytes(gzip.compress(b'{"version": {"$oid": "x"}}'))
    good = keep(launchpad, folder, "4 whole")
    found = deliver(launchpad, database.job_store, [folder])
    assert [one.outcome for one in found] == [*[Outcome.ASIDE] * 4, Outcome.STORED]
    assert {path.name[0] for path in (folder / "aside").iterdir()} == {"0", "1", "2", "3"}
    assert sum(record.levelname == "WARNING" and "aside" in record.message for record in caplog.records) == 4
    assert not good.exists()
    assert database.job_store.docs_store.count() == 1


def test_deliver_alone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    launch.launchpad_of(database)
    monkeypatch.setenv("SCDM_MONGO_URI", str(database.uri))
    done = CliRunner().invoke(cli, ["worker", "--deliver"])
    assert (done.exit_code, done.output) == (0, "no outputs are kept here\n")
