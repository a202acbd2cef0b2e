"""``scdm data``: curation of data sets, and counts of a curated set."""

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
@click.option("--fingerprints", type=click.Path(path_type=Path), help="Also write an index for novelty (.npz).")
@click.option("--processes", default=2, type=click.IntRange(1), show_default=True, help="Worker processes.")
@FORCE
@JSON
def curate(
    sources: tuple[str, ...],
    out: Path,
    symprec: float,
    max_atoms: int,
    fingerprints: Path | None,
    processes: int,
    force: bool,
    as_json: bool,
) -> None:
    """Curate SOURCES as in the paper; writes OUT and, in OUT.dropped.jsonl, why each other entry was left out.

    SOURCES are files or folders (2dMatPedia's db.json, C2DB's database, CIF, POSCAR, extxyz, JSON lines), or the word
    jarvis for the JARVIS 2D set.
    """
    dropped = Path(f"{out}.dropped.jsonl")
    for path in (out, dropped, *([fingerprints] if fingerprints else [])):
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
        if fingerprints is not None:
            from scdm_models.datasets.fingerprints import build_fingerprint_index

            report("fingerprints", 0, 1)
            with output_path(fingerprints, force=force) as temporary:
                build_fingerprint_index(out, temporary)
            report("fingerprints", 1, 1)
    summary: dict[str, Any] = {
        "table_1": [asdict(row) for row in result.rows()],
        "paper": PAPER_TABLE_1,
        "round_trip_exceptions": result.exceptions,
        "tools_disagree": [layer.id for layer in result.disagreements],
        "files": [str(p) for p in (out, dropped, fingerprints) if p],
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
