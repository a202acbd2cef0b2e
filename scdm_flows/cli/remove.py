"""``scdm campaign remove``: takes a campaign or a loop out of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scdm_flows.cli.common import DRY, JSON, database, echo_json, table

if TYPE_CHECKING:
    from scdm_flows.campaigns.removal import Removable


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@DRY
@JSON
def remove(name: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove campaign NAME with its candidates, results, job outputs and what it has on the LaunchPad, for good.

    Where NAME is a loop, it is removed with all of its campaigns; one of these alone is not, as the loop needs it. The
    checkpoints that it taught stay where they are, as other campaigns may draw by them.
    Refused while any of it computes. A removal that was interrupted is completed by the same command. Hulls are right
    again after the next `scdm build`.
    """
    from scdm_flows.campaigns import removal

    with database(create=False) as connected:
        what = removal.removable(connected, name)
        counts = removal.contents(connected, what)
        busy = removal.who_computes_of(connected.mongo, what)
        if not dry_run:
            if not yes and busy is None and not _agreed(what, counts):
                click.echo("nothing was removed", err=True)
                return
            counts = removal.remove(connected, name)
    if as_json:
        of: dict[str, object] = {"campaign": name}
        if what.loop:
            of = {"loop": name, "campaigns": what.campaigns, "checkpoints_kept": what.checkpoints}
        echo_json({**of, "removed": counts, "dry_run": dry_run, "computes": busy})
        return
    _show(what, counts, "would be removed, nothing was changed" if dry_run else "removed")
    if dry_run and busy is not None:
        click.echo(f"it is refused now: {busy}", err=True)


def _title(what: Removable) -> str:
    return f"{'Loop' if what.loop else 'Campaign'} {what.name}"


def _agreed(what: Removable, counts: dict[str, int]) -> bool:
    many = ", ".join(f"{count} {collection}" for collection, count in counts.items()) or "nothing but its document"
    if what.loop and what.campaigns:
        many += f" ({', '.join(sorted(what.campaigns))})"
    try:
        return click.confirm(f"{_title(what)} has {many}. Remove all of it for good?", err=True)
    except click.Abort:
        raise click.UsageError("nothing was removed; give --yes where nobody can be asked") from None


def _show(what: Removable, counts: dict[str, int], words: str) -> None:
    table(f"{_title(what)}: {words}", ["collection", "documents"], [list(row) for row in counts.items()])
    if what.loop and what.campaigns:
        click.echo(f"its campaigns: {', '.join(sorted(what.campaigns))}")
    if what.checkpoints:
        click.echo("the checkpoints that it taught stay, as other campaigns may draw by them:")
        for file in what.checkpoints:
            click.echo(f"  {file}")
