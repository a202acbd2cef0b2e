"""``scdm quickstart``: the whole way on one machine, from samples to a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.campaign import show_funnel
from scdm_flows.cli.candidates import COLUMNS, show_records
from scdm_flows.cli.common import JSON, database, echo_json, table
from scdm_flows.cli.launchpad import launchpad_dir
from scdm_flows.cli.report import write_report
from scdm_flows.cli.running import run_and_build

if TYPE_CHECKING:
    from pathlib import Path

    from scdm_flows.config import CampaignConfig
    from scdm_flows.documents import CandidateDoc
    from scdm_flows.stores.database import Database

SHOWN = 12
# of the candidates that DFT computes: how many, and atoms of the largest; phonons would take hours
DFT_TOP, DFT_ENGINE = 3, {"kind": "gpaw", "preset": "fast", "max_atoms": 4, "band_points": 31}
DFT_GATE = {"phonon_max_atoms": 1, "bands_max_e_above_hull": 1.0}


@click.command()
@click.option("--dft", is_flag=True, help="Then DFT of the best three small ones, with gap and bands: 15 minutes more.")
@JSON
def quickstart(dft: bool, as_json: bool) -> None:
    """100 samples to a ranked table and a report on this machine (3 to 10 minutes on 2 cores).

    Runs launchpad/campaigns/quickstart.yaml: generate, screen, relax, hull, phonons, ranking. Interrupted or killed,
    the same command goes on; run again, it adds nothing.
    """
    if dft:
        _refuse_without_gpaw()
    from scdm_flows.config import load_config
    from scdm_flows.query import CandidateDB

    config = load_config(launchpad_dir() / "campaigns" / "quickstart.yaml")
    with database() as connected:
        _, document = run_and_build(config, connected)
        query = CandidateDB(connected)
        records = [r for r in query.flat_records(campaign=config.name, sort="rank") if r["rank"] is not None]
        path = write_report(connected, config.name, None, force=True)
        by_dft = _compute_by_dft(config, connected) if dft else None
    if as_json:
        facts: dict[str, Any] = {"campaign": document.model_dump(mode="json"), "candidates": records}
        if by_dft is not None:
            facts["dft"] = {"candidates": [c.model_dump(mode="json") for c in by_dft[0]], "report": str(by_dft[1])}
        echo_json({**facts, "report": str(path)})
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
    if by_dft is not None:
        _show_dft(*by_dft)


def _refuse_without_gpaw() -> None:
    """Before ten minutes of work, not after them."""
    from scdm_flows.config.engines import GpawEngineConfig
    from scdm_flows.engines import engine_of
    from scdm_flows.errors import EngineError

    missing = engine_of(GpawEngineConfig()).check()
    if missing:
        error = EngineError("; ".join(missing))
        error.exit_code = 2
        raise error


def _compute_by_dft(config: CampaignConfig, connected: Database) -> tuple[list[CandidateDoc], Path]:
    """The best small candidates as a campaign of GPAW, run here: its candidates, and the path of its report."""
    from scdm_flows.campaigns.promotion import Asked, promote
    from scdm_flows.query import CandidateDB

    promoted = promote(connected, Asked(config.name, DFT_TOP, DFT_ENGINE, gate=DFT_GATE)).config
    run_and_build(promoted, connected)
    return CandidateDB(connected).find(campaign=promoted.name), write_report(connected, promoted.name, None, force=True)


def _show_dft(candidates: list[CandidateDoc], path: Path) -> None:
    from scdm_flows.documents.hull import at_least
    from scdm_flows.query.words import above_hull, number

    rows = [
        [
            one.candidate_id,
            one.formula,
            above_hull(one.parent),
            at_least(number(one.e_above_hull), one.e_above_hull_lower_bound),
            number(one.band_gap, 2),
            one.reason or one.state.value,
        ]
        for one in candidates
    ]
    heads = ["candidate", "formula", "E_hull, surrogate", "E_hull, DFT", "gap (eV)", "state"]
    table("The best small ones by DFT (PBE on C2DB's scale; eV/atom)", heads, rows)
    click.echo(f"report, with bands: {path}")
