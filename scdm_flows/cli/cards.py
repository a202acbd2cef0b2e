"""``scdm cards``: measures the packaged models and the force field and writes the files of ``models/cards``."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import click

from scdm_flows.cli.common import JSON, cores, echo_json, table
from scdm_flows.cli.files import check_output, make_folder, output_file
from scdm_flows.cli.progress import progress_bar
from scdm_flows.config import DEFAULT_FORCE_FIELD
from scdm_flows.errors import DatasetError
from scdm_flows.evaluation.model_cards import PARTS, PICTURES

WORK = click.option(
    "--work",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder that keeps what is finished; what it holds is not made again.",
)
OUTPUT = click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write into, replacing its files; models/cards of the checkout if absent.",
)


@click.group()
def cards() -> None:
    """Measure the packaged models and the force field's phonons; write the files of models/cards."""


@cards.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Curated set (scdm data curate).")
@WORK
@click.option(
    "-n", "count", default=100, show_default=True, type=click.IntRange(1), help="Samples of each model and seed."
)
@click.option(
    "--peers", multiple=True, type=click.Path(path_type=Path), help="Another generator's samples; may be repeated."
)
@click.option(
    "--parts",
    multiple=True,
    type=click.Choice(list(PARTS)),
    help="Only this part, the others stay as they are; may be repeated. All if absent.",
)
@OUTPUT
@JSON
def results(
    data: Path,
    work: Path,
    count: int,
    peers: tuple[Path, ...],
    parts: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Judge samples of the packaged models, beside baselines and peers; takes hours.

    Writes results.json (every number with its 95 % interval), results.md (the same as tables) and pictures. Samples and
    judgements are made by `scdm generate`, `evaluate`, `assemble` and `reconstruct` and stay in the folder of --work,
    the verdict on every sample in its protocol.json; a run that was stopped goes on by the same command.
    """
    from scdm_flows.evaluation.model_cards import Making, markdown
    from scdm_flows.evaluation.model_cards import results as made
    from scdm_flows.report.cards import RESULTS
    from scdm_models.model.checkpoint import load_checkpoint

    folder = _folder(output)
    for path in (data, *peers):
        _check_input(path)
    make_folder(work / PICTURES)
    card = folder / RESULTS
    kept = json.loads(card.read_text()) if card.exists() else {}
    making, found = Making(data, work, count, peers, _scdm), kept
    for part in parts or PARTS:  # written after each, as the next may take hours
        found = made(making, [part], found)
        _write(card, json.dumps(found, indent=1) + "\n")
    _write(card.with_suffix(".md"), markdown(found, load_checkpoint().model_id))
    if "steps" in found:
        from scdm_flows.report.evaluation import quality_against_steps
        from scdm_flows.report.figures import svg

        measured = {int(steps): model["measures"] for steps, model in found["steps"].items()}
        _write(folder / "steps.svg", svg(quality_against_steps(measured)))
    for picture in sorted((work / PICTURES).glob("*.svg")):
        shutil.copy(picture, folder / picture.name)
    if as_json:
        echo_json(found)
    else:
        click.echo(f"wrote {card.with_suffix('.md')}: {', '.join(found)}")


@cards.command()
@click.option(
    "--c2db", required=True, type=click.Path(path_type=Path), help="C2DB's layers with their stability labels."
)
@WORK
@click.option("--force-field", default=DEFAULT_FORCE_FIELD, show_default=True, help="It relaxes and gives phonons.")
@click.option("-n", "count", default=100, show_default=True, type=click.IntRange(1), help="Layers of each label.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the draw of layers.")
@click.option("--processes", type=click.IntRange(1), help="Worker processes; one for each core if absent.")
@OUTPUT
@JSON
def phonons(
    c2db: Path,
    work: Path,
    force_field: str,
    count: int,
    seed: int,
    processes: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare the force field's verdict on dynamic stability with C2DB's, on layers that nothing here has learned from.

    Writes phonons.json (with every layer) and phonons.md. 200 layers take about ten minutes on 2 cores; a run that was
    stopped goes on by the same command.
    """
    from scdm_flows.evaluation import phonon_verdicts
    from scdm_flows.evaluation.ledger import Ledger
    from scdm_flows.report.cards import PHONONS

    folder = _folder(output)
    _check_input(c2db)
    records = phonon_verdicts.choose(c2db, count, seed)
    make_folder(work)
    ledger = Ledger(work / f"phonons-{force_field}.part.jsonl", phonon_verdicts.header(c2db, force_field))
    if ledger.started_anew:
        click.echo(f"{ledger.path} is of other layers or other settings: everything anew", err=True)
    with progress_bar() as report:
        rows = phonon_verdicts.measure_all(
            records, force_field, ledger, processes or cores(), lambda done, total: report("layers", done, total)
        )
    found = phonon_verdicts.results(rows, force_field, count, seed)
    card = folder / PHONONS
    _write(card, json.dumps(found, indent=1) + "\n")
    _write(card.with_suffix(".md"), phonon_verdicts.markdown(found))
    if as_json:
        echo_json(found)
        return
    columns = ["judged by", "right, 95 % interval", "F1 of stable", "area under the curve"]
    shown = [
        [way["text"], phonon_verdicts.percent(way["all"], "accuracy"), way["all"]["f1_of_stable"], way["auc"]]
        for way in found["ways"].values()
    ]
    table(f"{force_field} beside C2DB's verdict on {len(rows)} layers", columns, shown)
    click.echo(f"wrote {card.with_suffix('.md')}")


def _folder(output: Path | None) -> Path:
    """The folder to write into; refused, before any work is done, where there is none or it cannot be written."""
    from scdm_flows.report.cards import CHECKOUT, RESULTS

    if output is None and not CHECKOUT.is_dir():
        raise click.UsageError(
            f"this is no checkout (there is no {CHECKOUT}), so it is not known where the files go; give a folder by "
            "--output"
        )
    folder = CHECKOUT if output is None else output
    make_folder(folder)
    check_output(folder / RESULTS, force=True)
    return folder


def _check_input(path: Path) -> None:
    """Refuse a missing file before any work is done."""
    if not path.exists():
        raise DatasetError(f"{path} does not exist; give a file that is there")


def _write(path: Path, text: str) -> None:
    with output_file(path, force=True) as handle:
        handle.write(text)


def _scdm(words: Sequence[str]) -> None:
    """Carry out an ``scdm`` command in this process; all its words go to standard error."""
    from scdm_flows.cli import cli

    click.echo(f"$ scdm {shlex.join(words)}", err=True)
    with redirect_stdout(sys.stderr):
        cli.main(list(words), prog_name="scdm", standalone_mode=False)
