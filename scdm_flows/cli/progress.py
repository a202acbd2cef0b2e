"""Progress bars on standard error, and log messages that do not tear them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

Report = Callable[[str, int, int], None]
LINE_SECONDS = 15.0  # between two lines of progress where there is no terminal
_console: Console | None = None  # of the bar that is shown now


class BarHandler(logging.Handler):
    """Writes log records to standard error, above the bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        if _console is not None:
            from rich.text import Text

            _console.print(Text(text, style="yellow" if record.levelno >= logging.WARNING else "dim"))
        else:
            click.echo(text, err=True)


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A bar for each stage reported as (stage, done, total); lines of text where standard error is no
    terminal.
    """
    if not sys.stderr.isatty():
        yield _lines()
        return
    global _console
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    _console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=_console, refresh_per_second=4) as bar:
            tasks: dict[str, Any] = {}

            def report(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage, total=total)
                bar.update(tasks[stage], completed=done, total=total)

            yield report
    finally:
        _console = None


def _lines() -> Report:
    """Progress as lines of text: the first and the last of each stage, and one every 15 s between."""
    written: dict[str, float] = {}
    finished: set[str] = set()

    def report(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        last = done >= total
        if stage in finished or (not last and now - written.get(stage, -LINE_SECONDS) < LINE_SECONDS):
            return
        written[stage] = now
        if last:
            finished.add(stage)
        click.echo(f"{stage}: {done}/{total}", err=True)

    return report
