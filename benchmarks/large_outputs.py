"""How long the embedded server takes to store one more large output: of the first hundred, and of the last.

``python benchmarks/large_outputs.py [-n 1000] [--as-pymongo]``; with the latter as pymongo does it alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gridfs.synchronous.grid_file import GridIn

from scdm_flows.stores import EmbeddedServer
from scdm_flows.stores.database import job_store_of
from scdm_flows.stores.process import free_port

PART = 100
CHARACTERS = 40_000  # of a relaxation's trajectory


def milliseconds(n: int, folder: Path, *, as_pymongo: bool) -> list[float]:
    """Of an output, the mean of each hundred. as_pymongo: look for indexes with every output."""
    server = EmbeddedServer(folder, free_port())
    store = job_store_of(server.uri())
    if as_pymongo:
        GridIn._ensure_indexes = GridIn._ensure_indexes.each  # type: ignore[method-assign,attr-defined]
    store.connect()
    blobs, found = store.additional_stores["data"], []
    for first in range(0, n, PART):
        begun = time.perf_counter()
        for k in range(first, first + PART):
            blobs.update([{"blob_uuid": str(k), "data": "x" * CHARACTERS}], key="blob_uuid")
        found.append((time.perf_counter() - begun) / PART * 1000)
    store.close()
    server.stop()
    return found


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1000, help="outputs")
    parser.add_argument("--as-pymongo", action="store_true", help="look for indexes with every output")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = milliseconds(arguments.n, Path(folder), as_pymongo=arguments.as_pymongo)
    print(f"ms an output: {found[0]:.1f} of the first {PART}, {found[-1]:.1f} of the last of {arguments.n}")


if __name__ == "__main__":
    main()
