"""The server with OPTIMADE and pages on a free port, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from scdm_flows.server.app import make_app
from scdm_flows.stores import Database
from scdm_flows.stores.process import free_port


@contextmanager
def serving(database: Database) -> Iterator[str]:
    """The address of what ``scdm serve`` would serve of a database, until the block ends."""
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(make_app(database), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended before it had begun"
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
