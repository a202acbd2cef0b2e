"""A few worker processes that work off a list, and that never outlive the process which started them.

Why processes: force fields on small crystals gain little from a second CPU thread. Why not a library's pool: here a
worker that dies (out of memory, a crash in compiled code) is replaced and its item named, a Ctrl-C ends the workers
at once, and a SIGKILL of the parent takes them along.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
ATTEMPTS = 2  # a worker can die for reasons that are not its item's
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class WorkerDied:
    """The worker died twice on an item; ``exitcode`` is negative for a signal."""

    exitcode: int | None

    def __str__(self) -> str:
        how = f"exit code {self.exitcode}"
        if self.exitcode is not None and self.exitcode < 0:
            how = signal.Signals(-self.exitcode).name
        return f"the worker process died {ATTEMPTS} times ({how}); with SIGKILL the memory was probably too small"


class _Worker(Generic[Item, Result]):
    def __init__(self, start: Callable[[], Callable[[Item], Result]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, start, os.getpid()), daemon=True
        )
        self.process.start()
        theirs.close()
        self.item: Item | None = None

    def give(self, item: Item) -> None:
        self.item = item
        try:
            self.connection.send(item)
        except OSError:
            pass  # it is dead, which reading from it will tell

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, start: Callable[[], Callable[[Item], Result]], parent: int) -> None:
    """A worker's life: set itself up, answer each item with (True, result) or (False, exception)."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        work = start()
    except Exception as error:
        connection.recv()
        connection.send((False, error))
        return
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[bool, object] = (True, work(item))
        except Exception as error:
            answer = (False, error)
        connection.send(answer)


def _die_with(parent: int) -> None:
    """End this process when its parent ends: by the kernel on Linux, by looking every second elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def work_off(
    items: Iterable[Item], start: Callable[[], Callable[[Item], Result]], processes: int
) -> Iterator[tuple[Item, Result | WorkerDied]]:
    """Each item with its result, as they come.

    Parameters
    ----------
    items
        Picklable.
    start
        Picklable; called once in each worker, returns the function that does the work.
    processes
        Worker processes, each with one CPU thread.

    Raises
    ------
    Exception
        What ``start`` or the work raises; the workers end first, and the items not yet worked off are left.
    """
    waiting = deque((item, 1) for item in items)
    attempts: dict[int, int] = {}
    workers: list[_Worker[Item, Result]] = [_Worker(start) for _ in range(min(processes, len(waiting)))]
    try:
        busy: dict[Connection, _Worker[Item, Result]] = {}

        def supply(worker: _Worker[Item, Result]) -> None:
            if waiting:
                item, attempt = waiting.popleft()
                attempts[id(worker)] = attempt
                worker.give(item)
                busy[worker.connection] = worker

        for worker in workers:
            supply(worker)
        while busy:
            for connection in wait(list(busy)):
                worker = busy.pop(connection)  # type: ignore[index]
                item = worker.item
                assert item is not None  # a busy worker has one
                try:
                    well, result = worker.connection.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    code, attempt = worker.process.exitcode, attempts.pop(id(worker))
                    workers.remove(worker)
                    worker.connection.close()
                    if attempt < ATTEMPTS:
                        waiting.append((item, attempt + 1))
                    fresh: _Worker[Item, Result] = _Worker(start)
                    workers.append(fresh)
                    supply(fresh)
                    if attempt >= ATTEMPTS:
                        yield item, WorkerDied(code)
                    continue
                if not well:
                    raise result
                supply(worker)
                yield item, result
    finally:
        for worker in workers:
            worker.end()
