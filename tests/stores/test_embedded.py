"""The embedded server, for real: a process is started, shared, killed and started again."""

from __future__ import annotations

import json
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.stopping import stop

from scdm_flows.cli import cli
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.errors import StoreError
from scdm_flows.stores import Database, EmbeddedServer, connect, embedded
from scdm_flows.stores.process import free_port, is_server_of

pytest.importorskip("secantus", reason="the embedded database is an optional extra")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    found = EmbeddedServer(tmp_path / "data", free_port())
    yield found
    pid = found.status().pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)  # a clean stop takes two seconds


def _settings(server: EmbeddedServer) -> ScdmSettings:
    return ScdmSettings(data_dir=server.data_dir, port=server.port)


def _failure(name: str) -> dict[str, str]:
    return {"failure_id": name, "campaign": "c", "candidate_id": name, "stage": "relax"}


def test_start_status_stop(server: EmbeddedServer) -> None:
    assert not server.status().running
    assert not server.stop()  # nothing to stop is no error
    started = server.start()
    assert started.running
    assert started.port == server.port
    assert server.start().pid == started.pid  # the same command again changes nothing
    assert EmbeddedServer(server.data_dir).status() == started  # whoever asks, with or without the port
    assert server.stop()
    assert not server.status().running
    assert started.pid is not None
    assert not is_server_of(started.pid, server.storage)


def test_a_server_comes_back_where_it_was(tmp_path: Path) -> None:
    """Workers know it by its port; the default one may belong to another database of this machine."""
    first, again = EmbeddedServer(tmp_path / "data", free_port()), EmbeddedServer(tmp_path / "data")
    port = first.start().port
    assert first.stop()
    try:
        assert again.start().port == port
        assert again.stop()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its old connections are still known
            for _ in range(100):  # until the one that was stopped has let it go, or another program has it
                with suppress(OSError):
                    other.bind(("127.0.0.1", port or 0))
                    other.listen()
                    break
                time.sleep(0.1)
            assert again.start().port != port  # taken by now
    finally:
        again.stop()


def test_server_that_met_a_full_disk_is_recognised_and_started_anew(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(database: Database, name: str, n: int = 40) -> None:
        for k in range(n):
            database.upsert(database.failures, [{**_failure(f"{name}{k}"), "reason": secrets.token_hex(100_000)}])

    monkeypatch.setenv("SCDM_DATA_DIR", str(server.data_dir))
    monkeypatch.setenv("SCDM_PORT", str(server.port))
    with connect(_settings(server)) as database:
        fill(database, "a", 3)
        pid = server.status().pid
        assert pid is not None
        # no file may grow: to the server that is a disk without space, which nobody but root could make
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        with pytest.raises(StoreError, match="full disk, or a folder .* that was removed.*: free some space"):
            fill(database, "b")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    state = server.status()
    assert (state.running, state.panicked) == (True, True)
    told = CliRunner().invoke(cli, ["db", "status"]).output
    assert "it neither reads nor writes: the disk was full; free some space, then `scdm db start`" in told
    mended = CliRunner().invoke(cli, ["campaign", "list"])  # any command that needs it
    assert mended.exit_code == 0
    assert "neither read nor wrote, as after a full disk; it is started anew" in mended.stderr
    with connect(_settings(server)) as database:
        assert {d["failure_id"] for d in database.failures.query()} >= {"a0", "a1", "a2"}
        fill(database, "c", 1)
    assert not server.status().panicked


def test_killed_server_keeps_what_it_acknowledged(server: EmbeddedServer) -> None:
    with connect(_settings(server)) as database:
        for i in range(20):
            database.upsert(database.failures, [_failure(f"a{i}")])
        pid = server.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while server.status().pid is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.record.exists()  # left behind by the killed process: stale
        assert not server.status().running
    with connect(_settings(server)) as database:  # starts it again, on the same port
        assert server.status().pid not in (None, pid)
        assert sorted(d["failure_id"] for d in database.failures.query()) == sorted(f"a{i}" for i in range(20))


WRITER = """
import sys
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.stores import connect
database = connect(ScdmSettings(data_dir=sys.argv[1], port=int(sys.argv[2])))
for i in range(100000):
    name = f"w{i}"
    document = {"failure_id": name, "campaign": "c", "candidate_id": name, "stage": "relax"}
    database.upsert(database.failures, [document])
    print(i, flush=True)
"""


def test_killed_client_harms_nothing_and_the_server_outlives_it(server: EmbeddedServer) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(server.data_dir), str(server.port)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 30:
            os.kill(writer.pid, signal.SIGKILL)  # in the middle of the next write
            break
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout)])
    writer.wait()
    assert server.status().running  # the client had started it
    with connect(_settings(server)) as database:
        names = {d["failure_id"] for d in database.failures.query()}
        assert {f"w{i}" for i in range(acknowledged + 1)} <= names
        assert len(names) == database.failures.count()  # nothing twice


def test_a_server_survives_the_interrupt_of_the_terminal(server: EmbeddedServer) -> None:
    status = server.start()
    assert status.pid is not None
    assert os.getsid(status.pid) == status.pid  # a session of its own: Ctrl-C does not reach it
    assert os.getpgid(status.pid) != os.getpgid(0)


def test_two_starts_at_once_give_one_server(server: EmbeddedServer) -> None:
    code = (
        "import sys; from scdm_flows.stores.embedded import EmbeddedServer; "
        "print(EmbeddedServer(sys.argv[1], int(sys.argv[2])).start().pid)"
    )
    command = [sys.executable, "-c", code, str(server.data_dir), str(server.port)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    pids = {starter.communicate(timeout=240)[0].strip() for starter in starters}
    assert pids == {str(server.status().pid)}


def test_port_in_use(server: EmbeddedServer) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", server.port or 0))
        other.listen()
        with pytest.raises(StoreError, match=f"port {server.port} .* in use by another program; set SCDM_PORT"):
            server.start()
    assert not server.record.exists()
    assert server.start().running  # as soon as the port is free


def test_where_no_port_is_asked_for_another_port_is_taken(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(embedded, "DEFAULT_PORT", other.getsockname()[1])
        any_port = EmbeddedServer(server.data_dir)
        status = any_port.start()
        assert status.port not in (None, other.getsockname()[1])
        assert any_port.status().running  # the port that was found is the one that is remembered
    assert server.status().port == status.port


def test_a_server_whose_starter_died_before_recording_it_is_found(server: EmbeddedServer) -> None:
    status = server.start()
    server.record.unlink()
    assert server.start() == status


def test_stale_records(server: EmbeddedServer) -> None:
    server.data_dir.mkdir()
    # a foreign process with the recorded id (process ids are reused), an id that is none, and no JSON at all
    for text in (json.dumps({"pid": os.getpid(), "port": server.port}), json.dumps({"pid": None}), "{"):
        server.record.write_text(text)
        assert not server.status().running
        assert not server.stop()  # and above all, this process is not ended
    server.record.write_text(json.dumps({"pid": os.getpid(), "port": server.port}))
    assert server.start().pid != os.getpid()


def test_hung_server_is_neither_doubled_nor_forgotten(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = server.start().pid
    assert pid is not None
    stop(pid)
    monkeypatch.setattr("scdm_flows.stores.process.ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(embedded, "START_SECONDS", 0.5)
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.5)
    status = server.status()
    assert (status.running, status.pid) == (False, pid)
    with pytest.raises(StoreError, match=f"process {pid}.* has not answered"):
        server.start()
    assert server.stop()  # it is deaf to SIGTERM while stopped, so it is killed
    assert not is_server_of(pid, server.storage)


def test_settings_files_that_lie_about_do_not_change_the_server(server: EmbeddedServer) -> None:
    server.data_dir.mkdir()
    (server.data_dir / "secantusd.toml").write_text("[server]\nauth = true\n")  # what it would pick up by itself
    (server.data_dir / "secantus.py").write_text("raise SystemExit('shadowed')\n")
    assert server.start().running


def test_not_installed(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"pip install .scdm-flows\[embedded\]"):
        server.start()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/data cannot be written \(Not a directory\); set SCDM_DATA_DIR"):
        EmbeddedServer(tmp_path / "file" / "data").start()


def test_full_disk(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**30, 2**30 - 2**20, 2**20))
    with pytest.raises(StoreError, match="1 MiB free, the embedded database needs 64 MiB; free some space"):
        server.start()


def test_damaged_storage_is_reported_and_left_as_it_is(server: EmbeddedServer) -> None:
    server.storage.mkdir(parents=True)
    (server.storage / "WiredTiger").write_text("not a database\n")
    (server.storage / "WiredTiger.turtle").write_text("nonsense\n")
    with pytest.raises(StoreError, match=r"did not start: .*see .*db.log"):
        server.start()
    assert (server.storage / "WiredTiger.turtle").read_text() == "nonsense\n"
    assert not server.record.exists()
