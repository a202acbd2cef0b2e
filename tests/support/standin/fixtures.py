"""What a test needs to run jobs with the stand-in: ``from standin.fixtures import standin_vasp``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.standin.potcars import fake_potcars, use_potcars

FOLDER = Path(__file__).resolve().parent
VASP_CMD = f"{sys.executable} {FOLDER / 'vasp.py'}"
# custodian looks at a job every 10 s and at its output every 5 min; a stand-in is done in a tenth of that
POLLING = {"polling_time_step": 0.05, "monitor_freq": 4}


@pytest.fixture(scope="session")
def standin_server() -> Iterator[str]:
    """A server of stand-in runs for this session; its socket, whose path has to be short."""
    with TemporaryDirectory(prefix="standin-", dir="/tmp") as folder:
        yield from _serve(f"{folder}/socket")


def _serve(path: str) -> Iterator[str]:
    command = [sys.executable, str(FOLDER / "server.py"), path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield path
        process.communicate()  # closes its standard input


@pytest.fixture(scope="session")
def standin_potcars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dummy POTCARs of all elements."""
    return fake_potcars(tmp_path_factory.mktemp("potcars"))


@pytest.fixture
def standin_vasp(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, standin_server: str, standin_potcars: Path
) -> dict[str, Any]:
    """``run_vasp_kwargs`` of a maker for the stand-in; POTCARs and commands to fail are set up, for workers as well."""
    (state := tmp_path / "standin-state").mkdir()
    monkeypatch.setenv("STANDIN_VASP_SERVER", standin_server)
    monkeypatch.setenv("STANDIN_VASP_STATE", str(state))
    monkeypatch.setenv("SCDM_VASP_CMD", VASP_CMD)
    monkeypatch.delenv("STANDIN_VASP_FAIL", raising=False)
    use_potcars(monkeypatch, standin_potcars)
    return {"vasp_cmd": VASP_CMD, "vasp_gamma_cmd": VASP_CMD, "custodian_kwargs": dict(POLLING)}
