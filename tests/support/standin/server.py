"""Keeps torch, CHGNet and pymatgen in memory, and runs each stand-in as a fork: 0.2 s instead of 3 s a run.

``python tests/support/standin/server.py SOCKET`` serves until its standard input closes. With ``STANDIN_VASP_SERVER=SOCKET``
in its environment ``vasp.py`` hands its folder, environment, standard output and error over and waits for the end. To
whoever started it nothing differs: the exit status is that of the run, and whoever kills it kills the run.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn


def ask(path: str) -> int:
    """Has the server run the stand-in here; the exit status, or death by the same signal."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [b"!"], [1, 2])
        connection.sendall(json.dumps([str(Path.cwd()), dict(os.environ)]).encode() + b"\n")
        status = os.waitstatus_to_exitcode(int(connection.recv(64)))
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


def serve(path: str) -> None:
    """Answers requests until standard input closes."""
    import ase.filters
    import ase.optimize  # noqa: F401
    import pymatgen.io.ase  # noqa: F401
    from support.standin import electrons, inputs, ions, vasp, writers  # noqa: F401

    ions.calculator()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _attend(connection)
            connection.close()


def _attend(connection: socket.socket) -> NoReturn:
    """In a process of its own: forks the run, waits, answers; ends the run when whoever asked is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(connection, 1, 2)
    request = connection.makefile().readline()
    run = os.fork()
    if run == 0:
        _run(*json.loads(request), files)
    while True:
        done, status = os.waitpid(run, os.WNOHANG)
        if done:
            connection.send(str(status).encode())
            os._exit(0)
        if select.select([connection], [], [], 0.01)[0]:
            os.kill(run, signal.SIGKILL)
            os._exit(0)


def _run(folder: str, environment: dict[str, str], files: list[int]) -> NoReturn:
    from support.standin.vasp import main

    status = 1
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        status = main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # as a script it is a module of the package support.standin
    serve(sys.argv[1])
