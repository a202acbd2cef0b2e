"""``scdm db``: the embedded database."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from scdm_flows.cli.common import echo_json
from scdm_flows.settings import get_settings, masked


def _server() -> Any:
    from scdm_flows.stores.embedded import EmbeddedServer

    settings = get_settings()
    if settings.mongo_uri is not None:
        raise click.UsageError(f"SCDM_MONGO_URI points at {masked(settings.mongo_uri)}; the embedded database is not in use")
    return EmbeddedServer(settings.data_dir, settings.port)


@click.group()
def db() -> None:
    """Start, stop and look at the embedded database."""


@db.command()
def start() -> None:
    """Start the server (other commands start it when they need it)."""
    status = _server().start()
    click.echo(f"running on port {status.port}, storage {status.storage}")


@db.command()
def stop() -> None:
    """Stop the server; what is stored stays."""
    click.echo("stopped" if _server().stop() else "was not running")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def status(as_json: bool) -> None:
    """Whether the server runs, where, and on which port."""
    state = _server().status()
    if as_json:
        echo_json(asdict(state))
    else:
        where = f"running on port {state.port} (process {state.pid})" if state.running else "not running"
        click.echo(f"{where}, storage {state.storage}")
