"""``scdm candidates``: the results."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.chosen import chosen, conditions, filters, given
from scdm_flows.cli.common import FORCE, JSON, database, echo_json, table
from scdm_flows.cli.compare import compare
from scdm_flows.cli.files import check_output, make_folder, output_file, output_path
from scdm_flows.cli.show import show
from scdm_flows.errors import CampaignError

if TYPE_CHECKING:
    from scdm_flows.documents import CandidateDoc

COLUMNS = {
    "rank": "rank",
    "candidate_id": "candidate",
    "formula": "formula",
    "layer_group": "layer group",
    "nsites": "atoms",
    "e_above_hull": "E_hull (eV/atom)",
    "e_above_hull_error": "± (eV/atom)",
    "extrapolated": "",
    "dynamically_stable": "phonon-stable",
    "novel": "new",
    "known_as": "known as",
    "state": "state",
}
SURROGATE = " (surrogate energies)"


@click.group()
def candidates() -> None:
    """List, show, compare, search, export and draw candidates, and follow the soft modes of unstable ones."""


candidates.add_command(show)
candidates.add_command(compare)


@candidates.command("list")
@filters
@click.option("--sort", default="rank", show_default=True, help="Field to sort by.")
@click.option("--limit", type=click.IntRange(1), help="Most rows; 20 in a table, all with --json, when absent.")
@click.option("--after", metavar="CURSOR", help="The rows after those that gave this cursor, with the same options.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, all rows unless --limit says less.")
@JSON
def list_(sort: str, limit: int | None, after: str | None, as_csv: bool, as_json: bool, **asked: Any) -> None:
    """Candidates by rank, those without one last.

    Where there are more, the cursor of the next rows is said on standard error.
    """
    from scdm_flows.query import CandidateDB
    from scdm_flows.query.absent import nobody_has
    from scdm_flows.query.candidate_db import FLAT
    from scdm_flows.query.candidate_files import write_csv

    with database(create=False) as connected:
        query = CandidateDB(connected)
        found = conditions(query, asked)
        limit = limit if as_json or as_csv else limit or 20
        records, following = query.flat_page(sort=sort, limit=limit, after=after, **found)
        why = None if records else nobody_has(query, found)
    if as_json:
        echo_json(records)
    elif as_csv:
        write_csv(sys.stdout, records, FLAT)
    else:
        show_records("Candidates", records)
    if why is not None:
        click.echo(why, err=True)
    if following is not None:
        click.echo(f"more with --after {following}", err=True)


def show_records(title: str, records: list[dict[str, Any]], columns: dict[str, str] = COLUMNS) -> None:
    """A table of flat records; says so where their energies are surrogate energies, and marks extrapolated ones."""
    from scdm_flows.analysis import tolerances
    from scdm_flows.documents.hull import LOWER_BOUND_MARK, LOWER_BOUND_WORDS, at_least
    from scdm_flows.query.words import EXTRAPOLATED_MARK, EXTRAPOLATED_WORDS

    def cell(record: dict[str, Any], column: str) -> Any:
        value = record[column]
        if column == "extrapolated":
            return EXTRAPOLATED_MARK if value else ""
        if column == "e_above_hull" and record.get("e_above_hull_lower_bound"):
            return at_least(f"{value:.3f}", True)
        return value.partition("; ")[0] if column == "known_as" and value else value  # the nearest

    note = SURROGATE if any(r["surrogate"] for r in records) else ""
    marked = any(r["extrapolated"] for r in records)
    needed = {"extrapolated": marked, "known_as": any(r.get("known_as") for r in records)}
    shown = {c: words for c, words in columns.items() if needed.get(c, True)}
    rows = [[cell(r, c) for c in shown] for r in records]
    table(f"{title}{note}", list(shown.values()), rows)
    if marked and "extrapolated" in shown:
        click.echo(f"{EXTRAPOLATED_MARK} {EXTRAPOLATED_WORDS}")
    if any(r.get("e_above_hull_lower_bound") for r in records) and "e_above_hull" in shown:
        click.echo(f"{LOWER_BOUND_MARK} {LOWER_BOUND_WORDS}")
    if records and "layer_group" in shown:
        click.echo(tolerances.WORDS)


@candidates.command()
@click.argument("names", nargs=-1)
@click.option("--top", type=click.IntRange(1), help="The N best instead of named ones.")
@click.option("--all", "everything", is_flag=True, help="All candidates of the database.")
@filters
@click.option("--format", "fmt", type=click.Choice(["cif", "poscar", "json"]), default="cif", show_default=True)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder, or a file for one candidate or all."
)
@FORCE
def export(
    names: tuple[str, ...], top: int | None, everything: bool, fmt: str, out: Path, force: bool, **asked: Any
) -> None:
    """Write structures (relaxed where known) as CIF, POSCAR or JSON; many also to one file.

    NAMES are ids or formulas, as for `scdm candidates show`. Without them the filters choose, the same as of `scdm
    candidates list`, or --top, or --all. OUT is one file where it ends in .zip, .extxyz or .db (ASE's database), or, of
    a single candidate, in .cif, .vasp, .poscar or .json; else it is a folder.
    """
    if names and (top is not None or everything):
        raise click.UsageError("--top and --all choose by themselves; give them without ids and formulas")
    if not (names or top is not None or everything or given(asked)):
        raise click.UsageError(
            "give ids or formulas, or a filter such as --campaign NAME or --where FIELD=VALUE, or --top N; --all "
            "exports every candidate"
        )
    from scdm_flows.query import CandidateDB
    from scdm_flows.query.candidate_files import COLLECTIONS, SUFFIX, as_text, write_collection

    with database(create=False) as connected:
        query = CandidateDB(connected)
        if names:
            documents = chosen(query, names, asked)
        else:
            found = conditions(query, asked)
            documents = query.find(sort="rank", limit=top, **found)
            if top is not None and not found.keys() - {"campaign"}:
                documents = [d for d in documents if d.rank is not None]
    documents = [d for d in documents if fmt == "json" or d.structure]
    if not documents:
        if given(asked):
            raise click.UsageError("no candidate matches; `scdm candidates list` takes the same filters")
        raise click.UsageError("no candidate has a rank yet; run a campaign, or `scdm build` to rank what is there")
    noun = "structure" if len(documents) == 1 else "structures"
    if out.suffix.lower() in COLLECTIONS and not out.is_dir():
        with output_path(out, force=force) as path:
            write_collection(path, documents, fmt)
        click.echo(f"wrote {len(documents)} {noun} to {out}")
        return
    single = len(documents) == 1 and out.suffix.lower() in {*SUFFIX.values(), ".poscar"} and not out.is_dir()
    if not single:
        make_folder(out)
    targets = [out if single else out / f"{d.candidate_id}{SUFFIX[fmt]}" for d in documents]
    for target in targets:  # all or nothing
        check_output(target, force=force)
    for target, document in zip(targets, documents, strict=True):
        with output_file(target, force=force) as handle:
            handle.write(as_text(document, fmt))
    click.echo(f"wrote {len(targets)} {noun} to {out}")


@candidates.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--campaign", help="Only among candidates of this campaign.")
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="Most candidates.")
@JSON
def search(file: Path, campaign: str | None, limit: int, as_json: bool) -> None:
    """Whether the layer in FILE (CIF, POSCAR, extxyz) is known, and the candidates that are it or nearest to it.

    Candidates of the same formula are compared, whatever their cell, origin and vacuum.
    """
    from scdm_flows.errors import ConfigError
    from scdm_flows.query import CandidateDB
    from scdm_flows.query.search import known_as, nearest
    from scdm_models.datasets.records import Dropped
    from scdm_models.datasets.structure_files import read_structure_file

    first = next(iter(read_structure_file(file)))
    if isinstance(first, Dropped):
        raise ConfigError(f"{file}: {first.reason}")
    structure = first.structure
    formula = structure.composition.reduced_formula
    known = known_as(structure)
    with database(create=False) as connected:
        query = CandidateDB(connected)
        if campaign is not None:
            query.campaign(campaign)
        hits = nearest(structure, query.stream(formula=formula, campaign=campaign), limit)
    records = [
        {"candidate_id": h.document.candidate_id, "same": h.same, "distance": h.distance}
        | {
            name: getattr(h.document, name)
            for name in ("formula", "layer_group", "e_above_hull", "e_above_hull_lower_bound", "extrapolated")
            + ("surrogate", "rank")
        }
        for h in hits
    ]
    if as_json:
        echo_json({"formula": formula, "known_as": [asdict(m) for m in known], "candidates": records})
        return
    among = ", ".join(f"{m.source} {m.id} ({m.displacement_angstrom:.2f} Å)" for m in known)
    click.echo(f"{formula}: " + (f"known as {among}" if known else "not among the known layers"))
    if not hits:
        click.echo(f"no candidate has the formula {formula}")
        return
    columns = {
        "candidate_id": "candidate",
        "same": "the same",
        "distance": "distance",
        **{name: COLUMNS[name] for name in ("layer_group", "e_above_hull", "extrapolated", "rank")},
    }
    show_records(f"Candidates nearest to {file.name}", records, columns)


PLOTS = (".svg", ".pdf", ".png", ".html")


@candidates.command()
@click.argument("name")
@click.option(
    "--what", type=click.Choice(["phonons", "bands"]), default="phonons", show_default=True, help="What to draw."
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="File ending in .svg, .pdf, .png or .html."
)
@FORCE
def plot(name: str, what: str, out: Path, force: bool) -> None:
    """Draw the phonons or the electronic bands of a candidate with their density of states.

    A .html file is a page to zoom in, which needs no network; the others are for papers and slides.
    """
    if out.suffix.lower() not in PLOTS:
        raise click.UsageError(f"{out.name} has no known format; its name must end in {', '.join(PLOTS)}")
    check_output(out, force=force)
    from scdm_flows.query import CandidateDB
    from scdm_flows.report.bands import draw, electronic_plot, phonon_plot
    from scdm_flows.report.figures import STYLE, svg

    with database(create=False) as connected:
        query = CandidateDB(connected)
        (document,) = chosen(query, [name], {})
        phonon, bands = query.phonon(document.candidate_id), query.bands(document.candidate_id)
    title = f"{document.formula}  {document.candidate_id}, "
    if what == "bands":
        if bands is None:
            raise _without(document, "bands")
        version = f" ({bands.engine_version})" if bands.engine_version else ""
        drawn = electronic_plot(bands, title + bands.energy_scheme + version)
    else:
        if phonon is None:
            raise _without(document, "phonon")
        drawn = phonon_plot(phonon, title + phonon.energy_scheme + (" (surrogate)" if phonon.surrogate else ""))
    suffix = out.suffix.lower()
    if suffix in (".svg", ".html"):
        from scdm_flows.report.interactive import html_file

        with output_file(out, force=force) as handle:
            handle.write(html_file(drawn) if suffix == ".html" else svg(draw(drawn)))
    else:
        import matplotlib as mpl

        with output_path(out, force=force) as path, mpl.rc_context(STYLE):
            draw(drawn).savefig(path, dpi=200)
    click.echo(f"wrote {out}")


def _without(document: CandidateDoc, stage: str) -> CampaignError:
    """Why a candidate has no result of a stage."""
    from scdm_flows.query.absent import why_not

    reason = why_not(document, stage) or "that stage has not run yet"
    return CampaignError(f"candidate {document.candidate_id} has no {stage.removesuffix('s')}s: {reason}")


@candidates.command()
@click.argument("name")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the two files.")
@click.option(
    "--amplitude",
    type=click.FloatRange(min=0, min_open=True),
    default=0.3,
    show_default=True,
    help="How far the atom that moves most moves, angstrom.",
)
@FORCE
def follow(name: str, out: Path, amplitude: float, force: bool) -> None:
    """Distort a candidate along its soft mode, ready to be run again.

    Writes OUT/distorted.jsonl, the layer in the cell that the mode fits in, distorted both ways where these differ, and
    OUT/campaign.yaml, a campaign that relaxes them with the settings of the candidate's own.
    """
    import yaml
    from pymatgen.core import Structure

    from scdm_flows.analysis.soft_mode import follow as distort
    from scdm_flows.campaigns.soft_modes import follow_campaign, follow_records
    from scdm_flows.query import CandidateDB

    structures, campaign = out / "distorted.jsonl", out / "campaign.yaml"
    with database(create=False) as connected:
        query = CandidateDB(connected)
        (document,) = chosen(query, [name], {})
        candidate_id = document.candidate_id
        phonon = query.phonon(candidate_id)
        origin = query.campaign(document.campaign)
    if phonon is None:
        raise _without(document, "phonon")
    if phonon.soft_mode is None or document.relaxed_structure is None:
        why = "is stable" if phonon.dynamically_stable else "is unstable only where no small cell holds the mode"
        raise CampaignError(f"candidate {candidate_id} {why}: there is no mode to follow ({phonon.reason or 'stable'})")
    distorted = distort(Structure.from_dict(document.relaxed_structure), phonon.soft_mode, amplitude)
    config = follow_campaign(origin, candidate_id, structures, len(distorted[0]))
    make_folder(out)
    for path in (structures, campaign):  # both or none
        check_output(path, force=force)
    with output_file(structures, force=force) as handle:
        handle.writelines(json.dumps(r) + "\n" for r in follow_records(candidate_id, phonon, distorted, amplitude))
    with output_file(campaign, force=force) as handle:
        yaml.safe_dump(config.model_dump(mode="json"), handle, sort_keys=False)
    q = ", ".join(f"{x:.3g}" for x in phonon.soft_mode.q)
    click.echo(
        f"mode of {phonon.soft_mode.frequency_thz:.2f} THz at q = ({q}): wrote {len(distorted)} of {len(distorted[0])} "
        f"atoms to {structures}; go on with `scdm campaign run {campaign}` (or submit)"
    )
