"""``scdm screen``: verdicts on structures in files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
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

    FILES are CIF, POSCAR, extxyz, JSON, JSON lines (such as `scdm generate` writes) or folders of them. A
    structure
    that cannot be read is recorded and skipped; exit code 2 where none can be used.
    """
    if out is not None:
        check_output(out, force=force)
    from scdm_flows.analysis import screening
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
    rows = [_row(record, verdict) for record, verdict in zip(list.__iter__(records), verdicts, strict=True)]
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
    """The entries of all files as the screen takes them; a damaged file among several is one unreadable
    entry.
    """
    from scdm_flows.errors import DatasetError
    from scdm_models.datasets.readers import read_any
    from scdm_models.datasets.records import LayerRecord

    index = 0
    for number, file in enumerate(files, 1):
        try:
            for item in read_any(file):
                record: dict[str, Any] = {"index": index, "source_id": item.id}
                if isinstance(item, LayerRecord):
                    requested = item.properties.get("layer_group_requested")
                    record |= {"structure": item.structure, "layer_group_requested": requested}
                else:
                    record |= {"structure": None, "error": item.reason}
                yield record
                index += 1
        except DatasetError as error:
            if len(files) == 1 or not Path(file).exists():
                raise
            yield {"index": index, "source_id": file, "structure": None, "error": str(error)}
            index += 1
        report("read", number, len(files))


def _row(record: dict[str, Any], verdict: ScreenedCandidate) -> dict[str, Any]:
    keep = verdict.model_dump(exclude={"structure", "candidate_id", "generator", "duplicate_of", "model_id", "seed"})
    return {**keep, "source_id": record["source_id"]}


def _show(rows: list[dict[str, Any]]) -> None:
    columns = [
        "source_id",
        "formula",
        "layer_group_generated",
        "min_distance_angstrom",
        "novel",
        "accepted",
        "reason",
    ]
    heads = ["structure", "formula", "layer group", "min. distance (Å)", "novel", "accepted", "why not"]
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
