"""What the commands share: exit codes and messages, tables, the database. Files and bars are in ``files``
and ``progress``.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.errors import ScdmError

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
DEBUG = "SCDM_DEBUG"
PIPED_WIDTH = 200  # columns of a table that does not go to a terminal

JSON = click.option("--json", "as_json", is_flag=True, help="JSON for programs, on standard output.")
DRY = click.option("--dry-run", is_flag=True, help="Only say what would happen; nothing is written.")
FORCE = click.option("--force", is_flag=True, help="Replace existing files.")


def run(command: click.Command, arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed while running, 2 something to mend first, 130 interrupted.

    Nothing a user does shows a traceback; with ``SCDM_DEBUG=1`` unexpected errors do.
    """
    if not os.environ.get(DEBUG):
        warnings.simplefilter("ignore")  # of libraries, about themselves
    try:
        code = command.main(arguments, prog_name="scdm", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    except SystemExit:  # click's own way out of a broken pipe
        sys.exit(DONE)
    except Exception as error:
        sys.exit(report_error(error))
    except KeyboardInterrupt as stop:
        sys.exit(report_error(stop))
    sys.exit(code if isinstance(code, int) else DONE)


def report_error(error: BaseException) -> int:
    """Say on standard error what happened and what to do; returns the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        cause = error if isinstance(error, KeyboardInterrupt) else error.__cause__
        text = str(cause or "") or "what was finished is stored, the same command goes on from there"
        click.echo(f"\nInterrupted: {text}", err=True)
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        click.echo(f"Error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"See '{error.ctx.command_path} --help'.", err=True)
        return USAGE
    full = disk_full(error)
    if isinstance(error, ScdmError):
        click.echo(f"Error: {error}", err=True)
        return int(getattr(error, "exit_code", USAGE))
    if os.environ.get(DEBUG):
        raise error
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, OSError) and full is None and error.strerror:
        where = error.filename or "the system"
        click.echo(f"Error: {where}: {error.strerror}; mend that and run the same command again", err=True)
        return FAILED
    click.echo(f"Error: {full or f'{type(error).__name__}: {first}'}", err=True)
    if full is None:
        click.echo(
            f"This is a defect of scdm-flows or of its installation; {DEBUG}=1 shows where it happened.",
            err=True,
        )
    return FAILED


def disk_full(error: BaseException | None) -> str | None:
    """What to do about a full disk, where that is the cause; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" ({error.filename})" if error.filename else ""
            return f"the disk is full{where}; free some space and run the same command again, nothing is lost"
        error = error.__cause__ or error.__context__
    return None


def set_up_logging(verbose: bool) -> None:
    """Warnings (with ``verbose`` everything) of this project on standard error, above a progress bar if
    there is one.
    """
    from scdm_flows.cli.progress import BarHandler

    for name in ("scdm_flows", "scdm_models"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if verbose else logging.WARNING)
        logger.handlers = [BarHandler()]
        logger.propagate = False
    logging.getLogger("moyo").setLevel(logging.ERROR)  # it warns of every small displacement


def echo_json(data: Any) -> None:
    """Pure JSON on standard output; NaN and infinity, which JSON has not, as null."""
    click.echo(json.dumps(_finite(data), indent=2, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for people; None shows as a dash, numbers are on the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    shown = Table(title=Text(title), title_justify="left", title_style="bold", header_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        values = [row[number] for row in rows if row[number] is not None]
        numeric = bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        shown.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*[Text(as_text(value)) for value in row])
    Console(width=None if terminal else PIPED_WIDTH).print(shown)


def as_text(value: Any) -> str:
    """A value as people read it: yes and no, three decimals, a dash for what is not known."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {as_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(as_text(v) for v in value)
    return f"{round(value, 3) + 0.0:.3f}" if isinstance(value, float) else str(value)  # 0.0: no minus before a zero


@contextmanager
def database(*, create: bool = True, indexes: bool = True) -> Iterator[Database]:
    """The connected database of the settings, closed at the end; create: make an embedded one that is not
    there; indexes: create missing ones.
    """
    from scdm_flows.stores.database import connect

    connected = connect(create=create, indexes=indexes)
    try:
        yield connected
    finally:
        connected.close()


def number(low: float | None = None, *, above: float | None = None, advice: str = "") -> Callable[..., float]:
    """A click callback that refuses a number below ``low`` or not above ``above`` with value, rule and
    remedy.
    """

    def check(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
        name = parameter.opts[-1]
        if value is None:
            return value
        rule = f">= {low:g}" if low is not None else f"> {above:g}"
        if (low is not None and not value >= low) or (above is not None and not value > above):
            raise click.UsageError(f"{name} {value:g} must be {rule}" + (f"; {advice}" if advice else ""), ctx)
        return value

    return check


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
