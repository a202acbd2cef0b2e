"""Reference phases by stock FireWorks workers, with the stand-in executable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure
from support.places import ROOT

from scdm_flows.cli.refs import refs
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.stores import EmbeddedServer, connect
from scdm_flows.thermo.entries import load_entries

ENGINE = {"kind": "vasp", "kpoint_spacing_per_angstrom": 0.8, "vasp_version": "6.5.0"}


@pytest.mark.slow
def test_workers_compute_what_was_submitted_and_the_same_command_gathers_it(
    tmp_path: Path, standin_vasp: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    from scdm_flows.execution.fireworks import write_worker_config

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SCDM_VASP_POLL_SECONDS", "0.1")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'models'}")
    Structure(Lattice.cubic(3.44), ["Li", "Li"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(filename="Li.cif")
    data = {"name": "r", "generator": {"kind": "scdm"}, "engine": ENGINE}
    Path("r.yaml").write_text(json.dumps(data))
    command = ["compute", "r.yaml", "--elements", "Li", "--structures", "Li.cif", "-o", "li.json", "--submit"]
    settings = ScdmSettings(data_dir=tmp_path / "data")
    try:
        first = CliRunner().invoke(refs, command, catch_exceptions=False)
        assert (first.exit_code, Path("li.json").exists()) == (1, False)
        assert "put 1 workflows on the LaunchPad (0 were there)" in first.output
        again = CliRunner().invoke(refs, command, catch_exceptions=False)
        assert "put 0 workflows on the LaunchPad (1 were there)" in again.output
        with connect(settings) as database:
            launchpad = write_worker_config(database, tmp_path / "launchpad").parent
            worker = [str(Path(sys.executable).with_name("rlaunch")), "-c", str(launchpad), "rapidfire"]
            subprocess.run(worker, check=True, env=dict(os.environ), capture_output=True, timeout=300)
        last = CliRunner().invoke(refs, command, catch_exceptions=False)
    finally:
        EmbeddedServer(settings.data_dir).stop()
    assert last.exit_code == 0
    assert "1 phases are in li.json" in last.output
    assert set(load_entries("li.json").phases) == {"Li"}
