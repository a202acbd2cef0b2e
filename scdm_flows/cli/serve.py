"""``scdm serve``: OPTIMADE and web pages over the candidates."""

from __future__ import annotations

import logging
import re
from contextlib import suppress

import click

from scdm_flows.cli.common import database

DEFAULT_PORT = 8765
_CONNECTIONS = 200  # at a time; more are told to come back
_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


def _names(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Names of hosts, in lower case as requests are compared with them."""
    for value in values:
        if re.fullmatch(r"[\w-]+(\.[\w-]+)*", value, re.ASCII) is None:
            raise click.UsageError(
                f"--name {value!r} must be the name of a host alone; write it like materials.example.org", ctx
            )
    return tuple(value.lower() for value in values)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    callback=_names,
    help="Name of a proxy on this machine, to answer to as well; may be repeated. Other addresses answer to any.",
)
def serve(host: str, port: int, names: tuple[str, ...]) -> None:
    """Serve the candidates: web pages, and OPTIMADE at /optimade.

    It only reads, and has no login: on another address than 127.0.0.1, and through a proxy, everybody who reaches it
    can read everything.
    """
    try:
        import uvicorn

        from scdm_flows.server.app import make_app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("scdm_flows"):
            raise
        raise click.UsageError(
            f'{error.name} is not installed; pip install "scdm-flows[server]" installs what `scdm serve` needs'
        ) from None
    from scdm_flows.server.listening import is_loopback, listen
    from scdm_flows.server.security import LOOPBACK

    local = is_loopback(host)
    with listen(host, port) as socket, database(create=False, indexes=False) as connected:
        app = make_app(connected, hosts=[*LOOPBACK, host] if local else None, names=names)
        number = socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"serving http://{shown}:{number}/ and http://{shown}:{number}/optimade/v1/ (stop with Ctrl-C)")
        if not local:
            click.echo(f"everybody who reaches {host} can read the candidates; there is no login", err=True)
        elif names:
            click.echo(
                f"everybody who reaches {' or '.join(names)} can read the candidates; there is no login", err=True
            )
        for logger in _LOGGERS:
            logging.getLogger(logger).setLevel(logging.WARNING)
        config = uvicorn.Config(
            app,
            log_config=None,  # no line for each request: addresses may hold what people search for
            access_log=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=5,
            server_header=False,
            ws="none",
        )
        with suppress(KeyboardInterrupt):  # the way it is meant to end; open answers have been sent by then
            uvicorn.Server(config).run(sockets=[socket])
        click.echo("stopped")
