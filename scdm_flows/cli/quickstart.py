"""``scdm quickstart``: the whole way on one machine, from samples to a report."""

from __future__ import annotations

import click

from scdm_flows.cli.campaign import run_and_build, show_funnel
from scdm_flows.cli.candidates import COLUMNS, show_records
from scdm_flows.cli.common import JSON, database, echo_json
from scdm_flows.cli.launchpad import launchpad_dir
from scdm_flows.cli.report import write_report

SHOWN = 12


@click.command()
@JSON
def quickstart(as_json: bool) -> None:
    """100 samples to a ranked table and a report on this machine (about 10 minutes on 2 cores).

    Runs launchpad/campaigns/quickstart.yaml: generate, screen, relax, hull, phonons, ranking. Interrupted
    or killed,
    the same command goes on; run again, it adds nothing.
    """
    from scdm_flows.config import load_config
    from scdm_flows.query import CandidateDB

    config = load_config(launchpad_dir() / "campaigns" / "quickstart.yaml")
    with database() as connected:
        _, document = run_and_build(config, connected)
        query = CandidateDB(connected)
        records = [r for r in query.flat_records(campaign=config.name, sort="rank") if r["rank"] is not None]
        path = write_report(connected, config.name, None, force=True)
    if as_json:
        echo_json({"campaign": document.model_dump(mode="json"), "candidates": records, "report": str(path)})
        return
    show_funnel(document)
    kept = (
        "rank",
        "candidate_id",
        "formula",
        "layer_group",
        "e_above_hull",
        "e_above_hull_error",
        "extrapolated",
        "dynamically_stable",
        "novel",
        "known_as",
    )
    show_records("Best candidates", records[:SHOWN], {c: COLUMNS[c] for c in kept})
    click.echo(f"all {len(records)}: scdm candidates list --campaign {config.name} --limit {max(1, len(records))}")
    click.echo(f"report: {path}")
