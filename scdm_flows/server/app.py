"""One application for everything that is served: OPTIMADE below ``/optimade``, pages at ``/``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from a2wsgi import WSGIMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route

from scdm_flows.server.optimade_app import optimade_app
from scdm_flows.server.pages import pages_app
from scdm_flows.server.security import LOOPBACK, ReadOnly

if TYPE_CHECKING:
    from starlette.requests import Request

    from scdm_flows.stores.database import Database

_PAGE_THREADS = 10


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
    flask: Any = pages_app(database)
    pages: Any = WSGIMiddleware(flask, workers=_PAGE_THREADS)
    return Starlette(
        routes=[Route("/optimade", _to_info), Mount("/optimade", optimade), Mount("/", pages)],
        middleware=[Middleware(ReadOnly, hosts=hosts)],
    )


async def _to_info(request: Request) -> RedirectResponse:
    return RedirectResponse("/optimade/v1/info")
