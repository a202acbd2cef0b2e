"""`scdm campaign list --loops`, and how a loop says that it is under way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from support.commands import commands
from support.loops_demo import loop_config, store_loop
from support.memory import memory_database

from scdm_flows.campaigns.controls import loop_key
from scdm_flows.cli import cli
from scdm_flows.config.loop import LoopConfig
from scdm_flows.documents import utc_now
from scdm_flows.errors import CampaignError
from scdm_flows.execution.loop import Went
from scdm_flows.stores import Database
from scdm_flows.stores.names import CONTROLS, OUTPUTS


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    made = memory_database()
    monkeypatch.setattr("scdm_flows.stores.database.connect", lambda **_: made)
    monkeypatch.setattr(Database, "close", lambda self: None)
    return made


def test_loops_are_listed(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    scdm = commands(capsys)
    assert scdm("campaign", "list", "--loops", "--json") == []
    store_loop(database)
    (listed,) = scdm("campaign", "list", "--loops", "--json")
    assert (listed["name"], len(listed["rounds"]), listed["ended"]) == ("l", 2, None)
    row = next(line for line in scdm("campaign", "list", "--loops").splitlines() if line.strip().startswith("l "))
    # one of two found in 0.6 core hours
    assert row.split()[1:5] == ["chance", "2", "2", "1"]
    assert "0.60" in row
    assert "not at its end yet" in row


def test_a_loop_that_another_process_runs_is_refused(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would compute the same, and the one that is behind would take back the other's rounds."""
    monkeypatch.setattr("scdm_flows.execution.loop.go_on", lambda *_, **__: pytest.fail("it runs twice"))
    file = tmp_path / "l.yaml"
    file.write_text(yaml.safe_dump(loop_config().model_dump(mode="json")))
    run = {"host": "elsewhere", "pid": 1, "since": utc_now(), "seen": utc_now()}
    database.mongo[CONTROLS].insert_one({"_id": loop_key("l"), "run": run})
    for how in ([], ["--submit"]):
        result = CliRunner().invoke(cli, ["campaign", "loop", str(file), *how])
        assert isinstance(result.exception, CampaignError)
        assert "loop 'l' is run by another process already (process 1 on elsewhere, since" in str(result.exception)


@pytest.mark.parametrize(
    ("kind", "ranks", "words"),
    [
        ("vasp", "32", "no round and nothing chosen begins after 100 core hours\n"),
        (
            "vasp",
            None,
            "no round and nothing chosen begins after 100 node hours: set SCDM_VASP_RANKS, and core hours are counted",
        ),
        ("gpaw", None, "no round and nothing chosen begins after 100 core hours\n"),
    ],
)
def test_a_plan_says_what_its_hours_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ranks: str | None, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCDM_VASP_RANKS", raising=False)
    if ranks is not None:
        monkeypatch.setenv("SCDM_VASP_RANKS", ranks)
    config = loop_config(compute={"engine": {"kind": kind}}, core_hours=100)
    Path("l.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    plan = CliRunner().invoke(cli, ["campaign", "loop", "l.yaml", "--dry-run"])
    assert words in plan.output


def test_a_plan_is_refused_where_the_loop_would_be(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is none where the loop would go on: the campaigns that it has made are its own."""
    monkeypatch.setattr("scdm_flows.campaigns.registration.connect", lambda **_: database)
    monkeypatch.setattr("scdm_flows.campaigns.registration.obstacles", lambda _: [])  # GPAW may not be installed here

    def planned(**changes: Any) -> Any:
        file = tmp_path / "l.yaml"
        file.write_text(yaml.safe_dump(loop_config(**changes).model_dump(mode="json")))
        return CliRunner().invoke(cli, ["campaign", "loop", str(file), "--dry-run"])

    assert planned().exit_code == 0  # there is nothing yet
    store_loop(database)
    for name in ("l-r01", "l-r01-gpaw"):
        database.mongo[OUTPUTS].insert_one({"uuid": name, "index": 1, "metadata": {"campaign": name}})
    for same in ({}, {"rounds": 5, "core_hours": 2}):
        assert planned(**same).exit_code == 0, planned(**same).output
    for changes, words in (
        ({"choose": {"n": 4}}, "loop 'l' exists with another configuration; only rounds, core_hours and the descr"),
        ({"name": "l-r02"}, "a campaign is called 'l-r02'; give the loop another name"),
    ):
        refused = planned(**changes)
        assert refused.exit_code == 2
        assert f"missing: {words}" in refused.output
    assert [one["config"] for one in database.mongo["loops"].find()] == [loop_config().model_dump(mode="json")]


def test_a_loop_says_that_it_is_under_way(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that nobody removes it meanwhile."""
    config, seen = loop_config(), []

    def go_on(asked: LoopConfig, connected: Database, *_: Any, **__: Any) -> Went:
        seen.append(connected.mongo[CONTROLS].find_one({"_id": loop_key(asked.name)}))
        return Went(store_loop(connected))

    monkeypatch.setattr("scdm_flows.execution.loop.go_on", go_on)
    file = tmp_path / "l.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    commands(capsys)("campaign", "loop", str(file))
    assert seen[0] is not None
    assert "pid" in seen[0]["run"]
    after = database.mongo[CONTROLS].find_one({"_id": loop_key("l")})
    assert after is not None
    assert "run" not in after
