"""Worker processes end with the block that started them, and an interrupt is the parent's."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scdm_models.processes import pool


def mark(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def square(n: int) -> int:
    return n * n


def wait_for(path: Path) -> int:
    for _ in range(600):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.1)
    raise AssertionError(f"{path} was not written in a minute")


def interrupted(path: Path) -> None:
    with pool(2) as workers:
        workers.submit(mark, str(path))
        wait_for(path)
        raise KeyboardInterrupt


def test_results_come_in_order() -> None:
    with pool(2) as workers:
        assert list(workers.map(square, range(5))) == [0, 1, 4, 9, 16]
    assert not multiprocessing.active_children()


def threads_asked_for() -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def test_workers_have_one_thread_and_the_parent_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side they would else each take all cores, and hinder each other."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pool(2) as workers:
        assert workers.submit(threads_asked_for).result() == "1"
    assert threads_asked_for() is None
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # what somebody asks for stays
    with pool(1) as workers:
        assert workers.submit(threads_asked_for).result() == "3"


def test_an_exception_ends_busy_workers_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "busy")
    assert time.monotonic() - start < 120  # the worker would have slept for ten minutes
    assert not multiprocessing.active_children()


def killed_while_a_worker_is_busy(path: str) -> None:
    with pool(1) as workers:
        workers.submit(mark, path)
        wait_for(Path(path))
        os.kill(os.getpid(), signal.SIGKILL)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=killed_while_a_worker_is_busy, args=(str(tmp_path / "busy"),)
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    worker = wait_for(tmp_path / "busy")
    deadline = time.monotonic() + 30  # it would have slept for ten minutes
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


HALF = """
import os, sys, time
from pathlib import Path
from scdm_models.processes import pool


def half(mark):
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        frame = frame.f_back
    # the length of a message of 1,000 bytes, and none of them: what a worker leaves that is ended while it writes
    os.write(frame.f_locals["result_queue"]._writer.fileno(), (1000).to_bytes(4, "big"))
    Path(mark).touch()
    time.sleep(600)


if __name__ == "__main__":
    try:
        with pool(1) as executor:
            executor.submit(half, sys.argv[1])
            while not Path(sys.argv[1]).exists():
                time.sleep(0.01)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_a_worker_that_is_ended_while_it_writes_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(HALF)
    command = [sys.executable, str(tmp_path / "half.py"), str(tmp_path / "mark")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "interrupted\n"
