"""`scdm campaign promote` as people and scripts use it, and what it makes under FireWorks. Real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fireworks import FWorker
from fireworks.core.rocket_launcher import launch_rocket
from support.commands import commands
from support.documents import six_candidates

from scdm_flows.cli import cli
from scdm_flows.cli.common import run
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution.jobs import hushed
from scdm_flows.stores import EmbeddedServer, connect

pytest.importorskip("secantus", reason="the embedded server is an optional extra")
Scdm = Callable[..., Any]


@pytest.fixture
def scdm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Scdm]:
    """The command, in a folder whose database holds a campaign of three ranked candidates."""
    for name in ("SCDM_MONGO_URI", "SCDM_PORT", "SCDM_CONFIG_FILE", "SCDM_DATABASE", "SCDM_VASP_CMD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    documents = six_candidates()
    for candidate in documents.candidates[:3]:
        candidate.relaxed_structure = candidate.structure
    with connect() as database:
        documents.store(database)

    yield commands(capsys)
    EmbeddedServer(tmp_path / "data").stop()


def test_promote_says_what_it_does_and_its_campaign_runs_by_name(scdm: Scdm) -> None:
    promote = ("campaign", "promote", "demo", "--top", "5", "--engine", "forcefield", "--where", "max_nsites=3")
    options = ("--engine-option", "fmax_ev_per_angstrom=0.3", "--as", "next", "--node-hours", "2")
    planned = scdm(*promote, *options, "--dry-run")
    assert "campaign next: 3 candidates of demo would be promoted to the forcefield engine" in planned
    assert "5 were asked for, 3 can be promoted" in planned
    assert "left out: 3 without a relaxed structure" in planned
    assert "nothing was written" in planned
    assert [d["name"] for d in scdm("campaign", "list", "--json")] == ["demo"]

    first = scdm(*promote, *options, "--json")
    assert first["changed"] is True
    assert first["promoted"] == [f"demo-{k:012x}" for k in (0, 2, 1)]  # by rank
    assert first["budget"] == {"node_hours": 2}
    again = scdm(*promote, *options, "--json")
    assert (again["changed"], again["config_hash"]) == (False, first["config_hash"])
    assert "holds these 3 candidates of demo already; nothing was changed" in scdm(*promote, *options)
    assert "already; its node hours changed" in scdm(*promote, *options[:-1], "3")
    assert "--as" in scdm(*promote, "--as", "next", code=2)  # without the engine's option
    refused = scdm(*promote, *options, "--gate", "phonon_max_atoms=4", code=2)
    assert "gate.phonon_max_atoms: 12 there, 4 here" in refused

    planned = scdm("campaign", "run", "next", "--dry-run", "--json")
    assert (planned["campaign"], planned["samples"], planned["missing"]) == ("next", 3, [])
    assert scdm("campaign", "submit", "next", "--json")["workflows_added"] == 1
    assert scdm("campaign", "submit", "next", "--json")["workflows_added"] == 0
    with connect() as database, hushed():
        launchpad = launch.launchpad_of(database)
        for _ in range(2):  # generate, which finds its output stored, and screen
            assert launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL")
        assert launch.status(database, "next")["screen"] == {"COMPLETED": 1}
        # 1H of a = 3.18 and 3.3 angstrom are the same layer for the screen, so one of these goes no further
        assert launch.status(database, "next")["relax"] == {"READY": 2}
    assert "campaign file nowhere does not exist" in scdm("campaign", "run", "nowhere", code=2)


def test_quickstart_refuses_dft_without_gpaw_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCDM_GPAW_PYTHON", "/bin/false")
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(SystemExit) as stop:
        run(cli, ["quickstart", "--dft"])
    assert stop.value.code == 2
    assert "pip install gpaw==" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_promote_refuses_in_words(scdm: Scdm) -> None:
    promote = ("campaign", "promote", "demo", "--top", "3", "--engine")
    assert "did you mean 'vasp'" in scdm(*promote, "vaps", code=2)
    assert "must be KEY=VALUE" in scdm(*promote, "vasp", "--engine-option", "encut_ev", code=2)
    assert "unknown key 'engine.encut'; did you mean 'encut_ev'" in scdm(
        *promote, "vasp", "--engine-option", "encut=5", code=2
    )
    assert "did you mean 'demo'" in scdm("campaign", "promote", "dmo", "--top", "3", "--engine", "vasp", code=2)
    assert "has no place in a promotion" in scdm(*promote, "vasp", "--where", "campaign=demo", code=2)
    assert "no candidate of campaign 'demo' can be promoted" in scdm(*promote, "vasp", "--formula", "WS2", code=2)
    assert "SCDM_VASP_CMD" in scdm(*promote, "vasp", code=2)  # VASP is not here, and nothing has been computed
    assert "SCDM_VASP_CMD" in scdm(*promote, "vasp", "--dry-run", code=2)
    assert [d["name"] for d in scdm("campaign", "list", "--json")] == ["demo"]
