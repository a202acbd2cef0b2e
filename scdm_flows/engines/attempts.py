"""Earlier attempts at the job that runs now, and its time: executors say them, makers that can go on from them ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


def _nobody(folder: Path) -> None:
    """Nobody asks."""


@dataclass(frozen=True)
class Attempts:
    """What an executor knows of a job.

    folders: where earlier attempts ran, oldest first, those that are left and can be seen from here, none from before
    its stage was to be done again (``scdm campaign rerun``); counted: how many of the last of them count where a job is
    given up, as its user has not let it be tried again since; until: when this attempt has to have ended
    (``time.time``), None for no limit; went_on_from: called with the folder of the earlier attempt whose work is gone
    on with.
    """

    folders: tuple[Path, ...] = ()
    counted: int = 0
    until: float | None = None
    went_on_from: Callable[[Path], None] = _nobody


_NOW: ContextVar[Attempts] = ContextVar("attempts", default=Attempts())  # noqa: B039 (it is frozen)


def attempts() -> Attempts:
    """Those of the job that runs; none where no executor has said any."""
    return _NOW.get()


@contextmanager
def among(known: Attempts) -> Iterator[None]:
    """Within this a job runs with these attempts before it."""
    token = _NOW.set(known)
    try:
        yield
    finally:
        _NOW.reset(token)
