"""``scdm data``: curation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from scdm_flows.cli.common import echo_json, output_file, progress_bar, table


@click.group()
def data() -> None:
    """Curate data sets and look at them."""


@data.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="curated set to write (.jsonl.gz)")
@click.option("--symprec", default=0.1, show_default=True, help="symmetrisation tolerance, angstrom")
@click.option("--max-atoms", default=40, type=click.IntRange(1), show_default=True, help="largest cell")
@click.option("--fingerprints", type=click.Path(path_type=Path), help="also write a fingerprint index (.npz)")
@click.option("--processes", default=2, type=click.IntRange(1), show_default=True, help="worker processes")
@click.option("--force", is_flag=True, help="replace existing files")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def curate(
    sources: tuple[str, ...], out: Path, symprec: float, max_atoms: int, fingerprints: Path | None, processes: int,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Curate SOURCES (files, folders, or 'jarvis') as in the paper; writes OUT and OUT.dropped.jsonl with the reasons."""
    from scdm_models.datasets.curation import PAPER_TABLE_1
    from scdm_models.datasets.curation import curate as run
    from scdm_models.datasets.fingerprints import FingerprintIndex
    from scdm_models.datasets.readers import read_any
    from scdm_models.datasets.records import write_curated
    from scdm_models.encoding import decode

    if not symprec > 0:
        raise click.UsageError(f"--symprec {symprec} must be > 0 angstrom; 0.1 suits the 2D data sets")
    items = [item for source in sources for item in read_any(source)]
    with progress_bar() as report:
        result = run(items, symprec=symprec, max_atoms=max_atoms, processes=processes, progress=report)
    with output_file(out, force=force, binary=True):
        pass  # the name is free and the folder writable
    write_curated(out, result.kept)
    with output_file(Path(f"{out}.dropped.jsonl"), force=True) as handle:
        for d in result.dropped:
            handle.write(json.dumps({"id": d.id, "source": d.source, "rule": d.rule, "reason": d.reason}) + "\n")
    if fingerprints is not None:
        FingerprintIndex.build([decode(x.crystal) for x in result.kept], [x.id for x in result.kept]).save(fingerprints)
    summary: dict[str, Any] = {
        "table_1": [{"source": s, "entries": n, "kept": k} for s, n, k in result.table()],
        "paper": PAPER_TABLE_1,
        "dropped": result.drop_counts(),
        "round_trip_exceptions": result.exceptions,
    }
    if as_json:
        echo_json(summary)
        return
    rows: list[list[Any]] = [list(row) for row in result.table()]
    rows.append(["paper (Table 1)", PAPER_TABLE_1["entries"], PAPER_TABLE_1["kept"]])
    table("Curation", ["source", "entries", "kept"], rows)
    table("Dropped", ["rule", "entries"], [list(x) for x in result.drop_counts().items()])
    click.echo(f"decode(encode(s)) = s within 1e-3 angstrom for all but {len(result.exceptions)}: {result.exceptions[:10]}")
    click.echo(f"wrote {out} and {out}.dropped.jsonl")


@data.command()
@click.argument("curated", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def stats(curated: Path, as_json: bool) -> None:
    """Counts of a CURATED set: layer groups, sites, elements, displacement."""
    from collections import Counter

    import numpy as np

    from scdm_models.datasets.records import read_curated

    layers = read_curated(curated)
    groups = Counter(layer.crystal.layer_group for layer in layers)
    moved = np.array([layer.max_displacement for layer in layers])
    summary = {
        "layers": len(layers),
        "layer_groups": len(groups),
        "elements": len({s.element for layer in layers for s in layer.crystal.sites}),
        "templates": len({layer.crystal.template for layer in layers}),
        "median_sites": float(np.median([len(layer.crystal.sites) for layer in layers])),
        "largest_displacement_angstrom": round(float(moved.max()), 4),
        "tools_agree": sum(layer.layer_group_spglib == layer.crystal.layer_group for layer in layers),
        "group_differs_at_symprec_0.01": sum(layer.layer_group_fine != layer.crystal.layer_group for layer in layers),
    }
    if as_json:
        echo_json({**summary, "by_layer_group": dict(sorted(groups.items()))})
    else:
        table(str(curated), ["what", "value"], [list(row) for row in summary.items()])
        table("Most frequent layer groups", ["layer group", "layers"], [list(row) for row in groups.most_common(10)])
