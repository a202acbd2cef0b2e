"""``scdm refs``: reference phases and the calibration of surrogate energies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scdm_flows.cli.common import FORCE, JSON, echo_json, table
from scdm_flows.cli.files import check_output, output_path
from scdm_flows.cli.progress import progress_bar

DATA = click.option(
    "--data",
    "data_dir",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder with the compact JSON lines.",
)


@click.group()
def refs() -> None:
    """Reference phases and the calibration of surrogate energies."""


@refs.command()
@DATA
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Table to write (.csv.gz).")
@click.option("--processes", default=2, type=click.IntRange(1), show_default=True, help="Worker processes.")
@FORCE
@JSON
def build(data_dir: Path, out: Path, processes: int, force: bool, as_json: bool) -> None:
    """Compute surrogate (CHGNet) energies of known phases: about 10 minutes on 2 cores."""
    check_output(out, force=force)
    from scdm_flows.references.build import build_reference_table
    from scdm_flows.runner import quiet

    quiet()
    with progress_bar() as report, output_path(out, force=force) as temporary:
        header = build_reference_table(
            data_dir,
            temporary,
            processes=processes,
            progress=lambda done, total: report("energies", done, total),
        )
    if as_json:
        echo_json(header)
        return
    counts = ", ".join(f"{n} {kind}" for kind, n in header["counts"].items())
    click.echo(f"wrote {out}: {counts}; {len(header['skipped_isolated_atoms'])} skipped (isolated atoms)")


@refs.command()
@DATA
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Calibration to write (.npz).")
@FORCE
@JSON
def fit(data_dir: Path, out: Path, force: bool, as_json: bool) -> None:
    """Fit the calibration on C2DB, cross-validated by chemical system (needs scikit-learn, extra 'fit')."""
    check_output(out, force=force)
    from scdm_flows.references.fit import fit_calibration

    with output_path(out, force=force) as temporary:
        header = fit_calibration(data_dir, temporary)
    if as_json:
        echo_json(header)
    else:
        _show_calibration(header)
        click.echo(f"wrote {out}")


@refs.command()
@JSON
def show(as_json: bool) -> None:
    """What the packaged table and calibration are, and how good."""
    from scdm_flows.analysis.calibration import load_calibration
    from scdm_flows.references.table import ReferenceTable

    reference, calibration = ReferenceTable.load(), load_calibration()
    if as_json:
        header = {**reference.header, "sha256": reference.sha256, "elements": sorted(reference.elements)}
        echo_json({"table": header, "calibration": calibration.header})
        return
    rows: list[list[Any]] = [
        ["scheme", f"{reference.scheme}{' (surrogate)' if reference.surrogate else ''}"],
        ["sha256", reference.sha256],
        ["elements", len(reference.elements)],
        *[[f"{kind} phases", n] for kind, n in reference.header["counts"].items()],
    ]
    table("Reference phases", ["what", "value"], rows)
    _show_calibration(calibration.header)


def _show_calibration(header: dict[str, Any]) -> None:
    raw, left_out = header["raw"], header["calibrated_left_out"]
    rows = [[key.replace("_", " "), raw[key], left_out[key]] for key in raw]
    table(f"E_hull against C2DB, {header['n']} layers, eV/atom", ["", "raw", "calibrated, left out"], rows)
