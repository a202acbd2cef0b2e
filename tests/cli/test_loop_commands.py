"""`scdm campaign list --loops`, and how a loop says that it is under way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import commands
from support.loops_demo import loop_config, store_loop
from support.memory import memory_database

from scdm_flows.campaigns.controls import loop_key
from scdm_flows.config.loop import LoopConfig
from scdm_flows.execution.loop import Went
from scdm_flows.stores import Database
from scdm_flows.stores.names import CONTROLS


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
