"""``scdm train`` and ``scdm generate``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click

from scdm_flows.cli.common import FORCE, JSON, disk_full, echo_json
from scdm_flows.cli.files import check_output, output_file
from scdm_flows.cli.progress import progress_bar
from scdm_flows.errors import OutputError


@click.command()
@click.option(
    "--data",
    "curated",
    required=True,
    type=click.Path(path_type=Path),
    help="Curated set (scdm data curate).",
)
@click.option("--config", type=click.Path(path_type=Path), help="YAML file, see models/configs; defaults when absent.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Checkpoint to write (.safetensors).")
@FORCE
@JSON
def train(curated: Path, config: Path | None, out: Path, force: bool, as_json: bool) -> None:
    """Train SCDM, or with `symmetry: p1` the control UnSCDM, on a curated set; writes OUT and the losses in OUT.csv.

    Only layers that are one connected layer are used. A training that was stopped goes on from OUT.state when the
    same command is given again.
    """
    check_output(out, force=force)  # before hours are spent
    from scdm_flows.provenance import git_commit
    from scdm_models.datasets.records import read_curated
    from scdm_models.train import Progress, TrainConfig, load_train_config
    from scdm_models.train import train as run

    settings = TrainConfig() if config is None else load_train_config(config)
    layers = [layer for layer in read_curated(curated) if layer.one_layer]
    card = {
        "git_commit": git_commit(),
        "sources": sorted({layer.source for layer in layers}),
        "curated": len(layers),
        "curated_sha256": hashlib.sha256(curated.read_bytes()).hexdigest(),
        "symprec_angstrom": layers[0].symprec,
    }
    with progress_bar() as report:

        def show(p: Progress) -> None:
            report(f"{p.phase}, {p.remaining / 60:.0f} min left in it", p.epoch, p.epochs)

        crystals, ids = [layer.crystal for layer in layers], [layer.id for layer in layers]
        try:
            model_id = run(crystals, ids, out, settings, card=card, progress=show)
        except OSError as error:
            raise OutputError(f"{out} was not written: {disk_full(error) or error}") from error
    losses = Path(f"{out}.csv")
    if as_json:
        echo_json({"checkpoint": str(out), "model_id": model_id, "losses": str(losses), "n": len(layers)})
    else:
        click.echo(f"wrote {out}, model {model_id}, trained on {len(layers)} layers; losses in {losses}")


@click.command()
@click.option("-n", "count", default=100, show_default=True, type=int, help="How many samples.")
@click.option("--seed", default=0, show_default=True, type=int, help="Seed; sample i depends on (seed, i) alone.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="JSON lines to write.")
@click.option("--layer-group", type=int, help="Layer group of every sample (1-80); drawn from the data when absent.")
@click.option("--steps", type=int, help="Denoising steps; the model's default when absent.")
@click.option(
    "--repulsion/--no-repulsion",
    default=True,
    show_default=True,
    help="Push atoms apart that come too close, late in the chain.",
)
@click.option(
    "--model",
    type=click.Choice(["scdm", "unscdm"]),
    default="scdm",
    show_default=True,
    help="Packaged model: SCDM, or the control without symmetry.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint file, instead of a packaged model.")
@FORCE
@JSON
def generate(
    count: int,
    seed: int,
    out: Path,
    layer_group: int | None,
    steps: int | None,
    repulsion: bool,
    model: str,
    checkpoint: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Draw crystals from a trained model, one JSON record a line.

    Each record holds structure (pymatgen's dict), layer_group_requested, layer_group_detected and
    space_group_detected (at symprec 1e-3 angstrom), seed, index and model_id. `scdm screen OUT` judges them.
    """
    check_output(out, force=force)
    from scdm_models.checkpoint import load_checkpoint
    from scdm_models.sampler import generate as draw

    exact, model_id = 0, ""
    with progress_bar() as report:
        samples = draw(
            count,
            seed,
            checkpoint=load_checkpoint(checkpoint, packaged=model),
            layer_group=layer_group,
            steps=steps,
            repulsion=repulsion,
            progress=lambda done: report("samples", done, count),
        )
        report("samples", 0, count)
        with output_file(out, force=force) as handle:
            for sample in samples:
                handle.write(json.dumps(sample.to_dict()) + "\n")
                exact += sample.layer_group_detected == sample.layer_group_requested
                model_id = sample.model_id
    if as_json:
        echo_json({"file": str(out), "n": count, "exact_layer_group": exact, "model_id": model_id, "seed": seed})
    else:
        click.echo(
            f"wrote {count} structures of {model_id} to {out}; {exact} have exactly the layer group asked "
            "for, "
            f"{count - exact} a higher one"
        )
