"""`scdm campaign submit`, `status`, `cancel`, `list` and `--dry-run` as people and scripts use them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import commands
from support.layers import mx2
from support.places import ROOT

from scdm_flows.cli import cli
from scdm_flows.cli.common import run
from scdm_flows.config import parse_config
from scdm_flows.errors import ConfigError
from scdm_flows.stores import EmbeddedServer

pytest.importorskip("secantus", reason="the embedded server is an optional extra")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a server of its own, and nothing set from outside."""
    for name in ("SCDM_MONGO_URI", "SCDM_PORT", "SCDM_CONFIG_FILE", "SCDM_DATABASE", "SCDM_VASP_CMD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    EmbeddedServer(tmp_path / "data").stop()


def campaign_file(folder: Path, **changes: Any) -> Path:
    """A campaign of three layers in two shards."""
    (folder / "in").mkdir(exist_ok=True)
    for metal in ("Mo", "W", "Nb"):
        mx2("1H").replace_species({"Mo": metal}).to(filename=str(folder / "in" / f"{metal}.cif"))
    content = {"name": "c", "generator": {"kind": "files", "paths": [str(folder / "in")], "shard_size": 2}, **changes}
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_submit_status_cancel_and_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scdm = commands(capsys)

    file = campaign_file(place, budget={"max_candidates": 2, "jobs": {"compute": 1}})
    planned = scdm("campaign", "submit", str(file), "--dry-run", "--json")
    assert (planned["samples"], planned["workflows"], planned["missing"]) == (3, 2, [])
    assert planned["budget"] == {"max_candidates": 2, "jobs": {"compute": 1}}
    assert not (place / "data").exists()  # nothing was written, no server started
    assert scdm("campaign", "submit", str(file), "--json")["workflows_added"] == 2
    assert scdm("campaign", "submit", str(file), "--json")["workflows_added"] == 0
    # that nothing is to be repaired does not say that nothing is left to do
    assert scdm("campaign", "resume", "c") == "nothing to repair; 4 jobs have not begun, 0 run\n"

    status = scdm("campaign", "status", "c", "--json")
    assert status["state"] == "submitted"
    assert status["budget"] == [
        "candidates: 0 of at most 2 put in the queue",
        "compute jobs: 0 running, at most 1 at once",
    ]
    campaign_file(place, budget={"max_candidates": 1})  # another budget is applied, nothing is computed anew
    assert scdm("campaign", "submit", str(file), "--json")["workflows_added"] == 0
    assert "candidates: 0 of at most 1 put in the queue" in scdm("campaign", "status", "c")
    campaign_file(place, screen={"max_atoms": 3})
    for _ in range(2):  # nothing has been computed, so it is corrected, and put in the queue anew; then set back
        assert scdm("campaign", "submit", str(file), "--json")["workflows_added"] == 2
        campaign_file(place)

    assert scdm("campaign", "cancel", "c", "--dry-run") == "4 jobs of campaign c have not begun; nothing was changed\n"
    assert "is not cancelled" in scdm("campaign", "cancel", "c", "--undo", "--dry-run", code=2)
    assert scdm("campaign", "cancel", "c", "--json") == {"campaign": "c", "jobs": 4, "undone": False, "dry_run": False}
    assert [d["state"] for d in scdm("campaign", "list", "--json")] == ["cancelled"]
    assert scdm("campaign", "status", "c", "--json")["state"] == "cancelled"
    for command in ("submit", "run"):
        assert "`scdm campaign cancel c --undo` puts it back" in scdm("campaign", command, str(file), code=2)
    assert "cancelled" in Path(scdm("campaign", "report", "c").split(": ")[1].strip()).read_text()
    # a dry run counts what the run would put back, and says of nothing that it was done
    undo = ("campaign", "cancel", "c", "--undo", "--dry-run")
    assert scdm(*undo) == "4 jobs of campaign c would be put back; nothing was changed\n"
    assert scdm(*undo, "--json") == {"campaign": "c", "jobs": 4, "undone": False, "dry_run": True}
    assert scdm("campaign", "resume") == "nothing to repair; no job waits or runs\n"  # cancelled ones do not wait
    assert "campaign c is back: 4 jobs can run again" in scdm("campaign", "cancel", "c", "--undo")
    assert "is not cancelled" in scdm("campaign", "cancel", "c", "--undo", code=2)
    assert scdm("campaign", "status", "c", "--json")["state"] == "submitted"
    assert "no campaign" in scdm("campaign", "cancel", "x", code=2)


def test_a_campaign_that_was_run_here_leaves_nothing_to_resume(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def scdm(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            run(cli, list(arguments))
        captured = capsys.readouterr()
        assert not stop.value.code, captured.err
        return captured.out

    file = campaign_file(
        place,
        generator={"kind": "files", "paths": [str(place / "in")], "shard_size": 2},
        screen={"require_novel": False},
        gate={"phonon_max_e_above_hull": 0},
    )
    for name in ("Nb", "W"):  # the layer of the first shard once more in the second, where a worker could not know it
        (place / "in" / f"{name}.cif").write_text((place / "in" / "Mo.cif").read_text())
    scdm("campaign", "run", str(file), "--processes", "1")
    for more in ([], ["--dry-run"], ["--retry-failed"]):
        assert scdm("campaign", "resume", "c", *more) == "nothing to repair; no job waits or runs\n"
    assert json.loads(scdm("campaign", "resume", "c", "--json"))["items"] == []
    assert json.loads(scdm("campaign", "status", "c", "--json"))["fireworks"] == {}  # nothing was put in the queue


def test_a_dry_run_tells_the_cost_of_either_engine(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def plan(file: Path) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            run(cli, ["campaign", "submit", str(file), "--dry-run", "--json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    cheap = plan(campaign_file(place, engine={"kind": "forcefield"}))
    dear = plan(campaign_file(place, engine={"kind": "vasp"}))
    assert cheap["costs"] == []  # seconds a candidate
    assert [c["known"] for c in dear["costs"]] == [True] * 3
    assert all(c["core_hours"] > 1 for c in dear["costs"])
    assert {"static", "uniform", "line"} <= {s["stage"] for s in dear["costs"][0]["stages"]}
    assert any("SCDM_VASP_CMD" in line for line in dear["missing"])
    assert list(place.glob("data*")) == []


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a b", "'a-b' would do"),
        ("../etc", "'etc' would do"),
        ("x.y$z", "'x-y-z' would do"),
        ("Gr\u00fcn", "'Gr-n' would do"),
        ("x\n", "'x' would do"),
        ("", "letters, digits"),
        ("n" * 64, "1 to 63"),
    ],
)
def test_a_name_with_odd_characters_is_refused_with_one_that_would_do(name: str, remedy: str) -> None:
    data = yaml.safe_load((ROOT / "launchpad" / "campaigns" / "quickstart.yaml").read_text())
    with pytest.raises(ConfigError, match="name = .*letters, digits, - and _") as error:
        parse_config({**data, "name": name})
    assert remedy in str(error.value)
