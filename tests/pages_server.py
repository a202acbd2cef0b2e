"""A server of the pages on a free port, in this process, over a database with a small campaign."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scdm_flows.server.pages import pages_app
from scdm_flows.stores import Database


@contextmanager
def serving(database: Database) -> Iterator[str]:
    """The address of the pages of a database, served by several threads until the block ends."""
    from werkzeug.serving import make_server

    server: Any = make_server("127.0.0.1", 0, pages_app(database), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
