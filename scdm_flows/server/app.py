"""One application for everything that is served: OPTIMADE below ``/optimade``, pages at ``/``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pymongo
from a2wsgi import WSGIMiddleware
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route

from scdm_flows.server.optimade_app import optimade_app
from scdm_flows.server.pages import pages_app
from scdm_flows.server.security import DATABASE_SECONDS, LOOPBACK, App, ReadOnly, Receive, Scope, Send, name_of

if TYPE_CHECKING:
    from a2wsgi.wsgi_typing import Environ, StartResponse, WSGIApp
    from starlette.requests import Request

    from scdm_flows.stores.database import Database

_PAGE_THREADS = 10


def make_app(database: Database, *, hosts: Sequence[str] | None = LOOPBACK, names: Sequence[str] = ()) -> Starlette:
    """The ASGI application over a connected database, which is only read.

    Parameters
    ----------
    hosts
        Names that requests may address the server by. None: any, and pages of other sites may read OPTIMADE (CORS), as
        its clients in browsers need; on loopback they may not.
    names
        Others that it may be addressed by, of a proxy: by these, pages of other sites may read OPTIMADE too.
    """
    optimade: Any = optimade_app(database)
    shared: Any = CORSMiddleware(optimade, allow_origins=["*"], allow_methods=["GET", "HEAD", "OPTIONS"])
    if hosts is None:
        optimade = shared
    else:
        optimade, hosts = _by_name(names, shared, optimade), [*hosts, *names]
    flask: Any = pages_app(database)
    pages: Any = WSGIMiddleware(_within_limits(flask), workers=_PAGE_THREADS)
    return Starlette(
        routes=[Route("/optimade", _to_info), Mount("/optimade", optimade), Mount("/", pages)],
        middleware=[Middleware(ReadOnly, hosts=hosts)],
    )


def _by_name(names: Sequence[str], named: App, other: App) -> App:
    """The first application for requests to one of these names, the other for all others."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        app = named if name_of(Headers(scope=scope).get("host", "")) in names else other
        await app(scope, receive, send)

    return answer


def _within_limits(app: WSGIApp) -> WSGIApp:
    """The application, in which the answer and each further piece of it wait ``DATABASE_SECONDS`` for the database."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        with pymongo.timeout(DATABASE_SECONDS):
            pieces = app(environ, start_response)
        try:
            left = iter(pieces)
            while True:
                with pymongo.timeout(DATABASE_SECONDS):
                    piece = next(left, None)
                if piece is None:
                    return
                yield piece
        finally:
            getattr(pieces, "close", lambda: None)()

    return answer


async def _to_info(request: Request) -> RedirectResponse:
    return RedirectResponse("/optimade/v1/info")
