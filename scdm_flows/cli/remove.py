"""``scdm campaign remove``: takes a campaign out of the database."""

from __future__ import annotations

import click

from scdm_flows.cli.common import DRY, JSON, database, echo_json, table


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@DRY
@JSON
def remove(name: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove campaign NAME with its candidates, results, job outputs and what it has on the LaunchPad, for good.

    Refused while it computes. A removal that was interrupted is completed by the same command. Hulls are right again
    after the next `scdm build`.
    """
    from scdm_flows.campaigns import removal

    with database(create=False) as connected:
        counts = removal.contents(connected, name)
        busy = removal.who_computes(connected.mongo, name)
        if not dry_run:
            if not yes and busy is None and not _agreed(name, counts):
                click.echo("nothing was removed", err=True)
                return
            counts = removal.remove(connected, name)
    if as_json:
        echo_json({"campaign": name, "removed": counts, "dry_run": dry_run, "computes": busy})
        return
    _show(name, counts, "would be removed, nothing was changed" if dry_run else "removed")
    if dry_run and busy is not None:
        click.echo(f"it is refused now: {busy}", err=True)


def _agreed(name: str, counts: dict[str, int]) -> bool:
    many = ", ".join(f"{count} {collection}" for collection, count in counts.items()) or "nothing but its document"
    try:
        return click.confirm(f"Campaign {name} has {many}. Remove all of it for good?", err=True)
    except click.Abort:
        raise click.UsageError("nothing was removed; give --yes where nobody can be asked") from None


def _show(name: str, counts: dict[str, int], what: str) -> None:
    table(f"Campaign {name}: {what}", ["collection", "documents"], [list(row) for row in counts.items()])
