"""``scdm campaign`` and ``scdm build``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.again import rerun
from scdm_flows.cli.cancel import cancel
from scdm_flows.cli.common import DRY, JSON, USAGE, as_text, database, echo_json, table
from scdm_flows.cli.discoveries import discoveries
from scdm_flows.cli.export import export
from scdm_flows.cli.inputs import costs, inputs, known_fits, show_costs
from scdm_flows.cli.loop import list_loops, loop, yields
from scdm_flows.cli.promote import promote
from scdm_flows.cli.remove import remove
from scdm_flows.cli.report import report, write_report
from scdm_flows.cli.resume import resume
from scdm_flows.cli.running import HOURS, deadline_of, run_and_build, worker_config
from scdm_flows.errors import ConfigError, ScdmError

if TYPE_CHECKING:
    from scdm_flows.config import CampaignConfig
    from scdm_flows.documents import CampaignDoc

FILE = click.argument("file", type=click.Path(path_type=Path))
CANCELLED = "cancelled"  # on the LaunchPad; the document keeps how far it came
STEPS = {
    "generated": "generated",
    "valid": "valid",
    "unique": "no duplicate",
    "sample_novel": "of these new as sampled",
    "relaxed": "relaxed, energy known",
    "distinct": "different layers after relaxation",
    "novel": "of these new after relaxation",
    "in_window": "within the E_hull window",
    "phonon_done": "phonons computed",
    "dynamically_stable": "phonon-stable",
    "bands_done": "electronic bands computed",
    "failed": "failed",
    "pending": "not finished",
}


def _config(file: Path) -> CampaignConfig:
    """The campaign of a file; where there is no such file, the stored campaign of that name."""
    from scdm_flows.config import load_config, stored_config
    from scdm_flows.config.settings import get_settings

    if not file.exists() and not file.suffix and len(file.parts) == 1:
        settings = get_settings()
        if settings.mongo_uri is not None or (settings.data_dir / "db").is_dir():
            with database(create=False) as connected:
                stored = connected.campaign(str(file))
            if stored is not None:
                return stored_config(stored.config, origin=f"campaign {stored.name}")
    return load_config(file)


@click.group()
def campaign() -> None:
    """Run, submit and report discovery campaigns."""


campaign.add_command(inputs)
campaign.add_command(cancel)
campaign.add_command(loop)
campaign.add_command(yields)
campaign.add_command(promote)
campaign.add_command(remove)
campaign.add_command(resume)
campaign.add_command(rerun)
campaign.add_command(report)
campaign.add_command(discoveries)
campaign.add_command(export)


@campaign.command()
@FILE
@click.option("--processes", type=click.IntRange(1), help="Worker processes; SCDM_PROCESSES or 2 when absent.")
@HOURS
@click.option("--retry-failed", is_flag=True, help="Try candidates that failed once more.")
@DRY
@JSON
def run(
    file: Path, processes: int | None, hours: float | None, retry_failed: bool, dry_run: bool, as_json: bool
) -> None:
    """Run the campaign of FILE, or the stored one of that name, on this machine, or go on with it.

    What is stored is not computed again: the same command after an interruption goes on from there.
    """
    config = _config(file)
    if dry_run:
        plan(config, as_json=as_json)
        return
    from scdm_flows.campaigns.controls import refuse_cancelled

    with database() as connected:
        refuse_cancelled(connected, config.name)
        result, document = run_and_build(
            config, connected, processes=processes, retry_failed=retry_failed, deadline=deadline_of(hours)
        )
        path = write_report(connected, config.name, None, force=True)
    if as_json:
        echo_json({**document.model_dump(mode="json"), "report": str(path), "computed_now": result.computed})
        return
    show_funnel(document)
    click.echo(f"report: {path}")


def plan(config: CampaignConfig, *, as_json: bool) -> None:
    """Say what a campaign would do; exit code 2 where it would be refused."""
    from scdm_flows.campaigns.registration import refusals_here
    from scdm_flows.flows.campaign import shard_count

    missing = refusals_here(config)
    try:
        shards, total = shard_count(config)
    except ScdmError:
        raise ConfigError("; ".join(missing)) from None
    known = known_fits(config)
    estimates = costs(config, known)
    facts: dict[str, Any] = {
        "campaign": config.name,
        "samples": total,
        "workflows": shards,
        "engine": config.engine.kind,
        "config_hash": config.config_hash,
        "budget": config.budget.model_dump(mode="json", exclude_defaults=True),
        "missing": missing,
        "costs": estimates,
        "fits": {stage.value: vars(fit) for stage, fit in known.items()},
    }
    if as_json:
        echo_json(facts)
        _refuse(missing)
        return
    click.echo(
        f"campaign {config.name}: {total} samples in {shards} workflow{'s' * (shards != 1)}, engine "
        f"{config.engine.kind}, "
        f"configuration {config.config_hash[:12]}; nothing was written"
    )
    most = total if config.budget.max_candidates is None else min(total, config.budget.max_candidates)
    show_costs(estimates, config, most, known)
    for key, value in facts["budget"].items():
        click.echo(f"budget: {key.replace('_', ' ')} {as_text(value)}")
    if config.budget.node_hours is not None:
        click.echo(f"no new candidate starts after {config.budget.node_hours:g} node hours")
    for line in missing:
        click.echo(f"missing: {line}", err=True)
    _refuse(missing)


def _refuse(missing: list[str]) -> None:
    if missing:
        raise click.exceptions.Exit(USAGE)


@campaign.command()
@FILE
@DRY
@JSON
def submit(file: Path, dry_run: bool, as_json: bool) -> None:
    """Put the campaign of FILE, or the stored one of that name, on the FireWorks LaunchPad; again adds nothing.

    Another budget or objective in the file is applied. Workers do the work: scdm worker or rlaunch (here), qlaunch
    (through a queue).
    """
    config = _config(file)
    if dry_run:
        plan(config, as_json=as_json)
        return
    from scdm_flows.execution.fireworks import submit as put

    with database() as connected:
        new = put(config, connected)
        folder = worker_config(connected)
    if as_json:
        echo_json({"campaign": config.name, "workflows_added": new, "worker_config": str(folder)})
        return
    click.echo(f"{new} workflow{'s' * (new != 1)} submitted" if new else "already submitted, nothing added")
    click.echo(f"start workers with: scdm worker -c {folder}, or rlaunch -c {folder} rapidfire")


@campaign.command()
@click.argument("name")
@JSON
def status(name: str, as_json: bool) -> None:
    """How far campaign NAME is, from what is stored now."""
    from scdm_flows.builders import build_all
    from scdm_flows.campaigns.budget import in_words
    from scdm_flows.campaigns.controls import cancelled_campaigns
    from scdm_flows.execution.fireworks import collect_failures, jobs_in_words
    from scdm_flows.execution.fireworks import status as queue_status
    from scdm_flows.query import CandidateDB

    with database(create=False) as connected:
        CandidateDB(connected).campaign(name)
        collect_failures(connected, name)
        build_all(connected, name)
        document = CandidateDB(connected).campaign(name)
        queue = queue_status(connected, name)
        limits = [*in_words(connected.mongo, name), *jobs_in_words(connected.mongo, name)]
        state = CANCELLED if name in cancelled_campaigns(connected) else document.state
    if as_json:
        echo_json({**document.model_dump(mode="json"), "state": state, "budget": limits, "fireworks": queue})
        return
    show_funnel(document, state)
    for line in limits:
        click.echo(line)
    if queue:
        states = sorted({state for counts in queue.values() for state in counts})
        rows = [[stage, *(counts.get(state, 0) for state in states)] for stage, counts in queue.items()]
        table("FireWorks", ["stage", *(s.lower() for s in states)], rows)


def show_funnel(document: CampaignDoc, state: str | None = None) -> None:
    """The funnel as a table; state: instead of the document's."""
    counts = document.funnel.model_dump()
    shown = {step: words for step, words in STEPS.items() if step != "bands_done" or counts[step]}  # not every engine's
    rows = [[words, counts[step], _share(counts[step], counts["generated"])] for step, words in shown.items()]
    table(f"Campaign {document.name}: {state or document.state}", ["step", "samples", "share"], rows)


def _share(count: int, total: int) -> str | None:
    return f"{100 * count / total:.1f} %" if total else None


@campaign.command("list")
@click.option("--loops", is_flag=True, help="The loops instead.")
@JSON
def list_(loops: bool, as_json: bool) -> None:
    """All campaigns of the database, or all loops."""
    from scdm_flows.campaigns.controls import cancelled_campaigns
    from scdm_flows.query import CandidateDB

    if loops:
        list_loops(as_json=as_json)
        return
    with database(create=False) as connected:
        documents = CandidateDB(connected).campaigns()
        cancelled = cancelled_campaigns(connected)
    states = {d.name: CANCELLED if d.name in cancelled else d.state for d in documents}
    if as_json:
        echo_json([{**d.model_dump(mode="json"), "state": states[d.name]} for d in documents])
        return
    rows = [
        [
            d.name,
            states[d.name],
            d.n_requested,
            d.funnel.in_window,
            d.funnel.dynamically_stable,
            d.last_updated.date(),
        ]
        for d in documents
    ]
    table("Campaigns", ["name", "state", "samples", "in window", "phonon-stable", "updated"], rows)


@click.command()
@click.option("--campaign", "name", help="Only this campaign; all when absent.")
@click.option("--all", "everything", is_flag=True, help="Compute every novelty and hull again, whatever is known.")
@JSON
def build(name: str | None, everything: bool, as_json: bool) -> None:
    """Rebuild candidates, novelty, hulls and ranking from job outputs; what has not changed is not written."""
    from scdm_flows.builders import build_all
    from scdm_flows.execution.fireworks import collect_failures
    from scdm_flows.query import CandidateDB

    with database(create=False) as connected:
        if name is not None:
            CandidateDB(connected).campaign(name)
        collect_failures(connected, name)
        written = build_all(connected, name, everything=everything)
    if as_json:
        echo_json(written)
    else:
        table("Documents updated", ["builder", "documents"], [list(x) for x in written.items()])
