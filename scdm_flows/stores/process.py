"""Asks the operating system: whose a process is, who answers on a port, which port is free."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from scdm_flows.stores.embedded_faults import CODES_OF_A_FULL_DISK

if TYPE_CHECKING:
    from pymongo import MongoClient

HOST = "127.0.0.1"
ANSWER_SECONDS = 2.0


def is_server_of(pid: int, storage: Path) -> bool:
    """Whether a process lives and is the server of this storage folder (process ids are reused)."""
    with suppress(OSError):
        os.waitpid(pid, os.WNOHANG)  # reap it if it is our own dead child
    arguments = _arguments(pid)
    return any("secantus" in a for a in arguments) and str(storage) in arguments


def _arguments(pid: int) -> list[str]:
    """The command line of a process, empty where it is gone or a zombie."""
    try:
        return [os.fsdecode(a) for a in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        if Path("/proc/self/cmdline").exists():
            return []
    # without /proc (macOS); a folder with spaces is found as one argument all the same
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    head, _, tail = done.stdout.strip().partition(" --storage-path ")
    return [head, tail.partition(" --")[0]] if tail else []


def answering_pid(port: int) -> int | None:
    """Process id of the SecantusDB server that answers on the port; None if none does."""
    with socket.socket() as client:  # far quicker than a database client's refusal
        client.settimeout(ANSWER_SECONDS)
        if client.connect_ex((HOST, port)) != 0:
            return None
    from pymongo.errors import PyMongoError

    server = _client(port)
    try:
        answer = server.admin.command("serverStatus")
        return int(answer["pid"]) if answer.get("process") == "secantus" else None
    except (PyMongoError, KeyError, TypeError, ValueError):
        return None
    finally:
        server.close()


def _client(port: int) -> MongoClient[dict[str, object]]:
    from pymongo import MongoClient

    milliseconds = int(ANSWER_SECONDS * 1000)
    return MongoClient(
        HOST, port, directConnection=True, serverSelectionTimeoutMS=milliseconds, socketTimeoutMS=milliseconds
    )


def has_panicked(port: int) -> bool:
    """Whether the SecantusDB server on the port answers, but can no longer read what it stores."""
    from pymongo.errors import OperationFailure, PyMongoError

    with _client(port) as server:
        try:
            server["scdm"]["nothing"].find_one()
        except OperationFailure as error:
            return error.code in CODES_OF_A_FULL_DISK
        except PyMongoError:
            return False
    return False


def port_problem(port: int) -> str | None:
    """Why nothing can listen on the port; None where it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "is in use by another program"
            return f"cannot be used ({error.strerror})"
    return None


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
