"""A small campaign for real: embedded server, workers, kills, FireWorks; the same end state whatever happens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from support.commands import commands
from support.layers import mx2
from support.memory import memory_database
from support.places import ROOT

from scdm_flows.builders import build_all
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.errors import CampaignError, ConfigError, StoreError
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database, EmbeddedServer, connect

pytest.importorskip("secantus", reason="the embedded server is an optional extra")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path):
    """Settings of an embedded server of its own, stopped afterwards."""
    made = ScdmSettings(data_dir=tmp_path / "data", port=free_port())
    yield made
    EmbeddedServer(made.data_dir, made.port).stop()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CampaignConfig:
    """Three layers and one broken file; phonons of the two-atom layer only."""
    folder = tmp_path_factory.mktemp("structures")
    mx2("1H").to(filename=str(folder / "a.cif"))
    mx2("1T", a=3.2).to(filename=str(folder / "b.cif"))
    Structure(Lattice.hexagonal(2.51, 20), ["B", "N"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]).to(
        filename=str(folder / "c.cif")
    )
    (folder / "d.cif").write_text("not a crystal")
    return parse_config(
        {
            "name": "small",
            "generator": {"kind": "files", "paths": [str(folder)], "shard_size": 3},
            "screen": {"require_novel": False},
            "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.1, "phonon_min_length_angstrom": 6},
            "gate": {"phonon_max_atoms": 2, "phonon_max_e_above_hull": 2, "max_e_above_hull": 2},
        }
    )


@pytest.fixture(scope="module")
def reference(config: CampaignConfig) -> Database:
    """The campaign as nothing disturbed it."""
    database = memory_database()
    run_campaign(config, database, processes=1)
    build_all(database)
    return database


def end_state(database) -> dict[str, tuple]:
    """What must not depend on how a campaign was run; energies to 1 meV/atom (threads change the last digits)."""
    return {
        c.formula + str(c.layer_group): (
            c.state,
            c.dynamically_stable,
            round(c.e_above_hull or 9, 3),
            sorted(c.stages),
        )
        for c in CandidateDB(database).find(campaign="small")
    }


def test_run_twice_adds_nothing(config: CampaignConfig) -> None:
    database = memory_database()
    result = run_campaign(config, database, processes=1)
    assert (result.accepted, result.computed, result.failed) == (3, 3, 0)
    build_all(database)
    funnel = CandidateDB(database).campaign("small").funnel
    assert (funnel.generated, funnel.valid, funnel.relaxed, funnel.phonon_done, funnel.pending) == (
        4,
        3,
        3,
        1,
        0,
    )
    before = database.job_store.docs_store.count()
    again = run_campaign(config, database, processes=1)
    assert (again.computed, again.already_done) == (0, 3)
    assert database.job_store.docs_store.count() == before
    assert set(build_all(database).values()) == {0}
    records = CandidateDB(database).flat_records(campaign="small", state="completed")
    assert [r["rank"] for r in records] == [1, 2, 3]
    assert all(r["surrogate"] and r["energy_scheme"] == "c2db-pbe" and r["energy_model"] for r in records)
    bn = next(r for r in records if r["formula"] == "BN")
    assert bn["dynamically_stable"] is True  # h-BN is a stable layer
    # a changed campaign under the same name is refused, with the difference
    changed = config.model_copy(update={"description": "other"})
    with pytest.raises(CampaignError, match="description: '' there, 'other' here"):
        run_campaign(changed, database, processes=1)


@pytest.mark.slow
def test_sigkill_and_resume_reach_the_same_end(
    config: CampaignConfig,
    reference: Database,
    settings: ScdmSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(config.model_dump_json())  # JSON is YAML
    monkeypatch.setenv("SCDM_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("SCDM_PORT", str(settings.port))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'models'}")
    program = [sys.executable, "-c", "from scdm_flows.cli import main; main()"]
    command = ["campaign", "run", str(file)]
    database = connect(settings)
    outputs = database.job_store.docs_store
    # after the screen, and in the middle of the candidates
    for enough, processes in ((2, "1"), (5, "2")):
        process = subprocess.Popen(
            [*program, *command, "--processes", processes],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while outputs.count() < enough and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    commands(capsys)(*command, "--processes", "1")
    assert end_state(database) == end_state(reference)
    keys = [(d["uuid"], d["index"]) for d in outputs.query({}, properties=["uuid", "index"])]
    assert len(keys) == len(set(keys)) == reference.job_store.docs_store.count()
    database.close()


@pytest.mark.slow
def test_fireworks_workers_reach_the_same_end(
    config: CampaignConfig, reference: Database, settings: ScdmSettings, tmp_path: Path
) -> None:
    from scdm_flows.execution.fireworks import submit

    database = connect(settings)
    assert submit(config, database) == 2  # four entries in shards of three
    assert submit(config, database) == 0
    launchpad = tmp_path / "launchpad"
    launchpad.mkdir()
    for source in (ROOT / "launchpad").glob("*.yaml"):
        (launchpad / source.name).write_text(source.read_text().replace("27217", str(settings.port)))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'models'}"}
    rlaunch = Path(sys.executable).with_name("rlaunch")
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [str(rlaunch), "-c", str(launchpad), "rapidfire"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    build_all(database)
    assert end_state(database) == end_state(reference)
    # no firework carries a store or an address
    raw = json.dumps(list(database.candidates._collection.database["fireworks"].find({}, {"_id": 0})), default=str)
    assert "mongodb://" not in raw
    database.close()


def test_server_is_shared_and_survives_its_client(settings: ScdmSettings) -> None:
    first, second = connect(settings), connect(settings)
    first.upsert(first.failures, [{"failure_id": "a:b", "x": 1}])
    assert second.failures.query_one({"failure_id": "a:b"})["x"] == 1
    server = EmbeddedServer(settings.data_dir, settings.port)
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    first.close()
    second.close()
    time.sleep(0.5)
    assert not server.status().running
    again = connect(settings)  # started anew; what was acknowledged is there
    assert again.failures.query_one({"failure_id": "a:b"})["x"] == 1
    again.close()
    assert server.stop()
    assert not server.stop()


def test_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(StoreError, match=f"port {port} on 127.0.0.1 is in use"):
            EmbeddedServer(tmp_path / "data", port).start()


def test_query_errors_name_the_nearest() -> None:
    query = CandidateDB(memory_database())
    with pytest.raises(ConfigError, match="did you mean 'e_above_hull'"):
        query.find(e_above_hul=1)
    with pytest.raises(ConfigError, match="must be text"):
        query.find(formula={"$ne": None})
    assert query.find() == []
