"""Worker processes side by side: how every part of the project starts and ends them."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def pool(processes: int, begin: Callable[..., None] | None = None, *arguments: object) -> Iterator[ProcessPoolExecutor]:
    """An executor of ``processes`` spawned workers, each of which first calls ``begin(*arguments)``.

    A block that is left by an exception, or a generator closed in it, ends the workers at once, whatever they compute.
    The terminal's interrupt is the parent's alone: a worker interrupted while it holds the lock of a queue would leave
    all others, and the parent, waiting for ever.
    """
    before = multiprocessing.active_children()
    executor = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(begin, arguments),
    )
    try:
        yield executor
    except BaseException:
        for worker in multiprocessing.active_children():
            if worker not in before:
                worker.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if begin is not None:
        begin(*arguments)
