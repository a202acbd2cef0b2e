"""``scdm campaign cancel``: takes a campaign off the LaunchPad, and puts it back."""

from __future__ import annotations

import click

from scdm_flows.cli.common import DRY, JSON, database, echo_json


@click.command()
@click.argument("name")
@click.option("--undo", is_flag=True, help="Put a cancelled campaign back as it was.")
@DRY
@JSON
def cancel(name: str, undo: bool, dry_run: bool, as_json: bool) -> None:
    """Take what has not begun of campaign NAME off the LaunchPad; everything stored is kept.

    Jobs that run end by themselves. Submitting the file of a cancelled campaign is refused until --undo.
    """
    from scdm_flows.execution import fireworks as launch

    with database(create=False) as connected:
        if dry_run:
            changed = (launch.would_undo if undo else launch.would_cancel)(connected, name)
        else:
            changed = (launch.undo if undo else launch.cancel)(connected, name)
    if as_json:
        echo_json({"campaign": name, "jobs": changed, "undone": undo and not dry_run, "dry_run": dry_run})
    elif dry_run and undo:
        click.echo(f"{changed} jobs of campaign {name} would be put back; nothing was changed")
    elif dry_run:
        click.echo(f"{changed} jobs of campaign {name} have not begun; nothing was changed")
    elif undo:
        click.echo(f"campaign {name} is back: {changed} jobs can run again")
    else:
        click.echo(
            f"campaign {name} is cancelled: {changed} jobs will not run; "
            f"`scdm campaign cancel {name} --undo` puts them back"
        )
