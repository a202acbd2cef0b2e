"""Questions that nobody should ask, to a server process over the embedded database: `python benchmarks/fuzz_server.py`.

Filters are drawn from the grammar's words, damaged ones and plain noise; ids from noise and from damaged real ones; the
other parameters from the OpenAPI document of the server: every path, every parameter, values of its type and others.
Every answer has to be 200, or 4xx with words (501 and 553, which OPTIMADE asks for, where a part of the filter language
or a version is not served), and to hold no traceback. Filters that are sound, and what is made of them with AND, OR and
NOT, have to find what a plain loop over the documents does. The exit code says whether they did.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, urlsplit

import requests

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from server.test_server import ASKED, layers, serving, store  # noqa: E402
from support.optimade_words import WORDS  # noqa: E402

from scdm_flows.config.settings import ScdmSettings  # noqa: E402
from scdm_flows.documents import CandidateDoc  # noqa: E402
from scdm_flows.stores import EmbeddedServer, connect  # noqa: E402
from scdm_flows.stores.process import free_port  # noqa: E402

VALUES = [
    '"Mo"',
    '"2024-01-01T00:00:00Z"',
    '""',
    "1",
    "-2.5e300",
    "9" * 40,
    "1e999",
    '"a\\"b"',
    '"é\U0001f600"',
    '"\x00"',
]
NOISE = [
    "$where",
    "{}",
    '{"$gt":""}',
    "%00",
    "%",
    "..",
    "../../etc/passwd",
    "<script>",
    "\n",
    "\\",
    "'",
    ";",
    "&",
    "é",
    "\x7f",
]


def noise(draw: random.Random) -> str:
    """Any characters, most of them plain."""
    letters = [
        chr(draw.choice([draw.randrange(32, 127), draw.randrange(1, 0xD7FF)])) for _ in range(draw.randrange(30))
    ]
    return "".join(letters)


def filters(draw: random.Random, names: list[str]) -> str:
    """A filter, right or wrong."""
    kind = draw.random()
    if kind < 0.15:
        return noise(draw)
    if kind < 0.5:  # words in any order
        return " ".join(draw.choice(draw.choice([WORDS, VALUES, names, NOISE])) for _ in range(draw.randrange(14)))
    parts = []
    for _ in range(draw.randrange(1, 5)):
        name, value = draw.choice(names), draw.choice(VALUES)
        if draw.random() < 0.4:
            parts.append(draw.choice(["", "NOT "]) + draw.choice([*ASKED]))
            continue
        right = draw.choice(
            [
                f"{draw.choice(['=', '!=', '<', '<=', '>', '>='])} {value}",
                f"HAS {draw.choice(['', 'ALL', 'ANY', 'ONLY'])} {value}{draw.choice(['', ',' + draw.choice(VALUES)])}",
                f"{draw.choice(['CONTAINS', 'STARTS WITH', 'STARTS', 'ENDS WITH'])} {value}",
                f"IS {draw.choice(['KNOWN', 'UNKNOWN'])}",
                f"LENGTH {draw.choice(['', '>', '<='])} {draw.randrange(-1, 9)}",
                f":{draw.choice(names)} HAS {draw.choice(['', 'ALL', 'ANY', 'ONLY'])} {value}:{draw.choice(VALUES)}",
                f"= {draw.choice(names)}",
            ]
        )
        parts.append(f"{draw.choice(['', 'NOT '])}{draw.choice(['', '('])}{name} {right}{draw.choice(['', ')'])}")
    text = draw.choice([" AND ", " OR ", " "]).join(parts)
    if draw.random() < 0.2:  # damaged
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice([*NOISE, ""]) + text[place + 1 :]
    return draw.choice(["(", ""]) * draw.randrange(3) + text


def joined(draw: random.Random, documents: list[CandidateDoc]) -> tuple[str, set[str]]:
    """A sound filter, and the ids of the documents that it has to find.

    ``ASKED`` says of a document whether a filter holds; NOT is only put before what is known of every document.
    """
    sure = [text for text in ASKED if "_scdm_" not in text and not text.startswith("NOT") and "ONLY" not in text]
    sure.remove('references.id HAS "chgnet" AND nsites>3')  # not known where there are no references
    text = draw.choice([*ASKED])
    found = {d.candidate_id for d in documents if ASKED[text](d)}
    for _ in range(draw.randrange(4)):
        other = draw.choice([*ASKED])
        holds = {d.candidate_id for d in documents if ASKED[other](d)}
        if other in sure and draw.random() < 0.5:
            other, holds = f"NOT ({other})", {d.candidate_id for d in documents} - holds
        word = draw.choice(["AND", "OR"])
        text, found = f"({text}) {word} ({other})", found & holds if word == "AND" else found | holds
    return text, found


def requests_of(document: dict[str, Any], names: list[str], ids: list[str], draw: random.Random) -> str:
    """Path and query of a request."""
    kind = draw.random()
    if kind < 0.6:
        return f"/v1/structures?page_limit=2&filter={quote(filters(draw, names), safe='')}"
    if kind < 0.8:
        name = draw.choice([noise(draw), draw.choice(NOISE), draw.choice(ids)[: draw.randrange(18)] + noise(draw)[:2]])
        return f"/v1/{draw.choice(['structures', 'references', 'info'])}/{quote(name, safe='')}"
    path = draw.choice(list(document["paths"]))
    query = []
    for parameter in document["paths"][path]["get"].get("parameters", []):
        if parameter["in"] == "query" and draw.random() < 0.4:
            good = {
                "integer": str(draw.randrange(-3, 600)),
                "string": draw.choice([*names, "id", "-nsites", "json", "v1"]),
            }
            value = draw.choice(
                [good.get(parameter["schema"].get("type", "string"), "1"), noise(draw), *NOISE, "9" * 30, ""]
            )
            query.append(f"{parameter['name']}={quote(value, safe='')}")
    path = path.replace("{entry_id}", quote(noise(draw) or "x", safe="")).replace(
        "{entry}", quote(noise(draw) or "x", safe="")
    )
    return f"{draw.choice(['', '/v1', '/v1.2', '/v9'])}{path}?{draw.choice(['&', ';']).join(query)}"


def main() -> int:
    """Asks, and says what was answered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10_000, help="requests (10,000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, answers, wrong, slowest = random.Random(options.seed), Counter[int](), [], (0.0, "")
    with TemporaryDirectory() as folder:
        database = EmbeddedServer(folder, free_port())
        assert database.port is not None
        with connect(ScdmSettings(data_dir=Path(folder), port=database.port)) as connected:
            store(connected, layers())
        try:
            with serving(Path(folder), database.port) as (address, process), requests.Session() as session:
                base = f"{address}/optimade"
                document = session.get(f"{base}/v1/extensions/openapi.json").json()
                names = list(session.get(f"{base}/v1/info/structures").json()["data"]["properties"])
                names += ["species.name", "references.id", "structures.id", "_exmpl_x", "nothing", "_scdm_", "_"]
                documents = layers()
                ids = [d.candidate_id for d in documents]
                for _ in range(options.n // 10):
                    text, expected = joined(draw, documents)
                    found = session.get(
                        f"{base}/v1/structures", params={"filter": text, "page_limit": "500"}, timeout=60
                    )
                    if found.status_code != 200 or {entry["id"] for entry in found.json()["data"]} != expected:
                        wrong.append(
                            (found.status_code, found.url, f"{len(expected)} were expected: {found.text[:300]}")
                        )
                for _ in range(options.n):
                    url = base + requests_of(document, names, ids, draw)
                    started = time.perf_counter()
                    answer = session.get(url, timeout=60)
                    slowest = max(slowest, (time.perf_counter() - started, url))
                    answers[answer.status_code] += 1
                    fine = 400 <= answer.status_code < 500 or answer.status_code in (200, 501, 553)
                    if answer.status_code != 200 and urlsplit(answer.url).path.startswith("/optimade/"):
                        fine = fine and bool(answer.json()["errors"][0]["detail"])
                    if not fine or "Traceback" in answer.text:
                        wrong.append((answer.status_code, url, answer.text[:300]))
                alive = process.poll() is None
            log = (Path(folder) / "serve.log").read_text()
        finally:
            database.stop()
    print(
        f"{options.n // 10} sound filters, {options.n} other requests: "
        + ", ".join(f"{n} with {status}" for status, n in sorted(answers.items()))
    )
    print(f"slowest {1e3 * slowest[0]:.0f} ms: {slowest[1][:200]}")
    print(
        f"{len(wrong)} wrong answers, server {'alive' if alive else 'DEAD'}, {log.count('Traceback')} tracebacks logged"
    )
    for one in wrong[:10]:
        print(one)
    return 1 if wrong or not alive or "Traceback" in log else 0


if __name__ == "__main__":
    sys.exit(main())
