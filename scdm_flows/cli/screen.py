"""``scdm screen``: verdicts on structures in files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, echo_json, table
from scdm_flows.cli.files import check_output, output_file
from scdm_flows.cli.progress import Report, progress_bar

if TYPE_CHECKING:
    from scdm_flows.documents import ScreenedCandidate

SHOWN = 40  # rows of the table; --json and -o hold all
# not accepted, yet nothing is wrong with the structure
NOT_WRONG = ("duplicate", "known")


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the verdicts as JSON lines.")
@click.option(
    "--min-distance",
    default=0.5,
    show_default=True,
    type=float,
    help="Shortest distance, angstrom (the paper's).",
)
@click.option("--max-atoms", default=40, show_default=True, type=int, help="Largest cell (the paper's).")
@click.option(
    "--radii/--no-radii", default=True, show_default=True, help="Also check distances against covalent radii."
)
@click.option("--novel/--any", "novel", default=False, show_default=True, help="Reject what the training data hold.")
@FORCE
@JSON
def screen(
    files: tuple[str, ...],
    out: Path | None,
    min_distance: float,
    max_atoms: int,
    radii: bool,
    novel: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Judge the structures of FILES: distances, one connected layer, duplicates, novelty.

    FILES are CIF, POSCAR, extxyz, JSON, JSON lines, or folders and zips of them: what `scdm generate` and `scdm
    candidates export` write. A structure that cannot be read is recorded and skipped; exit code 2 where none can be
    used.
    """
    if out is not None:
        check_output(out, force=force)
    from scdm_flows.analysis import screening
    from scdm_flows.analysis.gate import RELAXED_SYMPREC
    from scdm_flows.config import parse_config
    from scdm_flows.stores.known_sets import known_layers

    rules = {
        "min_distance_angstrom": min_distance,
        "max_atoms": max_atoms,
        "require_radii": radii,
        "require_novel": novel,
    }
    generator = {"kind": "files", "paths": list(files)}
    config = parse_config({"name": "screen", "generator": generator, "screen": rules}, origin="options")
    with progress_bar() as report:
        records = _Reported(_records(files, report), report)
        verdicts = screening.screen(config, records, known_layers())
    pairs = zip(list.__iter__(records), verdicts, strict=True)
    rows = [_row(record, verdict, RELAXED_SYMPREC) for record, verdict in pairs]
    if out is not None:
        with output_file(out, force=force) as handle:
            for row, verdict in zip(rows, verdicts, strict=True):
                handle.write(json.dumps({**row, **verdict.model_dump(include={"structure"})}) + "\n")
    if as_json:
        echo_json(rows)
    else:
        _show(rows)
        if out is not None:
            click.echo(f"wrote {len(rows)} verdicts to {out}")
    _refuse_if_none(rows)


class _Reported(list[dict[str, Any]]):
    """Records that report how many have been taken."""

    def __init__(self, records: Iterator[dict[str, Any]], report: Report) -> None:
        super().__init__(records)
        self._report = report

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for done, record in enumerate(super().__iter__(), 1):
            yield record
            self._report("judge", done, len(self))


def _records(files: tuple[str, ...], report: Report) -> Iterator[dict[str, Any]]:
    """The entries of all files as the screen takes them; a damaged file among several is one unreadable entry."""
    from scdm_flows.errors import DatasetError

    index = 0
    for number, file in enumerate(files, 1):
        try:
            for entry in _entries(file):
                yield {"index": index, **entry}
                index += 1
        except DatasetError as error:
            if len(files) == 1 or not Path(file).exists():
                raise
            yield {"index": index, "source_id": file, "structure": None, "error": str(error)}
            index += 1
        report("read", number, len(files))


def _entries(file: str) -> Iterator[dict[str, Any]]:
    """The entries of a file, a folder or a zip archive of files."""
    from scdm_flows.evaluation.reading import read_samples
    from scdm_models.datasets.readers import read_any
    from scdm_models.datasets.records import LayerRecord

    if Path(file).suffix.lower() == ".zip" and not file.endswith(".json.zip"):
        for sample in read_samples(Path(file)).samples:
            entry: dict[str, Any] = {"source_id": sample.id, "structure": sample.structure, "error": sample.reason}
            yield entry | {"layer_group_requested": sample.record.get("layer_group_requested")}
        return
    for item in read_any(file):
        if isinstance(item, LayerRecord):
            requested = item.properties.get("layer_group_requested")
            yield {"source_id": item.id, "structure": item.structure, "layer_group_requested": requested}
        else:
            yield {"source_id": item.id, "structure": None, "error": item.reason}


def _row(record: dict[str, Any], verdict: ScreenedCandidate, symprec: float) -> dict[str, Any]:
    """What is said of a structure; ``layer_group`` is the one within ``symprec``, angstrom, as of candidates."""
    from scdm_flows.errors import ScdmError
    from scdm_models.symmetry.detect import detect_layer_group

    keep = verdict.model_dump(exclude={"structure", "candidate_id", "generator", "duplicate_of", "model_id", "seed"})
    group = None
    if verdict.layer_group_generated is not None and verdict.structure is not None:  # the screen has found it usable
        with suppress(ScdmError):
            group = detect_layer_group(verdict.structure, symprec)
    return {**keep, "layer_group": group, "layer_group_tolerance_angstrom": symprec, "source_id": record["source_id"]}


def _show(rows: list[dict[str, Any]]) -> None:
    columns = [
        "source_id",
        "formula",
        "layer_group",
        "min_distance_angstrom",
        "novel",
        "accepted",
        "reason",
    ]
    within = f"layer group ({rows[0]['layer_group_tolerance_angstrom']:g} Å)"
    heads = ["structure", "formula", within, "min. distance (Å)", "novel", "accepted", "why not"]
    table("Screen", heads, [[row[c] for c in columns] for row in rows[:SHOWN]])
    if len(rows) > SHOWN:
        click.echo(f"{len(rows) - SHOWN} more; -o FILE or --json has all")
    why = Counter(str(row["reason"]).partition(":")[0] for row in rows if not row["accepted"])
    parts = [f"{n} {reason}" for reason, n in why.most_common()]
    click.echo(
        f"{sum(row['accepted'] for row in rows)} of {len(rows)} accepted" + ("; " + ", ".join(parts) if parts else "")
    )


def _refuse_if_none(rows: list[dict[str, Any]]) -> None:
    """Exit code 2 where every structure is wrong: a batch with some good ones is a success."""
    if any(row["accepted"] or str(row["reason"]).startswith(NOT_WRONG) for row in rows):
        return
    shown = "; ".join(f"{row['source_id']}: {row['reason']}" for row in rows[:3])
    more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
    what = "the structure cannot be used" if len(rows) == 1 else f"none of the {len(rows)} structures can be used"
    raise click.UsageError(f"{what}: {shown}{more}")
