"""What the commands share: exit codes, tables, progress bars, files written whole or not at all."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from scdm_flows.errors import OutputError, ScdmError

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def run(command: click.Command) -> None:
    """Run a command and exit: 0 done, 1 failed while running, 2 something to mend first, 130 interrupted."""
    logging.getLogger("moyo").setLevel(logging.ERROR)
    try:
        code = command.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"See '{error.ctx.command_path} --help'.", err=True)
        sys.exit(USAGE)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nInterrupted. What was finished is stored; the same command goes on from there.", err=True)
        sys.exit(INTERRUPTED)
    except ScdmError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(getattr(error, "exit_code", USAGE))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("SCDM_DEBUG"):
            raise
        text = _disk_full(error) or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        click.echo(f"Error: {text}\nSet SCDM_DEBUG=1 to see where it happened.", err=True)
        sys.exit(FAILED)


def _disk_full(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; free some space and run the same command again, nothing stored was lost"
    return None


def echo_json(data: Any) -> None:
    """Pure JSON on standard output."""
    click.echo(json.dumps(data, indent=2, default=str))


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table for people; None shows as a dash."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*["-" if value is None else _text(value) for value in row])
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error for each stage that is reported as (stage, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report


@contextmanager
def output_file(path: Path, *, force: bool, binary: bool = False) -> Iterator[Any]:
    """A file that appears under its name only when it is complete; ``OutputError`` if it cannot be written."""
    if path.exists() and not force:
        error = OutputError(f"{path} exists; give another name or --force to replace it")
        error.exit_code = USAGE
        raise error
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        handle = temporary.open("wb" if binary else "w")
    except OSError as error:
        failure = OutputError(f"{path} cannot be written ({error.strerror}); choose a folder that exists and is writable")
        failure.exit_code = USAGE
        raise failure from None
    try:
        with handle:
            yield handle
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} was not written: {_disk_full(error) or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def database() -> Iterator[Any]:
    """The connected database of the settings, closed at the end."""
    from scdm_flows.stores.database import connect

    connected = connect()
    try:
        yield connected
    finally:
        connected.close()
