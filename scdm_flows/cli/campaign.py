"""``scdm campaign``, ``scdm build``, ``scdm quickstart``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from scdm_flows.cli.common import database, echo_json, output_file, progress_bar, table
from scdm_flows.config import CampaignConfig, load_config, parse_config
from scdm_flows.settings import get_settings

FILE = click.argument("file", type=click.Path(path_type=Path))


def quickstart_config() -> CampaignConfig:
    """The campaign of launchpad/campaigns/quickstart.yaml, from the source tree or the wheel."""
    packaged = files("scdm_flows").joinpath("_launchpad", "campaigns", "quickstart.yaml")
    source = Path(__file__).resolve().parents[2] / "launchpad" / "campaigns" / "quickstart.yaml"
    import yaml

    text = packaged.read_text() if packaged.is_file() else source.read_text()
    return parse_config(yaml.safe_load(text), origin="quickstart.yaml")


def report_path(name: str) -> Path:
    """Where the report of a campaign is written."""
    return get_settings().data_dir / "reports" / f"{name}.html"


def _run(config: CampaignConfig) -> None:
    from scdm_flows.builders import build_all
    from scdm_flows.runner import quiet, run_campaign

    quiet()
    with database() as connected:
        with progress_bar() as report:
            result = run_campaign(config, connected, processes=get_settings().processes, progress=report)
        written = build_all(connected, config.name)
        click.echo(
            f"{result.accepted} candidates passed the screen: {result.computed} computed now, {result.already_done} were done, "
            f"{result.failed} failed; {sum(written.values())} documents updated",
            err=True,
        )


@click.group()
def campaign() -> None:
    """Run, submit and report discovery campaigns."""


@campaign.command()
@FILE
@click.option("--dry-run", is_flag=True, help="only say what would run")
def run(file: Path, dry_run: bool) -> None:
    """Run a campaign FILE on this machine, or go on with it."""
    config = load_config(file)
    if dry_run:
        _plan(config)
        return
    _run(config)
    _write_report(config.name, report_path(config.name), force=True)


def _plan(config: CampaignConfig) -> None:
    from scdm_flows.flows import shard_count

    shards, total = shard_count(config)
    click.echo(
        f"campaign {config.name}: {total} samples in {shards} workflows, engine {config.engine.kind}, "
        f"configuration {config.config_hash[:12]}; nothing was written"
    )


@campaign.command()
@FILE
@click.option("--dry-run", is_flag=True, help="only say what would be submitted")
def submit(file: Path, dry_run: bool) -> None:
    """Put a campaign FILE on the FireWorks LaunchPad; workers: rlaunch -c launchpad rapidfire."""
    config = load_config(file)
    if dry_run:
        _plan(config)
        return
    from scdm_flows.launch import submit as put

    with database() as connected:
        new = put(config, connected)
    click.echo(
        f"{new} workflows submitted" if new else "already submitted, nothing added"
    )
    click.echo("work them off with: rlaunch -c launchpad rapidfire")


@campaign.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def status(name: str, as_json: bool) -> None:
    """How far campaign NAME is (rebuilt from what is stored now)."""
    from scdm_flows.builders import build_all
    from scdm_flows.launch import collect_failures
    from scdm_flows.query import CandidateDB

    with database() as connected:
        CandidateDB(connected).campaign(name)
        collect_failures(connected, name)
        build_all(connected, name)
        document = CandidateDB(connected).campaign(name)
    if as_json:
        echo_json(document.model_dump(mode="json"))
    else:
        table(f"Campaign {name}: {document.state}", ["step", "samples"], [list(x) for x in document.funnel.model_dump().items()])


@campaign.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def list_(as_json: bool) -> None:
    """All campaigns."""
    from scdm_flows.query import CandidateDB

    with database() as connected:
        documents = CandidateDB(connected).campaigns()
    if as_json:
        echo_json([d.model_dump(mode="json") for d in documents])
    else:
        rows: list[list[Any]] = [[d.name, d.state, d.n_requested, d.funnel.in_window, d.funnel.dynamically_stable] for d in documents]
        table("Campaigns", ["name", "state", "samples", "in window", "phonon-stable"], rows)


@campaign.command()
@click.argument("name")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="HTML file; in the data folder when absent")
@click.option("--force", is_flag=True, help="replace an existing file")
def report(name: str, out: Path | None, force: bool) -> None:
    """Write the report of campaign NAME: one HTML file."""
    _write_report(name, out or report_path(name), force=force or out is None)


def _write_report(name: str, path: Path, *, force: bool) -> None:
    from scdm_flows.report import render

    with database() as connected:
        html = render(connected, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with output_file(path, force=force) as handle:
        handle.write(html)
    click.echo(f"report: {path}")


@click.command()
@click.option("--campaign", "name", help="only this campaign; all when absent")
def build(name: str | None) -> None:
    """Rebuild candidates, hulls and ranking from job outputs."""
    from scdm_flows.builders import build_all
    from scdm_flows.launch import collect_failures
    from scdm_flows.query import CandidateDB

    with database() as connected:
        if name:
            CandidateDB(connected).campaign(name)
        collect_failures(connected, name)
        written = build_all(connected, name)
    table("Documents updated", ["builder", "documents"], [list(x) for x in written.items()])


@click.command()
def quickstart() -> None:
    """100 samples to a ranked table and a report on this machine (about 10 minutes on 2 cores)."""
    from scdm_flows.query import CandidateDB

    config = quickstart_config()
    _run(config)
    with database() as connected:
        query = CandidateDB(connected)
        records = query.flat_records(campaign=config.name, state="completed", limit=12)
        funnel = query.campaign(config.name).funnel
    columns = ["rank", "candidate_id", "formula", "layer_group", "e_above_hull", "e_above_hull_error", "dynamically_stable"]
    heads = ["rank", "candidate", "formula", "layer group", "E_hull (eV/atom)", "± (eV/atom)", "phonon-stable"]
    table("Best candidates (surrogate energies: CHGNet, calibrated)", heads, [[r[c] for c in columns] for r in records])
    table("Funnel", ["step", "samples"], [list(x) for x in funnel.model_dump().items()])
    _write_report(config.name, report_path(config.name), force=True)
