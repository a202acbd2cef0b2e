"""The OPTIMADE application: optimade-python-tools' routes over our collections, without anything that writes.

optimade's own ``create_app`` opens a database of its own, writes log files and serves pages that load scripts from the
network; so its routers, collections and models are put together here instead.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import mongomock
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from pydantic import AnyHttpUrl
from starlette.exceptions import HTTPException

from scdm_flows.errors import StoreError
from scdm_flows.server.security import UNAVAILABLE

# before optimade.server is imported: it would open /var/log/optimade, and print to standard output
logging.getLogger("optimade").addHandler(logging.NullHandler())

from optimade import __api_version__  # noqa: E402
from optimade.exceptions import BadRequest, NotFound, OptimadeHTTPException, VersionNotSupported  # noqa: E402
from optimade.models import (  # noqa: E402
    EntryResource,
    LinksResource,
    OptimadeError,
    ReferenceResource,
    ResponseMeta,
    StructureResource,
)
from optimade.server.exception_handlers import general_exception, http_exception_handler  # noqa: E402
from optimade.server.mappers import BaseResourceMapper, LinksMapper, ReferenceMapper  # noqa: E402
from optimade.server.middleware import AddWarnings, EnsureQueryParamIntegrity, HandleApiHint  # noqa: E402
from optimade.server.routers import info, links, references, structures, versions  # noqa: E402
from optimade.server.routers.utils import BASE_URL_PREFIXES, JSONAPIResponse  # noqa: E402

from scdm_flows.server.entries import Entries  # noqa: E402
from scdm_flows.server.properties import (  # noqa: E402
    INSIDE,
    PAGE_LIMIT_MAX,
    CandidateMapper,
    optimade_config,
    sortable,
)
from scdm_flows.server.records import LINKS, REFERENCES  # noqa: E402

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

logger = logging.getLogger(__name__)

_VERSION = re.compile(r"^/(v[0-9]+(\.[0-9]+){0,2})(/|$)")


def optimade_app(database: Database) -> FastAPI:
    """The application, to be mounted below any path. database: connected; it is only read."""
    config = optimade_config()
    app = FastAPI(
        title="OPTIMADE API of scdm-flows",
        description="Generated two-dimensional crystals by the OPTIMADE specification.",
        version=__api_version__,
        docs_url=None,  # these pages would load their scripts from the network
        redoc_url=None,
        openapi_url=f"{BASE_URL_PREFIXES['major']}/extensions/openapi.json",
        default_response_class=JSONAPIResponse,
        separate_input_output_schemas=False,
        dependencies=[Depends(_check_request)],
    )
    app.state.config = config
    app.state.base_resource_mapper = BaseResourceMapper(config)
    app.state.entry_collections = {
        "links": _records(LinksResource, LinksMapper(config), LINKS),
        "references": _records(ReferenceResource, ReferenceMapper(config), REFERENCES),
        "structures": Entries(
            database.mongo["candidates"],
            StructureResource,
            CandidateMapper(config),
            config,
            inside=INSIDE,
            sortable=sortable(),
            uri=database.uri,
        ),
    }
    app.add_middleware(AddWarnings, config=config)
    for prefix in ("", *BASE_URL_PREFIXES.values()):
        for module in (info, links, references, structures):
            for route in module.router.routes:
                assert isinstance(route, APIRoute)
                _add(app, prefix, route)
    app.include_router(versions.router)
    app.add_api_route("/{rest:path}", _no_such_path, include_in_schema=False)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


def _records(kind: type[EntryResource], mapper: BaseResourceMapper, records: list[dict[str, Any]]) -> Entries:
    """Entries that are part of the program, in a small database of their own in memory."""
    collection: Any = mongomock.MongoClient(tz_aware=True)["optimade"][mapper.ENDPOINT]
    collection.insert_many([{"type": mapper.ENDPOINT, **record} for record in records])
    return Entries(collection, kind, mapper, mapper.config)


def _add(app: FastAPI, prefix: str, route: APIRoute) -> None:
    """One of optimade's routes, with what ``_corrected`` does to its answer."""
    app.add_api_route(
        prefix + route.path,
        _corrected(route.endpoint),
        response_model=route.response_model,
        response_model_exclude_unset=True,
        tags=route.tags,
        responses=route.responses,
        include_in_schema=not prefix,
    )


def _corrected(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """optimade's endpoint for an application that is mounted below a path and serves many requests at a time."""

    @functools.wraps(endpoint)
    def answer(*arguments: Any, **named: Any) -> Any:
        request: Request = named["request"]
        if getattr(named.get("params"), "page_limit", None) == 0:
            raise BadRequest(f"page_limit=0 asks for no entries; ask for 1 to {PAGE_LIMIT_MAX}")
        found = endpoint(*arguments, **named)
        whole = isinstance(found, Mapping)
        meta: ResponseMeta = found["meta"] if whole else found.meta
        if meta.query is not None:
            meta.query.representation = _below(request, meta.query.representation)
        meta.time_stamp = datetime.now(UTC)  # optimade's is local, without saying so
        if whole:
            return found
        for version in getattr(getattr(found.data, "attributes", None), "available_api_versions", ()):
            root = f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}"
            version.url = AnyHttpUrl(root + BASE_URL_PREFIXES["major"])  # optimade's does not know where it is mounted
        if found.data.id == "structures":
            for name, entry in found.data.properties.items():
                entry.sortable = name in sortable()
        return found

    return answer


def _below(request: Request, representation: str) -> str:
    """A path and query as they are below the base URL and its version."""
    text = representation.removeprefix(request.scope.get("root_path", ""))
    return _VERSION.sub("/", text, count=1)


def _check_request(request: Request) -> None:
    """Query parameters without ``=`` and versions that are not served are refused."""
    EnsureQueryParamIntegrity.check_url(request.url.query)
    hints = request.query_params.getlist("api_hint")
    if hints:
        HandleApiHint.handle_api_hint(hints)


def _no_such_path(request: Request, rest: str) -> Response:
    if not rest:
        return RedirectResponse(f"{request.scope.get('root_path', '')}{BASE_URL_PREFIXES['major']}/info")
    version = _VERSION.match(f"/{rest}")
    if version is not None and f"/{version[1]}" not in BASE_URL_PREFIXES.values():
        served = ", ".join(name.strip("/") for name in BASE_URL_PREFIXES.values())
        raise VersionNotSupported(f"version {version[1][:30]} is not served here; there are {served}")
    raise NotFound(f"there is nothing at /{rest[:100]}; begin at /info")


def _error(request: Request, error: Exception, status: int, title: str, detail: str) -> Response:
    errors = [OptimadeError(detail=detail, status=str(status), title=title)]
    return _stamped(general_exception(_at_the_root(request), error, status_code=status, errors=errors))


def _stamped(answer: Any) -> Response:
    """optimade's answer with the time in UTC."""
    content = json.loads(answer.body)
    content["meta"]["time_stamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    stamped: Response = JSONAPIResponse(content, status_code=answer.status_code)
    return stamped


def _at_the_root(request: Request) -> Request:
    """The request as if the application were mounted nowhere: optimade repeats its path in the answer."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    return Request({**request.scope, "path": path, "root_path": ""})


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
    return _error(request, error, 400, "Bad Request", said)


def _unavailable(request: Request, error: Exception) -> Response:
    logger.warning("%s", error)
    answer = _error(request, error, 503, "Service Unavailable", UNAVAILABLE)
    answer.headers["Retry-After"] = "5"
    return answer


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException | OptimadeHTTPException)
    answer = _stamped(http_exception_handler(_at_the_root(request), error))
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer


def _defect(request: Request, error: Exception) -> Response:
    said = "this is a defect of the server; its log says where it happened"
    return _error(request, error, 500, "Internal Server Error", said)


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Response]] = {
    HTTPException: _http,
    OptimadeHTTPException: _http,
    RequestValidationError: _refused,
    StoreError: _unavailable,
    Exception: _defect,
}
