"""A few worker processes that work off a list and never outlive the process that started them.

Processes, because force fields on small crystals gain little from a second CPU thread. Not a library's pool,
because here a worker that dies (out of memory, a crash in compiled code) is replaced and its item named, a
Ctrl-C ends the workers at once, and a SIGKILL of the parent takes them along.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from scdm_models.processes import one_thread_each

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Sequence[Item]], Iterable[tuple[int, Result]]]
Start = Callable[[], Work[Item, Result]]
LEAVE_SECONDS = 10.0  # for a worker that is out of work
ATTEMPTS = 2  # a worker can die for reasons that are not its item's
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class WorkerDied:
    """Workers died on an item; ``exitcode`` of the last one is negative for a signal."""

    exitcode: int | None

    def __str__(self) -> str:
        how = f"exit code {self.exitcode}"
        if self.exitcode is not None and self.exitcode < 0:
            how = signal.Signals(-self.exitcode).name
        hint = "; the memory was probably too small" if how == "SIGKILL" else ""
        return f"the worker process died {ATTEMPTS} times ({how}){hint}"


class _Worker(Generic[Item]):
    """A process, the connection to it, and the items it is working on: place in its list -> item."""

    def __init__(self, start: Start[Item, Any], items: Sequence[Item], attempt: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, start, os.getpid()), daemon=True)
        with one_thread_each():
            self.process.start()
        theirs.close()
        self.give(items, attempt)

    def give(self, items: Sequence[Item], attempt: int) -> None:
        self.items, self.attempt = dict(enumerate(items)), attempt
        with contextlib.suppress(OSError):  # it is dead, which the next read will tell
            self.connection.send(list(items))

    def dismiss(self) -> None:
        """Nothing is left for it: it ends by itself, so that what its libraries hold of the system is given back."""
        self.connection.close()

    def end(self) -> None:
        if self.connection.closed:
            self.process.join(LEAVE_SECONDS)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, start: Start[Any, Any], parent: int) -> None:
    """A worker's life: set itself up, then for each list the answers (True, (place, result)), (True, None) at its end.

    (False, exception) where something was raised.
    """
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    work: Work[Any, Any] | None = None
    while True:
        try:
            items = connection.recv()
        except EOFError:
            return
        try:
            work = work or start()
            for answer in work(items):
                connection.send((True, answer))
            connection.send((True, None))
        except Exception as error:  # the parent raises it
            connection.send((False, error))


def _die_with(parent: int) -> None:
    """End this process when its parent ends: by the kernel on Linux, by looking every second elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)
    else:

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(1.0)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def work_off(
    items: Iterable[Item], start: Start[Item, Result], processes: int, together: int = 1
) -> Iterator[tuple[Item, Result | WorkerDied]]:
    """Each item with its result, in the order they get done.

    Parameters
    ----------
    items
        Picklable.
    start
        Picklable; called once in each worker, returns the function that does the work: it takes a list of items and
        yields (place in the list, result) as they get done.
    processes
        Worker processes, each with one CPU thread. The calling thread must live as long as they do.
    together
        Items that a worker is given at a time, at most; fewer towards the end, so that all end together. Those
        on which a worker died are given out again one by one, so that one of them is no harm to the others.

    Raises
    ------
    Exception
        What ``start`` or the work raises; all workers are ended first, whatever they are doing.
    """
    waiting = deque((item, 1) for item in items)
    workers: dict[Connection, _Worker[Item]] = {}
    leaving: list[_Worker[Item]] = []

    def share() -> tuple[list[Item], int]:
        item, attempt = waiting.popleft()
        chosen = [item]
        most = 1 if attempt > 1 else min(together, -(-len(waiting) // (2 * processes)))
        while len(chosen) < most and waiting and waiting[0][1] == 1:
            chosen.append(waiting.popleft()[0])
        return chosen, attempt

    def employ() -> None:
        worker = _Worker(start, *share())
        workers[worker.connection] = worker

    try:
        while waiting and len(workers) < processes:
            employ()
        while workers:
            for connection in wait(list(workers)):
                worker = workers[connection]  # type: ignore[index]
                try:
                    well, answer = worker.connection.recv()
                except (EOFError, OSError):
                    del workers[worker.connection]
                    worker.process.join()
                    for item in worker.items.values():
                        if worker.attempt < ATTEMPTS:
                            waiting.append((item, worker.attempt + 1))
                        else:
                            yield item, WorkerDied(worker.process.exitcode)
                    worker.end()
                    if waiting:
                        employ()
                    continue
                if not well:
                    raise answer
                if answer is not None:
                    place, result = answer
                    yield worker.items.pop(place), result
                elif worker.items:
                    raise RuntimeError(f"a worker gave no answer for {len(worker.items)} of its items")
                elif waiting:
                    worker.give(*share())
                else:
                    leaving.append(workers.pop(worker.connection))
                    worker.dismiss()
    finally:
        for worker in [*workers.values(), *leaving]:
            worker.end()
