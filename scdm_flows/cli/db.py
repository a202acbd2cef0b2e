"""``scdm db``: the embedded database."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from scdm_flows.cli.common import JSON, echo_json

if TYPE_CHECKING:
    from scdm_flows.stores.embedded import EmbeddedServer


def _server() -> EmbeddedServer:
    from scdm_flows.settings import get_settings, masked
    from scdm_flows.stores.embedded import EmbeddedServer

    settings = get_settings()
    if settings.mongo_uri is not None:
        raise click.UsageError(
            f"SCDM_MONGO_URI names {masked(settings.mongo_uri)}, so there is no embedded database; unset it to use one"
        )
    return EmbeddedServer(settings.data_dir, settings.explicit_port)


@click.group()
def db() -> None:
    """Start, stop and look at the embedded database.

    Commands that need it start it, and it stays up for the next one. It listens on 127.0.0.1 only.
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
    state = _server().status()
    if as_json:
        echo_json(asdict(state))
        return
    where = f"running on port {state.port} (process {state.pid})" if state.running else "not running"
    click.echo(f"{where}, storage {state.storage}")
