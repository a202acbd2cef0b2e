"""How fast the browse page's table is answered: one client over many questions, then many clients for a minute.

Fill an embedded database first, and keep it:

    python benchmarks/database.py -n 100000 --keep FOLDER
    python benchmarks/pages.py FOLDER                    # --clients 50 --seconds 60
    python benchmarks/pages.py --url http://127.0.0.1:5000   # of a server that runs already; without its memory

Targets with 100,000 candidates: p95 of 150 ms for one client; no error of 50 clients within a minute; memory flat.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

BLOCK = 50  # rows, as in scdm_flows.server.pages.browse
SORTS = ["rank", "e_above_hull", "-e_above_hull", "formula", "-score", "layer_group", "nsites", "campaign"]
QUESTIONS = [
    "",
    "?max_e_above_hull=0.1",
    "?elements=Mo,S",
    "?layer_group=78&layer_group=72",
    "?dynamically_stable=true",
    "?state=completed&max_e_above_hull=0.3",
    "?min_band_gap=1&max_nsites=6",
    "?campaign=bench1",
    "?chemsys=Mo-S-W",
]
OUTPUTS = [("browse-grid", "getRowsResponse"), ("browse-count", "children"), ("browse-notice", "children")]


def question(search: str, sort: str, start: int = 0) -> bytes:
    """What the table of the browse page sends for a block of rows."""
    field, way = sort.removeprefix("-"), "desc" if sort.startswith("-") else "asc"
    request = {"startRow": start, "endRow": start + BLOCK, "sortModel": [{"colId": field, "sort": way}]}
    body = {
        "output": f"..{'...'.join('.'.join(o) for o in OUTPUTS)}..",
        "outputs": [{"id": i, "property": p} for i, p in OUTPUTS],
        "inputs": [{"id": "browse-grid", "property": "getRowsRequest", "value": request}],
        "state": [{"id": "browse-url", "property": "search", "value": search}],
        "changedPropIds": ["browse-grid.getRowsRequest"],
    }
    return json.dumps(body).encode()


class Client:
    """One connection that is kept."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=60)

    def __call__(self, body: bytes) -> tuple[float, int]:
        """Seconds, and how many candidates match; an error where the answer is no table."""
        start = time.perf_counter()
        self._connection.request("POST", "/_dash-update-component", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        seconds = time.perf_counter() - start
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}")
        found = json.loads(content)["response"]
        if found["browse-notice"]["children"]:
            raise RuntimeError(str(found["browse-notice"]["children"])[:300])
        return seconds, int(found["browse-grid"]["getRowsResponse"]["rowCount"])


def quantiles(seconds: list[float]) -> str:
    """Median, p95 and the largest in ms."""
    values = 1000 * np.array(seconds)
    return f"median {np.median(values):6.1f} ms   p95 {np.quantile(values, 0.95):6.1f} ms   max {values.max():7.1f} ms"


def alone(url: str, times: int) -> None:
    """Print how long every question takes with every sort, asked one after the other."""
    client, draw = Client(url), random.Random(0)
    client(question("", "rank"))  # the table of candidates is read once
    seconds: list[float] = []
    for search in QUESTIONS:
        own, matching = [], 0
        for sort in SORTS:
            for _ in range(times):
                found, matching = client(question(search, sort, draw.choice([0, 0, 0, 100, 500])))
                own.append(found)
        seconds += own
        print(f"{search or 'all':<40} {matching:7} match   {quantiles(own)}", flush=True)
    print(f"{'one client, all questions':<40} {len(seconds):7} asked   {quantiles(seconds)}", flush=True)


def together(url: str, clients: int, duration: float, pid: int | None) -> int:
    """Print what many clients at once see for some seconds; how many errors they met."""
    seconds: list[float] = []
    errors: list[str] = []
    memory: list[float] = []
    until = time.perf_counter() + duration

    def ask(seed: int) -> None:
        draw, client = random.Random(seed), Client(url)
        while time.perf_counter() < until:
            try:
                seconds.append(client(question(draw.choice(QUESTIONS), draw.choice(SORTS)))[0])
            except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
                errors.append(str(error))
                client = Client(url)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    while pid is not None and time.perf_counter() < until:
        memory.append(resident(pid))
        time.sleep(min(5.0, duration / 10))
    for thread in threads:
        thread.join()
    rate = len(seconds) / duration
    print(f"{clients} clients for {duration:g} s: {len(seconds)} answers ({rate:.0f} /s), {len(errors)} errors")
    print(f"  {quantiles(seconds)}")
    if memory:
        middle = memory[len(memory) // 2]
        print(
            f"  memory of the server, MB: {memory[0]:.0f} at first, {middle:.0f} half-way, {memory[-1]:.0f} at the end"
        )
    for error in sorted(set(errors))[:5]:
        print(f"  {errors.count(error)} times: {error}")
    return len(errors)


def resident(pid: int) -> float:
    """Memory of a process, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def serve(folder: Path) -> None:
    """Serve the pages of an embedded database until killed; prints the address, and the process of the database."""
    import uvicorn

    from scdm_flows.config.settings import ScdmSettings
    from scdm_flows.server.app import make_app
    from scdm_flows.stores import EmbeddedServer, connect
    from scdm_flows.stores.process import free_port

    embedded = EmbeddedServer(folder, free_port())
    with connect(ScdmSettings(data_dir=embedded.data_dir, port=embedded.port)) as database:
        port = free_port()
        print(json.dumps({"port": port, "database": embedded.status().pid}), flush=True)
        uvicorn.run(make_app(database), host="127.0.0.1", port=port, log_level="warning")


def main() -> int:
    """Start a server, ask, print; 1 where a client met an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="what benchmarks/database.py --keep wrote")
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("--times", type=int, default=5, help="of each question with each sort")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.folder)
        return 0
    if (options.folder is None) == (options.url is None):
        parser.error("give the folder of a database, or --url")
    if options.url:
        alone(options.url, options.times)
        return min(1, together(options.url, options.clients, options.seconds, None))
    command = [sys.executable, __file__, "--serve", str(options.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        started = json.loads(server.stdout.readline())
        url = f"http://127.0.0.1:{started['port']}"
        while True:  # it answers a moment after it said so
            try:
                socket.create_connection(("127.0.0.1", started["port"]), 1).close()
                break
            except OSError:
                assert server.poll() is None, "the server ended before it had begun"
                time.sleep(0.1)
        try:
            alone(url, options.times)
            return min(1, together(url, options.clients, options.seconds, server.pid))
        finally:
            server.terminate()
            os.kill(started["database"], signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
