"""``scdm refs``: reference phases and the calibration of surrogate energies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, echo_json, table
from scdm_flows.cli.files import check_output, output_path
from scdm_flows.cli.progress import progress_bar

if TYPE_CHECKING:
    from scdm_flows.calibration.fit import Measured

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
    from scdm_flows.thermo.build import build_reference_table
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


RELAXED = click.option(
    "--relaxed",
    type=click.Path(path_type=Path),
    default=Path("c2db-relaxed.jsonl"),
    show_default=True,
    help="File that keeps the relaxed layers; what it holds is not relaxed again.",
)
PROCESSES = click.option("--processes", default=2, type=click.IntRange(1), show_default=True, help="Worker processes.")


@refs.command()
@DATA
@RELAXED
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Calibration to write (.npz).")
@PROCESSES
@FORCE
@JSON
def fit(data_dir: Path, relaxed: Path, out: Path, processes: int, force: bool, as_json: bool) -> None:
    """Fit the calibration on C2DB, cross-validated by chemical system (needs scikit-learn, extra 'fit').

    Relaxing C2DB's layers takes about half an hour on 2 cores; interrupted, it goes on where it was.
    """
    check_output(out, force=force)
    from scdm_flows.calibration.fit import fit_calibration
    from scdm_flows.thermo.table import ReferenceTable

    with output_path(out, force=force) as temporary:
        header = fit_calibration(_measured(data_dir, relaxed, processes), ReferenceTable.load(), temporary)
    if as_json:
        echo_json(header)
    else:
        _show_calibration(header)
        click.echo(f"wrote {out}")


@refs.command()
@DATA
@RELAXED
@PROCESSES
@JSON
def validate(data_dir: Path, relaxed: Path, processes: int, as_json: bool) -> None:
    """Measure the surrogate and its calibration on C2DB, each layer's chemical system left out of the fit."""
    from scdm_flows.calibration.fit import cross_validate

    found = cross_validate(_measured(data_dir, relaxed, processes))
    if as_json:
        echo_json(found)
    else:
        _show_calibration(found)


def _measured(data_dir: Path, relaxed: Path, processes: int) -> Measured:
    from scdm_flows.calibration.fit import measure, relax_c2db
    from scdm_flows.thermo.table import ReferenceTable
    from scdm_flows.runner import quiet

    quiet()
    with progress_bar() as report:
        known = relax_c2db(data_dir, relaxed, processes, lambda done, total: report("relax C2DB", done, total))
    return measure(data_dir, known, ReferenceTable.load())


@refs.command()
@click.argument("elements")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
@FORCE
@JSON
def fetch(elements: str, out: Path, force: bool, as_json: bool) -> None:
    """Fetch the Materials Project's phases of ELEMENTS, such as Mo,S, for a vasp campaign's engine.references.

    Needs mp-api (extra 'mp') and a key in MP_API_KEY.
    """
    check_output(out, force=force)
    from scdm_flows.query import element_symbols
    from scdm_flows.thermo.materials_project import fetch as get

    with output_path(out, force=force) as temporary:
        found = get(element_symbols(elements), temporary)
    if as_json:
        echo_json({"file": str(out), **found})
        return
    click.echo(f"wrote {out}: {found['entries']} entries")
    for line in found["left_out"]:
        click.echo(f"left out: {line}")


@refs.command()
@JSON
def show(as_json: bool) -> None:
    """What the packaged table and calibration are, and how good."""
    from scdm_flows.calibration.model import load_calibration
    from scdm_flows.thermo.table import ReferenceTable

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
    for title, raw, left_out in (
        ("E_hull", header["raw"], header["calibrated_left_out"]),
        ("Formation energy", header["formation_energy_raw"], header["formation_energy_left_out"]),
    ):
        rows = [[key.replace("_", " "), raw[key], left_out[key]] for key in raw]
        table(f"{title} against C2DB, {header['n']} layers, eV/atom", ["", "raw", "calibrated, left out"], rows)
    edges, errors, inside = header["error_edges"], header["errors"], header["error_coverage_by_value"]
    rows = [
        [f"{edges[k]:.2f} to {edges[k + 1]:.2f}", errors[k], f"{100 * inside[k]:.0f} %"] for k in range(len(errors))
    ]
    claimed = f"{100 * header['error_coverage_claimed']:.0f} %"
    table(f"Errors said to hold {claimed}", ["calibrated E_hull", "± eV/atom", "hold, left out"], rows)
    click.echo(
        f"they hold {100 * header['error_coverage']:.1f} % of all; of layers truly below 0.2 eV/atom "
        f"{100 * header['stable_kept_in_window']:.1f} % stay in the window of 0.6"
    )
