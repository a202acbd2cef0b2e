"""What every answer and every request goes through: headers, methods, sizes, names of the host, errors in words."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from optimade import __api_version__
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from scdm_flows.errors import StoreError

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

READING = ("GET", "HEAD", "OPTIONS")
# Dash asks for what its tables and figures show by POST; it changes nothing, here or in the database
ASKING_BY_POST = "/_dash-update-component"
_ALLOW = (b"allow", ", ".join(READING).encode())
MAX_BODY_BYTES = 256 * 1024
MAX_URL_BYTES = 16 * 1024
# names neither host nor user of the database: the reason is in the log
UNAVAILABLE = "the database does not answer; try again in a moment (the server's log says why)"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DATABASE_SECONDS = 10.0  # that a request, or a piece of a long answer, may wait for the database
ALL_CANDIDATES_SECONDS = 60.0  # the same where it reads every candidate

# An application may set its own policy, as the pages do; nothing may loosen the others.
DEFAULT_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class ReadOnly:
    """Lets through what reads, with the headers of a page that trusts nobody.

    hosts: names that a request may address the server by (a page elsewhere could otherwise reach a server on loopback
    through a name of its own); None: any.
    """

    def __init__(self, app: App, hosts: Sequence[str] | None = LOOPBACK) -> None:
        self._app: App = RequestBodyLimitMiddleware(app, MAX_BODY_BYTES)
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            return
        started, head = False, scope["method"] == "HEAD"

        async def guarded(message: Message) -> None:
            nonlocal started
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", DEFAULT_POLICY)
                for name, value in HEADERS.items():
                    headers[name] = value
                del headers["server"]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _say(scope, guarded, *refusal)
            return
        if head:  # as GET, without the body
            scope = {**scope, "method": "GET"}
        elif scope["method"] == "OPTIONS" and "access-control-request-method" not in Headers(scope=scope):
            await guarded({"type": "http.response.start", "status": 204, "headers": [_ALLOW]})
            await guarded({"type": "http.response.body", "body": b""})
            return
        try:
            await self._app(scope, receive, guarded)
        except StoreError as error:
            logger.warning("%s", error)
            if not started:
                await _say(scope, guarded, 503, UNAVAILABLE)
        except Exception:
            logger.error("a request failed: %s %s\n%s", scope["method"], scope["path"], traceback.format_exc())
            if not started:
                await _say(scope, guarded, 500, "this is a defect of the server; its log says where it happened")

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and words, for a request that goes no further."""
        headers = Headers(scope=scope)
        if self._hosts is not None and name_of(headers.get("host", "")) not in self._hosts:
            return 421, (
                "this server answers on this machine alone; `scdm serve --name` adds the name of a proxy on it, "
                "`--host` another address"
            )
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MAX_URL_BYTES:
            return 414, f"the address is longer than {MAX_URL_BYTES} bytes; ask in several parts"
        if not scope["path"].isprintable():
            return 400, "the address holds characters that cannot be printed; leave them out"
        asks = scope["method"] == "POST" and scope["path"].endswith(ASKING_BY_POST)
        if scope["method"] not in READING and not asks:
            return 405, f"{scope['method'][:20]} is not possible: this server only reads; use GET"
        return None


def name_of(host: str) -> str:
    """The host's name without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _say(scope: Scope, send: Send, status: int, words: str) -> None:
    """A short answer: JSON below /optimade, text elsewhere."""
    as_json = scope["path"].startswith("/optimade")
    asked = scope["path"].removeprefix("/optimade")[:200]
    meta = {"query": {"representation": asked}, "api_version": __api_version__, "more_data_available": False}
    error = {"errors": [{"status": str(status), "title": "Refused", "detail": words}], "meta": meta}
    body = json.dumps(error).encode() if as_json else words.encode()
    headers = [(b"content-type", b"application/vnd.api+json" if as_json else b"text/plain; charset=utf-8")]
    headers += [(b"content-length", str(len(body)).encode())]
    if status == 405:
        headers.append(_ALLOW)
    if status == 503:
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
