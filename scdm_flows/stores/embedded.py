"""The embedded database server: SecantusDB as a process of its own, speaking the MongoDB wire protocol.

One server owns a storage folder; everybody else talks to it. It is started detached, so it outlives the command that
started it, and always with ``--sync-on-commit`` (without it a kill lost acknowledged writes). It is beta software:
for laptops and trials; production points ``SCDM_MONGO_URI`` at MongoDB.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scdm_flows.errors import StoreError

HOST = "127.0.0.1"
START_SECONDS = 30.0
STOP_SECONDS = 10.0  # then it is killed, which loses nothing: every acknowledged write is on disk


@dataclass(frozen=True)
class ServerStatus:
    """State of the embedded server: running, its port and process id, its storage folder."""

    running: bool
    port: int | None
    pid: int | None
    storage: str


class EmbeddedServer:
    """The server of one data folder.

    Parameters
    ----------
    data_dir
        Holds ``db/`` (storage), ``db.json`` (process id and port) and ``db.log``.
    port
        Port to listen on, on 127.0.0.1 only.
    """

    def __init__(self, data_dir: str | Path, port: int) -> None:
        self.data_dir, self.port = Path(data_dir).resolve(), port
        self.storage, self.record = self.data_dir / "db", self.data_dir / "db.json"

    def status(self) -> ServerStatus:
        """Whether our server process lives and answers."""
        try:
            data = json.loads(self.record.read_text())
            pid, port = int(data["pid"]), int(data["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return ServerStatus(False, None, None, str(self.storage))
        alive = _is_ours(pid, self.storage) and _answers(port)
        return ServerStatus(alive, port if alive else None, pid if alive else None, str(self.storage))

    def uri(self, database: str = "scdm") -> str:
        """The URI to connect with; starts the server if it is not running."""
        status = self.start()
        return f"mongodb://{HOST}:{status.port}/{database}?directConnection=true&w=majority&journal=true"

    def start(self) -> ServerStatus:
        """Start the server unless it runs; returns when it answers.

        Raises
        ------
        StoreError
            If SecantusDB is not installed, the port is taken, the folder cannot be written or it does not answer.
        """
        if importlib.util.find_spec("secantus") is None:
            raise StoreError(
                'the embedded database (SecantusDB) is not installed; install it with pip install "scdm-flows[embedded]" '
                "or set SCDM_MONGO_URI to a MongoDB server"
            )
        with self._locked():
            status = self.status()
            if status.running:
                return status
            if _answers(self.port):
                raise StoreError(
                    f"port {self.port} on {HOST} is in use by another program; set SCDM_PORT to a free port "
                    "(and the same port in launchpad/my_launchpad.yaml)"
                )
            command = [sys.executable, "-c", "import sys; from secantus.cli import main; sys.exit(main())"]
            command += ["--host", HOST, "--port", str(self.port), "--storage-path", str(self.storage), "--sync-on-commit"]
            command += ["--log-level", "WARNING"]
            with (self.data_dir / "db.log").open("ab") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.data_dir
                )
            temporary = self.record.with_suffix(".tmp")
            temporary.write_text(json.dumps({"pid": process.pid, "port": self.port}))
            temporary.replace(self.record)
            deadline = time.monotonic() + START_SECONDS
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    break
                if _answers(self.port):
                    return self.status()
                time.sleep(0.1)
            tail = (self.data_dir / "db.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise StoreError(
                f"the embedded database did not start within {START_SECONDS:g} s"
                + (f" ({tail[0]})" if tail else "")
                + f"; see {self.data_dir / 'db.log'}"
            )

    def stop(self) -> bool:
        """Stop the server; returns whether one was running. ``StoreError`` if it does not end."""
        if not self.data_dir.is_dir():
            return False
        with self._locked():
            status = self.status()
            if not status.running or status.pid is None:
                return False
            for how in (signal.SIGTERM, signal.SIGKILL):
                os.kill(status.pid, how)
                deadline = time.monotonic() + STOP_SECONDS
                while time.monotonic() < deadline:
                    if not _is_ours(status.pid, self.storage):
                        self.record.unlink(missing_ok=True)
                        return True
                    time.sleep(0.1)
        raise StoreError(f"the embedded database (process {status.pid}) does not end; end it by hand")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one starter or stopper of a folder at a time."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            handle = (self.data_dir / "db.lock").open("w")
        except OSError as error:
            raise StoreError(
                f"data folder {self.data_dir} cannot be written ({error.strerror}); set SCDM_DATA_DIR to a folder that can"
            ) from None
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _is_ours(pid: int, storage: Path) -> bool:
    """Whether the process lives and is the server of this storage folder (process ids are reused)."""
    try:
        os.waitpid(pid, os.WNOHANG)  # reap it if it is our own dead child
    except OSError:
        pass
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        if sys.platform == "linux":
            return False
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True
    return str(storage).encode() in command


def _answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex((HOST, port)) == 0
