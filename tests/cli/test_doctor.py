"""``scdm doctor``: a row for everything, how to get what is missing, and an exit code that tells whether to go on."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.memory import memory_database

from scdm_flows.cli import cli, doctor
from scdm_flows.cli.common import run
from scdm_flows.documents import CampaignDoc

Check = Callable[[], str]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("SCDM_MONGO_URI", "SCDM_DATA_DIR", "SCDM_PORT", "SCDM_VASP_CMD", "SCDM_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)


def _run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        run(cli, ["doctor", *options])
    return int(stop.value.code or 0), capsys.readouterr().out


def _ok() -> str:
    return "there"


def _gone() -> str:
    raise doctor.Missing("not there", "fetch it")


def _broken() -> str:
    raise RuntimeError("libfoo.so is damaged; install it again\nmore lines")


@pytest.mark.parametrize(
    ("needed", "check", "code", "ready"),
    [(True, _ok, 0, True), (True, _gone, 2, False), (True, _broken, 2, False), (False, _gone, 0, True)],
)
def test_exit_code_tells_whether_the_quickstart_can_run(
    needed: bool,
    check: Check,
    code: int,
    ready: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: [("thing", needed, check)])
    found, out = _run(capsys, "--json")
    assert found == code
    assert json.loads(out)["ready"] is ready


def test_each_failure_is_a_row_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: [("a", True, _gone), ("b", False, _broken), ("c", True, _ok)])
    rows = {f.what: (f.ok, f.detail, f.remedy) for f in doctor.examine()}
    assert rows == {
        "a": (False, "not there", "fetch it"),
        "b": (False, "libfoo.so is damaged", "install it again\nmore lines"),
        "c": (True, "there", None),
    }


def test_table_names_state_and_remedy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: [("model", True, _gone), ("VASP", False, _gone), ("disk", True, _ok)])
    code, out = _run(capsys)
    assert code == 2
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert "MISSING" in lines["model"]
    assert "fetch it" in lines["model"]
    assert "optional" in lines["VASP"]
    assert "ok" in lines["disk"]
    assert "the quickstart cannot run yet" in out


def test_this_installation_can_run_the_quickstart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # the tests' environment has everything: torch, weights, tables, the packaged checkpoint, the embedded server
    code, out = _run(capsys, "--json")
    report: dict[str, Any] = json.loads(out)
    assert [c for c in report["checks"] if c["needed"] and not c["ok"]] == []
    assert (code, report["ready"]) == (0, True)
    assert {
        "Python",
        "checkpoint",
        "reference phases (hull)",
        "database",
        "FireWorks configuration",
        "VASP",
    } <= {c["what"] for c in report["checks"]}
    assert all(c["remedy"] for c in report["checks"] if not c["ok"])
    assert list(tmp_path.iterdir()) == []  # looking changes nothing: no server started, no folder made


def _check(name: str) -> doctor.Finding:
    return next(f for f in doctor.examine() if f.what == name)


def test_a_full_disk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(doctor.Missing, match=r"0\.01 GB free, 0\.5 GB are needed"):
        doctor._data_folder()


def test_a_folder_that_cannot_be_written_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path / "file" / "data"))
    with pytest.raises(doctor.Missing, match="cannot be written") as error:
        doctor._data_folder()
    assert "SCDM_DATA_DIR" in error.value.remedy


def test_a_taken_port_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("SCDM_PORT", str(port))
        with pytest.raises(doctor.Missing, match=f"port {port} is in use") as error:
            doctor._database()
    assert "SCDM_PORT" in error.value.remedy


def test_an_unreachable_mongodb_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scdm_flows.stores.database.TIMEOUT_MS", 200)
    monkeypatch.setenv("SCDM_MONGO_URI", "mongodb://me:secret@127.0.0.1:9/scdm")  # port 9: nobody listens
    monkeypatch.setattr(doctor, "checks", lambda: [("database", True, doctor._database)])
    finding = _check("database")
    assert not finding.ok
    assert "127.0.0.1:9" in finding.detail
    assert "secret" not in finding.detail + str(finding.remedy)
    assert finding.remedy


def test_a_missing_index_is_found_and_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._indexes().endswith("made when the database is used")  # no server runs, and none is started
    database = memory_database()
    monkeypatch.setattr(database, "close", lambda: None)  # it is looked at more than once
    monkeypatch.setenv("SCDM_MONGO_URI", "mongodb://127.0.0.1/scdm")
    monkeypatch.setattr("scdm_flows.stores.database.connect", lambda settings, indexes: database)
    database.upsert(database.campaigns, [CampaignDoc(name="c", config={}, config_hash="0").model_dump()])
    assert doctor._indexes().isdigit()
    database.mongo["candidates"].drop_index("formula_1_candidate_id_1")
    with pytest.raises(doctor.Missing, match=r"candidates \(formula, candidate_id\) is missing") as error:
        doctor._indexes()
    assert error.value.remedy == "run `scdm db index`"


def test_a_vasp_that_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(doctor.Missing, match="SCDM_VASP_CMD is not set"):
        doctor._vasp()
    monkeypatch.setenv("SCDM_VASP_CMD", "srun_no_such vasp_std")
    with pytest.raises(doctor.Missing, match="srun_no_such is not on the PATH"):
        doctor._vasp()


def test_a_mistake_in_the_settings_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCDM_PORT", "seventy")
    with pytest.raises(SystemExit) as stop:
        run(cli, ["doctor"])
    assert stop.value.code == 2
    assert "SCDM_PORT" in capsys.readouterr().err
