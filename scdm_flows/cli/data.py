"""``scdm data``: curation of data sets, counts of a curated set, and the user's own known layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from scdm_flows.cli.common import FORCE, JSON, echo_json, number, table
from scdm_flows.cli.files import check_output, output_path
from scdm_flows.cli.progress import Report, progress_bar

PROCESSES = click.option("--processes", default=2, type=click.IntRange(1), show_default=True, help="Worker processes.")


@click.group()
def data() -> None:
    """Curate data sets and look at them."""


@data.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Curated set to write (.jsonl.gz).")
@click.option(
    "--symprec",
    default=0.1,
    show_default=True,
    callback=number(above=0, advice="0.1 angstrom suits the published data sets"),
    help="Tolerance of the symmetrisation, angstrom.",
)
@click.option("--max-atoms", default=40, show_default=True, type=click.IntRange(1), help="Largest cell (the paper's).")
@PROCESSES
@FORCE
@JSON
def curate(
    sources: tuple[str, ...],
    out: Path,
    symprec: float,
    max_atoms: int,
    processes: int,
    force: bool,
    as_json: bool,
) -> None:
    """Curate SOURCES as in the paper; writes OUT and, in OUT.dropped.jsonl, why each other entry was left out.

    SOURCES are files or folders (2dMatPedia's db.json, C2DB's database, CIF, POSCAR, extxyz, JSON lines), the word
    jarvis for the JARVIS 2D set, or the base URL of an OPTIMADE database.
    """
    dropped = Path(f"{out}.dropped.jsonl")
    for path in (out, dropped):
        check_output(path, force=force)
    from scdm_models.datasets.curation import PAPER_TABLE_1
    from scdm_models.datasets.curation import curate as run
    from scdm_models.datasets.records import write_curated, write_dropped

    with progress_bar() as report:
        result = run(
            _items(sources, report),
            symprec=symprec,
            max_atoms=max_atoms,
            processes=processes,
            progress=report,
        )
        with output_path(dropped, force=force) as temporary:
            write_dropped(temporary, result.dropped)
        with output_path(out, force=force) as temporary:
            write_curated(temporary, result.kept)
    summary: dict[str, Any] = {
        "table_1": [asdict(row) for row in result.rows()],
        "paper": PAPER_TABLE_1,
        "round_trip_exceptions": result.exceptions,
        "tools_disagree": [layer.id for layer in result.disagreements],
        "files": [str(out), str(dropped)],
    }
    if as_json:
        echo_json(summary)
        return
    rules = list(result.drop_counts())
    rows: list[list[Any]] = [
        [row.source, row.entries, *(row.dropped.get(rule, 0) for rule in rules), row.kept] for row in result.rows()
    ]
    rows.append(["paper, Table 1", PAPER_TABLE_1["entries"], *(None for _ in rules), PAPER_TABLE_1["kept"]])
    table("Curation", ["source", "entries", *rules, "kept"], rows)
    exceptions = ", ".join(f"{name} ({distance:.1e} Å)" for name, distance in result.exceptions) or "none"
    click.echo(f"decode(encode(s)) further than 1e-3 Å from s: {exceptions}")
    click.echo(f"moyopy and spglib see different groups in {len(result.disagreements)} of {len(result.kept)} layers")
    click.echo(f"wrote {', '.join(summary['files'])}")


def _items(sources: tuple[str, ...], report: Report) -> Iterator[Any]:
    from scdm_models.datasets.readers import read_any

    for done, source in enumerate(sources):
        report("read sources", done, len(sources))
        yield from read_any(source)
    report("read sources", len(sources), len(sources))


@data.command()
@click.argument("curated", type=click.Path(path_type=Path))
@JSON
def stats(curated: Path, as_json: bool) -> None:
    """Counts of a CURATED set: layer groups, sites, elements, displacement."""
    import numpy as np

    from scdm_models.datasets.records import read_curated

    layers = read_curated(curated)
    groups = Counter(layer.crystal.layer_group for layer in layers)
    moved = np.array([layer.max_displacement for layer in layers])
    summary: dict[str, Any] = {
        "layers": len(layers),
        "layer_groups": len(groups),
        "elements": len({s.element for layer in layers for s in layer.crystal.sites}),
        "templates": len({layer.crystal.template for layer in layers}),
        "median_sites": float(np.median([len(layer.crystal.sites) for layer in layers])),
        "median_displacement_angstrom": round(float(np.median(moved)), 4),
        "largest_displacement_angstrom": round(float(moved.max()), 4),
        "layer_group_agrees_between_tools": sum(x.layer_group_spglib == x.crystal.layer_group for x in layers),
        "layer_group_differs_at_symprec_0.01": sum(x.layer_group_fine != x.crystal.layer_group for x in layers),
    }
    if as_json:
        echo_json({**summary, "by_layer_group": {str(k): v for k, v in sorted(groups.items())}})
    else:
        table(str(curated), ["what", "value"], [list(row) for row in summary.items()])
        table(
            "Most frequent layer groups",
            ["layer group", "layers"],
            [list(row) for row in groups.most_common(10)],
        )


@data.group()
def known() -> None:
    """Your own known layers beside the packaged ones: what equals one of them is not new."""


@known.command()
@click.argument("source")
@click.option("--name", help="Name of the set; made from SOURCE when absent.")
@click.option("--filter", "query", help="Of an OPTIMADE database: which structures, in OPTIMADE's filter language.")
@click.option("--limit", type=click.IntRange(1), help="Read at most this many entries of an OPTIMADE database.")
@PROCESSES
@FORCE
@JSON
def add(
    source: str, name: str | None, query: str | None, limit: int | None, processes: int, force: bool, as_json: bool
) -> None:
    """Add the layers of SOURCE as a set of known ones; nothing is computed again for it.

    SOURCE is a file or folder (CIF, POSCAR, extxyz, JSON lines, C2DB's database, 2dMatPedia's db.json, Alexandria's
    json.bz2), the word jarvis, or the base URL of an OPTIMADE database.
    """
    from scdm_flows.config.settings import masked
    from scdm_flows.stores.known_sets import add_known, set_name
    from scdm_models.datasets.optimade import WEB, read_optimade
    from scdm_models.datasets.readers import read_any

    web = source.startswith(WEB)
    if (query or limit) and not web:
        raise click.UsageError(f"--filter and --limit are for web addresses; {source} is read as a file or folder")
    wanted = [f"filter {query}"] if query else []
    wanted += [f"at most {limit} entries"] if limit else []
    try:
        with progress_bar() as report:
            done = add_known(
                name or set_name(source),
                _counted(read_optimade(source, query or "", limit) if web else read_any(source), report),
                ", ".join([masked(source), *wanted]),
                force=force,
                processes=processes,
                progress=report,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("no set was stored; the same command begins anew") from None
    if as_json:
        echo_json({"read": done.read, "left_out": done.left_out, "reasons": str(done.reasons), **asdict(done.known)})
        return
    click.echo(f"added {done.known.name}: {done.known.layers} layers of {done.read} entries")
    for rule, n in done.left_out.items():
        click.echo(f"left out: {n} {rule}")
    if done.left_out or done.known.trouble:
        click.echo(f"reasons: {done.reasons}")
    if done.known.trouble:
        click.echo(f"not all of it: {done.known.trouble}")


def _counted(items: Iterator[Any], report: Report) -> Iterator[Any]:
    read = 0
    for read, item in enumerate(items, 1):
        report("read", read, read + 1)  # how many there are is known at the end
        yield item
    report("read", read, read)


@known.command(name="list")
@JSON
def list_sets(as_json: bool) -> None:
    """The packaged known layers and your sets."""
    from scdm_flows.stores.known_sets import known_folder, known_sets
    from scdm_models.datasets.known import KnownLayers

    packaged, sets = KnownLayers.load(), known_sets()
    if as_json:
        own = {"layers": packaged.sources, "version": packaged.version}
        echo_json({"packaged": own, "folder": str(known_folder()), "sets": [asdict(one) for one in sets]})
        return
    rows: list[list[Any]] = [[n, "packaged", m, None, packaged.version, None] for n, m in packaged.sources.items()]
    rows += [[one.name, one.source, one.layers, one.added, one.version, one.trouble] for one in sets]
    columns = ["set", "source", "layers", "added", "version", "trouble"]
    table(f"Known layers; yours are in {known_folder()}", columns, rows)


@known.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove the set NAME; its layers are no longer known."""
    from scdm_flows.stores.known_sets import remove_known

    remove_known(name)
    click.echo(f"removed {name}")


@known.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="File to write (.npz).")
@PROCESSES
@FORCE
@JSON
def build(sources: tuple[str, ...], out: Path, processes: int, force: bool, as_json: bool) -> None:
    """Make a file of known layers of SOURCES, such as the packaged one; each layer keeps the name of its source.

    SOURCES are what `scdm data known add` takes. In the folder of the sets such a file is a set.
    """
    reasons = Path(f"{out}.dropped.jsonl")
    for path in (out, reasons):
        check_output(path, force=force)
    from scdm_models.datasets.known import build_known
    from scdm_models.datasets.records import write_dropped

    with progress_bar() as report, output_path(out, force=force) as temporary:
        layers, dropped = build_known(sources, temporary, processes, report)
        with output_path(reasons, force=force) as written:
            write_dropped(written, dropped)
    left_out = dict(Counter(item.rule for item in dropped).most_common())
    if as_json:
        files = [str(out), str(reasons)]
        echo_json({"layers": layers.sources, "version": layers.version, "left_out": left_out, "files": files})
        return
    click.echo(f"wrote {out}: {', '.join(f'{n} of {source}' for source, n in layers.sources.items())}")
    click.echo(f"left out: {', '.join(f'{n} {rule}' for rule, n in left_out.items()) or 'nothing'}; {reasons}")
