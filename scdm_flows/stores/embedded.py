"""The embedded database server: SecantusDB as a process of its own, speaking the MongoDB wire protocol.

One server owns a storage folder; everybody else talks to it. It is started detached, so it outlives the
command that started it (and its Ctrl-C), and always with ``--sync-on-commit`` (without it a kill lost
acknowledged writes). It listens on 127.0.0.1 without a password: every user of the machine can reach it. It
is beta software: for laptops and trials; production points ``SCDM_MONGO_URI`` at MongoDB.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from scdm_flows.config.settings import DEFAULT_PORT
from scdm_flows.errors import StoreError
from scdm_flows.stores.embedded_faults import START
from scdm_flows.stores.process import HOST, answering_pid, free_port, has_panicked, is_server_of, port_problem
from scdm_flows.stores.uri import with_database

logger = logging.getLogger(__name__)

START_SECONDS = 30.0
STOP_SECONDS = 15.0  # then it is killed, which loses nothing: every acknowledged write is on disk
MIN_FREE_BYTES = 64 * 2**20  # a new storage takes 11 MB, and its journal grows by 10 MB at a time
PANICKED = "the disk was full; free some space, then `scdm db start` starts it anew, and nothing stored is lost"
_PORT_TAKEN = "Address already in use"
_CAUSES = {  # what the server's log says -> (reason, remedy)
    _PORT_TAKEN: ("the port was taken while it started", "start it again, or set SCDM_PORT to a free port"),
    "resource busy": (
        "another process has its storage open",
        "stop that one first (a server started by hand, or one on another machine that shares this folder)",
    ),
    "No space left": (
        "the disk is full",
        "free some space, or set SCDM_DATA_DIR to a folder on another disk",
    ),
    "Permission denied": ("its storage cannot be written", "set SCDM_DATA_DIR to a folder that can"),
    "Read-only file system": ("its storage cannot be written", "set SCDM_DATA_DIR to a folder that can"),
}


@dataclass(frozen=True)
class ServerStatus:
    """State of the embedded server.

    running: it answers; port, pid: of the process, also while it lives without answering; storage, log: its
    files; panicked: it answers, but reads and writes nothing any more, as after a full disk.
    """

    running: bool
    port: int | None
    pid: int | None
    storage: str
    log: str = ""
    panicked: bool = False


class EmbeddedServer:
    """The server of one data folder.

    Parameters
    ----------
    data_dir
        Holds ``db/`` (storage), ``db.json`` (process id and port, the last ones too), ``db.log``, ``db.lock`` and
        ``db.toml``.
    port
        Port to listen on, on 127.0.0.1. When absent, the last one, ``DEFAULT_PORT`` or, where these are taken, any
        free port.
    """

    def __init__(self, data_dir: str | Path, port: int | None = None) -> None:
        self.data_dir, self.port = Path(data_dir).expanduser().resolve(), port
        self.storage, self.record = self.data_dir / "db", self.data_dir / "db.json"
        self.log = self.data_dir / "db.log"

    def status(self) -> ServerStatus:
        """Whether our server lives and answers; a record left by a dead process counts as not running."""
        pid, port = self._recorded()
        if pid is None or port is None or not is_server_of(pid, self.storage):
            return ServerStatus(False, None, None, str(self.storage), str(self.log))
        running = answering_pid(port) == pid
        panicked = running and has_panicked(port)
        return ServerStatus(running, port, pid, str(self.storage), str(self.log), panicked)

    def uri(self, database: str = "scdm") -> str:
        """The URI to connect with; starts the server if it is not running."""
        status = self.start()
        return with_database(f"mongodb://{HOST}:{status.port}/?directConnection=true", database)

    def start(self) -> ServerStatus:
        """Start the server unless it runs; returns when it answers. Two starts at once give one server.

        One that has panicked is ended and started anew: nothing that it acknowledged is lost.

        Raises
        ------
        StoreError
            If SecantusDB is not installed, the port is taken, the folder cannot be written, the disk is full,
            or the server does not answer.
        """
        status = self.status()
        if status.panicked:
            logger.warning("the embedded database neither read nor wrote, as after a full disk; it is started anew")
            self.stop()
        elif status.running:
            return status
        if importlib.util.find_spec("secantus") is None:
            raise StoreError(
                "the embedded database (SecantusDB) is not installed; install it with "
                'pip install "scdm-flows[embedded]" or set SCDM_MONGO_URI to a MongoDB server'
            )
        with self._locked():
            if self._living() is not None:
                return self._wait_for_living()
            problem = _PORT_TAKEN
            for _ in range(1 if self.port is not None else 3):
                port = self._choose_port()
                process, log_start = self._spawn(port)
                ended = self._wait(process, port, log_start)
                if ended is None:
                    return ServerStatus(True, port, process.pid, str(self.storage), str(self.log))
                self.record.unlink(missing_ok=True)
                problem = ended
                if _PORT_TAKEN not in problem:
                    break
            reason, remedy = next((c for text, c in _CAUSES.items() if text in problem), (problem, f"see {self.log}"))
            raise StoreError(f"the embedded database in {self.data_dir} did not start: {reason}; {remedy}")

    def stop(self) -> bool:
        """Stop the server; returns whether one was running. ``StoreError`` if it does not end."""
        if not self.data_dir.is_dir():
            return False
        with self._locked():
            pid = self._living()
            if pid is None:
                return False
            for how in (signal.SIGTERM, signal.SIGKILL):
                try:
                    with suppress(ProcessLookupError):
                        os.kill(pid, how)
                except PermissionError:
                    raise StoreError(
                        f"the embedded database (process {pid}) is another user's: who started it stops it"
                    ) from None
                deadline = time.monotonic() + STOP_SECONDS
                while time.monotonic() < deadline:
                    if not is_server_of(pid, self.storage):
                        return True
                    time.sleep(0.05)
        raise StoreError(f"the embedded database (process {pid}) does not end; end it by hand")

    def _recorded(self) -> tuple[int | None, int | None]:
        try:
            data = json.loads(self.record.read_text())
            return int(data["pid"]), int(data["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return None, None

    def _living(self) -> int | None:
        """Process id of our server; one whose starter died before it could record it is recorded now."""
        pid, port = self._recorded()
        if pid is not None and is_server_of(pid, self.storage):
            return pid
        for candidate in dict.fromkeys(p for p in (port, self.port, DEFAULT_PORT) if p is not None):
            pid = answering_pid(candidate)
            if pid is not None and is_server_of(pid, self.storage):
                self._write_record(pid, candidate)
                return pid
        return None

    def _wait_for_living(self) -> ServerStatus:
        deadline = time.monotonic() + START_SECONDS
        while not (status := self.status()).running:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the embedded database (process {status.pid}) lives but has not answered for "
                    f"{START_SECONDS:g} s; end it with `scdm db stop` and start again, or see {self.log}"
                )
            time.sleep(0.1)
        return status

    def _choose_port(self) -> int:
        before = self._recorded()[1] if self.port is None else None
        if before is not None and port_problem(before) is None:
            return before  # where workers and servers of pages look for it when it comes back
        problem = port_problem(port := DEFAULT_PORT if self.port is None else self.port)
        if problem is None:
            return port
        if self.port is None:
            logger.warning("port %d %s; the embedded database takes another", port, problem)
            return free_port()
        raise StoreError(
            f"port {port} on {HOST} {problem}; set SCDM_PORT to a free port, or unset it to have one chosen"
        )

    def _spawn(self, port: int) -> tuple[subprocess.Popen[bytes], int]:
        """The new server process, recorded, and where its part of the log begins."""
        free = shutil.disk_usage(self.data_dir).free
        if free < MIN_FREE_BYTES:
            raise StoreError(
                f"{self.data_dir} has {free >> 20} MiB free, the embedded database needs "
                f"{MIN_FREE_BYTES >> 20} MiB; "
                "free some space, or set SCDM_DATA_DIR to a folder on another disk"
            )
        # -P and an own, empty configuration: nothing that lies about in a folder changes the server
        settings = self.data_dir / "db.toml"
        command = [sys.executable, "-P", "-c", START, "--config", str(settings), "--host", HOST]
        command += ["--port", str(port), "--storage-path", str(self.storage), "--sync-on-commit"]
        command += ["--log-level", "WARNING"]
        with self._writing():
            settings.write_text("# the embedded server takes its settings from the command that starts it\n")
            with self.log.open("ab") as log:
                start = log.tell()
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=self.data_dir,
                )
        _children.append(process)
        try:
            self._write_record(process.pid, port)
        except BaseException:
            process.kill()  # nobody could find it
            raise
        return process, start

    def _wait(self, process: subprocess.Popen[bytes], port: int, log_start: int) -> str | None:
        """None as soon as the process answers, else the end of its log; one that never answers is ended."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            if answering_pid(port) == process.pid:
                return None
            time.sleep(0.05)
        late = process.poll() is None
        if late:
            process.kill()
            process.wait()
        lines = self.log.read_bytes()[log_start:].decode(errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else "it left no message"
        return f"no answer within {START_SECONDS:g} s ({last})" if late else last

    def _write_record(self, pid: int, port: int) -> None:
        with self._writing():
            temporary = self.record.with_suffix(".tmp")
            temporary.write_text(json.dumps({"pid": pid, "port": port}))
            temporary.replace(self.record)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"data folder {self.data_dir} cannot be written ({error.strerror}); "
                "set SCDM_DATA_DIR to a folder that can"
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one starter or stopper of a folder at a time."""
        with self._writing():
            self.data_dir.mkdir(parents=True, exist_ok=True)
            handle = (self.data_dir / "db.lock").open("w")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


_children: list[subprocess.Popen[bytes]] = []  # kept, or Python warns that a process outlives its handle
