"""``scdm assemble``: which held-out layers come out when a model is given their skeletons and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, echo_json, table
from scdm_flows.cli.files import check_output, output_file
from scdm_flows.cli.progress import progress_bar
from scdm_flows.cli.reconstruct import held_out_layers

if TYPE_CHECKING:
    from scdm_models.model.checkpoint import Checkpoint
    from scdm_models.sampling.reconstruct import Way
    from scdm_models.symmetry.encoding import LayerCrystal

WAYS: dict[Way, str] = {
    "prototype": "{}",
    "copy": "{}, nearest training crystal alone",
    "noise": "{}, from noise",
}


@click.command()
@click.option(
    "--data", "curated", required=True, type=click.Path(path_type=Path), help="Curated set; its held-out part is used."
)
@click.option("-n", "count", type=click.IntRange(1), help="How many held-out layers; all if absent.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the noise.")
@click.option("--steps", type=click.IntRange(1), help="Denoising steps of a whole chain; those of sampling if absent.")
@click.option(
    "--checkpoint",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Checkpoint file; may be repeated. The packaged SCDM and UnSCDM if absent.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Also write the result as JSON.")
@FORCE
@JSON
def assemble(
    curated: Path,
    count: int | None,
    seed: int,
    steps: int | None,
    files: tuple[Path, ...],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Give models the skeletons of held-out layers, nothing else: how many come out as they are.

    A skeleton is what a model draws first: group, elements, positions. Beside the model as it samples stand copies of
    the nearest training crystal with the skeleton's elements, scaled, and chains that begin at noise.
    """
    if out is not None:
        check_output(out, force=force)
    from scdm_flows.evaluation.reconstruction import ASSEMBLED, by_size
    from scdm_models.model.checkpoint import load_checkpoint

    checkpoints = [load_checkpoint(file) for file in files]
    checkpoints = checkpoints or [load_checkpoint(packaged=model) for model in ("scdm", "unscdm")]
    layers = held_out_layers(curated, checkpoints, count)
    with progress_bar() as report:
        verdicts = _verdicts(checkpoints, [layer.crystal for layer in layers], seed, steps, report)
    n_atoms = [layer.crystal.n_atoms for layer in layers]
    shares = {what: {name: by_size(rows[what], n_atoms) for name, rows in verdicts.items()} for what in ASSEMBLED}
    models = [checkpoint.model_id for checkpoint in checkpoints]
    result = {"models": models, "n": len(layers), "ids": [layer.id for layer in layers], "seed": seed, **shares}
    if out is not None:
        with output_file(out, force=force) as handle:
            handle.write(json.dumps(result, indent=1) + "\n")
    if as_json:
        echo_json(result)
        return
    for what, text in ASSEMBLED.items():
        sizes = list(next(iter(shares[what].values())))
        rows = [[name, *(_percent(row[size]) for size in sizes)] for name, row in shares[what].items()]
        columns = ["", *(f"{size} atoms" if size != "all" else size for size in sizes)]
        table(f"of {len(layers)} held-out skeletons {text}, % (95 %)", columns, rows)


def _verdicts(
    checkpoints: Sequence[Checkpoint],
    crystals: Sequence[LayerCrystal],
    seed: int,
    steps: int | None,
    report: Callable[[str, int, int], None],
) -> dict[str, dict[str, list[bool]]]:
    """Model and way -> for each crystal whether it came out as it is, and whether what came is one bonded layer."""
    from scdm_models.sampling.reconstruct import from_skeletons

    found: dict[str, dict[str, list[bool]]] = {}
    total = len(checkpoints) * len(WAYS)
    for checkpoint, model in zip(checkpoints, _names(checkpoints), strict=True):
        for way, text in WAYS.items():
            name = text.format(model)
            made = from_skeletons(checkpoint, crystals, way, seed, steps)
            found[name] = {
                "matches": [
                    one is not None and _same(one.crystal, true) for one, true in zip(made, crystals, strict=True)
                ],
                "bonded": [one is not None and one.bonded for one in made],
            }
            report(name, len(found), total)
    return found


def _names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """What tables call each model: its name, or its id where another one has the same name."""
    names = [checkpoint.card["name"] for checkpoint in checkpoints]
    return [
        name if names.count(name) == 1 else checkpoint.model_id
        for checkpoint, name in zip(checkpoints, names, strict=True)
    ]


def _same(made: LayerCrystal, true: LayerCrystal) -> bool:
    """Whether two crystals are the same layer, as novelty is judged; what is no layer is not."""
    from scdm_models.datasets.matching import LayerMatcher
    from scdm_models.errors import StructureError
    from scdm_models.symmetry.encoding import decode

    try:
        return LayerMatcher().fit(decode(made), decode(true))
    except StructureError:
        return False


def _percent(share: dict[str, Any]) -> str:
    return f"{100 * share['value']:.1f} ({100 * share['low']:.1f}-{100 * share['high']:.1f})"
