"""``scdm candidates``: the results."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, database, echo_json, table
from scdm_flows.cli.files import check_output, make_folder, output_file, output_path
from scdm_flows.errors import CampaignError

if TYPE_CHECKING:
    from scdm_flows.analysis.ranking import RankResult
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
    """List, show, search, export and draw candidates, and follow the soft modes of unstable ones."""


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
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, all rows unless --limit says less.")
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
    as_csv: bool,
    as_json: bool,
) -> None:
    """Candidates by rank, those without one last.

    Where there are more, the cursor of the next rows is said on standard error.
    """
    from scdm_flows.query import CandidateDB
    from scdm_flows.query.candidate_db import FLAT
    from scdm_flows.query.candidate_files import write_csv

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
        limit = limit if as_json or as_csv else limit or 20
        records, following = query.flat_page(sort=sort, limit=limit, after=after, **filters)
    if as_json:
        echo_json(records)
    elif as_csv:
        write_csv(sys.stdout, records, FLAT)
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
    """A table of flat records; says so where their energies are surrogate energies, and marks extrapolated ones."""
    from scdm_flows.query.candidate_db import EXTRAPOLATED_MARK, EXTRAPOLATED_WORDS

    def cell(column: str, value: Any) -> Any:
        if column == "extrapolated":
            return EXTRAPOLATED_MARK if value else ""
        return value.partition("; ")[0] if column == "known_as" and value else value  # the nearest

    note = SURROGATE if any(r["surrogate"] for r in records) else ""
    marked = any(r["extrapolated"] for r in records)
    needed = {"extrapolated": marked, "known_as": any(r.get("known_as") for r in records)}
    shown = {c: words for c, words in columns.items() if needed.get(c, True)}
    rows = [[cell(c, r[c]) for c in shown] for r in records]
    table(f"{title}{note}", list(shown.values()), rows)
    if marked and "extrapolated" in shown:
        click.echo(f"{EXTRAPOLATED_MARK} {EXTRAPOLATED_WORDS}")


@candidates.command()
@click.argument("candidate_id")
@JSON
def show(candidate_id: str, as_json: bool) -> None:
    """Everything known of one candidate."""
    from scdm_flows.analysis.ranking import why
    from scdm_flows.query import CandidateDB
    from scdm_flows.query.candidate_db import known_words
    from scdm_flows.report.content import beside_known, novelty_words

    with database(create=False) as connected:
        query = CandidateDB(connected)
        document = query.get(candidate_id)
        before = None
        if document.rank is not None and document.rank > 1:
            before = next(iter(query.find(campaign=document.campaign, rank=document.rank - 1, limit=1)), None)
        phonon, bands = query.phonon(candidate_id), query.bands(candidate_id)
    reasons = why(_standing(document), None if before is None else _standing(before))
    data = document.model_dump(mode="json")
    if as_json:
        more = {"phonon": phonon, "bands": bands}
        echo_json({**data, **{k: None if d is None else d.model_dump(mode="json") for k, d in more.items()}})
        return
    hidden = {"structure", "relaxed_structure", "provenance", "stages", "score_terms", "schema_version", "novelty"}
    data["known_as"] = known_words(document.known_as)
    rows = [[k, v] for k, v in data.items() if k not in hidden and v not in (None, [], {})]
    rows.append(["novelty", novelty_words(document)])
    if phonon is not None:
        n, m = phonon.supercell[0][0], phonon.supercell[1][1]
        rows.append(
            [
                "phonons",
                f"{n}x{m} supercell, {phonon.n_displacements} displacements; {phonon.reason or 'stable'}",
            ]
        )
        if phonon.soft_mode is not None:
            q = ", ".join(f"{x:.3g}" for x in phonon.soft_mode.q)
            rows.append(["soft mode", f"q = ({q}); `scdm candidates follow {candidate_id} -o DIR` distorts along it"])
    if bands is not None:
        heavy = [f"{m.carrier} {m.direction} {m.mass:.2f}" for m in bands.masses if m.mass is not None]
        rows.append(["bands", f"{bands.gap_kind}, gap {bands.band_gap_ev:.3f} eV"])
        rows.append(["effective masses (m_e)", ", ".join(heavy) or "none is parabolic"])
    if document.provenance.engine:
        rows.append(["energies from", document.provenance.engine])
    table(f"{document.formula}  {candidate_id}", ["field", "value"], rows)
    beside = beside_known(document)
    if beside is not None:
        table("Beside the known layer (energies above each source's own hull)", *beside)
    table("Stages", ["stage", "status", "why"], [[k, v.status, v.reason] for k, v in document.stages.items()])
    for line in reasons:
        click.echo(line)


def _standing(document: CandidateDoc) -> RankResult:
    from scdm_flows.analysis.ranking import RankResult as Result

    terms, unknown = document.score_terms, tuple(document.score_unknown)
    return Result(document.candidate_id, document.rank, document.score, terms, unknown, document.pareto_front)


@candidates.command()
@click.argument("ids", nargs=-1)
@click.option("--top", type=click.IntRange(1), help="The N best instead of ids.")
@click.option("--campaign", help="Of this campaign.")
@click.option("--where", multiple=True, metavar="FIELD=VALUE", help="All that match; min_FIELD, max_FIELD for ranges.")
@click.option("--format", "fmt", type=click.Choice(["cif", "poscar", "json"]), default="cif", show_default=True)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder, or a file for one candidate or all."
)
@FORCE
def export(
    ids: tuple[str, ...],
    top: int | None,
    campaign: str | None,
    where: tuple[str, ...],
    fmt: str,
    out: Path,
    force: bool,
) -> None:
    """Write structures (relaxed where known) as CIF, POSCAR or JSON; many also to one file.

    OUT is one file where it ends in .zip, .extxyz or .db (ASE's database), or, of a single candidate, in .cif,
    .vasp, .poscar or .json; else it is a folder.
    """
    if bool(ids) == (top is not None or bool(where)):
        raise click.UsageError("give candidate ids, or --top N, or --where FIELD=VALUE")
    if campaign is not None and ids:
        raise click.UsageError("--campaign goes with --top and --where; ids name their campaign already")
    from scdm_flows.query import CandidateDB
    from scdm_flows.query.candidate_files import COLLECTIONS, SUFFIX, as_text, write_collection

    filters = dict(_condition(text) for text in where)
    with database(create=False) as connected:
        query = CandidateDB(connected)
        if campaign is not None:
            query.campaign(campaign)
        if ids:
            documents = [query.get(i) for i in dict.fromkeys(ids)]
        else:
            documents = query.find(campaign=campaign, sort="rank", limit=top, **filters)
    documents = [d for d in documents if (ids or where or d.rank is not None) and (fmt == "json" or d.structure)]
    if not documents:
        if where:
            raise click.UsageError("no candidate matches; `scdm candidates list` takes the same --where")
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
            for name in ("formula", "layer_group", "e_above_hull", "extrapolated", "surrogate", "rank")
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
@click.argument("candidate_id")
@click.option(
    "--what", type=click.Choice(["phonons", "bands"]), default="phonons", show_default=True, help="What to draw."
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="File ending in .svg, .pdf, .png or .html."
)
@FORCE
def plot(candidate_id: str, what: str, out: Path, force: bool) -> None:
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
        document = query.get(candidate_id)
        phonon, bands = query.phonon(candidate_id), query.bands(candidate_id)
    title = f"{document.formula}  {candidate_id}, "
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


def _without(document: CandidateDoc, name: str) -> CampaignError:
    """Why a candidate has no result of a stage."""
    stage = document.stages.get(name)
    reason = (stage.reason if stage is not None else None) or document.reason or "that stage has not run yet"
    return CampaignError(f"candidate {document.candidate_id} has no {name.removesuffix('s')}s: {reason}")


@candidates.command()
@click.argument("candidate_id")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the two files.")
@click.option(
    "--amplitude",
    type=click.FloatRange(min=0, min_open=True),
    default=0.3,
    show_default=True,
    help="How far the atom that moves most moves, angstrom.",
)
@FORCE
def follow(candidate_id: str, out: Path, amplitude: float, force: bool) -> None:
    """Distort an unstable candidate along its soft mode, ready to be run again.

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
        document = query.get(candidate_id)
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
