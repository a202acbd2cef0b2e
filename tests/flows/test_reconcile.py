"""``scdm campaign resume`` after kills and outages: real server, real rlaunch processes, SIGKILL."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rlaunching import FOLLOWERS, Workers, check_all_done, put, runs

from scdm_flows import launch
from scdm_flows.launch import Kind
from scdm_flows.settings import ScdmSettings
from scdm_flows.stores import Database, EmbeddedServer, connect

pytest.importorskip("secantus", reason="the embedded server is an optional extra")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data folder of a server of our own."""
    folder = tmp_path_factory.mktemp("data")
    yield folder
    EmbeddedServer(folder).stop()


@pytest.fixture
def database(server: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database of each test's own."""
    settings = ScdmSettings(data_dir=server, database=f"r{abs(hash(request.node.name)) % 10**8}")
    with connect(settings) as connected:
        yield connected


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed jobs are due at once."""
    monkeypatch.setenv("SCDM_RETRY_WAIT_SECONDS", "0")


def resume(database: Database, seconds: float = 0.3) -> Counter[Kind]:
    """One pass some time after the kill, with whatever gave no sign of life since then counted as lost."""
    time.sleep(seconds)
    return Counter(item.kind for item in launch.resume(database, lost_after=seconds))


# (point, job in which the worker dies, what resume finds)
KILLS = [
    ("claimed", "relax", {Kind.CLAIM: 1}),
    ("launch recorded", "relax", {Kind.CLAIM: 1, Kind.LOST: 1}),
    ("running", "relax", {Kind.LOST: 1, Kind.RETRIED: 1}),
    ("document stored", "relax", {Kind.LOST: 1, Kind.RETRIED: 1}),
    ("output stored", "relax", {Kind.LOST: 1, Kind.STORED: 1}),
    ("output stored", "static", {Kind.LOST: 1, Kind.STORED: 1}),  # which is replaced, but never said so
    ("workflows inserted", "screen", {Kind.LOST: 1, Kind.RETRIED: 1}),
    ("completion recorded", "gate", {Kind.STATE: 1}),
    ("first child inserted", "gate", {Kind.LOCK: 1, Kind.CHILD: 1}),
    ("children inserted", "gate", {Kind.LOCK: 1, Kind.CHILD: FOLLOWERS}),
    ("first child inserted", "static", {Kind.LOCK: 1, Kind.CHILD: 1}),
    ("workflow written", "gate", {Kind.LOCK: 1}),
]


@pytest.mark.parametrize(("point", "name", "found"), KILLS, ids=[f"{p} in {n}".replace(" ", "-") for p, n, _ in KILLS])
def test_a_kill_at_any_point_costs_nothing(
    point: str, name: str, found: dict[Kind, int], database: Database, tmp_path: Path
) -> None:
    launchpad = put(database)
    with Workers(database, tmp_path / "work") as workers:
        assert workers.run(point, name) == -signal.SIGKILL
        before = resume(database)
        assert found.items() <= before.items(), before
        assert workers.run() == 0
        check_all_done(database, launchpad)
        assert resume(database) == {}  # and nothing is left to do
        ran = runs(workers.log)
    # a job whose output was stored does not run again; a dynamic one may, and adds nothing
    assert {n: k for n, k in ran.items() if k > 1}.keys() <= {"screen", "replaced 0", "replaced 1", "large 0", "large 1"}
