"""``scdm campaign discoveries``: the layers that DFT finds new and stable, a page and files for each."""

from __future__ import annotations

from pathlib import Path

import click

from scdm_flows.cli.common import FORCE, database
from scdm_flows.cli.files import output_folder


@click.command()
@click.argument("names", nargs=-1)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@click.option(
    "--max-e-above-hull",
    "below",
    type=float,
    help="Largest energy above hull of a discovery by DFT, eV/atom.  [default: 0.1]",
)
@FORCE
def discoveries(names: tuple[str, ...], out: Path, below: float | None, force: bool) -> None:
    """Write the discoveries among the candidates of campaigns NAMES, which DFT has computed, to a folder.

    A discovery is new after relaxation, of a formula that no bulk crystal has, at most 0.1 eV/atom above the hull, and
    dynamically stable, without an imaginary mode between the q-points of its supercell, all by DFT; its page names the
    known layers of its formula, and the list says of every other candidate what it lacks. With --force a list that is
    there is made anew: layers of other campaigns stay in it, those of campaigns NAMES are brought up to date; without
    NAMES its pages are only written again.
    """
    from scdm_flows.analysis.discovery import BELOW_EV
    from scdm_flows.builders import build_all
    from scdm_flows.builders.assemble import without_dots
    from scdm_flows.builders.novelty import entry_of
    from scdm_flows.errors import OutputError
    from scdm_flows.execution.fireworks import collect_failures
    from scdm_flows.report.discoveries import INDEX, OTHERS, gather, read, render, together
    from scdm_flows.stores.known_sets import known_layers

    there = out / OTHERS
    if there.exists() and not force:
        raise click.UsageError(f"{out} holds a list; give another folder, or --force to bring it up to date")
    if not names and not there.exists():
        raise click.UsageError("name the campaigns whose candidates DFT has computed")
    below = BELOW_EV if below is None else below
    earlier = {path.name: path.read_text() for path in [*out.glob("*.json"), there]} if there.exists() else {}
    try:
        known = read(earlier)
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{out} holds a list that cannot be read ({error}); give another folder") from error
    now = []
    if names:
        with database(create=False) as connected:
            for name in names:
                collect_failures(connected, name)
                build_all(connected, name)
            now = gather(connected, names)
    considered = together(known, now)
    campaigns = sorted({one.candidate.campaign for one in considered})
    words = "" if below == BELOW_EV else f" --max-e-above-hull {below:g}"
    command = f"scdm campaign discoveries {' '.join(campaigns)} -o {out}{words}"
    layers = known_layers()
    formulas = {one.candidate.formula for one in considered}
    known_of = {formula: [entry_of(match) for match in layers.of_formula(formula)] for formula in formulas}
    files = render(considered, known_of, command, below, (layers.version, without_dots(layers.sources)))
    with output_folder(out, OTHERS, force=force) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)
    found = sum(name.endswith(".json") for name in files)
    click.echo(f"{found} of {len(considered)} layers are discoveries: {out / INDEX}")
