"""``scdm campaign promote``: the best candidates of a campaign as a campaign of their own, on another engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.chosen import conditions, filters_within
from scdm_flows.cli.common import DRY, JSON, USAGE, database, echo_json

if TYPE_CHECKING:
    from scdm_flows.campaigns.promotion import Promotion

POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("name")
@click.option("--top", required=True, type=click.IntRange(1, 10_000), help="How many of the best, by rank.")
@filters_within
@click.option("--engine", "kind", required=True, metavar="KIND", help="Engine that computes them: vasp, ...")
@click.option(
    "--engine-option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Setting of the engine, as in campaign files.",
)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another gate than the campaign's, such as phonon_max_atoms=4.",
)
@click.option("--as", "new", metavar="NEW", help="Name of the new campaign; NAME-KIND when absent.")
@click.option(
    "--within",
    type=click.FloatRange(min=0),
    metavar="EV",
    help="Only those at most so far above the lowest candidate of their formula, eV/atom.",
)
@click.option("--draw", type=click.IntRange(0), metavar="SEED", help="Drawn at random instead of the best.")
@click.option(
    "--core-hours", type=POSITIVE, help="Best first while their estimated cost, every stage, is within these."
)
@click.option(
    "--node-hours", type=POSITIVE, help="Its jobs' wall time after which no new candidate begins, the best first."
)
@DRY
@JSON
def promote(
    name: str,
    top: int,
    kind: str,
    options: tuple[str, ...],
    gates: tuple[str, ...],
    new: str | None,
    within: float | None,
    draw: int | None,
    core_hours: float | None,
    node_hours: float | None,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Make a campaign of the best candidates of campaign NAME, from their relaxed structures.

    Left out and counted: duplicates, candidates without a relaxed structure or a rank, what the engine cannot compute.
    Known layers go along, as DFT of them checks the surrogate; --where novel=true leaves them out. The same command
    again changes nothing, or completes what was interrupted; other --node-hours are applied.
    """
    from scdm_flows.campaigns import promotion
    from scdm_flows.query import CandidateDB

    engine = {"kind": kind, **dict(_setting("--engine-option encut_ev=600", text) for text in options)}
    gate = dict(_setting("--gate phonon_max_atoms=4", text) for text in gates)
    with database(create=False) as connected:
        where = conditions(CandidateDB(connected), asked)
        wanted = promotion.Asked(name, top, engine, new, where, core_hours, node_hours, gate, within, draw)
        found = promotion.promote(connected, wanted, dry_run=dry_run)
    if as_json:
        echo_json(_facts(found, dry_run=dry_run))
    else:
        _tell(found, dry_run=dry_run)
    if found.missing:
        raise click.exceptions.Exit(USAGE)


def _setting(example: str, text: str) -> tuple[str, Any]:
    """Key and value of ``KEY=VALUE``; the value is JSON where it can be read as that, else text."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise click.UsageError(f"{example.split()[0]} {text!r} must be KEY=VALUE, such as {example}")
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        return key.strip(), value


def _facts(found: Promotion, *, dry_run: bool) -> dict[str, Any]:
    generator: Any = found.config.generator  # a promoted one
    return {
        "campaign": found.config.name,
        "parent": generator.parent,
        "engine": found.config.engine.kind,
        "config_hash": found.config.config_hash,
        "changed": found.changed and not dry_run,
        "dry_run": dry_run,
        "promoted": list(found.chosen),
        "known_layers": found.known_layers,
        "left_out": dict(found.left_out),
        "unfinished": found.unfinished,
        "core_hours": found.core_hours,
        "budget": found.config.budget.model_dump(mode="json", exclude_defaults=True),
        "missing": list(found.missing),
    }


def _tell(found: Promotion, *, dry_run: bool) -> None:
    name, n = found.config.name, len(found.chosen)
    many = f"{n} candidate{'s' * (n != 1)}"
    generator: Any = found.config.generator  # a promoted one
    parent, top = generator.parent, generator.top
    if found.existed:
        hours = "its node hours would change" if dry_run else "its node hours changed"
        change = hours if found.changed else "nothing was changed"
        click.echo(f"campaign {name} holds these {many} of {parent} already; {change}")
    else:
        done = "would be promoted" if dry_run else "promoted"
        click.echo(f"campaign {name}: {many} of {parent} {done} to the {found.config.engine.kind} engine")
    if n < top:
        click.echo(f"{top} were asked for, {n} can be promoted")
    if found.known_layers:
        click.echo(f"known layers among them: {found.known_layers} (--where novel=true leaves them out)")
    for reason, count in found.left_out.items():
        click.echo(f"left out: {count} {reason}")
    if found.unfinished:
        click.echo(f"campaign {parent} is not finished: {found.unfinished} candidates under way may be better")
    if found.core_hours is not None:
        click.echo(f"estimated cost: {found.core_hours:.2g} core hours, good to a factor of three, every gate open")
    if found.config.budget.node_hours is not None:
        click.echo(f"no new candidate starts after {found.config.budget.node_hours:g} node hours")
    for line in found.missing:
        click.echo(f"missing: {line}", err=True)
    if dry_run:
        click.echo("nothing was written")
    else:
        click.echo(f"go on with: scdm campaign run {name} (here), or scdm campaign submit {name} (on workers)")
