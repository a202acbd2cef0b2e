"""``scdm worker``: runs the jobs of submitted campaigns on this machine."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path

import click

from scdm_flows.cli.common import database
from scdm_flows.config import CATEGORIES


def _seconds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A wall time as queues write it: 23:30:00, 30:00 (minutes), 1-12:00:00 (days first), or seconds."""
    if value is None:
        return None
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d{1,2})", value.strip())
    if match:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    elif re.fullmatch(r"\d+(\.\d*)?", value.strip()):
        total = float(value)
    else:
        raise click.UsageError(f"--walltime {value!r} must be like 23:30:00, 1-12:00:00 or seconds", ctx)
    if total <= 0:
        raise click.UsageError(f"--walltime {value!r} must be more than 0 s", ctx)
    return total


def _read_configuration_in(folder: Path) -> None:
    """Let FireWorks, atomate2 and jobflow, which look when they are imported, read the folder's files."""
    for variable, name in (
        ("FW_CONFIG_FILE", "FW_config.yaml"),
        ("ATOMATE2_CONFIG_FILE", "atomate2.yaml"),
        ("JOBFLOW_CONFIG_FILE", "jobflow.yaml"),
    ):
        if (folder / name).is_file():
            os.environ.setdefault(variable, str((folder / name).absolute()))


@click.command()
@click.option(
    "-c", "--config-dir", type=click.Path(path_type=Path), help="FireWorks folder; the settings' database when absent."
)
@click.option(
    "--category", "categories", multiple=True, type=click.Choice(CATEGORIES), help="Only such jobs; may be repeated."
)
@click.option(
    "--walltime", callback=_seconds, help="Stop after this time, such as 23:30:00; the running job goes back."
)
@click.option("--wait", is_flag=True, help="Go on when nothing is left to do.")
@click.option("--sleep", default=10.0, show_default=True, type=click.FloatRange(0.1), help="Seconds between two looks.")
@click.option("--most", type=click.IntRange(1), help="End after this many jobs.")
@click.option("--deliver", is_flag=True, help="Only store what workers of this machine could not store, and end.")
def worker(
    config_dir: Path | None,
    categories: tuple[str, ...],
    walltime: float | None,
    wait: bool,
    sleep: float,
    most: int | None,
    deliver: bool,
) -> None:
    """Run jobs of submitted campaigns until none is left.

    On SIGTERM, Ctrl-C and at the end of the wall time the running job is given back and the exit code is 0. Stock
    `rlaunch` and `qlaunch` do the same work. A result that the database does not take is kept in the data folder and
    stored when it does, by the next worker or `scdm campaign resume` on this machine.
    """
    if config_dir is not None:
        _read_configuration_in(config_dir)
    from scdm_flows.execution.fireworks.worker import deliver_here, launchpad_in, work, worker_of
    from scdm_flows.execution.jobs import quiet
    from scdm_flows.stores.driver_errors import store_errors

    quiet()
    mine = worker_of(categories)
    with ExitStack() as stack:
        if config_dir is not None:
            launchpad = launchpad_in(config_dir)
        else:
            from scdm_flows.execution.fireworks import launchpad_of

            launchpad = launchpad_of(stack.enter_context(database(create=False)))
        if deliver:
            with store_errors(str(launchpad.host)):
                found = deliver_here(launchpad)
            for one in found:
                click.echo(f"{one.name}: {one.outcome} ({one.detail})")
            if not found:
                click.echo("no outputs are kept here")
            return
        click.echo(f"worker {mine.name}: takes {', '.join(mine.category)}", err=True)
        ending = work(launchpad, mine, folder=Path.cwd(), wait=wait, sleep=sleep, walltime=walltime, most=most)
    why = "nothing is left to do" if ending.stopped is None else f"stopped ({ending.stopped})"
    click.echo(f"{ending.jobs} job{'s' * (ending.jobs != 1)} claimed; {why}", err=True)
    if ending.exit_code:
        raise click.exceptions.Exit(ending.exit_code)
