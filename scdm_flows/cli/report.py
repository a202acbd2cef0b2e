"""``scdm campaign report``: the page of a campaign as HTML, its results beside the paper's as Markdown, figures."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.chosen import written
from scdm_flows.cli.common import FORCE, database
from scdm_flows.cli.files import check_output, make_folder, output_file, output_path
from scdm_flows.cli.progress import progress_bar
from scdm_flows.config import stored_config

if TYPE_CHECKING:
    from scdm_flows.query import CandidateDB
    from scdm_flows.report.results import MarkdownReport
    from scdm_flows.stores.database import Database

MARKDOWN = ".md"


@click.command()
@click.argument("name")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="HTML file, in the data folder when absent; FILE.md: the results beside the paper's, with figures in FILE/.",
)
@click.option(
    "--top", default=12, show_default=True, type=click.IntRange(0), help="Candidates shown with pictures in HTML."
)
@click.option("--compounds", help="Of FILE.md: campaign that took the paper's six compounds.")
@click.option(
    "--reconstruction",
    type=click.Path(path_type=Path),
    help="Of FILE.md: what scdm reconstruct -o wrote; the packaged models' when absent.",
)
@click.option(
    "--stability", multiple=True, metavar="NAME", help="Of a promoted campaign's FILE.md: one that computed phonons."
)
@click.option(
    "--drawn", multiple=True, metavar="NAME", help="Of a promoted campaign's FILE.md: one that was drawn by lot."
)
@click.option(
    "--validation",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Of a promoted campaign's FILE.md: what scdm refs gpaw -o wrote.",
)
@click.option("--figures", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
@click.option(
    "--format", "fmt", type=click.Choice(["pdf", "svg", "png"]), default="pdf", show_default=True, help="Of --figures."
)
@FORCE
def report(
    name: str,
    out: Path | None,
    top: int,
    compounds: str | None,
    reconstruction: Path | None,
    stability: tuple[str, ...],
    drawn: tuple[str, ...],
    validation: Path | None,
    figures: Path | None,
    fmt: str,
    force: bool,
) -> None:
    """Write the report of campaign NAME: one self-contained HTML file, or Markdown beside the paper's numbers.

    The Markdown of a promoted campaign is the page of DFT beside the surrogate.
    """
    markdown = out is not None and out.suffix == MARKDOWN
    of_studies = {"--compounds": compounds, "--reconstruction": reconstruction}
    of_promoted = {"--stability": stability, "--drawn": drawn, "--validation": validation}
    for option, value in {**of_studies, **of_promoted}.items():
        if value and not markdown:
            raise click.UsageError(f"{option} belongs to the results page; give -o FILE{MARKDOWN}")
    if out is not None:
        check_output(out, force=force)
    with database(create=False) as connected:
        if markdown:
            assert out is not None
            promoted = _is_promoted(connected, name)
            for option, value in (of_studies if promoted else of_promoted).items():
                if value:
                    raise click.UsageError(
                        f"{option} does not belong to campaign {name}, which is {'' if promoted else 'not '}promoted"
                    )
            if promoted:
                path = write_dft(connected, name, out, stability, drawn, validation, force=force)
            else:
                path = write_results(connected, name, out, compounds, reconstruction, force=force)
        else:
            path = write_report(connected, name, out, force=force or out is None, top=top)
        written = 0 if figures is None else write_figures(connected, name, figures, fmt, top=top, force=force)
    click.echo(f"report: {path}")
    if figures is not None:
        click.echo(f"{written} figures in {figures}")


def write_results(
    connected: Database, name: str, out: Path, compounds: str | None, reconstruction: Path | None, *, force: bool
) -> Path:
    """Write the results page and, in a folder of its name beside it, its figures; returns its path."""
    from scdm_flows.builders import build_all
    from scdm_flows.execution.fireworks import collect_failures
    from scdm_flows.query import CandidateDB
    from scdm_flows.report.reconstruction import read
    from scdm_flows.report.results import render
    from scdm_flows.report.study import gather

    measured = read(reconstruction)
    query = CandidateDB(connected)
    for campaign in filter(None, (name, compounds)):
        query.campaign(campaign)
        collect_failures(connected, campaign)
        build_all(connected, campaign)  # so that status would say the same
    commands = _commands(name, out, compounds, reconstruction)
    with progress_bar() as bar:
        study = gather(connected, name, compounds=compounds, reconstruction=measured, commands=commands, progress=bar)
        bar("page", 0, 1)
        page = render(study, folder=out.stem)
        bar("page", 1, 1)
    return write_page(page, out, "best-*.svg", force=force)


def _is_promoted(connected: Database, name: str) -> bool:
    from scdm_flows.query import CandidateDB

    return bool(CandidateDB(connected).campaign(name).config.get("generator", {}).get("kind") == "promoted")


def _promotion(query: CandidateDB, name: str) -> str:
    """The command that promoted a campaign; its gates, as they stand, but for the ones that are as by default.

    Of a loop's campaign that of the loop; a comment where the candidates were listed, which no command does.
    """
    made = stored_config(query.campaign(name).config)
    generator: Any = made.generator
    if generator.candidates is not None:
        loop = query.loop_of(name)
        listed = f"# promoted from a list of {len(generator.candidates)} candidates, which no command makes"
        return listed if loop is None else f"scdm campaign loop {loop.name}"
    engine = made.engine.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    gates = made.gate.model_dump(mode="json", exclude_defaults=True)
    words = [f"scdm campaign promote {generator.parent} --top {generator.top} --engine {made.engine.kind}"]
    words += [f"--where {shlex.quote(text)}" for text in written(generator.where)]
    numbers = {option: getattr(generator, option) for option in ("within", "draw", "core_hours")}
    numbers["node_hours"] = made.budget.node_hours
    words += [f"--{option.replace('_', '-')} {value}" for option, value in numbers.items() if value is not None]
    words += [f"--engine-option {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in engine.items()]
    words += [f"--gate {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in gates.items()]
    return " ".join([*words, f"--as {made.name}"])


def write_dft(
    connected: Database,
    name: str,
    out: Path,
    stability: tuple[str, ...],
    drawn: tuple[str, ...],
    validation: Path | None,
    *,
    force: bool,
) -> Path:
    """Write the DFT page of a promoted campaign and, beside it, its figures and records; returns its path."""
    from scdm_flows.builders import build_all
    from scdm_flows.builders.novelty import entry_of
    from scdm_flows.execution.fireworks import collect_failures
    from scdm_flows.query import CandidateDB
    from scdm_flows.report.dft_study import gather
    from scdm_flows.report.results_dft import render
    from scdm_models.datasets.known import KnownLayers

    layers = KnownLayers.load()
    query = CandidateDB(connected)
    commands = {}
    for campaign in (name, *stability, *drawn):
        commands[f"campaign {campaign}"] = _promotion(query, campaign)
        commands[f"the same, computed; it goes on where it was ({campaign})"] = f"scdm campaign run {campaign}"
        collect_failures(connected, campaign)
        build_all(connected, campaign)
    words = [f"--stability {one}" for one in stability] + [f"--drawn {one}" for one in drawn]
    if validation is not None:
        commands["the preset beside C2DB"] = f"scdm refs gpaw --data DIR -o {validation}"
        words.append(f"--validation {validation}")
    commands["page"] = " ".join([f"scdm campaign report {name} -o {out}", *words])
    with progress_bar() as bar:
        study = gather(
            connected,
            name,
            stability=stability,
            drawn=drawn,
            known=lambda formula: [entry_of(match) for match in layers.of_formula(formula)],
            validation=validation,
            commands=commands,
            progress=bar,
        )
        page = render(study, folder=out.stem)
    return write_page(page, out, "bands-*.svg", force=force)


def write_page(page: MarkdownReport, out: Path, of_candidates: str, *, force: bool) -> Path:
    """Write a page and its files; of_candidates: pictures that an earlier page may have had more of."""
    folder = out.with_suffix("")
    make_folder(folder)
    for old in sorted(folder.glob(of_candidates)) if force else []:
        if old.name not in page.pictures:
            old.unlink()
    for file, text in page.pictures.items():
        with output_file(folder / file, force=force) as handle:
            handle.write(text)
    with output_file(out, force=force) as handle:
        handle.write(page.text)
    return out


def _commands(name: str, out: Path, compounds: str | None, reconstruction: Path | None) -> dict[str, str]:
    """What makes the page, in order: words -> command; "page" makes the page itself."""
    from scdm_flows.cli.launchpad import launchpad_dir
    from scdm_flows.report.cards import PHONONS, card

    def run(campaign: str) -> str:
        shipped = (launchpad_dir() / "campaigns" / f"{campaign}.yaml").is_file()
        return f"scdm campaign run {'launchpad/campaigns/' if shipped else ''}{campaign}.yaml"

    found = {f"the campaign {name}": run(name), "its counts": f"scdm campaign status {name}"}
    if compounds is not None:
        found["the paper's compounds"] = run(compounds)
    distances = "models/cards/results.json" if reconstruction is None else str(reconstruction)
    measure = (
        "scdm cards results --data curated.jsonl.gz --work DIR"
        if reconstruction is None
        else f"scdm reconstruct --data curated.jsonl.gz -o {distances}"
    )
    found[f"distances of reconstruction, {distances}"] = measure
    found["errors of the energies"] = "scdm refs show"
    if (phonons := card(PHONONS)) is not None:
        found["errors of the phonons, models/cards/phonons.json"] = phonons["command"]
    page = f"scdm campaign report {name} -o {out}"
    page += f" --compounds {compounds}" if compounds else ""
    page += f" --reconstruction {reconstruction}" if reconstruction else ""
    found["page"] = page
    return found


def write_figures(connected: Database, name: str, folder: Path, fmt: str, *, top: int, force: bool) -> int:
    """Write a campaign's figures as files of their own; returns how many."""
    import matplotlib as mpl

    from scdm_flows.report import paper_figures
    from scdm_flows.report.figures import STYLE

    make_folder(folder)
    written = 0
    for title, figure in paper_figures(connected, name, top=top):
        with output_path(folder / f"{title}.{fmt}", force=force) as path, mpl.rc_context(STYLE):
            figure.savefig(path, dpi=300, bbox_inches="tight")
        written += 1
    return written


def write_report(connected: Database, name: str, out: Path | None, *, force: bool, top: int = 12) -> Path:
    """Write a campaign's report, to the data folder where ``out`` is None; returns its path."""
    from scdm_flows.campaigns.budget import in_words
    from scdm_flows.config.settings import get_settings
    from scdm_flows.execution.fireworks import jobs_in_words
    from scdm_flows.report import render

    limits = [*in_words(connected.mongo, name), *jobs_in_words(connected.mongo, name)]
    path = out or get_settings().data_dir / "reports" / f"{name}.html"
    if out is None:
        make_folder(path.parent)
    with progress_bar() as bar:
        html = render(connected, name, top=top, limits=limits, progress=lambda done, total: bar("report", done, total))
    with output_file(path, force=force) as handle:
        handle.write(html)
    return path
