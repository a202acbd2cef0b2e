"""``scdm refs``: competing phases, and the energy model of layers."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, echo_json, table
from scdm_flows.cli.competing import compute, fetch, plan
from scdm_flows.cli.files import check_output, output_path
from scdm_flows.cli.fitted import show_hull, show_model
from scdm_flows.cli.progress import progress_bar
from scdm_flows.config import DEFAULT_FORCE_FIELD

if TYPE_CHECKING:
    from scdm_flows.thermo.energy_model import EnergyModel

DATA = click.option(
    "--data",
    "data_dir",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder with the compact JSON lines.",
)


@click.group()
def refs() -> None:
    """Competing phases, and the energy model that places layers among them."""


refs.add_command(plan)
refs.add_command(compute)
refs.add_command(fetch)


@refs.command()
@DATA
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Table to write (.csv.gz).")
@FORCE
@JSON
def build(data_dir: Path, out: Path, force: bool, as_json: bool) -> None:
    """Convert the Materials Project's ground states to C2DB's PBE scale and write the table of competing phases.

    Known layers join where they lie on the hull. Takes some minutes.
    """
    check_output(out, force=force)
    from scdm_flows.thermo.build import build_reference_table

    with progress_bar() as report, output_path(out, force=force) as temporary:
        header = build_reference_table(data_dir, temporary, progress=lambda done, total: report("build", done, total))
    if as_json:
        echo_json(header)
        return
    click.echo(f"wrote {out}: {', '.join(f'{n} {kind}' for kind, n in header['counts'].items())}")


@refs.command()
@DATA
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="List to write (.txt.gz).")
@FORCE
@JSON
def compositions(data_dir: Path, out: Path, force: bool, as_json: bool) -> None:
    """Write the list of compositions of which the Materials Project has a bulk crystal, as it is packaged."""
    check_output(out, force=force)
    from scdm_flows.thermo.build import build_compositions

    with output_path(out, force=force) as temporary:
        header = build_compositions(data_dir, temporary)
    if as_json:
        echo_json(header)
        return
    click.echo(f"wrote {out}: {header['compositions']} compositions")


HALVES = ("guide", "judge")  # of the chemical systems
RELAXED = click.option(
    "--relaxed",
    type=click.Path(path_type=Path),
    default=Path("known-relaxed.jsonl"),
    show_default=True,
    help="File that keeps relaxed layers and what the force fields say of them; what it holds is not computed again.",
)
PROCESSES = click.option("--processes", default=2, type=click.IntRange(1), show_default=True, help="Worker processes.")
FORCE_FIELD = click.option(
    "--force-field", default=DEFAULT_FORCE_FIELD, show_default=True, help="It relaxes the layers."
)
FEATURES = click.option(
    "--features",
    default="SevenNet-l3i5,CHGNet",
    show_default=True,
    help="Force fields whose features the model takes; the first one's energy is what is corrected.",
)


@refs.command()
@DATA
@RELAXED
@FORCE_FIELD
@FEATURES
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Energy model to write (.npz).")
@click.option(
    "--half",
    type=click.Choice(HALVES),
    help="Only the chemical systems of the guide of generation, or only those of its judge, which it never saw.",
)
@PROCESSES
@FORCE
@JSON
def fit(
    data_dir: Path,
    relaxed: Path,
    force_field: str,
    features: str,
    half: str | None,
    out: Path,
    processes: int,
    force: bool,
    as_json: bool,
) -> None:
    """Fit an energy model on C2DB's layers as a force field relaxes them, cross-validated by chemical system.

    Relaxing them takes about 20 minutes on 2 cores; interrupted, it goes on where it was. The model is used by
    campaigns whose engine names it (`energy_model`) and has the same force field.
    """
    check_output(out, force=force)
    model = _fitted(data_dir, relaxed, force_field, features, processes, half)
    with output_path(out, force=force) as temporary:
        model.save(temporary)
    if as_json:
        echo_json(model.header)
    else:
        show_model(model.header)
        click.echo(f"wrote {out}")


@refs.command()
@DATA
@RELAXED
@FORCE_FIELD
@FEATURES
@PROCESSES
@JSON
def validate(data_dir: Path, relaxed: Path, force_field: str, features: str, processes: int, as_json: bool) -> None:
    """Measure hull, energies and geometries against C2DB's PBE, each layer's chemical system left out."""
    from scdm_flows.thermo.validate import validate_hull

    model = _fitted(data_dir, relaxed, force_field, features, processes)
    hull = validate_hull(data_dir)
    geometry = _geometry(data_dir, relaxed)
    if as_json:
        echo_json({"hull": hull, "energy_model": model.header, "geometry": geometry})
        return
    show_hull(hull)
    show_model(model.header)
    table(
        f"Geometry of layers relaxed with {force_field} beside C2DB's PBE",
        ["layers", "n", "area error, median", "within 3 %"],
        [
            [name, g["n"], f"{100 * g['median']:.2f} %", f"{100 * g['within_0.03']:.0f} %"]
            for name, g in geometry.items()
        ],
    )


def _fitted(
    data_dir: Path, relaxed: Path, force_field: str, features: str, processes: int, half: str | None = None
) -> EnergyModel:
    from scdm_flows.engines.forcefield.energies import see_together
    from scdm_flows.engines.forcefield.relaxation import RelaxSettings, relax_together
    from scdm_flows.engines.forcefield.relaxed_layers import relax_known
    from scdm_flows.errors import ReferenceDataError
    from scdm_flows.execution.jobs import quiet
    from scdm_flows.thermo.energy_fit import fit as fit_model
    from scdm_flows.thermo.table import ReferenceTable
    from scdm_flows.thermo.training_layers import elemental_energies, in_other_half, measured, records_of, system_of
    from scdm_flows.thermo.validate import hulls_left_out

    quiet()
    names = [name.strip() for name in features.split(",") if name.strip()]
    settings = RelaxSettings(FMAX, MAX_STEPS, force_field=force_field)
    records = records_of(data_dir)
    if half is not None:  # without the layers from outside, whose elements a half may lack
        judge = half == HALVES[1]
        records = [r for r in records if r["of"] == "c2db" and in_other_half(system_of(r)) is judge]
    with progress_bar() as report:
        known = relax_known(
            records,
            relaxed,
            partial(relax_together, settings=settings, processes=processes),
            partial(see_together, names=names, processes=processes),
            progress=lambda done, total: report("relax", done, total),
        )
    layers, outside = measured(data_dir, known, names, "c2db"), None
    if half is None:
        with suppress(ReferenceDataError):  # a folder with C2DB alone
            outside = measured(data_dir, known, names, "2dmatpedia")
    else:
        layers = layers.half(judge)
    references = ReferenceTable.load()

    return fit_model(
        layers,
        outside,
        hull_left_out=hulls_left_out(data_dir),
        hull=references.hull_energy,
        elemental=[elemental_energies(data_dir) for _ in names],
        header={
            "force_field": force_field,
            "features": names,
            "target": "PBE energies of C2DB, eV/atom",
            "reference_sha256": references.sha256,
            "relaxed": f"to {FMAX} eV/angstrom in at most {MAX_STEPS} steps",
            "half": half,
            "command": f"scdm refs fit --data DIR --force-field {force_field} --features {features}"
            + (f" --half {half}" if half else ""),
        },
    )


FMAX, MAX_STEPS = 0.02, 300  # of the relaxations, as campaigns do it: eV/angstrom, steps


def _geometry(data_dir: Path, relaxed: Path) -> dict[str, dict[str, float]]:
    """Area errors of relaxed layers of C2DB: all, and those of chemical systems held out of the force field."""
    import json

    import numpy as np

    from scdm_flows.thermo.sources import read_lines
    from scdm_flows.thermo.training_layers import cell_area
    from scdm_models.training.forcefield.labels import held_out, system_of

    own = {row["id"]: row for row in map(json.loads, filter(None, relaxed.read_text().splitlines()))}
    errors: dict[str, list[float]] = {"all": [], "held out of the force field's training": []}
    for record in read_lines(data_dir / "c2db.jsonl.gz"):
        lattice = own.get(record["id"], {}).get("lattice")
        if lattice is not None:
            error = abs(cell_area(lattice) / cell_area(record["lattice"]) - 1)
            errors["all"].append(error)
            if held_out(system_of(record["species"])):
                errors["held out of the force field's training"].append(error)
    return {
        name: {
            "n": len(values),
            "median": round(float(np.median(values)), 5),
            "within_0.03": round(float(np.mean(np.array(values) < 0.03)), 4),
        }
        for name, values in errors.items()
        if values
    }


@refs.command()
@click.argument("elements")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="JSON file; what it has is kept.")
@JSON
def offsets(elements: str, out: Path, as_json: bool) -> None:
    """Measure with GPAW what a cut-off of 400 instead of 800 eV does to the energies of ELEMENTS, such as Mo,S.

    Half a minute an element; interrupted, it goes on where it was. `scdm_flows/engines/gpaw/offsets.json` is such a
    file.
    """
    from scdm_flows.engines.gpaw.offsets import measure
    from scdm_flows.query.conditions import element_symbols

    with progress_bar() as report:
        failed = measure(element_symbols(elements), out, progress=lambda done, total: report("offsets", done, total))
    if as_json:
        echo_json({"file": str(out), "failed": failed})
    else:
        click.echo(f"wrote {out}")
        for element, reason in failed.items():
            click.echo(f"no offset of {element}: {reason}")
    if failed:
        raise click.exceptions.Exit(1)


@refs.command()
@DATA
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="JSON lines; what it has is kept.")
@click.option("-n", "number", default=20, type=click.IntRange(1), show_default=True, help="Layers to draw.")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
@click.option("--preset", default="fast", type=click.Choice(["fast", "c2db"]), show_default=True, help="Of GPAW.")
@JSON
def gpaw(data_dir: Path, out: Path, number: int, seed: int, preset: Any, as_json: bool) -> None:
    """Measure a preset of GPAW against C2DB, on layers drawn by seed: formation energies and gaps.

    A minute or more a layer; interrupted, it goes on where it was. A fifth of the layers is magnetic, a fifth has N, O
    or F.
    """
    from scdm_flows.analysis.fidelity import beside_c2db
    from scdm_flows.config import GpawEngineConfig
    from scdm_flows.engines.gpaw.validate import validate

    config = GpawEngineConfig(preset=preset)
    with progress_bar() as report:
        rows = validate(data_dir, out, config, number, seed, lambda done, total: report("layers", done, total))
    found = beside_c2db(rows)
    if as_json:
        echo_json({"rows": rows, **found})
        return
    shown = [
        [row["id"], row.get("magstate"), *_beside(row, "formation_energy", "c2db"), *_beside(row, "gap", "gap_c2db")]
        for row in rows
    ]
    heads = ["layer", "magnetism", "E_form (eV/atom)", "C2DB", "difference", "gap (eV)", "C2DB", "difference"]
    table(f"GPAW, preset {preset}, beside C2DB", heads, shown)
    for row in rows:
        if "failed" in row:
            click.echo(f"{row['id']}: {row['failed']}")
    click.echo(
        f"{found['within_0.02']} of {found['n']} formation energies within 0.02 eV/atom, "
        f"{found['gaps_within_0.05']} of {found['n_gaps']} gaps within 0.05 eV"
    )


def _beside(row: dict[str, Any], ours: str, theirs: str) -> list[str]:
    """A number, C2DB's, and the difference; dashes where there is none."""
    if ours not in row:
        return ["–"] * 3
    return [f"{row[ours]:.3f}", f"{row[theirs]:.3f}", f"{row[ours] - row[theirs]:+.3f}"]


@refs.command()
@JSON
def show(as_json: bool) -> None:
    """What the packaged table and energy model are, and how good."""
    from scdm_flows.thermo.energy_model import load_energy_model_card
    from scdm_flows.thermo.table import ReferenceTable

    reference, model = ReferenceTable.load(), load_energy_model_card()
    if as_json:
        header = {**reference.header, "sha256": reference.sha256, "elements": sorted(reference.elements)}
        echo_json({"table": header, "energy_model": model})
        return
    rows: list[list[Any]] = [
        ["scheme", reference.scheme],
        ["sha256", reference.sha256],
        ["elements", len(reference.elements)],
        *[[f"{kind} phases", n] for kind, n in reference.header["counts"].items()],
    ]
    table("Competing phases", ["what", "value"], rows)
    show_model(model)
