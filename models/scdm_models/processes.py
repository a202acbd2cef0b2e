"""Worker processes side by side: how every part of the project starts and ends them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that are started in here have one thread, unless the environment says otherwise.

    Numerical libraries look when they are loaded: several processes with as many threads as there are cores each take
    ten times as long as with one (look-ups of known layers, two processes on two cores that others use too).
    """
    missing = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch computes on one thread in here, and on as many as before afterwards.

    On small tensors several threads gain nothing and wait for each other without end where other programs want the
    cores, too. And sums that they share (gradients of an embedding) are added in any order: the same call gives other
    last digits.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def pool(processes: int, begin: Callable[..., None] | None = None, *arguments: object) -> Iterator[ProcessPoolExecutor]:
    """An executor of ``processes`` spawned workers with one thread, each of which first calls ``begin(*arguments)``.

    A block that is left by an exception, or a generator closed in it, ends the workers at once, whatever they compute.
    Workers end with this process too, however that ends.
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
        with one_thread_each():
            yield executor
    except BaseException:
        for worker in multiprocessing.active_children():
            if worker not in before:
                worker.terminate()
        # one that ended in the middle of a message: the thread that reads it waits for the rest while anybody could
        # write, and this process could (CPython 3.11 to 3.14)
        results: Any = executor._result_queue
        results._writer.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
