"""``scdm refs fetch``, ``plan`` and ``compute``: the reference phases that a campaign's hulls need."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import JSON, database, echo_json, table
from scdm_flows.cli.files import check_output, output_path
from scdm_flows.cli.progress import progress_bar
from scdm_flows.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

    from scdm_flows.config import CampaignConfig
    from scdm_flows.flows.references import MissingPhase
    from scdm_flows.stores.database import Database

SHOWN = 40  # missing phases in a table
TARGET = click.argument("campaign")
STRUCTURES = click.option(
    "--structures",
    "sources",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Where crystals of bulk phases are: a structure file, a folder, a data set, or a file of `scdm refs fetch`.",
)
ELEMENTS = click.option("--elements", help="Elements, such as Mo,S, instead of those of the campaign's layers.")


@click.command()
@TARGET
@STRUCTURES
@ELEMENTS
@JSON
def plan(campaign: str, sources: tuple[Path, ...], elements: str | None, as_json: bool) -> None:
    """List the competing phases that the references of CAMPAIGN (a file or a stored one) lack, and what they cost.

    What belongs on a hull says the packaged table of competing phases. Core hours are good to a factor of three.
    """
    config = _config(campaign)
    missing = _missing(config, _systems(campaign, config, elements), sources, None)
    _show(config, missing, as_json)


@click.command()
@TARGET
@STRUCTURES
@ELEMENTS
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Reference file to write (.json); what it has is kept, else what the campaign's own has.",
)
@click.option("--submit", "on_launchpad", is_flag=True, help="Put the runs on the LaunchPad instead of running here.")
@click.option("--dry-run", is_flag=True, help="Only what would be computed, as `scdm refs plan` says it.")
@JSON
def compute(
    campaign: str,
    sources: tuple[Path, ...],
    elements: str | None,
    out: Path,
    on_launchpad: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Compute the missing phases by the engine of CAMPAIGN (relax, static) and write them beside the others.

    Interrupted, or with runs on the LaunchPad, the same command goes on and gathers what is finished by then. Its exit
    code is 0 when nothing is missing any more.
    """
    from scdm_flows.flows.references import computed_entry, known_references, merged, reference_flow
    from scdm_flows.thermo.materials_project import locked

    if not out.name.endswith(".json"):
        raise ConfigError(f"{out} must end in .json, as engine.references reads it; name it references.json")
    config = _config(campaign)
    systems = _systems(campaign, config, elements)
    missing = _missing(config, systems, sources, out)
    if dry_run:
        _show(config, missing, as_json)
        return
    check_output(out, force=True)
    ready = [phase for phase in missing if phase.structure is not None]
    flows = [reference_flow(config, phase) for phase in ready]  # refused before anything runs
    _refuse_what_cannot_run(config, ready)
    failed: dict[str, str] = {}
    with database() as connected:
        if on_launchpad:
            _submit(config, ready, flows, connected)
        else:
            failed = _run(ready, flows, connected.job_store)
        entries = [computed_entry(config, phase, connected.job_store) for phase in ready]
    found = [entry for entry in entries if entry is not None]
    if found:
        with locked(out):
            _, now = known_references(config, out)  # others may have added to it while this ran
            with output_path(out, force=True) as temporary:
                temporary.write_text(json.dumps(merged(config, now, found)) + "\n")
    left = len(missing) - len(found)
    if as_json:
        without = [phase.formula for phase in missing if phase.structure is None]
        echo_json(
            {"file": str(out), "computed": len(found), "failed": failed, "without_crystal": without, "left": left}
        )
    else:
        click.echo(f"{len(found)} phases are in {out}" if found else "no phase is computed yet")
        for formula, reason in failed.items():
            click.echo(f"{formula} failed: {reason}")
        for phase in missing:
            if phase.structure is None:
                click.echo(f"no crystal of {phase.formula} is known; give --structures one that has it")
        if left:
            click.echo(f"{left} are missing: energies above the hulls of their systems are lower bounds")
    if left:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("elements", required=False)
@click.option("--campaign", help="A campaign file or a stored campaign: the systems of its layers are fetched.")
@click.option("--largest", default=4, type=click.IntRange(1), show_default=True, help="Elements of the largest system.")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="JSON file (.json[.gz]); what it has is kept.",
)
@JSON
def fetch(elements: str | None, campaign: str | None, largest: int, out: Path, as_json: bool) -> None:
    """Fetch the Materials Project's phases of ELEMENTS, such as Mo,S, or of a campaign, for engine.references.

    Of a campaign only the systems that its layers are made of, however many elements all of them have. Interrupted, it
    goes on where it was. Give each campaign its own file, as a registered one refuses a file that has changed: for
    another campaign copy the file and extend the copy. Needs mp-api (extra 'mp') and a key in MP_API_KEY.
    """
    from scdm_flows.thermo.materials_project import fetch as get
    from scdm_flows.thermo.materials_project import needed_systems

    if (elements is None) is (campaign is None):
        raise ConfigError("give either ELEMENTS, such as Mo,S, or --campaign FILE_OR_NAME")
    if not out.name.endswith((".json", ".json.gz")):
        raise ConfigError(
            f"{out} must end in .json or .json.gz, as engine.references reads it; name it references.json"
        )
    config = None if campaign is None else _config(campaign)
    systems = needed_systems(_systems(campaign, config, elements), largest)
    with progress_bar() as report:
        found = get(systems, out, progress=lambda done, total: report("chemical systems", done, total))
    if as_json:
        echo_json({"file": str(out), **found})
        return
    click.echo(f"{out}: {found['entries']} entries of {found['systems']} chemical systems")
    for line in found["left_out"]:
        click.echo(f"left out: {line}")
    for name, reason in found["other_potentials"].items():
        click.echo(f"will be left out: {name}: {reason}")


def _config(campaign: str) -> CampaignConfig:
    from scdm_flows.config import load_config, stored_config
    from scdm_flows.query import CandidateDB

    if Path(campaign).suffix.lower() in (".yaml", ".yml"):
        return load_config(campaign)
    with database(create=False) as connected:
        stored = CandidateDB(connected).campaign(campaign)
    return stored_config(stored.config, origin=f"campaign {campaign}")


def _systems(campaign: str | None, config: CampaignConfig | None, elements: str | None) -> list[tuple[str, ...]]:
    """The chemical systems of a campaign's layers: as asked for, stored, given, or allowed."""
    from scdm_flows.generators import GENERATORS
    from scdm_flows.query import CandidateDB
    from scdm_flows.query.conditions import element_symbols

    if elements is not None:
        return [tuple(element_symbols(elements))]
    if campaign is None or config is None:
        raise ConfigError("neither elements nor a campaign are given")
    if Path(campaign).suffix.lower() not in (".yaml", ".yml"):
        with database(create=False) as connected:
            stored = CandidateDB(connected).columns(["chemsys"], campaign=campaign)["chemsys"]
        if len(stored):
            return sorted({tuple(str(name).split("-")) for name in stored if name})
    generator = GENERATORS[config.generator.kind]
    given = {tuple(sorted(str(e) for e in layer.composition)) for _, layer in generator.given(config.generator)}
    allowed = tuple(generator.elements(config.generator))
    if not given and not allowed:
        raise ConfigError(f"the elements of {campaign} are not known before it has run; give --elements, such as Mo,S")
    return sorted(given) or [allowed]


def _missing(
    config: CampaignConfig, systems: Iterable[tuple[str, ...]], sources: Iterable[Path], out: Path | None
) -> list[MissingPhase]:
    """What the references lack."""
    from scdm_flows.flows.references import known_references, missing_references
    from scdm_flows.thermo.crystals import bulk_structures

    known, _ = known_references(config, out)
    return missing_references(config, systems, bulk_structures(sources), known)


def _refuse_what_cannot_run(config: CampaignConfig, phases: list[MissingPhase]) -> None:
    from scdm_flows.engines import engine_of

    elements = sorted({str(e) for phase in phases if phase.structure is not None for e in phase.structure.composition})
    told = engine_of(config.engine).bulk_problems(elements) if phases else []
    if told:
        error = EngineError("; ".join(told))
        error.exit_code = 2
        raise error


def _run(phases: list[MissingPhase], flows: list[Any], store: JobStore) -> dict[str, str]:
    """Run the flows here; formula -> why it failed."""
    from scdm_flows.execution.jobs import execute, quiet

    quiet()
    failed: dict[str, str] = {}
    with progress_bar() as report:
        for done, (phase, flow) in enumerate(zip(phases, flows, strict=True)):
            report("relax, static", done, len(flows))
            for failure in execute(flow, store):
                failed.setdefault(phase.formula, f"{failure.stage}: {failure.error}")
        report("relax, static", len(flows), len(flows))
    return failed


def _submit(config: CampaignConfig, phases: list[MissingPhase], flows: list[Any], connected: Database) -> None:
    from scdm_flows.execution.fireworks.firetask import workflow_of
    from scdm_flows.execution.fireworks.launchpad import launchpad_of
    from scdm_flows.execution.fireworks.workflows import insert
    from scdm_flows.flows.references import identity_of, phase_id

    name = identity_of(config).name
    workflows = [
        workflow_of(flow, campaign=name, candidate_id=phase_id(phase))
        for phase, flow in zip(phases, flows, strict=True)
    ]
    added = insert(launchpad_of(connected), workflows)
    click.echo(f"put {added} workflows on the LaunchPad ({len(workflows) - added} were there)", err=True)


def _show(config: CampaignConfig, missing: list[MissingPhase], as_json: bool) -> None:
    hours = sum(phase.core_hours or 0.0 for phase in missing)
    if as_json:
        rows = [{"formula": p.formula, "from": p.name, "core_hours": p.core_hours} for p in missing]
        echo_json({"missing": rows, "core_hours": hours})
        return
    if not missing:
        click.echo("nothing is missing")
        return
    shown = [
        [p.formula, p.name or "no crystal given", "–" if p.core_hours is None else f"{p.core_hours:.2g}"]
        for p in missing
    ]
    table("Competing phases that the references lack", ["formula", "crystal", "core hours"], shown[:SHOWN])
    if len(missing) > SHOWN:
        click.echo(f"and {len(missing) - SHOWN} more (--json shows all)")
    known = sum(p.structure is not None for p in missing)
    click.echo(f"{len(missing)} are missing, {known} of them with a crystal: {hours:.2g} core hours, to a factor of 3")
