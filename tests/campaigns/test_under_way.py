"""Who runs a campaign or a loop: one living process at a time, and none that is gone is in the way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from support.memory import memory_database

from scdm_flows.campaigns import under_way
from scdm_flows.campaigns.controls import loop_key
from scdm_flows.cli.running import run_and_build
from scdm_flows.config import parse_config
from scdm_flows.documents import utc_now
from scdm_flows.errors import CampaignError, ScdmError
from scdm_flows.execution.fireworks import submit
from scdm_flows.stores import Database
from scdm_flows.stores.names import CONTROLS


@pytest.fixture(params=["memory", "server"])
def any_database(request: pytest.FixtureRequest) -> Database:
    if request.param == "memory":
        return memory_database()
    pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    database: Database = request.getfixturevalue("database")
    return database


def mark(database: Database, key: str = "c", **fields: Any) -> None:
    run = {"host": "elsewhere", "pid": 1, "since": utc_now(), "seen": utc_now()} | fields
    database.mongo[CONTROLS].update_one({"_id": key}, {"$set": {"run": run}}, upsert=True)


def of_mark(database: Database, key: str = "c") -> Any:
    return (database.mongo[CONTROLS].find_one({"_id": key}) or {}).get("run")


@pytest.mark.parametrize(("key", "what"), [("c", "campaign 'c'"), (loop_key("l"), "loop 'l'")])
def test_what_another_process_runs_is_refused_in_words(any_database: Database, key: str, what: str) -> None:
    mark(any_database, key)
    before = of_mark(any_database, key)
    words = (
        rf"^{what} is run by another process already \(process 1 on elsewhere, since 2.*, last seen .*\); wait for its"
    )
    with pytest.raises(CampaignError, match=words), under_way.running(any_database, key):
        raise AssertionError("it runs twice")
    assert of_mark(any_database, key) == before  # which stays the other's


def test_a_campaign_is_not_run_twice_at_once() -> None:
    """Nothing of it is even registered."""
    database = memory_database()
    mark(database)
    config = parse_config({"name": "c", "generator": {"kind": "files", "paths": ["/nowhere.cif"]}})
    with pytest.raises(CampaignError, match="campaign 'c' is run by another process already"):
        run_and_build(config, database, processes=1)
    assert database.campaign("c") is None


def test_what_a_process_runs_is_not_put_on_the_launchpad(any_database: Database) -> None:
    mark(any_database)
    config = parse_config({"name": "c", "generator": {"kind": "files", "paths": ["/nowhere.cif"]}})
    with pytest.raises(CampaignError, match=r"campaign 'c' is run by another process \(process 1 on elsewhere"):
        submit(config, any_database, launchpad=SimpleNamespace(db=any_database.mongo))
    assert any_database.campaign("c") is None


def test_what_workers_run_is_not_run_here() -> None:
    database = memory_database()
    jobs = database.mongo["fireworks"]
    jobs.insert_one({"fw_id": 1, "name": "relax c-1", "state": "RUNNING", "spec": {"campaign": "c"}})
    config = parse_config({"name": "c", "generator": {"kind": "files", "paths": ["/nowhere.cif"]}})
    words = r"computed twice: 1 of its jobs run on the LaunchPad, such as relax c-1; .* gives back those of workers"
    with pytest.raises(CampaignError, match=words):
        run_and_build(config, database, processes=1)
    jobs.update_one({}, {"$set": {"state": "READY"}})  # one may take over what waits
    with pytest.raises(ScdmError, match="nowhere.cif"):
        run_and_build(config, database, processes=1)


def test_a_process_that_is_gone_is_not_in_the_way(any_database: Database) -> None:
    """Killed here; killed elsewhere and not seen for long; killed and not waited for; of a version that said less."""
    killed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        mark(any_database, host=socket.gethostname(), pid=killed.pid)
        with pytest.raises(CampaignError, match=f"process {killed.pid} on"), under_way.running(any_database, "c"):
            pass
        killed.kill()
        for _ in range(100):  # a zombie, until somebody waits for it
            if not under_way._lives(killed.pid):
                break
            time.sleep(0.1)
        with under_way.running(any_database, "c"):
            assert of_mark(any_database)["pid"] == os.getpid()
    finally:
        killed.kill()
        killed.wait()
    mark(any_database, host=socket.gethostname(), pid=killed.pid)
    with under_way.running(any_database, "c"):
        pass
    lost = utc_now() - under_way.LOST_AFTER - timedelta(seconds=1)
    old = {"host": "elsewhere", "pid": 1, "seen": lost}
    any_database.mongo[CONTROLS].update_one({"_id": "c"}, {"$set": {"run": old}})
    with under_way.running(any_database, "c"):
        pass
    assert of_mark(any_database) is None


@pytest.mark.parametrize("there", [False, True])
def test_of_two_that_begin_at_the_same_moment_one_is_refused(any_database: Database, there: bool) -> None:
    """Both have read that nobody runs it, or that whoever did is gone; then the other writes first."""
    if there:
        mark(any_database, pid=2, seen=utc_now() - 2 * under_way.LOST_AFTER)

    class Late:
        """Controls into which another process writes after the first look."""

        looked = False

        def __getitem__(self, name: str) -> Any:
            return self

        def __getattr__(self, name: str) -> Any:
            return getattr(any_database.mongo[CONTROLS], name)

        def find_one(self, query: Any) -> Any:
            found = any_database.mongo[CONTROLS].find_one(query)
            if not self.looked:
                self.looked = True
                mark(any_database)
            return found

    mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": utc_now()}
    assert "process 1 on elsewhere" in str(under_way._claim(Late(), "c", mine))
    assert of_mark(any_database)["pid"] == 1


def test_a_mark_is_renewed_but_not_that_of_whoever_has_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped for long goes on; by then the campaign may be another's."""
    database = memory_database()
    monkeypatch.setattr(under_way, "RENEWED_SECONDS", 0.02)

    def eventually(holds: Any) -> bool:
        return any(holds() or time.sleep(0.02) for _ in range(250))

    with under_way.running(database, "c"):
        first = of_mark(database)
        assert eventually(lambda: of_mark(database)["seen"] > first["seen"])
        assert of_mark(database)["since"] == first["since"]
        mark(database)
        time.sleep(0.2)
        assert of_mark(database)["pid"] == 1
    assert of_mark(database)["pid"] == 1
