"""``scdm campaign export``: a campaign out of the house, as an RO-Crate with an OPTIMADE file in it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from scdm_flows.cli.common import FORCE, JSON, database, echo_json
from scdm_flows.cli.files import output_folder
from scdm_flows.cli.progress import progress_bar


@click.command()
@click.argument("name")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--license", "licence", metavar="NAME", help="Licence of what is in it: SPDX name, or address.")
@click.option(
    "--author",
    "authors",
    multiple=True,
    metavar="NAME",
    help='Who made it, such as "Ada Lovelace <https://orcid.org/…>".',
)
@FORCE
@JSON
def export(name: str, out: Path, licence: str | None, authors: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Write campaign NAME as an RO-Crate (Workflow Run profile), to be published or handed on.

    Configuration, code versions, hashes of models, inputs, candidates and the way of each from its sample, through the
    campaigns that it was promoted from; and the candidates as OPTIMADE JSON lines, which optimade-maker serves.
    Passwords and folders are taken out. It is written as it was built last; the same campaign gives the same files.
    """
    if importlib.util.find_spec("rocrate") is None:  # younger than many an installation
        raise click.UsageError('rocrate is not installed; pip install "rocrate>=0.16,<0.17"')
    from scdm_flows.report.crate.export import METADATA, write_crate
    from scdm_flows.report.crate.rights import license_of, person
    from scdm_flows.server.optimade_file import OptimadeFile

    address, people = license_of(licence), [person(text) for text in authors]
    with (
        output_folder(out, METADATA, force=force) as folder,
        database(create=False, indexes=False) as connected,
        progress_bar() as bar,
    ):
        counts = write_crate(
            connected,
            name,
            folder,
            OptimadeFile(),
            license=address,
            authors=people,
            progress=lambda done, total: bar("candidates", done, total),
        )
    if as_json:
        echo_json({"campaign": name, "folder": str(out), **vars(counts)})
        return
    promoted = f", {counts.promoted_from} that they were promoted from" if counts.promoted_from else ""
    click.echo(f"wrote {counts.candidates} candidates, {counts.relaxed} relaxed structures{promoted} to {out}")
    for words in counts.missing:
        click.echo(f"not in it: {words}", err=True)
    if counts.without_entry:
        click.echo(
            f"without an OPTIMADE entry: {counts.without_entry} candidates; `scdm build` gives one to those with a "
            "structure that an earlier version built",
            err=True,
        )
    if address is None:
        click.echo("it states no licence, so nobody may use it; --license CC-BY-4.0 states one", err=True)
