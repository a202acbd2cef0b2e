"""``scdm db``: the embedded server; indexes, backups and checks of any database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scdm_flows.cli.common import FAILED, JSON, database, echo_json, table
from scdm_flows.cli.progress import progress_bar

if TYPE_CHECKING:
    from scdm_flows.stores.blobs import Room
    from scdm_flows.stores.database import Database
    from scdm_flows.stores.embedded import EmbeddedServer

_MOST_ROWS = 50  # of a table; --json has all


def _server() -> EmbeddedServer:
    from scdm_flows.config.settings import get_settings, masked
    from scdm_flows.stores.embedded import EmbeddedServer

    settings = get_settings()
    if settings.mongo_uri is not None:
        raise click.UsageError(
            f"SCDM_MONGO_URI names {masked(settings.mongo_uri)}, so there is no embedded database; unset it to use one"
        )
    return EmbeddedServer(settings.data_dir, settings.explicit_port)


@click.group()
def db() -> None:
    """Start and stop the embedded database; index, save, restore and check any database.

    Commands that need the embedded server start it, and it stays up for the next one. It listens on 127.0.0.1 only.
    """


@db.command()
@JSON
def start(as_json: bool) -> None:
    """Start the server unless it runs."""
    status = _server().start()
    if as_json:
        echo_json(asdict(status))
    else:
        click.echo(f"running on port {status.port} (process {status.pid}), storage {status.storage}")


@db.command()
def stop() -> None:
    """Stop the server; what is stored stays."""
    click.echo("stopped" if _server().stop() else "was not running")


@db.command()
@JSON
def status(as_json: bool) -> None:
    """Whether the server runs, where, and on which port."""
    from scdm_flows.stores.embedded import PANICKED

    state = _server().status()
    if as_json:
        echo_json(asdict(state))
        return
    where = f"running on port {state.port} (process {state.pid})" if state.running else "not running"
    click.echo(f"{where}, storage {state.storage}")
    if state.panicked:
        click.echo(f"it neither reads nor writes: {PANICKED}")


@contextmanager
def _without_new_indexes(*, create: bool = False) -> Iterator[Database]:
    """The connected database; indexes that are missing are not created."""
    with database(create=create, indexes=False) as connected:
        yield connected


@db.command()
@click.option("--dry-run", is_flag=True, help="Only say what is missing.")
@JSON
def index(dry_run: bool, as_json: bool) -> None:
    """Create missing indexes; those with other options are made anew."""
    from scdm_flows.stores.indexes import ensure_or_raise, index_problems

    with _without_new_indexes() as connected:
        problems = index_problems(connected)
        if not dry_run:
            ensure_or_raise(connected)
    if as_json:
        echo_json({"indexes": [{"index": str(t.index), "state": t.state} for t in problems], "dry_run": dry_run})
        return
    for problem in problems:
        click.echo(f"{'would create' if dry_run else 'created'} {problem.index}")
    if not problems:
        click.echo("every index is there")


@db.command()
@JSON
def explain(as_json: bool) -> None:
    """Which index serves each filter and each sort of candidates, and what a first page reads.

    Each filter is asked for alone, with a value that occurs; each sort with all candidates. The embedded server reads
    all that matches before it cuts a page.
    """
    from scdm_flows.query.explain import plans

    with database(create=False) as connected:
        found = list(plans(connected))
    if as_json:
        echo_json([asdict(plan) for plan in found])
        return
    rows = [[p.asked, p.declared or "none", p.used or "none", p.examined, p.returned] for p in found]
    table("scdm db explain", ["question", "index made for it", "index used", "documents read", "answered"], rows)


@db.command()
@click.argument("path", type=click.Path(path_type=Path))
@JSON
def backup(path: Path, as_json: bool) -> None:
    """Save the whole database in PATH: a new folder, or a file that ends in .tar.

    Documents, large objects, the job queue and the indexes, as `mongodump --gzip` writes them, with a manifest of
    counts and checksums. It may run while a campaign does; what is stored meanwhile may or may not be in it.
    """
    from scdm_flows.stores.backup import backup as save

    with _without_new_indexes() as connected, progress_bar() as report:
        manifest = save(connected, path, report)
    _show_manifest(
        f"saved in {path}", manifest.collections, as_json=as_json, size=sum(m.bytes for m in manifest.members)
    )


@db.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the documents of collections that the backup holds, too.")
@click.option("--dry-run", is_flag=True, help="Only check the backup against its manifest.")
@JSON
def restore(path: Path, force: bool, dry_run: bool, as_json: bool) -> None:
    """Store what the backup PATH holds; the database must be empty, unless --force.

    The whole backup is checked before anything is written. After an interruption the same command goes on.
    """
    from scdm_flows.stores.archive import Archive
    from scdm_flows.stores.backup import restore as load

    if dry_run:
        archive = Archive(path)
        archive.verify()
        manifest = archive.manifest
        archive.close()
    else:
        with _without_new_indexes(create=True) as connected, progress_bar() as report:
            manifest = load(connected, path, force=force, report=report)
            connected.ensure_indexes()
    said = f"{path} is whole" if dry_run else f"restored from {path}"
    _show_manifest(said, manifest.collections, as_json=as_json, size=sum(m.bytes for m in manifest.members))


def _show_manifest(what: str, collections: dict[str, int], *, as_json: bool, size: int) -> None:
    if as_json:
        echo_json({"collections": collections, "bytes": size})
    else:
        table(f"{what} ({size / 1e6:.1f} MB)", ["collection", "documents"], [list(x) for x in collections.items()])


@db.command()
@JSON
def size(as_json: bool) -> None:
    """How much room the large objects of job outputs take, by kind.

    Structures of a generation, force constants, band structures and densities of states of VASP.
    """
    from scdm_flows.stores.blobs import rooms

    with _without_new_indexes() as connected:
        found = rooms(connected)
    _show_rooms("Large objects", found, as_json=as_json)


@db.command()
@click.option(
    "--set-aside-days",
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Also large objects of outputs that were set aside longer ago; the outputs themselves stay.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing, and say what would be.")
@JSON
def prune(set_aside_days: float | None, dry_run: bool, as_json: bool) -> None:
    """Remove large objects that no job output names; they are left by kills and removals.

    Those that an output names stay as long as it does, those of outputs set aside unless --set-aside-days is given.
    """
    from scdm_flows.stores.blobs import prune as let_go

    with _without_new_indexes() as connected:
        found = let_go(connected, set_aside_days, dry_run=dry_run)
    _show_rooms("Would be removed" if dry_run else "Removed", found, as_json=as_json)


def _show_rooms(title: str, found: list[Room], *, as_json: bool) -> None:
    if as_json:
        echo_json([asdict(room) for room in found])
        return
    rows = [[room.kind, room.belongs, room.objects, f"{room.bytes / 1e6:.2f}"] for room in found]
    table(f"{title}: {sum(room.bytes for room in found) / 1e6:.2f} MB", ["kind", "belongs", "objects", "MB"], rows)


@db.command()
@click.option("--repair", is_flag=True, help="Mend what can be mended without losing anything.")
@JSON
def check(repair: bool, as_json: bool) -> None:
    """Look for damage: large objects, duplicates, schemas, campaigns, clocks, indexes.

    --repair creates missing indexes, removes all but one of documents with the same key and content, and sets times
    in the future to now. Exit code 1 if something is wrong and was not repaired.
    """
    from scdm_flows.stores.check import check as findings_of

    with _without_new_indexes() as connected:
        findings = list(findings_of(connected, repair=repair))
    wrong = any(f.wrong and not f.repaired for f in findings)
    if as_json:
        echo_json({"ok": not wrong, "findings": [asdict(f) for f in findings]})
    else:
        rows = [[f.rule, f.collection, f.id, f.detail, "repaired" if f.repaired else f.remedy] for f in findings]
        table("scdm db check", ["rule", "collection", "document", "found", "what to do"], rows[:_MOST_ROWS])
        if len(rows) > _MOST_ROWS:
            counts = ", ".join(f"{rule}: {n}" for rule, n in Counter(f.rule for f in findings).items())
            click.echo(f"{len(rows) - _MOST_ROWS} more, see --json ({counts})")
        click.echo("something is wrong" if wrong else "nothing is wrong")
    if wrong:
        raise click.exceptions.Exit(FAILED)


@db.command()
@click.option("--dry-run", is_flag=True, help="Change nothing, and say what would be.")
@JSON
def migrate(dry_run: bool, as_json: bool) -> None:
    """Bring all documents to the current versions of their schemas.

    Reading does the same to each document, so nothing has to wait for this. Save the database first: an older
    scdm-flows does not read the new versions. After an interruption the same command goes on. Exit code 1 if a
    document could not be brought to the current version; it is left as it is.
    """
    from scdm_flows.stores.upgrade import upgrade

    with _without_new_indexes() as connected:
        done = upgrade(connected, dry_run=dry_run)
    if as_json:
        echo_json({name: asdict(result) for name, result in done.items()})
    else:
        rows = [[name, r.changed, r.newer, len(r.problems)] for name, r in done.items()]
        columns = ["collection", "would change" if dry_run else "changed", "of a later version", "not possible"]
        table("scdm db migrate", columns, rows)
        for name, result in done.items():
            for document, why in list(result.problems.items())[:_MOST_ROWS]:
                click.echo(f"{name} {document}: {why}", err=True)
    if any(r.problems for r in done.values()):
        raise click.exceptions.Exit(FAILED)
