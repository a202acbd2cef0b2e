"""``scdm train``, ``scdm generate``, ``scdm screen``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import click

from scdm_flows.cli.common import echo_json, output_file, progress_bar, table


@click.command()
@click.option("--data", "curated", required=True, type=click.Path(path_type=Path), help="curated set (scdm data curate)")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file, see models/configs; defaults when absent")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="checkpoint to write (.safetensors)")
@click.option("--force", is_flag=True, help="replace an existing checkpoint")
def train(curated: Path, config: Path | None, out: Path, force: bool) -> None:
    """Train the diffusion model on a curated set."""
    from scdm_models.datasets.records import read_curated
    from scdm_models.train import Progress, TrainConfig, load_train_config
    from scdm_models.train import train as run

    settings = TrainConfig() if config is None else load_train_config(config)
    layers = read_curated(curated)
    with output_file(out, force=force):
        pass  # the name is free and the folder writable before hours are spent
    card = {
        "sources": sorted({layer.source for layer in layers}),
        "curated": len(layers),
        "curated_sha256": hashlib.sha256(curated.read_bytes()).hexdigest(),
        "symprec_angstrom": layers[0].symprec,
    }
    with progress_bar() as report:

        def show(p: Progress) -> None:
            report(p.phase, round(1000 * p.fraction), 1000)

        model_id = run([x.crystal for x in layers], [x.id for x in layers], out, settings, card=card, progress=show)
    click.echo(f"wrote {out}, model {model_id}; losses in {out}.csv")


@click.command()
@click.option("-n", "count", default=100, show_default=True, type=int, help="how many samples")
@click.option("--seed", default=0, show_default=True, type=int, help="seed; sample i depends on (seed, i) alone")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="JSON lines to write")
@click.option("--layer-group", type=int, help="layer group of every sample (1-80); drawn from the data when absent")
@click.option("--steps", type=int, help="denoising steps; 50 when absent")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="the packaged one when absent")
@click.option("--force", is_flag=True, help="replace an existing file")
def generate(
    count: int, seed: int, out: Path, layer_group: int | None, steps: int | None, checkpoint: Path | None, force: bool
) -> None:
    """Draw crystals from a trained model, one JSON record a line."""
    from scdm_models.sampler import generate as draw

    exact = 0
    with progress_bar() as report:
        samples = draw(
            count,
            seed,
            checkpoint=None if checkpoint is None else str(checkpoint),
            layer_group=layer_group,
            steps=steps,
            progress=lambda done: report("samples", done, count),
        )
        with output_file(out, force=force) as handle:
            report("samples", 0, count)
            for sample in samples:
                handle.write(json.dumps(sample.to_dict()) + "\n")
                exact += sample.layer_group_detected == sample.layer_group_requested
    click.echo(f"wrote {count} structures to {out}; {exact} have exactly the requested layer group, the others a supergroup")


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
@click.option("--max-atoms", default=40, show_default=True, type=click.IntRange(1), help="largest cell")
@click.option("--min-distance", default=0.5, show_default=True, type=float, help="shortest distance, angstrom")
def screen(files: tuple[str, ...], as_json: bool, max_atoms: int, min_distance: float) -> None:
    """Check the structures of FILES: validity, one connected layer, duplicates, novelty."""
    from scdm_flows.analysis import screening
    from scdm_flows.config import parse_config
    from scdm_flows.generators import GENERATORS
    from scdm_models.datasets.fingerprints import FingerprintIndex

    config = parse_config(
        {
            "name": "screen",
            "generator": {"kind": "files", "paths": list(files)},
            "screen": {"max_atoms": max_atoms, "min_distance_angstrom": min_distance},
        },
        origin="options",
    )
    generator = GENERATORS["files"]
    records = generator.generate(config.generator, 0, generator.count(config.generator))
    verdicts = screening.screen(config, records, FingerprintIndex.load())
    if as_json:
        keep: list[dict[str, Any]] = [v.model_dump(exclude={"structure", "candidate_id"}) for v in verdicts]
        echo_json(keep)
    else:
        rows = [[v.source_id, v.formula, v.layer_group_generated, v.min_distance_angstrom, v.accepted, v.reason] for v in verdicts]
        table("Screen", ["structure", "formula", "layer group", "min. distance (Å)", "accepted", "why not"], rows)
    if not any(v.formula for v in verdicts):
        raise click.UsageError("none of the structures could be used; see the reasons above")
