"""``scdm campaign resume``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import JSON, database, echo_json, table

if TYPE_CHECKING:
    from scdm_flows.execution.fireworks import Item

SHOWN = 20  # jobs named one by one


@click.command()
@click.argument("name", required=False)
@click.option(
    "--lost-after",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="A worker elsewhere without a sign of life for so long is lost; 300 when absent, as they give one a minute. "
    "While the database was away does not count.",
)
@click.option("--retry-failed", is_flag=True, help="Also try what has failed for good, and forget earlier failures.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen; nothing is written.")
@JSON
def resume(name: str | None, lost_after: float | None, retry_failed: bool, dry_run: bool, as_json: bool) -> None:
    """Put campaign NAME on the LaunchPad right after kills and outages; all campaigns when absent.

    Jobs of lost workers are run again, failed ones that are worth it are tried again, what was cut short is
    completed, and results that a worker of this machine could not store are stored. What can only be mended later is
    named with its time. Safe at any time, from cron, and several at once; what is stored is never computed again.
    """
    from scdm_flows.execution.fireworks import DONE, LOST_AFTER_SECONDS, collect_failures
    from scdm_flows.execution.fireworks import resume as reconcile

    with database(create=False) as connected:
        items = reconcile(
            connected,
            name,
            lost_after=LOST_AFTER_SECONDS if lost_after is None else lost_after,
            retry_failed=retry_failed,
            dry_run=dry_run,
        )
        if not dry_run:
            collect_failures(connected, name)
        left = "" if items or as_json else _left(connected.mongo, name)
    counts = Counter(item.kind for item in items)
    if as_json:
        echo_json(
            {
                "campaign": name,
                "dry_run": dry_run,
                "counts": {kind.name.lower(): n for kind, n in counts.items()},
                "items": [{**vars(item), "kind": item.kind.name.lower()} for item in items],
            }
        )
        return
    if not items:
        click.echo(f"nothing to repair; {left}")
        return
    title = "Would be done (dry run, nothing was written)" if dry_run else "Done"
    for heading, chosen in (title, DONE), ("Left as it is", counts.keys() - DONE):
        rows = [[kind.value, counts[kind]] for kind in type(items[0].kind) if kind in chosen and counts[kind]]
        if rows:
            table(heading, ["what", "how many"], rows)
    named = [item for item in items if item.detail]
    if named:
        table("Jobs", ["firework", "name", "what", "why"], [_row(item) for item in named[:SHOWN]])
    if len(named) > SHOWN:
        click.echo(f"and {len(named) - SHOWN} more; --json shows all")


def _left(mongo: Any, campaign: str | None) -> str:
    """What is left to do of a campaign, or of all, in words. mongo: pymongo's database."""
    query: dict[str, Any] = {} if campaign is None else {"spec.campaign": campaign}
    waits, runs = (
        mongo["fireworks"].count_documents({**query, "state": {"$in": states}})
        for states in (["READY", "WAITING", "PAUSED"], ["RESERVED", "RUNNING"])
    )
    if not waits and not runs:
        return "no job waits or runs"
    return f"{waits} job{'s have' if waits != 1 else ' has'} not begun, {runs} run{'s' * (runs == 1)}"


def _row(item: Item) -> list[object]:
    return [item.fw_id, item.name, item.kind.name.lower(), item.detail]
