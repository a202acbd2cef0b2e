"""``scdm evaluate``: judges files of samples, and averages files of one model over their seeds."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, cores, echo_json, table
from scdm_flows.cli.files import check_output, make_folder, output_file
from scdm_flows.cli.progress import progress_bar
from scdm_flows.errors import DatasetError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from scdm_models.datasets.fingerprints import FingerprintIndex
    from scdm_models.encoding import LayerCrystal
    from scdm_models.metrics.samples import Population

MEASURES = {
    "kept_draws": "kept of all draws (bonded layers, no repeated skeleton)",
    "mended": "mended by guidance",
    "valid_distance": "no atoms closer than 0.5 Å",
    "valid_radii": "no atoms closer than 0.7 covalent radii",
    "one_layer": "one connected layer",
    "composition_valid": "composition valid (SMACT)",
    "group_exact": "layer group exactly as asked for",
    "group_by_two_tools": "the group asked for, or a higher one, by moyopy and spglib",
    "p1": "no symmetry found (layer group 1)",
    "novel": "equal to no known layer",
    "novel_templates": "new Wyckoff template",
    "unique": "unique (falls with n)",
    "e_hull_0": "surrogate E_hull <= 0",
    "e_hull_0.05": "surrogate E_hull <= 0.05 eV/atom",
    "e_hull_0.1": "surrogate E_hull <= 0.1 eV/atom",
    "e_hull_0.2": "surrogate E_hull <= 0.2 eV/atom",
    "e_hull_0.6": "surrogate E_hull <= 0.6 eV/atom",
    "e_hull_0.6_one_layer": "the same, and still one layer",
    "extrapolated": "energy extrapolated: its error may be larger than said",
    "sun": "stable (surrogate E_hull <= 0.1 eV/atom), unique and new",
    "relax_converged": "relaxation converged",
    "one_layer_relaxed": "one connected layer after relaxation",
    "group_kept": "all operations kept on relaxing",
    "rmsd_angstrom": "RMSD to relaxed, Å",
    "phonon_stable": "phonon-stable, of the layers of lowest surrogate E_hull",
}
LENGTHS = {"rmsd_angstrom"}  # all others are shares


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--relax", is_flag=True, help="Also relax every sample (with a force field, a surrogate): E_hull, S.U.N., RMSD."
)
@click.option(
    "--displace",
    type=click.FloatRange(min=0, min_open=True),
    help="With --relax: first move every atom by this much in a random direction, angstrom. A relaxation keeps "
    "symmetry, also at a saddle point; this frees it.",
)
@click.option(
    "--phonons",
    type=click.IntRange(1),
    help="With --relax: also the phonons of each file's N relaxed layers of lowest E_hull, of at most 12 atoms.",
)
@click.option(
    "--held-out", type=click.Path(path_type=Path), help="Curated set: compare distributions with its held-out part."
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    help="Folder for pictures: distributions, E_hull, quality against steps.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Also write the numbers as JSON.")
@click.option("--processes", type=click.IntRange(1), help="Processes that relax; one for each core if absent.")
@FORCE
@JSON
def evaluate(
    files: tuple[Path, ...],
    relax: bool,
    displace: float | None,
    phonons: int | None,
    held_out: Path | None,
    pictures: Path | None,
    out: Path | None,
    processes: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Judge FILES that `scdm generate` wrote: validity, symmetry, novelty, uniqueness, with --relax energies.

    One file is one seed; files of one model and number of steps are averaged, with a 95 % interval over seeds where
    there are two or more (Student's t) and over samples otherwise (Wilson). Energies are surrogate ones, predicted by
    the energy model on C2DB's PBE scale, and every share is over all samples.
    """
    if not relax and (displace is not None or phonons is not None):
        raise click.UsageError("--displace and --phonons are about relaxed samples; give them together with --relax")
    if out is not None:
        check_output(out, force=force)
    if pictures is not None:
        make_folder(pictures)
    from scdm_flows.analysis.stability import GAMMA_THRESHOLD_THZ, THRESHOLD_THZ
    from scdm_flows.calibration.model import load_energy_model_card
    from scdm_flows.sample_energies import RELAX_FMAX, RELAX_STEPS, energies_of, plain
    from scdm_flows.thermo.table import ReferenceTable
    from scdm_models.datasets.fingerprints import FingerprintIndex
    from scdm_models.metrics.samples import share_interval, smact_provenance

    index = FingerprintIndex.load()
    yardstick = None if held_out is None else _held_out(held_out)
    runs: list[dict[str, Any]] = []
    with progress_bar() as report:
        for done, file in enumerate(files):
            report("judge", done, len(files))
            samples = read_samples(file)
            run = _judge(file, samples, index)
            if relax:
                workers = processes or cores()
                judged = energies_of(
                    samples.structures,
                    run.pop("novel"),
                    run.pop("representative"),
                    displaced=displace,
                    seed=run["seed"],
                    phonons=phonons,
                    processes=workers,
                    report=report,
                )
                run["measures"] |= judged.pop("measures")
                extrapolated = sum(flag is True for flag in judged["extrapolated"])
                run["measures"]["extrapolated"] = plain(share_interval(extrapolated, len(samples.structures)))
                run |= judged
            else:
                run.pop("novel"), run.pop("representative")
            if yardstick is not None:
                run["distances_to_held_out"] = _distances(samples, yardstick)
            runs.append(run)
        report("judge", len(files), len(files))
    models = _over_seeds(runs)
    result: dict[str, Any] = {"files": runs, "models": models, "smact": smact_provenance()}
    if relax:
        table_ = ReferenceTable.load()
        result["energies"] = {
            "surrogate": True,
            "scheme": table_.scheme,
            "reference_sha256": table_.sha256,
            "energy_model": load_energy_model_card(),
            "fmax_ev_per_angstrom": RELAX_FMAX,
            "max_steps": RELAX_STEPS,
            "displaced_angstrom": displace,
            "phonon_thresholds_thz": {"near_gamma": GAMMA_THRESHOLD_THZ, "elsewhere": THRESHOLD_THZ},
        }
    if pictures is not None:
        from scdm_flows.report.evaluation import write_pictures

        for picture in write_pictures(pictures, runs, models, None if yardstick is None else yardstick.structures):
            click.echo(f"wrote {picture}", err=True)
    if out is not None:
        with output_file(out, force=force) as handle:
            handle.write(json.dumps(result, indent=1) + "\n")
    if as_json:
        echo_json(result)
        return
    for model in models:
        rows = [
            [text, *(_said(name, m[key]) for key in ("value",)), f"{_said(name, m['low'])} to {_said(name, m['high'])}"]
            for name, text in MEASURES.items()
            if (m := model["measures"].get(name)) is not None
        ]
        title = f"{model['label']}: {model['files']} file(s), {model['n']} samples"
        table(title, ["of all samples", "value", f"95 % interval over {model['interval_over']}"], rows)
    unread = sum(len(run["unreadable"]) for run in runs)
    if unread:
        click.echo(f"{unread} lines could not be read and count as not valid; --json names them")


def _said(name: str, value: float) -> str:
    return f"{value:.3f} Å" if name in LENGTHS else f"{100 * value:.1f} %"


@dataclass
class Samples:
    """The lines of one file; None where a line could not be read, and why."""

    records: list[dict[str, Any] | None]
    structures: list[Structure | None]
    crystals: list[LayerCrystal | None]
    unreadable: dict[int, str]


def read_samples(file: Path) -> Samples:
    """The samples of a file that ``scdm generate`` wrote as JSON lines; ``DatasetError`` where it holds none."""
    from pymatgen.core import Structure

    from scdm_models.encoding import LayerCrystal

    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read ({error}); give a file that `scdm generate` wrote") from None
    found = Samples([], [], [], {})
    for number, line in enumerate(lines, 1):
        record: dict[str, Any] | None
        structure: Structure | None
        crystal: LayerCrystal | None
        try:
            record = dict(json.loads(line))
            structure, crystal = Structure.from_dict(record["structure"]), LayerCrystal.from_dict(record["crystal"])
            missing = {"layer_group_detected", "layer_group_requested", "model_id", "seed"} - record.keys()
            if missing:
                raise KeyError(", ".join(sorted(missing)))
        except (ValueError, KeyError, TypeError) as error:  # one bad line never stops the others
            found.unreadable[number] = f"{type(error).__name__}: {error}"
            record = structure = crystal = None
        found.records.append(record)
        found.structures.append(structure)
        found.crystals.append(crystal)
    if not any(found.records):
        raise DatasetError(f"{file} holds no sample; give a file that `scdm generate` wrote (JSON lines)")
    return found


def _judge(file: Path, read: Samples, index: FingerprintIndex) -> dict[str, Any]:
    """The shares of one file that need no energy."""
    from scdm_flows.sample_energies import plain
    from scdm_models.metrics import samples
    from scdm_models.metrics.groups import found_by_both

    records = [record for record in read.records if record is not None]
    groups = [None if record is None else record["layer_group_detected"] for record in read.records]
    verdicts = [samples.judge_sample(structure) for structure in read.structures]
    n = len(read.records)
    judged = [v.composition_valid for v in verdicts if v.composition_valid is not None]
    unique = samples.uniqueness(read.structures, groups)
    new = samples.novelty(read.structures, index)
    templates = samples.novel_templates([c for c in read.crystals if c is not None], index.templates).share
    exact = sum(record["layer_group_detected"] == record["layer_group_requested"] for record in records)
    both = sum(
        structure is not None and record is not None and found_by_both(structure, record["layer_group_requested"])
        for structure, record in zip(read.structures, read.records, strict=True)
    )
    shares = {
        "valid_distance": samples.share_interval(sum(v.valid_distance for v in verdicts), n),
        "valid_radii": samples.share_interval(sum(v.valid_radii for v in verdicts), n),
        "one_layer": samples.share_interval(sum(v.one_layer for v in verdicts), n),
        "composition_valid": samples.share_interval(sum(judged), len(judged)),
        "group_exact": samples.share_interval(exact, n),
        "group_by_two_tools": samples.share_interval(both, n),
        "p1": samples.share_interval(groups.count(1), n),
        "novel": new.against_references,
        "novel_templates": templates,
        "unique": samples.Interval(unique.share, unique.share, unique.share, unique.n),
    }
    draws = [record.get("draw", -1) for record in records]
    if all(first < second for first, second in itertools.pairwise([-1, *draws])):  # one call, not several joined
        shares["kept_draws"] = samples.share_interval(len(draws), draws[-1] + 1)
        shares["mended"] = samples.share_interval(sum(bool(record.get("mended")) for record in records), len(draws))
    return {
        "file": str(file),
        "model_id": records[0]["model_id"],
        "seed": records[0]["seed"],
        "steps": records[0].get("steps"),
        "n": n,
        "measures": {name: plain(interval) for name, interval in shares.items()},
        "unreadable": read.unreadable,
        "populations": {
            "n_atoms": [v.n_atoms for v in verdicts],
            "area_per_atom": [v.area_per_atom_angstrom2 for v in verdicts],
            "thickness": [v.thickness_angstrom for v in verdicts],
        },
        "novel": new.novel_to_references,
        "representative": unique.representative,
    }


@dataclass
class _HeldOut:
    """Held-out and as many training layers of a curated set."""

    structures: list[Structure]
    population: Population
    training: Population


def _held_out(curated: Path) -> _HeldOut:
    from scdm_models.datasets.records import read_curated
    from scdm_models.metrics.samples import population
    from scdm_models.train import TrainConfig, split

    layers = [layer for layer in read_curated(curated) if layer.one_layer]
    training, held = split([layer.id for layer in layers], TrainConfig().validation_fraction)
    step = max(1, len(training) // max(1, len(held)))
    parts = []
    for rows in (held, training[::step][: len(held)]):
        structures = [layers[i].structure for i in rows]
        parts.append((structures, population(structures, [layers[i].layer_group for i in rows])))
    return _HeldOut(parts[0][0], parts[0][1], parts[1][1])


def _distances(read: Samples, held: _HeldOut) -> dict[str, Any]:
    """Distances of the samples from the held-out layers, and of training layers from them as the yardstick."""
    from scdm_models.metrics.samples import distribution_distances, population

    groups = [None if record is None else record["layer_group_detected"] for record in read.records]
    ours = population(read.structures, groups)
    return {
        "samples": asdict(distribution_distances(ours, held.population)),
        "training": asdict(distribution_distances(held.training, held.population)),
    }


def _over_seeds(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each model, and each number of steps where there are several: the mean of its files."""
    from scdm_models.metrics.samples import over_seeds

    by_model: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        several = len({other["steps"] for other in runs if other["model_id"] == run["model_id"]}) > 1
        run["label"] = f"{run['model_id']}, {run['steps']} steps" if several else run["model_id"]
        by_model[run["label"]].append(run)
    models = []
    for label, group in by_model.items():
        seeds = [run["seed"] for run in group]
        if len(set(seeds)) < len(seeds):
            raise click.UsageError(
                f"two files hold samples of {label} with the same seed ({', '.join(map(str, seeds))}); their "
                "numbers are not independent: give one file for each seed"
            )
        measures = group[0]["measures"]
        if len(group) > 1:
            measures = {}
            for name in [name for name in MEASURES if all(name in run["measures"] for run in group)]:
                mean = over_seeds([run["measures"][name]["value"] for run in group])
                low, high = max(0.0, mean.low), mean.high if name in LENGTHS else min(1.0, mean.high)
                measures[name] = {"value": mean.value, "low": low, "high": high, "n": mean.n}
        models.append(
            {
                "label": label,
                "model_id": group[0]["model_id"],
                "steps": group[0]["steps"],
                "files": len(group),
                "n": sum(run["n"] for run in group),
                "interval_over": "seeds" if len(group) > 1 else "samples",
                "measures": measures,
            }
        )
    return models
