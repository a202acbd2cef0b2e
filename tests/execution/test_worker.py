"""Workers as processes: they stop cleanly, send heartbeats, refuse what they cannot do; the FireWorks folder works."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fireworks import FWorker
from fireworks.core.rocket_launcher import launch_rocket
from jobflow import job
from pymongo.errors import OperationFailure
from support.places import ROOT

from scdm_flows.cli.launchpad import initialise
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.errors import EngineError, StoreError
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution.fireworks import liveness, worker
from scdm_flows.execution.fireworks import worker_guard as duty
from scdm_flows.execution.fireworks.firetask import workflow_of
from scdm_flows.execution.fireworks.workflows import insert
from scdm_flows.execution.jobs import hushed
from scdm_flows.stores import Database

pytest.importorskip("secantus", reason="the embedded server is an optional extra")
BIN = Path(sys.executable).parent
SCDM = [sys.executable, "-c", "from scdm_flows.cli import main; main()"]
# seconds of a job that only ends because it is ended; no other process that tests at this moment has the same
TAKES_LONG = f"300.{os.getpid()}"


@pytest.fixture
def folder(database: Database, settings: ScdmSettings, tmp_path: Path) -> Path:
    """The FireWorks folder of the database."""
    made = tmp_path / "launchpad"
    launch.launchpad_of(database)
    assert database.uri is not None
    initialise(made, database.uri, settings, force=False)
    return made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes, and ends them at the end of the test."""
    running: list[subprocess.Popen[str]] = []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SCDM_")}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'models'}"

    def popen(*command: str, **more: str) -> subprocess.Popen[str]:
        place = tmp_path / f"work{len(running)}"
        place.mkdir()
        process = subprocess.Popen(
            command,
            cwd=place,
            env={**environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield popen
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def put(launchpad: Any, name: str, function: Any, *arguments: Any, category: str = "compute", n: int = 1) -> None:
    """Workflows of one job each, of a campaign that has no document."""
    workflows = []
    for k in range(n):
        made = job(function)(*arguments)
        made.metadata = {"campaign": name, "candidate_id": str(k), "stage": "relax"}
        made.config.manager_config = {"_category": category}
        workflows.append(workflow_of(made, campaign=name, candidate_id=str(k)))
    insert(launchpad, workflows)


def wait_for(what: Callable[[], Any], seconds: float = 240) -> Any:
    """What ``what`` returns, once that is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


def states(launchpad: Any) -> list[str]:
    return sorted(f["state"] for f in launchpad.fireworks.find({}, {"state": 1}))


def sleeps() -> list[str]:
    """Processes of the jobs below that live."""
    found = subprocess.run(["pgrep", "-f", f"^sleep {TAKES_LONG}$"], capture_output=True, text=True, check=False)
    return found.stdout.split()


@pytest.mark.parametrize("kind", ["scdm worker", "scdm worker at its walltime", "rlaunch rapidfire", "rlaunch multi"])
def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    kind: str, folder: Path, database: Database, start: Callable[..., subprocess.Popen[str]]
) -> None:
    launchpad = launch.launchpad_of(database)
    put(launchpad, "s", subprocess.call, ["sleep", TAKES_LONG])  # a program, as VASP is
    limit = ["--walltime", "00:05"] if kind.endswith("walltime") else []
    command = {
        "scdm": [*SCDM, "worker", "-c", str(folder), *limit],
        "rlaunch rapidfire": [str(BIN / "rlaunch"), "-c", str(folder), "rapidfire"],
        "rlaunch multi": [str(BIN / "rlaunch"), "-c", str(folder), "multi", "1", "--timeout", "100"],
    }
    process = start(*command["scdm" if kind.startswith("scdm") else kind])
    wait_for(sleeps)
    if not limit:
        os.killpg(process.pid, signal.SIGTERM)  # as a queue does: all processes of the job
    output, _ = process.communicate(timeout=240)
    # rlaunch multi has a process of its own for each worker and ends on the signal itself
    assert process.returncode == (-signal.SIGTERM if kind == "rlaunch multi" else 0), output
    wait_for(lambda: states(launchpad) == ["READY"])
    wait_for(lambda: not sleeps())
    firework = launchpad.fireworks.find_one({})
    assert (firework["launches"], len(firework["archived_launches"])) == ([], 1)
    assert launchpad.launches.count_documents({"state": "RUNNING"}) == 0  # nothing that looks like a lost job
    assert database.job_store.docs_store.count() == 0
    if kind == "scdm worker":
        assert "stopped (SIGTERM)" in output
    if limit:
        assert "stopped (walltime)" in output


def test_a_worker_without_work_stops_on_sigterm_too(
    folder: Path, database: Database, start: Callable[..., subprocess.Popen[str]]
) -> None:
    launchpad = launch.launchpad_of(database)
    put(launchpad, "w", sum, [1, 2])
    process = start(*SCDM, "worker", "-c", str(folder), "--wait", "--sleep", "60")
    wait_for(lambda: states(launchpad) == ["COMPLETED"])
    time.sleep(0.5)
    process.terminate()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "1 job claimed; stopped (SIGTERM)" in output
    assert not list((folder.parent / "work0").iterdir())  # empty folders of jobs go again


def test_a_heartbeat_goes_out_whatever_fireworks_is_told(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fireworks.core import rocket

    monkeypatch.chdir(tmp_path)
    assert rocket.PING_TIME_SECS >= 3600  # no configuration is found: FireWorks alone would ping once an hour
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.1)
    launchpad = launch.launchpad_of(database)
    put(launchpad, "h", time.sleep, 1.5)
    with hushed():
        thread = threading.Thread(target=lambda: launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL"))
        thread.start()
        running = wait_for(lambda: launchpad.launches.find_one({"state": "RUNNING"}))
        time.sleep(0.8)
        pinged = launchpad.launches.find_one({"launch_id": running["launch_id"]})
        thread.join()
    first, last = (d["state_history"][-1].get("updated_on") for d in (running, pinged))
    assert last > first
    assert liveness.LOST_AFTER_SECONDS <= 600  # a lost job is found within minutes


def test_without_vasp_no_job_of_vasp_is_consumed(
    folder: Path, database: Database, start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    launchpad = launch.launchpad_of(database)
    put(launchpad, "v", sum, [1, 2], category="vasp")
    for path in folder.glob("atomate2.yaml"):
        path.unlink()
    stock = start(str(BIN / "rlaunch"), "-c", str(folder), "rapidfire", SCDM_VASP_CMD="no_such_vasp")
    ours = start(*SCDM, "worker", "-c", str(folder), "--category", "vasp", SCDM_VASP_CMD="no_such_vasp")
    any_work = start(*SCDM, "-v", "worker", "-c", str(folder), SCDM_VASP_CMD="no_such_vasp")
    for process, code, words in (
        (stock, duty.UNFIT, "is given back: SCDM_VASP_CMD='no_such_vasp'"),
        (ours, EngineError.exit_code, "Error: SCDM_VASP_CMD='no_such_vasp': no_such_vasp is not on the PATH"),
        (any_work, 0, "jobs of VASP are left to others"),
    ):
        output, _ = process.communicate(timeout=240)
        assert (process.returncode, words in output) == (code, True), output
    assert states(launchpad) == ["READY"]
    monkeypatch.setenv("SCDM_VASP_CMD", sys.executable)
    assert worker.worker_of(["vasp"]).category == ["vasp", "compute"]


def test_jobs_of_gpaw_are_left_to_workers_that_have_it(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Callable[..., Any]
) -> None:
    launchpad = launch.launchpad_of(database)
    put(launchpad, "g", sum, [1, 2], category="gpaw")
    absent = str(tmp_path / "absent")
    stock = start(str(BIN / "rlaunch"), "-c", str(folder), "rapidfire", SCDM_GPAW_PYTHON=absent)
    output, _ = stock.communicate(timeout=240)
    assert (stock.returncode, "is given back" in output, "cannot be started" in output) == (duty.UNFIT, True, True)
    assert states(launchpad) == ["READY"]
    monkeypatch.setenv("SCDM_GPAW_PYTHON", absent)
    assert "gpaw" not in worker.worker_of([]).category
    with pytest.raises(EngineError, match="cannot be started"):
        worker.worker_of(["gpaw"])
    has = tmp_path / "python"
    has.write_text('#!/bin/sh\necho \'{"version": "0", "elements": []}\' > $4\n')
    has.chmod(0o755)
    monkeypatch.setenv("SCDM_GPAW_PYTHON", str(has))
    assert worker.worker_of(["gpaw"]).category == ["gpaw", "compute"]


def test_stock_commands_work_with_the_folder(
    folder: Path, database: Database, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Four fireworks: two through the queue, two by `rlaunch multi`; a stand-in of `sbatch` runs the script at once."""
    launchpad = launch.launchpad_of(database)
    put(launchpad, "q", sum, [1, 2])
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/bash\ncp "$1" submitted\nbash "$1" > out 2>&1\necho "Submitted batch job 7"\n')
    sbatch.chmod(0o755)
    path = f"{sbatch.parent}:{BIN}:{os.environ['PATH']}"
    process = start(str(BIN / "qlaunch"), "-c", str(folder), "rapidfire", "--nlaunches", "1", PATH=path)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    (script,) = (tmp_path / "work0").rglob("submitted")
    text = script.read_text()
    assert f"source {folder}/env.sh" in text
    assert f"-c {folder} --category generate --category compute --walltime 23:55:00" in text
    assert "--partition" not in text  # what is null is left out
    assert "null" not in text
    assert states(launchpad) == ["COMPLETED"], (script.parent / "out").read_text()

    put(launchpad, "m", sum, [1, 2], n=4)
    multi = start(str(BIN / "rlaunch"), "-c", str(folder), "multi", "2", "--timeout", "200")
    output, _ = multi.communicate(timeout=240)
    assert multi.returncode == 0, output
    assert states(launchpad) == ["COMPLETED"] * 5
    lpad = start(str(BIN / "lpad"), "-c", str(folder), "get_wflows", "-q", '{"metadata.campaign": "m"}', "-d", "count")
    output, _ = lpad.communicate(timeout=240)
    assert output.split()[-1] == "4"


def test_the_folder_is_filled_private_and_not_overwritten(
    folder: Path, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml
    from click.testing import CliRunner

    from scdm_flows.cli import cli

    files = {path.name: path.read_text() for path in folder.iterdir()}
    assert {"my_fworker.generate.yaml", "my_fworker.vasp.yaml", "my_qadapter.pbs.yaml", "env.sh"} <= set(files)
    assert not any("${SCDM_LAUNCHPAD_DIR}" in text for name, text in files.items() if name.startswith("my_qadapter"))
    uri = database.uri
    assert yaml.safe_load(files["my_launchpad.yaml"])["host"] == uri
    store = yaml.safe_load(files["jobflow.yaml"])["JOB_STORE"]
    assert {store["docs_store"]["uri"], store["additional_stores"]["data"]["uri"]} == {uri}
    for name in ("my_launchpad.yaml", "jobflow.yaml", "env.sh"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    # a password with every odd character comes through YAML and the shell
    odd = "mongodb://me:a%27%22%24%3A%20b@db.example.org:27017/scdm?authSource=admin"
    made = ScdmSettings(mongo_uri=odd, vasp_cmd="srun -n 4 'my vasp'")
    other = tmp_path / "a folder's place"
    initialise(other, odd, made, force=False)
    assert yaml.safe_load((other / "my_launchpad.yaml").read_text())["host"] == odd
    assert yaml.safe_load((other / "atomate2.yaml").read_text())["VASP_CMD"] == "srun -n 4 'my vasp'"
    shell = 'source "$0"; echo "$SCDM_MONGO_URI"; echo "$FW_CONFIG_FILE"'
    done = subprocess.run(["bash", "-c", shell, str(other / "env.sh")], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [odd, str(other / "FW_config.yaml")]

    monkeypatch.setenv("SCDM_DATA_DIR", str(database_folder(database)))
    monkeypatch.setenv("SCDM_DATABASE", str(uri).partition("?")[0].rsplit("/", 1)[-1])
    (folder / "my_qadapter.yaml").write_text("mine")
    result = CliRunner().invoke(cli, ["doctor", "--init", str(folder)])
    assert "exists; give another name, or --force" in str(result.exception)
    assert (folder / "my_qadapter.yaml").read_text() == "mine"
    # an upgrade and a changed setting write the folder anew: partition and account of the site are in its adapters
    for name in ("my_launchpad.yaml", "env.sh"):
        (folder / name).write_text("old")
    again = CliRunner().invoke(cli, ["doctor", "--init", str(folder), "--force"])
    assert again.exit_code == 0, again.output
    assert (folder / "my_qadapter.yaml").read_text() == "mine"
    assert (folder / "my_qadapter.yaml.new").read_text() == files["my_qadapter.yaml"]
    assert yaml.safe_load((folder / "my_launchpad.yaml").read_text())["host"] == uri
    assert "SCDM_DATA_DIR" in (folder / "env.sh").read_text()
    assert (
        "what differs is left as it is, with what is new beside it: my_qadapter.yaml (my_qadapter.yaml.new)"
        in again.output
    )
    told = json.loads(CliRunner().invoke(cli, ["doctor", "--init", str(folder), "--force", "--json"]).stdout)
    assert told["left"] == [str(folder / "my_qadapter.yaml")]
    assert str(folder / "my_qadapter.yaml.new") in told["files"]
    assert str(folder / "my_qadapter.yaml") not in told["files"]
    # once it is taken over nothing is left beside it
    (folder / "my_qadapter.yaml.new").replace(folder / "my_qadapter.yaml")
    (folder / "my_qadapter.pbs.yaml.new").write_text("of an earlier time")
    told = json.loads(CliRunner().invoke(cli, ["doctor", "--init", str(folder), "--force", "--json"]).stdout)
    assert told["left"] == []
    assert list(folder.glob("*.new")) == []


def test_a_folder_that_is_written_anew_gets_vasp_s_command_and_keeps_what_else_was_edited(tmp_path: Path) -> None:
    uri, path = "mongodb://db.example.org/scdm", tmp_path / "atomate2.yaml"
    before, after = ScdmSettings(vasp_cmd="srun vasp_std"), ScdmSettings(vasp_cmd="mpirun vasp_std")
    initialise(tmp_path, uri, before, force=False)
    mine = "VASP_RUN_BADER: true\n"
    path.write_text(path.read_text() + mine)
    initialise(tmp_path, uri, after, force=True)
    assert (
        'VASP_CMD: "mpirun vasp_std"' in path.read_text()
    )  # a command is a setting, wherever else the file was edited
    assert path.read_text().endswith(mine)
    assert path.with_name("atomate2.yaml.new").read_text() + mine == path.read_text()
    path.write_text("VASP_CMD: srun -n 8 /opt/vasp\n")
    initialise(tmp_path, uri, ScdmSettings(), force=True)
    assert path.read_text() == "VASP_CMD: srun -n 8 /opt/vasp\n"  # no setting says another


def database_folder(database: Database) -> Path:
    """Data folder of the embedded server that a database is on."""
    port = str(database.uri).partition("?")[0].rsplit(":", 1)[-1].partition("/")[0]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "--storage-path" in words and port in words:
            return Path(words[words.index("--storage-path") + 1]).parent
    raise AssertionError("no such server")


def test_another_program_s_launchpad_and_a_later_version_are_refused(database: Database) -> None:
    database.mongo["fireworks"].insert_one({"fw_id": 1, "state": "READY", "spec": {"_tasks": []}})
    with pytest.raises(StoreError, match=r"fireworks of another program; .*SCDM_DATABASE"):
        launch.launchpad_of(database)
    assert database.mongo["fw_id_assigner"].find_one({}) is None  # nothing was set up in it
    database.mongo["fireworks"].delete_many({})
    launchpad = launch.launchpad_of(database)
    launchpad.db["scdm_controls"].update_one({"_id": ":launchpad"}, {"$set": {"version": 99}})
    with pytest.raises(StoreError, match="version 99, this scdm-flows knows version 1; upgrade"):
        launch.launchpad_of(database)


def test_a_database_that_cannot_be_used_is_told_without_its_password(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match=r"my_launchpad.yaml does not exist; `scdm doctor --init"):
        worker.launchpad_in(tmp_path)
    text = (folder / "my_launchpad.yaml").read_text()
    nobody = "mongodb://me:secret@127.0.0.1:9/scdm?serverSelectionTimeoutMS=200"  # port 9: nobody listens
    lines = [f'host: "{nobody}"' if line.startswith("host:") else line for line in text.splitlines()]
    (tmp_path / "my_launchpad.yaml").write_text("\n".join(lines))
    with pytest.raises(StoreError, match=r"me:\*\*\*@127.0.0.1:9.* does not answer") as unreachable:
        worker.launchpad_in(tmp_path)
    assert "secret" not in str(unreachable.value)

    def refuse(launchpad: Any) -> None:
        raise OperationFailure("Authentication failed.", code=18)

    monkeypatch.setattr(worker, "check_ours", refuse)
    with pytest.raises(StoreError, match="refuses the login: .* check user, password"):
        worker.launchpad_in(folder)
