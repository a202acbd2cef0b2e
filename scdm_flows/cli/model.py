"""``scdm train`` and ``scdm generate``."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from scdm_flows.cli.common import FORCE, JSON, cores, disk_full, echo_json
from scdm_flows.cli.files import check_output
from scdm_flows.cli.progress import progress_bar
from scdm_flows.errors import OutputError

WORTH_A_PROCESS = 512  # samples from which starting a process (about 4 s) pays


@click.command()
@click.option(
    "--data",
    "curated",
    required=True,
    type=click.Path(path_type=Path),
    help="Curated set (scdm data curate).",
)
@click.option("--config", type=click.Path(path_type=Path), help="YAML file, see models/configs; defaults when absent.")
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="Checkpoint whose network is kept where the configuration gives a phase no epochs.",
)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Checkpoint to write (.safetensors).")
@FORCE
@JSON
def train(curated: Path, config: Path | None, start: Path | None, out: Path, force: bool, as_json: bool) -> None:
    """Train SCDM, or with `symmetry: p1` the control UnSCDM, on a curated set; writes OUT and the losses in OUT.csv.

    Only layers that are one connected layer are used; the condition of stability is C2DB's energy above hull or, for
    other layers, the packaged surrogate's. A training that was stopped goes on from OUT.labels and OUT.state when the
    same command is given again.
    """
    check_output(out, force=force)  # before hours are spent
    from scdm_flows.config import ForceFieldEngineConfig
    from scdm_flows.documents.provenance import git_commit
    from scdm_flows.engines.forcefield.energies import predict_together
    from scdm_flows.thermo.energy_model import load_energy_model
    from scdm_flows.thermo.stability_labels import stability_labels
    from scdm_flows.thermo.table import ReferenceTable
    from scdm_models.datasets.records import read_curated
    from scdm_models.model.checkpoint import load_checkpoint
    from scdm_models.training.train import Progress, kept_phases
    from scdm_models.training.train import train as run
    from scdm_models.training.train_config import TrainConfig, load_train_config

    settings = TrainConfig() if config is None else load_train_config(config)
    begun = None if start is None else load_checkpoint(start)
    kept_phases(settings, begun)  # refused before the labels, which may take long
    layers = [layer for layer in read_curated(curated) if layer.one_layer]
    table = ReferenceTable.load()
    kept = Path(f"{out}.labels")
    with progress_bar() as report:
        labels, label_sources = stability_labels(
            layers,
            table,
            partial(predict_together, config=ForceFieldEngineConfig(), processes=2),
            kept,
            load_energy_model().id,
            partial(report, "energies of layers without DFT's"),
        )
    card = {
        "stability_labels": {"table": table.scheme, "table_sha256": table.sha256, **label_sources},
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
            model_id = run(crystals, ids, out, settings, e_above_hull=labels, start=begun, card=card, progress=show)
        except OSError as error:
            raise OutputError(f"{out} was not written: {disk_full(error) or error}") from error
    kept.unlink()
    losses = Path(f"{out}.csv")
    if as_json:
        echo_json({"checkpoint": str(out), "model_id": model_id, "losses": str(losses), "n": len(layers)})
    else:
        click.echo(f"wrote {out}, model {model_id}, trained on {len(layers)} layers; losses in {losses}")


@click.command()
@click.option("-n", "count", default=100, show_default=True, type=int, help="How many samples.")
@click.option("--seed", default=0, show_default=True, type=int, help="Seed of the stream of draws.")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write: .jsonl, .extxyz, or .zip of CIFs.",
)
@click.option("--layer-group", type=int, help="Layer group of every sample (1-80); drawn from the data when absent.")
@click.option("--elements", help="Only these may occur, such as Mo,W,S,Se.")
@click.option("--formula", help="Reduced formula of every sample, such as MoS2.")
@click.option("--n-atoms", type=click.IntRange(1), help="Atoms in the primitive cell of every sample.")
@click.option(
    "--stability",
    default="0.2",
    show_default=True,
    help="Largest energy above hull the model is asked for, eV/atom, or `any`; a condition, not a filter.",
)
@click.option(
    "--weight",
    type=click.FloatRange(min=0),
    default=1.5,
    show_default=True,
    help="Weight of classifier-free guidance towards what is asked; 0 is the plain conditional model.",
)
@click.option(
    "--letter-temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="1 keeps to known Wyckoff templates, whose samples are more often stable; warmer ones are newer.",
)
@click.option("--unknown-formulas", is_flag=True, help="Only formulas of which no layer is known.")
@click.option(
    "--max-predicted-e-hull",
    type=click.FloatRange(-1, 10),
    metavar="EV",
    help="Pass over draws whose E_hull is predicted above this, eV/atom: by a surrogate, for the layer as drawn.",
)
@click.option(
    "--gap",
    metavar="LOW:HIGH",
    help="Pass over draws whose PBE band gap is predicted outside, eV, such as 1.2:1.8; 0:0 asks for metals.",
)
@click.option(
    "--magnetic",
    type=click.Choice(["yes", "no"]),
    help="Pass over draws that are predicted not to be magnetic, or to be.",
)
@click.option("--steps", type=click.IntRange(1), help="Denoising steps; the model's default when absent.")
@click.option(
    "--guidance/--no-guidance",
    default=True,
    show_default=True,
    help="Pass over draws that are no bonded layer or repeat a sample's skeleton; --no-guidance writes every draw.",
)
@click.option(
    "--model",
    type=click.Choice(["scdm", "unscdm", "paper"]),
    default="scdm",
    show_default=True,
    help="Packaged model: SCDM, the control without symmetry, or the control decoded as in the paper.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint file, instead of a packaged model.")
@click.option(
    "--processes", type=click.IntRange(1), help="Processes; one for each core, where there is work, if absent."
)
@FORCE
@JSON
def generate(
    count: int,
    seed: int,
    out: Path,
    layer_group: int | None,
    elements: str | None,
    formula: str | None,
    n_atoms: int | None,
    stability: str,
    weight: float,
    letter_temperature: float,
    unknown_formulas: bool,
    max_predicted_e_hull: float | None,
    gap: str | None,
    magnetic: str | None,
    steps: int | None,
    guidance: bool,
    model: str,
    checkpoint: Path | None,
    processes: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Draw crystals from a trained model: JSON lines, extended XYZ or a zip of CIFs.

    Samples are kept in OUT.part as they come, which becomes OUT at the end; when the command is stopped, in whatever
    way, the same command goes on from there.

    Each record holds the structure, layer_group_requested, layer_group_detected and space_group_detected (at symprec
    1e-3 angstrom), seed, index, model_id, draw (its place among all draws), mended (whether guidance had to move its
    atoms) and asked (what was asked for). `scdm screen OUT.jsonl` judges them; `scdm evaluate` says how far they are
    what was asked for.
    """
    check_output(out, force=force)
    from scdm_flows.generators.sample_files import FORMATS

    if out.suffix.lower() not in FORMATS:
        formats = "; ".join(f"{suffix}: {text}" for suffix, text in FORMATS.items())
        raise click.UsageError(f"the format of {out} is not known; end its name in one of {formats}")
    from scdm_flows.config import parse_config
    from scdm_flows.generators.part_file import part_file
    from scdm_flows.generators.scdm import sampler_options
    from scdm_models.model.checkpoint import load_checkpoint
    from scdm_models.sampling.sampler import generate as draw

    try:
        wanted = None if stability == "any" else float(stability)
    except ValueError:
        raise click.UsageError(f"--stability {stability} must be an energy in eV/atom, or `any`") from None
    asked: dict[str, Any] = {
        "layer_group": layer_group,
        "elements": elements,
        "formula": formula,
        "n_atoms": n_atoms,
        "stability": wanted,
        "weight": weight,
        "letter_temperature": letter_temperature,
        "unknown_formulas": unknown_formulas,
        "max_predicted_e_hull": max_predicted_e_hull,
        "gap": None if gap is None else _range_ev(gap),
        "magnetic": None if magnetic is None else magnetic == "yes",
        "guidance": guidance,
        "steps": steps,
    }
    config: Any = parse_config({"name": "generate", "generator": {"kind": "scdm", **asked}}, origin="options").generator
    options = replace(sampler_options(config), paper=model == "paper")
    loaded = load_checkpoint(checkpoint, packaged="scdm" if model == "scdm" else "unscdm")
    asked |= {"n": count, "seed": seed, "model": loaded.model_id, "paper": options.paper}
    try:
        with progress_bar() as report, _stopped_by_sigterm(), part_file(out, asked, force=force) as part:
            samples = draw(
                count,
                seed,
                position=part.position,
                checkpoint=loaded,
                layer_group=layer_group,
                options=options,
                processes=processes or (cores() if count >= WORTH_A_PROCESS else 1),
                progress=lambda done: report("samples", done, count),
            )
            report("samples", part.position.done, count)
            try:
                for sample in samples:
                    part.add(sample)
            except KeyboardInterrupt:
                done = part.position.done
                raise KeyboardInterrupt(
                    f"{done} of {count} samples are in {part.path}; the same command goes on from there"
                    if done
                    else "no sample was finished"
                ) from None
            exact = begun = draws = 0
            for sample in part.records():
                exact += sample.layer_group_detected == sample.layer_group_requested
                begun += sample.from_prototype
                draws = sample.draw + 1
            part.finish()
    except OSError as error:
        raise OutputError(f"{out} was not written: {disk_full(error) or error}") from error
    model_id = loaded.model_id + ("-paper" if options.paper else "")
    if as_json:
        told = {"exact_layer_group": exact, "draws": draws, "from_prototype": begun, "model_id": model_id}
        echo_json({"file": str(out), "n": count, **told, "seed": seed})
    else:
        click.echo(
            f"wrote {count} structures of {model_id} to {out}; {exact} have exactly the layer group asked "
            "for, "
            f"{count - exact} a higher one"
        )
        click.echo(
            f"{draws / count:.2f} raw draws a kept sample; {begun} began at the geometry of a training crystal with "
            f"the same letters, {count - begun} at noise"
        )


def _range_ev(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise click.UsageError(f"--gap {text} must be two energies in eV, such as 1.2:1.8") from None


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """A block in which SIGTERM, which queues and ``kill`` send, does what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # others cannot have signals
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
