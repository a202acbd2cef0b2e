"""``scdm refs``: reference phases and calibration."""

from __future__ import annotations

from pathlib import Path

import click

from scdm_flows.cli.common import echo_json, progress_bar, table

DATA = click.option("--data", "data_dir", required=True, type=click.Path(path_type=Path), help="folder with the compact JSON lines")


@click.group()
def refs() -> None:
    """Reference phases and the calibration of surrogate energies."""


@refs.command()
@DATA
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="table to write (.csv.gz)")
@click.option("--processes", default=2, type=click.IntRange(1), show_default=True, help="worker processes")
def build(data_dir: Path, out: Path, processes: int) -> None:
    """Compute CHGNet energies of known phases (about 10 minutes on 2 cores)."""
    from scdm_flows.references.build import build_reference_table
    from scdm_flows.runner import quiet

    quiet()
    with progress_bar() as report:
        header = build_reference_table(
            data_dir, out, processes=processes, progress=lambda done, total: report("energies", done, total)
        )
    click.echo(f"{out}: {header['counts']}, {len(header['skipped_isolated_atoms'])} skipped (isolated atoms)")


@refs.command()
@DATA
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="calibration to write (.npz)")
def fit(data_dir: Path, out: Path) -> None:
    """Fit the calibration on C2DB, cross-validated by chemical system."""
    from scdm_flows.references.fit import fit_calibration

    echo_json(fit_calibration(data_dir, out))


@refs.command()
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def show(as_json: bool) -> None:
    """What the packaged table and calibration are, and how good."""
    from scdm_flows.analysis.calibration import load_calibration
    from scdm_flows.references.table import ReferenceTable

    reference, calibration = ReferenceTable.load(), load_calibration()
    if as_json:
        echo_json({"table": reference.header, "calibration": calibration.header})
        return
    table("Reference phases", ["what", "value"], [["scheme", f"{reference.scheme} (surrogate)"], *map(list, reference.header["counts"].items())])
    header = calibration.header
    rows = [[key, header["raw"][key], header["calibrated_left_out"][key]] for key in header["raw"]]
    table(f"E_hull against C2DB, {header['n']} layers, eV/atom", ["", "raw", "calibrated, left out"], rows)
