"""``scdm evaluate``: judges files of samples, quickly or by a protocol with energies, phonons and baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, cores, echo_json, table
from scdm_flows.cli.files import check_output, make_folder, output_file
from scdm_flows.cli.progress import progress_bar
from scdm_flows.evaluation.protocol import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from scdm_flows.evaluation.quick import HeldOut
    from scdm_flows.evaluation.reading import SampleSet


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--protocol",
    "name",
    type=click.Choice(list(PROTOCOLS)),
    help="Relax, energies, novelty after relaxing, S.U.N., phonons, with four baselines; see docs/evaluation.md.",
)
@click.option(
    "--phonons",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="With --protocol: phonons of N MetaS.U.N. samples of each model, drawn; of all where there are fewer.",
)
@click.option(
    "--baselines/--no-baselines",
    "with_baselines",
    default=True,
    show_default=True,
    help="With --protocol: also make and judge the four baselines; without them it takes about a fifth of the time.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="With --protocol: of all it draws.")
@click.option(
    "--energy-model",
    type=click.Path(path_type=Path),
    help="With --protocol: judge by this model of `scdm refs fit` and its force field, not by the packaged ones.",
)
@click.option(
    "--held-out", type=click.Path(path_type=Path), help="Curated set: compare distributions with its held-out part."
)
@click.option("--pictures", type=click.Path(path_type=Path), help="Folder for pictures.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Also write the numbers as JSON; --protocol asks for it."
)
@click.option("--processes", type=click.IntRange(1), help="Processes side by side; one for each core if absent.")
@FORCE
@JSON
def evaluate(
    files: tuple[Path, ...],
    name: str | None,
    phonons: int,
    with_baselines: bool,
    seed: int,
    energy_model: Path | None,
    held_out: Path | None,
    pictures: Path | None,
    out: Path | None,
    processes: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Judge FILES of samples: of `scdm generate`, or CIF, POSCAR, extxyz and JSON lines, folders and zips of them.

    Without --protocol quickly: validity, symmetry, novelty before relaxing. With it, every sample is relaxed, judged by
    surrogate energies and compared after relaxing; the first model stands beside the others as peers and beside four
    baselines. What is finished is kept in OUT.part.jsonl: a run that was stopped goes on by the same command. Files of
    one model are its seeds and are pooled; intervals hold 95 %. Samples that were asked for something, such as a gap,
    are also judged by that, beside samples of the same model that were not.
    """
    if name is not None and held_out is not None:
        raise click.UsageError("--held-out is about the quick judgement; give it without --protocol")
    if name is not None and out is None:
        raise click.UsageError("--protocol takes its time and keeps what is finished beside its output; give it by -o")
    if name is None and energy_model is not None:
        raise click.UsageError("--energy-model judges relaxed samples; give it with --protocol")
    if out is not None:
        check_output(out, force=force)
    if pictures is not None:
        make_folder(pictures)
    from scdm_flows.evaluation.reading import read_models

    models, workers = read_models(files), processes or cores()
    if name is not None and out is not None:
        result = _by_protocol(PROTOCOLS[name], models, seed, phonons, energy_model, out, workers, with_baselines)
    else:
        from scdm_flows.evaluation.quick import read_held_out

        yardstick = None if held_out is None else read_held_out(held_out)
        result = _quickly(models, yardstick, workers)
    if pictures is not None:
        from scdm_flows.report import evaluation as figures
        from scdm_flows.report.figures import published

        if name is not None:
            drawn = {f"{name}.svg": figures.side_by_side(result["models"])}
        else:
            known = None if yardstick is None else yardstick.structures
            drawn = {"distributions.svg": figures.distributions(result["models"], known)}
        drawn |= figures.against_steps(result["models"])
        for file, figure in drawn.items():
            (pictures / file).write_text(published(figure))
            click.echo(f"wrote {pictures / file}", err=True)
    if out is not None:
        with output_file(out, force=force) as handle:
            handle.write(json.dumps(result, indent=None if name else 1) + "\n")
        _part_file(out).unlink(missing_ok=True)
    if as_json:
        echo_json(result)
    elif name is None:
        _show_quick(result)
    else:
        _show(result)


def _part_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.part.jsonl")


def _by_protocol(
    protocol: Protocol,
    models: list[SampleSet],
    seed: int,
    phonons: int,
    energy_model: Path | None,
    out: Path,
    processes: int,
    with_baselines: bool,
) -> dict[str, Any]:
    from scdm_flows.config import ForceFieldEngineConfig
    from scdm_flows.evaluation.asked import GUIDED
    from scdm_flows.evaluation.ledger import Ledger
    from scdm_flows.evaluation.run import Judgement, header
    from scdm_flows.stores.known_sets import known_layers
    from scdm_flows.thermo.energy_model import load_energy_model, shared_with_guide

    engine = ForceFieldEngineConfig()
    if energy_model is not None:
        own = str(load_energy_model(str(energy_model)).header["force_field"])
        engine = ForceFieldEngineConfig(force_field=own, energy_model=str(energy_model))
    shared = shared_with_guide(load_energy_model(engine.energy_model))
    if shared and any(name in model.asked for model in models for name in GUIDED):
        click.echo(
            f"samples were chosen by the guide, with which the judge shares {', '.join(shared)}; for a judge that "
            "shares nothing see --energy-model and docs/evaluation.md",
            err=True,
        )
    known = known_layers()
    ledger = Ledger(_part_file(out), header(protocol, models, known, seed, phonons, engine))
    if ledger.started_anew:
        click.echo(f"{_part_file(out)} is of other files, another protocol or other data: everything anew", err=True)
    elif len(ledger):
        click.echo(f"going on from {_part_file(out)}", err=True)
    with progress_bar() as report:
        judgement = Judgement(protocol, models, known, seed, phonons, ledger, processes, report, engine, with_baselines)
        return judgement.result()


def _quickly(models: list[SampleSet], yardstick: HeldOut | None, processes: int) -> dict[str, Any]:
    from scdm_flows.evaluation.quick import beside_held_out, judge_quickly
    from scdm_flows.stores.known_sets import known_layers
    from scdm_models.metrics.validity import smact_provenance

    known, runs = known_layers(), []
    with progress_bar() as report:
        for done, one in enumerate(models):
            report("judge", done, len(models))
            runs.append(judge_quickly(one, known, processes))
            if yardstick is not None:
                runs[-1] |= beside_held_out(one, runs[-1]["groups"], yardstick)
        report("judge", len(models), len(models))
    return {
        "models": runs,
        "known_layers": {"version": known.version, **known.sources},
        "smact": smact_provenance(),
    }


def _show_quick(result: dict[str, Any]) -> None:
    from scdm_flows.evaluation.quick import MEASURES

    for model in result["models"]:
        rows = [
            [MEASURES[key], f"{100 * m['value']:.1f} %", f"{100 * m['low']:.1f} % to {100 * m['high']:.1f} %"]
            for key, m in model["measures"].items()
        ]
        title = f"{model['label']}: {len(model['files'])} file(s), {model['n']} samples"
        table(title, ["of all samples", "value", "95 % interval"], rows)
        if "rediscovered" in model:
            click.echo(_found_again(model["rediscovered"]) + "\n")
    unread = sum(len(model["unreadable"]) for model in result["models"])
    if unread:
        click.echo(f"{unread} entries could not be read and count as not valid; --json names them")


def _found_again(found: dict[str, Any]) -> str:
    ratio = found["ratio"]
    times = f": {ratio['value']:.2f} times that (95 %: {ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else ""
    return (
        f"{found['found']} of {found['held_out']} held-out layers, by formula and layer group, are among them; "
        f"{found['by_chance']:.1f} with groups shuffled among formulas{times}"
    )


def _show(result: dict[str, Any]) -> None:
    """Two tables with a column for each model: of the samples, and per 1,000 raw draws."""
    from scdm_flows.evaluation.shares import MEASURES

    models = result["models"]
    rows: list[list[Any]] = [
        [words, *(_share(key, m["measures"].get(key)) for m in models)]
        for key, words in MEASURES.items()
        if any(key in m["measures"] for m in models)
    ]
    rows.append(["time to make a sample, s", *(m["seconds_per_sample"] for m in models)])
    heads = [f"{m['label']}\nn = {m['n']}" for m in models]
    table(f"protocol {result['protocol']['name']}, of the samples, 95 % intervals", ["", *heads], rows)
    rows = [
        [words, *(_count(m["per_1000_draws"].get(key)) for m in models)]
        for key, words in MEASURES.items()
        if any(key in m["per_1000_draws"] for m in models)
    ]
    heads = [f"{m['label']}\n{_draws(m)}" for m in models]
    table("per 1,000 raw draws", ["", *heads], rows)
    for model in models:
        if model.get("fulfilment") is not None:
            _show_asked(model, result["energies"]["energy_model"])
    lost = sum(s["relaxed"]["reason"] is not None for m in models for s in m["samples"])
    if lost:
        click.echo(f"{lost} samples have no energy and count against their model; the JSON says why")


def _show_asked(model: dict[str, Any], energy_model: str) -> None:
    """What came of each wish, and how different the samples are, beside samples that were not asked."""
    found = model["fulfilment"]
    mixed, other = found["variety"], found["variety_beside"] or {}
    rows: list[list[Any]] = [
        [row["words"], *(_percent(row[key]) for key in ("met", "met_beside")), _times(row["ratio"])]
        for row in found["wishes"].values()
    ]
    named = {"formulas": "formulas", "systems": "chemical systems", "templates": "Wyckoff templates"}
    for of, which in (("all", ""), ("met", ", of those that meet it")):
        rows += [
            [f"different {name}{which}", *(one.get(of, {}).get(key) for one in (mixed, other)), None]
            for key, name in named.items()
        ]
    heads = ["", f"asked\nn = {model['n']}", f"not asked\nn = {other['all']['n']}" if other else "not asked", "ratio"]
    table(f"{model['label']}: what was asked for, relaxed and predicted by {energy_model}, 95 % intervals", heads, rows)
    if not other:
        click.echo("no samples of the same model without the request; give a file of such, of another seed")


def _percent(m: dict[str, Any] | None) -> str | None:
    return None if m is None else f"{100 * m['value']:.1f} % ({100 * m['low']:.1f}-{100 * m['high']:.1f})"


def _times(m: dict[str, Any] | None) -> str | None:
    return None if m is None else f"{m['value']:.2f} ({m['low']:.2f}-{m['high']:.2f})"


def _draws(model: dict[str, Any]) -> str:
    if model["draws"] is None:
        return "draws not known"
    return f"{model['draws']} draws" + ("" if model["draws_said"] else ", as given")


def _share(name: str, m: dict[str, Any] | None) -> str | None:
    from scdm_flows.evaluation.shares import LENGTHS, OF_SOME

    if m is None:
        return None
    if name in LENGTHS:
        return f"{m['value']:.3f} ({m['low']:.3f}-{m['high']:.3f})"
    asked = f"of {m['n']} " if name in OF_SOME else ""
    return f"{100 * m['value']:.1f} % {asked}({100 * m['low']:.1f}-{100 * m['high']:.1f})"


def _count(m: dict[str, Any] | None) -> str | None:
    return None if m is None else f"{m['value']:.0f} ({m['low']:.0f}-{m['high']:.0f})"
