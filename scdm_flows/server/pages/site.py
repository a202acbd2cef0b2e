"""The WSGI application of the pages: which address shows what, downloads, headers. Reads only.

What is wrong with a question or with the database is said on the page; the next request tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from flask import Response, request
from werkzeug.exceptions import HTTPException

from scdm_flows.errors import CampaignError, ScdmError
from scdm_flows.query import CandidateDB
from scdm_flows.server.pages import browse, campaign, candidate, comparison, discoveries, files, loops, parts

if TYPE_CHECKING:
    from flask import Flask

    from scdm_flows.stores.database import Database

logger = logging.getLogger(__name__)

MOST_BYTES = 1_000_000  # of a request
MENU = {
    "/": "Candidates",
    "/campaigns": "Campaigns",
    "/loops": "Loops",
    "/discoveries": "Discoveries",
    "/compare": "SCDM and UnSCDM",
}
INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<title>{%title%}</title>
{%favicon%}
{%css%}
</head>
<body>
<noscript>These pages need JavaScript; the same data are at /optimade and in `scdm candidates`.</noscript>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>
"""
# plotly and the grid set styles and draw pictures from data of their own; nothing comes from another server
POLICY = (
    "default-src 'self'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def pages_app(database: Database) -> Flask:
    """The pages of a connected database, as a WSGI application for the root of a server."""
    query = CandidateDB(database)
    app = Dash(
        __name__,
        title="scdm-flows",
        update_title="",
        index_string=INDEX,
        serve_locally=True,
        suppress_callback_exceptions=True,  # the parts of a page come with the page
        use_pages=False,
        enable_mcp=False,
        add_log_handler=False,
        on_error=_failed,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.layout = _frame
    browse.register(app, query)
    campaign.register(app, query)
    loops.register(app, query)
    comparison.register(app, query)
    _routes(app, query)
    server: Flask = app.server
    files.register(server, query)
    policy = POLICY.format(hashes=" ".join(app.csp_hashes()))

    def headers(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "same-origin")
        return response

    def refused(error: Exception) -> Any:
        if isinstance(error, HTTPException):
            return error
        if request.path.endswith("/_dash-update-component"):  # failures of ours end in ``_failed``, not here
            logger.info("not a question of these pages: %s", error)
            return Response("this is no question that the pages ask\n", 400, mimetype="text/plain")
        logger.error("%s failed", request.path, exc_info=error)
        return Response("this page failed; the server's log says why\n", 500, mimetype="text/plain")

    server.register_error_handler(Exception, refused)
    server.after_request(headers)
    server.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    return server


def _failed(error: Exception) -> None:
    """A part of a page that fails stays as it is, and the log says why."""
    logger.error("a callback failed", exc_info=error)


def _frame() -> list[Any]:
    """What surrounds every page."""
    links = [dcc.Link(name, href=path, className="menu") for path, name in MENU.items()]
    return [
        html.A("to the content", href="#content", className="skip"),
        dcc.Location(id="place"),
        html.Header(html.Nav([html.Span("scdm-flows", className="brand"), *links], **parts.aria(label="pages"))),
        html.Main("…", id="content", tabIndex="-1"),
        dcc.Store(id="titled"),
    ]


def _routes(app: Dash, query: CandidateDB) -> None:
    app.clientside_callback(ClientsideFunction("pages", "title"), Output("titled", "data"), Input("place", "pathname"))

    @app.callback(Output("content", "children"), Input("place", "pathname"), State("place", "search"))
    def show(pathname: str | None, search: str | None) -> Any:
        return content(query, pathname, search)


def content(query: CandidateDB, pathname: str | None, search: str | None) -> Any:
    """The page at an address; a notice where there is none or it cannot be shown."""
    parts_of = [unquote(part) for part in (pathname or "/").split("/") if part]
    page: Callable[[], Any]
    match parts_of:
        case []:
            page = partial(browse.page, query, search)
        case ["candidates", name]:
            page = partial(candidate.page, query, name)
        case ["candidates"]:
            page = partial(browse.page, query, search)
        case ["campaigns"]:
            page = partial(campaign.overview, query)
        case ["campaigns", name]:
            page = partial(campaign.page, query, name)
        case ["loops"]:
            page = partial(loops.overview, query)
        case ["loops", name]:
            page = partial(loops.page, query, name)
        case ["discoveries"]:
            page = partial(discoveries.page, query)
        case ["compare"]:
            page = partial(comparison.page, query)
        case _:
            lines = ["There is nothing at this address.", dcc.Link("all candidates", href="/")]
            return [html.H1("Not found"), parts.notice("No such page.", *lines)]
    try:
        return page()
    except CampaignError as error:
        return [html.H1("Not found"), parts.error_notice(error)]
    except ScdmError as error:
        again = html.A("try again", href=(pathname or "/") + (search or ""))
        return [html.H1("Not now"), parts.error_notice(error), html.P(again)]
    except Exception:  # a defect of ours; its details are for the log, not for the visitor
        logger.exception("the page %r failed", pathname)
        return [html.H1("Not now"), parts.notice("This page failed.", "The server's log says why.")]
