"""``scdm candidates``: the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from scdm_flows.cli.common import database, echo_json, output_file, table


@click.group()
def candidates() -> None:
    """List, show and export candidates."""


@candidates.command("list")
@click.option("--campaign", help="only of this campaign")
@click.option("--formula", help="reduced formula")
@click.option("--elements", help="all of these, separated by commas")
@click.option("--layer-group", type=click.IntRange(1, 80), help="layer group")
@click.option("--max-e-above-hull", type=float, help="largest energy above hull, eV/atom")
@click.option("--stable/--unstable", "stable", default=None, help="dynamically stable or not")
@click.option("--state", type=click.Choice(["pending", "rejected", "failed", "completed"]), help="where it stands")
@click.option("--sort", default="rank", show_default=True, help="field to sort by")
@click.option("--limit", type=click.IntRange(1), help="most rows [default: 20; all with --json]")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def list_(
    campaign: str | None, formula: str | None, elements: str | None, layer_group: int | None, max_e_above_hull: float | None,
    stable: bool | None, state: str | None, sort: str, limit: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Candidates by rank."""
    from scdm_flows.query import CandidateDB

    with database() as connected:
        records = CandidateDB(connected).flat_records(
            campaign=campaign,
            formula=formula,
            elements=elements.split(",") if elements else None,
            layer_group=layer_group,
            max_e_above_hull=max_e_above_hull,
            dynamically_stable=stable,
            state=state,
            sort=sort,
            limit=limit if as_json else limit or 20,
        )
    if as_json:
        echo_json(records)
        return
    columns = ["rank", "candidate_id", "formula", "layer_group", "nsites", "e_above_hull", "e_above_hull_error", "dynamically_stable", "novel", "state"]
    heads = ["rank", "candidate", "formula", "layer group", "atoms", "E_hull (eV/atom)", "± (eV/atom)", "phonon-stable", "novel", "state"]
    note = " (surrogate energies, calibrated)" if any(r["surrogate"] for r in records) else ""
    table(f"Candidates{note}", heads, [[r[c] for c in columns] for r in records])


@candidates.command()
@click.argument("candidate_id")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def show(candidate_id: str, as_json: bool) -> None:
    """Everything known of one candidate."""
    from scdm_flows.query import CandidateDB

    with database() as connected:
        document = CandidateDB(connected).get(candidate_id)
    data = document.model_dump(mode="json")
    if as_json:
        echo_json(data)
        return
    hidden = {"structure", "relaxed_structure", "provenance", "stages", "score_terms"}
    rows: list[list[Any]] = [[k, v] for k, v in data.items() if k not in hidden and v not in (None, [], {})]
    table(f"{document.formula}  {candidate_id}", ["field", "value"], rows)
    table("Stages", ["stage", "status", "why"], [[k, v.status, v.reason] for k, v in document.stages.items()])
    if document.score_terms:
        table("Score", ["term", "contribution"], [list(x) for x in document.score_terms.items()])


@candidates.command()
@click.argument("ids", nargs=-1)
@click.option("--campaign", help="of this campaign (with --top)")
@click.option("--top", type=click.IntRange(1), help="the N best instead of ids")
@click.option("--format", "fmt", type=click.Choice(["cif", "poscar", "json"]), default="cif", show_default=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="folder to write to")
@click.option("--force", is_flag=True, help="replace existing files")
def export(ids: tuple[str, ...], campaign: str | None, top: int | None, fmt: str, out: Path, force: bool) -> None:
    """Write structures (relaxed where known) as CIF, POSCAR or JSON."""
    from pymatgen.core import Structure

    from scdm_flows.query import CandidateDB

    if bool(ids) == (top is not None):
        raise click.UsageError("give candidate ids, or --top N")
    with database() as connected:
        query = CandidateDB(connected)
        documents = [query.get(i) for i in ids] if ids else query.find(campaign=campaign, state="completed", limit=top)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"folder {out} cannot be made ({error.strerror}); choose another") from None
    for document in documents:
        structure = Structure.from_dict(document.relaxed_structure or document.structure)
        suffix = {"cif": "cif", "poscar": "vasp", "json": "json"}[fmt]
        text = json.dumps(document.model_dump(mode="json"), indent=1) if fmt == "json" else structure.to(fmt=fmt)
        with output_file(out / f"{document.candidate_id}.{suffix}", force=force) as handle:
            handle.write(text)
    click.echo(f"wrote {len(documents)} structures to {out}")
