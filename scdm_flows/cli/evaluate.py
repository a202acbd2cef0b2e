"""``scdm evaluate``: judges files of samples without any energy, and averages files of one model over their seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, echo_json, table
from scdm_flows.cli.files import check_output, output_file
from scdm_flows.cli.progress import progress_bar
from scdm_flows.errors import DatasetError

if TYPE_CHECKING:
    from scdm_models.datasets.fingerprints import FingerprintIndex

MEASURES = {
    "valid_distance": "no atoms closer than 0.5 Å",
    "valid_radii": "no atoms closer than 0.7 covalent radii",
    "one_layer": "one connected layer",
    "composition_valid": "composition valid (SMACT)",
    "group_exact": "layer group exactly as asked for",
    "p1": "no symmetry found (layer group 1)",
    "novel": "equal to no known layer",
    "novel_templates": "new Wyckoff template",
    "unique": "unique (falls with n)",
}


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Also write the numbers as JSON.")
@FORCE
@JSON
def evaluate(files: tuple[Path, ...], out: Path | None, force: bool, as_json: bool) -> None:
    """Judge FILES that `scdm generate` wrote: validity, symmetry, novelty, uniqueness.

    One file is one seed; files of one model are averaged, with a 95 % interval over seeds where there are two or
    more (Student's t) and over samples otherwise (Wilson). No energies: `scdm campaign run` has those.
    """
    if out is not None:
        check_output(out, force=force)
    from scdm_models.datasets.fingerprints import FingerprintIndex
    from scdm_models.metrics.samples import smact_provenance

    index = FingerprintIndex.load()
    runs: list[dict[str, Any]] = []
    with progress_bar() as report:
        for done, file in enumerate(files):
            report("judge", done, len(files))
            runs.append(_judge(file, index))
        report("judge", len(files), len(files))
    models = _over_seeds(runs)
    result = {"files": runs, "models": models, "smact": smact_provenance()}
    if out is not None:
        with output_file(out, force=force) as handle:
            handle.write(json.dumps(result, indent=1) + "\n")
    if as_json:
        echo_json(result)
        return
    for model in models:
        rows = [
            [text, f"{100 * m['value']:.1f} %", f"{100 * m['low']:.1f} to {100 * m['high']:.1f} %"]
            for name, text in MEASURES.items()
            for m in [model["measures"][name]]
        ]
        title = f"{model['model_id']}: {model['files']} file(s), {model['n']} samples"
        table(title, ["share of samples", "value", f"95 % interval over {model['interval_over']}"], rows)
    unread = sum(len(run["unreadable"]) for run in runs)
    if unread:
        click.echo(f"{unread} lines could not be read and count as not valid; --json names them")


def _judge(file: Path, index: FingerprintIndex) -> dict[str, Any]:
    """The shares of one file."""
    from pymatgen.core import Structure

    from scdm_models.encoding import LayerCrystal
    from scdm_models.metrics import samples

    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise DatasetError(
            f"{file} cannot be read ({error.strerror}); give a file that `scdm generate` wrote"
        ) from None
    structures: list[Structure | None] = []
    groups: list[int | None] = []
    crystals, unreadable = [], {}
    exact = p1 = 0
    model_id, seed = "unknown", None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            structure = Structure.from_dict(record["structure"])
            crystals.append(LayerCrystal.from_dict(record["crystal"]))
            detected = record["layer_group_detected"]
            exact += detected == record["layer_group_requested"]
            model_id, seed = record["model_id"], record["seed"]
        except (ValueError, KeyError, TypeError) as error:  # one bad line never stops the others
            unreadable[number] = f"{type(error).__name__}: {error}"
            structures.append(None)
            groups.append(None)
            continue
        structures.append(structure)
        groups.append(detected)
        p1 += detected == 1
    if not crystals:
        raise DatasetError(f"{file} holds no sample; give a file that `scdm generate` wrote (JSON lines)")
    verdicts = [samples.judge_sample(structure) for structure in structures]
    n = len(structures)
    judged = [v.composition_valid for v in verdicts if v.composition_valid is not None]
    unique = samples.uniqueness(structures, groups)
    new = samples.novelty(structures, index).against_references
    templates = samples.novel_templates(crystals, index.templates).share
    shares = {
        "valid_distance": samples.share_interval(sum(v.valid_distance for v in verdicts), n),
        "valid_radii": samples.share_interval(sum(v.valid_radii for v in verdicts), n),
        "one_layer": samples.share_interval(sum(v.one_layer for v in verdicts), n),
        "composition_valid": samples.share_interval(sum(judged), len(judged)),
        "group_exact": samples.share_interval(exact, n),
        "p1": samples.share_interval(p1, n),
        "novel": new,
        "novel_templates": templates,
        "unique": samples.Interval(unique.share, unique.share, unique.share, unique.n),
    }
    measures = {name: {"value": s.value, "low": s.low, "high": s.high, "n": s.n} for name, s in shares.items()}
    return {
        "file": str(file),
        "model_id": model_id,
        "seed": seed,
        "n": n,
        "measures": measures,
        "unreadable": unreadable,
    }


def _over_seeds(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each model: the mean of its files, or its only file."""
    from scdm_models.metrics.samples import over_seeds

    by_model: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_model[run["model_id"]].append(run)
    models = []
    for model_id, group in by_model.items():
        seeds = [run["seed"] for run in group]
        if len(set(seeds)) < len(seeds):
            raise click.UsageError(
                f"two files hold samples of {model_id} with the same seed ({', '.join(map(str, seeds))}); their "
                "numbers are not independent: give one file for each seed"
            )
        measures = group[0]["measures"]
        if len(group) > 1:
            measures = {}
            for name in MEASURES:
                mean = over_seeds([run["measures"][name]["value"] for run in group])
                low, high = max(0.0, mean.low), min(1.0, mean.high)  # a share
                measures[name] = {"value": mean.value, "low": low, "high": high, "n": mean.n}
        models.append(
            {
                "model_id": model_id,
                "files": len(group),
                "n": sum(run["n"] for run in group),
                "interval_over": "seeds" if len(group) > 1 else "samples",
                "measures": measures,
            }
        )
    return models
