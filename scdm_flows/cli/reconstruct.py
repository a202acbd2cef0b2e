"""``scdm reconstruct``: the reconstruction benchmark of the paper (Fig. 4) on held-out layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, cores, echo_json, table
from scdm_flows.cli.files import check_output, output_file
from scdm_flows.cli.progress import progress_bar
from scdm_flows.errors import DatasetError
from scdm_models.processes import pool

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from scdm_models.datasets.records import CuratedLayer
    from scdm_models.metrics.csp import CspDistances
    from scdm_models.model.checkpoint import Checkpoint

DEFINITIONS = ("published", "periodic")
BASELINE = "15 % perturbed"


@click.command()
@click.option(
    "--data", "curated", required=True, type=click.Path(path_type=Path), help="Curated set; its held-out part is used."
)
@click.option("-n", "count", default=50, show_default=True, type=click.IntRange(1), help="How many held-out layers.")
@click.option(
    "--time", "times", multiple=True, type=click.FloatRange(0, 1, min_open=True), help="t* in (0, 1]; may be repeated."
)
@click.option(
    "--max-atoms", default=20, show_default=True, type=click.IntRange(1), help="Largest primitive cell taken."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the noise.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Also write all distances as JSON.")
@click.option("--picture", type=click.Path(path_type=Path), help="Box plots as SVG.")
@click.option("--processes", type=click.IntRange(1), help="Processes; one for each core if absent.")
@FORCE
@JSON
def reconstruct(
    curated: Path,
    count: int,
    times: tuple[float, ...],
    max_atoms: int,
    seed: int,
    out: Path | None,
    picture: Path | None,
    processes: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Noise held-out layers to t*, denoise them with SCDM and UnSCDM, and compare with the originals.

    Six distances in the published and in a periodic definition, beside the baseline of 15 % perturbed coordinates.
    The skeleton (elements, positions) is given; energies are CHGNet's, a surrogate.
    """
    for path in (out, picture):
        if path is not None:
            check_output(path, force=force)
    from scdm_models.metrics.csp import perturb
    from scdm_models.model.checkpoint import load_checkpoint
    from scdm_models.sampling.reconstruct import reconstruct as run
    from scdm_models.sampling.reconstruct import represented
    from scdm_models.symmetry.encoding import decode

    checkpoints = [load_checkpoint(packaged=model) for model in ("scdm", "unscdm")]
    chosen = held_out_layers(curated, checkpoints, count, max_atoms)
    crystals = [layer.crystal for layer in chosen]
    pairs: dict[str, list[tuple[Structure, Structure]]] = {}
    times = times or (0.3, 0.5, 0.7)
    with progress_bar() as report:
        for checkpoint in checkpoints:
            name = checkpoint.card["name"]
            originals = [decode(represented(crystal, checkpoint)) for crystal in crystals]
            for number, time in enumerate(times):
                report(f"{name} reconstructs", number, len(times))
                found = run(checkpoint, crystals, time, seed)
                pairs[f"{name}, t* = {time:g}"] = [
                    (o, _nearest_images(decode(c), o)) for o, c in zip(originals, found, strict=True)
                ]
            report(f"{name} reconstructs", len(times), len(times))
        structures = [decode(crystal) for crystal in crystals]
        pairs[BASELINE] = [(s, _nearest_images(perturb(s, seed=seed + i), s)) for i, s in enumerate(structures)]
        measured = _measure(pairs, processes or cores(), report)
    result = {
        "models": [checkpoint.model_id for checkpoint in checkpoints],
        "n": len(chosen),
        "ids": [layer.id for layer in chosen],
        "seed": seed,
        "surrogate_energies": True,
        "distances": measured,
    }
    from scdm_flows.report.evaluation import DISTANCES, box_plots
    from scdm_flows.report.figures import svg

    if picture is not None:
        with output_file(picture, force=force) as handle:
            handle.write(svg(box_plots(measured, DISTANCES)))
    if out is not None:
        with output_file(out, force=force) as handle:
            handle.write(json.dumps(result, indent=1) + "\n")
    if as_json:
        echo_json(result)
        return
    for definition in DEFINITIONS:
        rows = [[name, *(_middle(rows, definition, key) for key in DISTANCES)] for name, rows in measured.items()]
        table(f"medians over {len(chosen)} held-out layers, {definition}", ["", *DISTANCES.values()], rows)


def held_out_layers(
    curated: Path, checkpoints: Sequence[Checkpoint], count: int | None = None, max_atoms: int | None = None
) -> list[CuratedLayer]:
    """Layers that none of the models has seen, ``count`` of them evenly over the file; all if None.

    Raises
    ------
    DatasetError
        If there is none.
    """
    from scdm_models.datasets.records import read_curated
    from scdm_models.training.data_split import held_out

    layers = [layer for layer in read_curated(curated) if layer.one_layer]
    everything, ids = [layer.crystal for layer in layers], [layer.id for layer in layers]
    unseen = set.intersection(*(set(held_out(checkpoint, everything, ids)[1]) for checkpoint in checkpoints))
    chosen = [layers[i] for i in sorted(unseen) if max_atoms is None or layers[i].crystal.n_atoms <= max_atoms]
    if not chosen:
        most = "" if max_atoms is None else f" of at most {max_atoms} atoms"
        raise DatasetError(f"{curated} holds no held-out layer{most}")
    return chosen if count is None else chosen[:: max(1, len(chosen) // count)][:count]


def _nearest_images(structure: Structure, original: Structure) -> Structure:
    """The structure with each atom at its image nearest to the original's.

    The published distances know no images, and a jump across the boundary is no error of a reconstruction.
    """
    from pymatgen.core import Structure as Crystal

    delta = structure.frac_coords - original.frac_coords
    return Crystal(structure.lattice, structure.species, original.frac_coords + delta - delta.round())


def _middle(rows: list[dict[str, Any]], definition: str, key: str) -> str:
    from statistics import median

    values = [row[definition][key] for row in rows if row[definition][key] is not None]
    lost = len(rows) - len(values)
    return (f"{median(values):.3f}" if values else "none") + (f" ({lost} failed)" if lost else "")


def _measure(
    pairs: dict[str, list[tuple[Structure, Structure]]], processes: int, report: Callable[[str, int, int], None]
) -> dict[str, list[dict[str, Any]]]:
    """For each kind of reconstruction and each pair the distances in both definitions."""
    names = [name for name, rows in pairs.items() for _ in rows]
    flat = [pair for rows in pairs.values() for pair in rows]
    energies = _energies([structure for pair in flat for structure in pair])
    both = list(zip(energies[::2], energies[1::2], strict=True))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in pairs}
    with pool(processes) as workers:
        for done, (name, row) in enumerate(
            zip(names, workers.map(_pair, flat, both, repeat(DEFINITIONS), chunksize=4), strict=True), 1
        ):
            found[name].append(row)
            report("distances", done, len(flat))
    return found


def _pair(
    pair: tuple[Structure, Structure], energies: tuple[float | None, float | None], definitions: tuple[Any, ...]
) -> dict[str, Any]:
    from scdm_models.metrics.csp import csp_distances

    known = None if energies[0] is None or energies[1] is None else (energies[0], energies[1])
    found: dict[str, CspDistances] = {d: csp_distances(*pair, definition=d, energies=known) for d in definitions}
    return {definition: asdict(distances) for definition, distances in found.items()}


def _energies(structures: list[Structure]) -> list[float | None]:
    """Surrogate energy of each, eV/atom; None where the force field has none."""
    from scdm_flows.engines.forcefield.relaxation import RelaxSettings, relax_together

    return [result.energy_per_atom for result in relax_together(structures, RelaxSettings(fmax=1e9, max_steps=0))]
