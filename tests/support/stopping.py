"""Stops a process without ending it, as a machine that hangs does."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil


def stop(pid: int) -> None:
    """SIGSTOP, waited for: a busy machine stops its threads some milliseconds later, in which a server still answers."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 10
    while not _stopped(pid):
        assert time.monotonic() < until, f"process {pid} does not stop"
        time.sleep(0.01)


def _stopped(pid: int) -> bool:
    threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))  # Linux; elsewhere the process speaks for its threads
    if not threads:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return all(stat.read_text().rpartition(")")[2].split()[0] in "Tt" for stat in threads)
