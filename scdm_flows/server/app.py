"""One application for everything that is served: OPTIMADE below ``/optimade``, pages at ``/``."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from a2wsgi import WSGIMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Mount, Route

from scdm_flows.server.optimade_app import optimade_app
from scdm_flows.server.security import LOOPBACK, ReadOnly

if TYPE_CHECKING:
    from starlette.requests import Request

    from scdm_flows.stores.database import Database

_INDEX = """<!doctype html><html lang="en"><meta charset="utf-8"><title>scdm-flows</title>
<h1>scdm-flows</h1><p>Candidates by the OPTIMADE specification: <a href="/optimade/v1/info">/optimade/v1/info</a>,
<a href="/optimade/v1/structures">/optimade/v1/structures</a>.</p></html>"""


def make_app(database: Database, *, hosts: Sequence[str] | None = LOOPBACK) -> Starlette:
    """The ASGI application over a connected database, which is only read.

    Parameters
    ----------
    hosts
        Names that requests may address the server by. None: any, and pages of other sites may read OPTIMADE (CORS), as
        its clients in browsers need; on loopback they may not.
    """
    optimade: Any = optimade_app(database)
    if hosts is None:
        optimade = CORSMiddleware(optimade, allow_origins=["*"], allow_methods=["GET", "HEAD", "OPTIONS"])
    return Starlette(
        routes=[Route("/optimade", _to_info), Mount("/optimade", optimade), *_pages(database)],
        middleware=[Middleware(ReadOnly, hosts=hosts)],
    )


def _pages(database: Database) -> list[Any]:
    """Routes of the pages."""
    if importlib.util.find_spec("scdm_flows.server.pages") is None:
        return [Route("/", _index)]
    pages = importlib.import_module("scdm_flows.server.pages").pages_app(database)
    bridge: Any = WSGIMiddleware(pages, workers=_PAGE_THREADS)
    return [Mount("/", bridge)]


_PAGE_THREADS = 10


async def _to_info(request: Request) -> RedirectResponse:
    return RedirectResponse("/optimade/v1/info")


async def _index(request: Request) -> HTMLResponse:
    return HTMLResponse(_INDEX)
