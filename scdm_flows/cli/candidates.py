"""``scdm candidates``: the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, database, echo_json, table
from scdm_flows.cli.files import check_output, make_folder, output_file

if TYPE_CHECKING:
    from scdm_flows.documents import CandidateDoc

SUFFIX = {"cif": ".cif", "poscar": ".vasp", "json": ".json"}
COLUMNS = {
    "rank": "rank",
    "candidate_id": "candidate",
    "formula": "formula",
    "layer_group": "layer group",
    "nsites": "atoms",
    "e_above_hull": "E_hull (eV/atom)",
    "e_above_hull_error": "± (eV/atom)",
    "dynamically_stable": "phonon-stable",
    "novel": "novel",
    "state": "state",
}
SURROGATE = " (surrogate energies, calibrated)"


@click.group()
def candidates() -> None:
    """List, show and export candidates."""


@candidates.command("list")
@click.option("--campaign", help="Only of this campaign.")
@click.option("--formula", help="Reduced formula, such as MoS2.")
@click.option("--elements", help="Holds all of these, separated by commas.")
@click.option("--layer-group", type=click.IntRange(1, 80), help="Layer group.")
@click.option("--max-e-above-hull", type=float, help="Largest energy above hull, eV/atom.")
@click.option("--stable/--unstable", "stable", default=None, help="Dynamically stable, or not.")
@click.option("--state", type=click.Choice(["pending", "rejected", "failed", "completed"]), help="Where it stands.")
@click.option("--where", multiple=True, metavar="FIELD=VALUE", help="Any field; min_FIELD and max_FIELD for ranges.")
@click.option("--sort", default="rank", show_default=True, help="Field to sort by.")
@click.option("--limit", type=click.IntRange(1), help="Most rows; 20 in a table, all with --json, when absent.")
@click.option("--after", metavar="CURSOR", help="The rows after those that gave this cursor, with the same options.")
@JSON
def list_(
    campaign: str | None,
    formula: str | None,
    elements: str | None,
    layer_group: int | None,
    max_e_above_hull: float | None,
    stable: bool | None,
    state: str | None,
    where: tuple[str, ...],
    sort: str,
    limit: int | None,
    after: str | None,
    as_json: bool,
) -> None:
    """Candidates by rank, those without one last.

    Where there are more, the cursor of the next rows is said on standard error.
    """
    from scdm_flows.query import CandidateDB

    filters: dict[str, Any] = {
        "campaign": campaign,
        "formula": formula,
        "elements": [e.strip() for e in elements.split(",")] if elements else None,
        "layer_group": layer_group,
        "max_e_above_hull": max_e_above_hull,
        "dynamically_stable": stable,
        "state": state,
    }
    filters |= dict(_condition(text) for text in where)
    with database(create=False) as connected:
        query = CandidateDB(connected)
        if campaign is not None:
            query.campaign(campaign)  # says "did you mean" for a name that does not exist
        limit = limit if as_json else limit or 20
        records, following = query.flat_page(sort=sort, limit=limit, after=after, **filters)
    if as_json:
        echo_json(records)
    else:
        show_records("Candidates", records)
    if following is not None:
        click.echo(f"more with --after {following}", err=True)


def _condition(text: str) -> tuple[str, Any]:
    """Field and value of ``FIELD=VALUE``; true, false and numbers are what they look like."""
    field, sign, value = text.partition("=")
    if not sign or not field:
        raise click.UsageError(f"--where {text!r} must be FIELD=VALUE, such as --where max_nsites=6")
    try:
        parsed = json.loads(value)
    except ValueError:
        return field.strip(), value
    return field.strip(), parsed if isinstance(parsed, bool | int | float) else value


def show_records(title: str, records: list[dict[str, Any]], columns: dict[str, str] = COLUMNS) -> None:
    """A table of flat records; says so where their energies are surrogate energies."""
    note = SURROGATE if any(r["surrogate"] for r in records) else ""
    table(f"{title}{note}", list(columns.values()), [[r[c] for c in columns] for r in records])


@candidates.command()
@click.argument("candidate_id")
@JSON
def show(candidate_id: str, as_json: bool) -> None:
    """Everything known of one candidate."""
    from scdm_flows.query import CandidateDB

    with database(create=False) as connected:
        query = CandidateDB(connected)
        document = query.get(candidate_id)
        phonon = query.phonon(candidate_id)
    data = document.model_dump(mode="json")
    if as_json:
        echo_json({**data, "phonon": None if phonon is None else phonon.model_dump(mode="json")})
        return
    hidden = {"structure", "relaxed_structure", "provenance", "stages", "score_terms", "schema_version"}
    rows = [[k, v] for k, v in data.items() if k not in hidden and v not in (None, [], {})]
    if phonon is not None:
        n, m = phonon.supercell[0][0], phonon.supercell[1][1]
        rows.append(
            [
                "phonons",
                f"{n}x{m} supercell, {phonon.n_displacements} displacements; {phonon.reason or 'stable'}",
            ]
        )
    table(f"{document.formula}  {candidate_id}", ["field", "value"], rows)
    table("Stages", ["stage", "status", "why"], [[k, v.status, v.reason] for k, v in document.stages.items()])
    if document.score_terms:
        table("Score", ["term", "contribution"], [list(x) for x in document.score_terms.items()])


@candidates.command()
@click.argument("ids", nargs=-1)
@click.option("--top", type=click.IntRange(1), help="The N best instead of ids.")
@click.option("--campaign", help="Of this campaign (with --top).")
@click.option("--format", "fmt", type=click.Choice(list(SUFFIX)), default="cif", show_default=True)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder, or a file for one candidate."
)
@FORCE
def export(ids: tuple[str, ...], top: int | None, campaign: str | None, fmt: str, out: Path, force: bool) -> None:
    """Write structures (relaxed where known) as CIF, POSCAR or JSON.

    OUT is a folder unless one candidate is written and OUT ends in .cif, .vasp, .poscar or .json.
    """
    if bool(ids) == (top is not None):
        raise click.UsageError("give candidate ids, or --top N")
    if campaign is not None and ids:
        raise click.UsageError("--campaign goes with --top; ids name their campaign already")
    from scdm_flows.query import CandidateDB

    with database(create=False) as connected:
        query = CandidateDB(connected)
        if campaign is not None:
            query.campaign(campaign)
        if ids:
            documents = [query.get(i) for i in dict.fromkeys(ids)]
        else:
            documents = [d for d in query.find(campaign=campaign, sort="rank", limit=top) if d.rank is not None]
    if not documents:
        raise click.UsageError("no candidate has a rank yet; run a campaign, or `scdm build` to rank what is there")
    single = len(documents) == 1 and out.suffix.lower() in {*SUFFIX.values(), ".poscar"} and not out.is_dir()
    if not single:
        make_folder(out)
    targets = [out if single else out / f"{d.candidate_id}{SUFFIX[fmt]}" for d in documents]
    for target in targets:  # all or nothing
        check_output(target, force=force)
    for target, document in zip(targets, documents, strict=True):
        with output_file(target, force=force) as handle:
            handle.write(as_file(document, fmt))
    noun = "structure" if len(targets) == 1 else "structures"
    click.echo(f"wrote {len(targets)} {noun} to {out}")


def as_file(document: CandidateDoc, fmt: str) -> str:
    """The candidate's structure as CIF or POSCAR, or its whole document as JSON."""
    if fmt == "json":
        return document.model_dump_json(indent=1) + "\n"
    from pymatgen.core import Structure

    structure = Structure.from_dict(document.relaxed_structure or document.structure)
    if fmt == "poscar":
        from pymatgen.io.vasp import Poscar

        e_hull = "" if document.e_above_hull is None else f" E_hull={document.e_above_hull:.3f} eV/atom"
        return str(Poscar(structure, comment=f"{document.formula} {document.candidate_id}{e_hull}"))
    from pymatgen.io.cif import CifWriter

    return str(CifWriter(structure))
