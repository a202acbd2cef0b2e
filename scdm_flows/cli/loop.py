"""``scdm campaign loop`` and ``scdm campaign yields``."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import DRY, FORCE, JSON, USAGE, database, echo_json, table
from scdm_flows.cli.files import check_output
from scdm_flows.cli.report import write_page
from scdm_flows.cli.running import HOURS, deadline_of, run_and_build, worker_config
from scdm_flows.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from scdm_flows.config import CampaignConfig
    from scdm_flows.config.loop import LoopConfig
    from scdm_flows.documents import LoopDoc
    from scdm_flows.stores.database import Database


def _config(file: Path) -> LoopConfig:
    """The loop of a file; where there is no such file, the stored loop of that name."""
    from scdm_flows.config.loop import load_loop

    if not file.exists() and not file.suffix and len(file.parts) == 1:
        from scdm_flows.campaigns.rounds import stored_loop

        with database(create=False) as connected:
            return stored_loop(connected, str(file))[0]
    return load_loop(file)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--submit", is_flag=True, help="Put each round's work on the LaunchPad instead of running it here.")
@click.option("--processes", type=click.IntRange(1), help="Worker processes; SCDM_PROCESSES or 2 when absent.")
@HOURS
@DRY
@JSON
def loop(file: Path, submit: bool, processes: int | None, hours: float | None, dry_run: bool, as_json: bool) -> None:
    """Run the loop of FILE, or the stored one of that name, or go on with it.

    A round generates and relaxes candidates with a surrogate, chooses those most worth while, computes them with the
    loop's engine and learns from what was found. Stored work is not done again: the same command after an interruption
    goes on from there. With --submit workers compute, and the same command takes the next step when they are done.
    """
    if submit and hours is not None:
        raise click.UsageError(
            "--hours is of runs in this process; give the loop core_hours, or the workers a walltime"
        )
    config = _config(file)
    if dry_run:
        _plan(config, as_json=as_json)
        return
    from scdm_flows.campaigns.controls import loop_key
    from scdm_flows.campaigns.rounds import unit_of
    from scdm_flows.campaigns.under_way import running
    from scdm_flows.config.settings import get_settings
    from scdm_flows.execution.loop import go_on

    with database() as connected, running(connected, loop_key(config.name)):
        deadline = deadline_of(hours)
        execute = _submitter(connected) if submit else _runner(connected, processes, deadline)
        folder = get_settings().data_dir.absolute() / "loops" / config.name
        said = partial(click.echo, err=True)
        went = go_on(config, connected, execute, folder, deadline=deadline, report=said)
    if as_json:
        echo_json(went.document.model_dump(mode="json") | {"waits_for": went.waits_for})
        return
    show_rounds(went.document, unit_of(config))
    if went.waits_for == "time":
        click.echo("the time is used up; the same command goes on from here")
    elif went.waits_for is not None and submit:
        click.echo(
            f"workers compute campaign {went.waits_for}; when they are done, the same command takes the next step"
        )
    elif went.waits_for is not None:
        click.echo(f"campaign {went.waits_for} is not finished; the same command goes on with it")
    else:
        click.echo(f"loop {config.name}: {went.document.ended}")


def _runner(connected: Database, processes: int | None, deadline: float | None) -> Any:
    def run(campaign: CampaignConfig) -> None:
        run_and_build(campaign, connected, processes=processes, retry_failed=False, deadline=deadline)

    return run


def _submitter(connected: Database) -> Any:
    from scdm_flows.execution.fireworks import collect_failures
    from scdm_flows.execution.fireworks import submit as put

    def submit(campaign: CampaignConfig) -> None:
        new = put(campaign, connected)
        collect_failures(connected, campaign.name)
        if new:
            words = f"{new} workflow{'s' * (new != 1)} of campaign {campaign.name} submitted"
            click.echo(f"{words}; start workers with: scdm worker -c {worker_config(connected)}", err=True)

    return submit


def _plan(config: LoopConfig, *, as_json: bool) -> None:
    """Say what a loop would do; exit code 2 where it would be refused."""
    from scdm_flows.campaigns.registration import obstacles, refusals_here
    from scdm_flows.campaigns.rounds import NODE_HOURS, refusal, unit_of
    from scdm_flows.flows.campaign import shard_count

    first, computes = config.campaign(1), config.computing()
    assert first is not None
    why, known = None, False
    with suppress(StoreError), database(create=False, indexes=False) as connected:  # refusals_here tells of it
        why, known = refusal(config, connected), connected.loop(config.name) is not None
    missing = [] if why is None else [why]
    missing += refusals_here(first)
    if config.compute is not None and known:  # the campaign of that name is its own
        missing += obstacles(computes)
    elif config.compute is not None:
        missing += refusals_here(computes.model_copy(update={"name": config.computed(1)}))
    missing = list(dict.fromkeys(missing))
    total = shard_count(first)[1] if not missing else None
    unit = unit_of(config)
    facts = {
        "loop": config.name,
        "samples_a_round": total,
        "computed_a_round": config.choose.n,
        "rounds": config.rounds,
        "core_hours": config.core_hours,
        "unit": unit,
        "engine": None if config.compute is None else computes.engine.kind,
        "config_hash": config.config_hash,
        "missing": missing,
    }
    if as_json:
        echo_json(facts)
    else:
        then = "from which the generator learns" if config.learn.generator else "from which nothing learns"
        if config.compute is not None:
            then = (
                f"of which {config.choose.n} are computed by the {computes.engine.kind} engine, "
                f"chosen by {config.choose.by}"
            )
        click.echo(f"loop {config.name}: {config.rounds} rounds of {total} samples, {then}; nothing was written")
        if config.core_hours is not None:
            why = ": set SCDM_VASP_RANKS, and core hours are counted" if unit == NODE_HOURS else ""
            click.echo(f"no round and nothing chosen begins after {config.core_hours:g} {unit}{why}")
        for line in missing:
            click.echo(f"missing: {line}", err=True)
    if missing:
        raise click.exceptions.Exit(USAGE)


def show_rounds(document: LoopDoc, unit: str) -> None:
    """A line for each round. unit: what its hours are."""
    from scdm_flows.campaigns.rounds import summary

    rows: list[list[Any]] = []
    for one in document.rounds:
        rows.append(
            [
                one.number,
                one.samples,
                one.promising,
                one.pool,
                len(one.chosen),
                f"{one.expected:.1f} ({one.expected_by_rank:.1f}, {one.expected_at_random:.1f})",
                one.ended,
                one.found,
                None if one.core_hours is None else f"{one.core_hours:.2f}",
                one.learned_from,
            ]
        )
    whole = summary(document.rounds)
    rows.append(
        ["all", None, None, None, sum(len(r.chosen) for r in document.rounds), None, whole["computed"], whole["found"],
         f"{whole['core_hours']:.2f}", None]
    )  # fmt: skip
    heads = [
        *("round", "samples", "promising", "to choose from", "chosen", "expected (by rank, at random)"),
        *("computed", "found", unit, "learned from"),
    ]
    table(f"Loop {document.name}", heads, rows)


def list_loops(*, as_json: bool) -> None:
    """All loops of the database, each with what its rounds gave."""
    from scdm_flows.query import CandidateDB
    from scdm_flows.report.loops import LOOP_HEAD, loop_cells, state

    with database(create=False) as connected:
        documents = CandidateDB(connected).loops()
    if as_json:
        echo_json([one.model_dump(mode="json") for one in documents])
        return
    rows = [[*loop_cells(one), state(one), one.last_updated.date()] for one in documents]
    table("Loops", [*LOOP_HEAD, "state", "updated"], rows)


@click.command()
@click.argument("loops", nargs=-1, required=True, metavar="LOOP...")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="FILE.md; its figure goes into FILE/."
)
@FORCE
def yields(loops: tuple[str, ...], out: Path, force: bool) -> None:
    """Write a page of what the rounds of each LOOP gave, side by side.

    A LOOP is the name of a stored one, or a JSON file that `scdm campaign loop NAME --json` wrote elsewhere.
    """
    import json

    from pydantic import ValidationError

    from scdm_flows.campaigns.rounds import stored_loop
    from scdm_flows.documents import LoopDoc
    from scdm_flows.report.loops import render

    if out.suffix != ".md":
        raise click.UsageError(f"-o {out} must be a Markdown file, such as loop.md")
    check_output(out, force=force)
    documents = []
    for one in loops:
        if not one.endswith(".json"):
            with database(create=False) as connected:
                documents.append(stored_loop(connected, one)[1])
            continue
        try:
            data = json.loads(Path(one).read_text())
            data.pop("waits_for", None)
            documents.append(LoopDoc.model_validate(data))
        except (OSError, ValueError, AttributeError, ValidationError) as error:
            raise ConfigError(
                f"{one} is no loop ({str(error).splitlines()[0]}); write it with `scdm campaign loop NAME --json`"
            ) from None
    path = write_page(render(documents, folder=out.stem), out, "yields.svg", force=force)
    click.echo(f"report: {path}")
