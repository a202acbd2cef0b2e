"""A crate through the validator of its profile, its OPTIMADE file through optimade-maker.

Run by ``make test-crate``; not part of ``make test``: roc-validator wants rich < 14 and optimade-maker pandas < 3, where
this project has newer ones, so both are installed in an environment of their own. What they look at is looked at without
them in ``tests/report/test_crate.py`` and ``tests/server/test_optimade_file.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support.crates import Crate, store_campaigns
from support.memory import memory_database
from support.places import unavailable

from scdm_flows.report.crate.export import METADATA, write_crate
from scdm_flows.report.crate.rights import license_of, person
from scdm_flows.server.optimade_file import OptimadeFile
from scdm_flows.stores.process import free_port

TOOLS = ("roc-validator==0.13.0", "optimade-maker==1.0.0")
CONTEXT = "rocrate==0.13.0"  # the last that brings RO-Crate 1.1's context along, which the validator would fetch
SECONDS = 90.0
# lays the context into the validator's HTTP cache: what `rocrate-validator cache warm` does where there is a network
WARM = """
import sys
from pathlib import Path
from requests import PreparedRequest
from requests_cache import CachedResponse, CachedSession
from requests_cache.models import CachedRequest

cache, context = sys.argv[1:]
request = PreparedRequest()
request.prepare(method="GET", url="https://w3id.org/ro/crate/1.1/context")
session = CachedSession(cache_name=cache, backend="sqlite", expire_after=-1)
answer = CachedResponse(
    content=Path(context).read_bytes(),
    url=request.url,
    status_code=200,
    headers={"Content-Type": "application/ld+json"},
    request=CachedRequest.from_request(request),
    encoding="utf-8",
)
session.cache.save_response(answer, cache_key=session.cache.create_key(request, verify=True))
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of both tools, with RO-Crate's context beside them; a minute."""
    folder = tmp_path_factory.mktemp("tools")
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, *TOOLS],
        [*pip, "--no-deps", "--target", str(folder / "context"), CONTEXT],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            unavailable(f"{' '.join(command[-2:])} failed: {done.stderr.splitlines()[-1:]}")
    context = folder / "context" / "rocrate" / "data" / "ro-crate.jsonld"
    assert json.loads(context.read_text())["version"] == "1.1.0"
    subprocess.run([str(python), "-c", WARM, str(folder / "cache"), str(context)], check=True)
    return folder


@pytest.fixture(scope="module", params=["demo", "demo-gpaw"])
def crate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The crate of a surrogate campaign, and that of its promotion to DFT."""
    database = memory_database()
    store_campaigns(database)
    root = tmp_path_factory.mktemp(request.param)
    authors = [person("Ada Lovelace <https://orcid.org/0000-0002-1825-0097>")]
    write_crate(database, request.param, root, OptimadeFile(), license=license_of("CC-BY-4.0"), authors=authors)
    return root


def validated(tools: Path, crate: Path) -> dict[str, Any]:
    """The validator's report, of what the profile and those that it extends require."""
    command = [str(tools / "bin" / "rocrate-validator"), "--no-interactive", "validate", "--no-paging", "--offline"]
    command += ["--cache-path", str(tools / "cache"), "-p", "workflow-run-crate", "-f", "json", str(crate)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == report["passed"]
    return report


def test_the_validator_has_nothing_to_say(tools: Path, crate: Path) -> None:
    report = validated(tools, crate)
    assert report["issues"] == []
    assert report["passed"]
    counts = report["statistics"]
    assert counts["total_passed_checks"] == counts["total_checks"] > 50  # none was skipped, as without the context
    assert {"ro-crate-1.1", "process-run-crate-0.5", "workflow-run-crate-0.5"} <= set(counts["profiles"])


def test_the_validator_looks(tools: Path, crate: Path, tmp_path: Path) -> None:
    damaged = Crate(crate)
    del damaged.entities["./"]["license"]
    damaged.entities["#run-demo"]["instrument"] = {"@id": "#nothing"}
    damaged.metadata["@graph"] = list(damaged.entities.values())
    (tmp_path / METADATA).write_text(json.dumps(damaged.metadata))
    said = {issue["message"] for issue in validated(tools, tmp_path)["issues"]}
    assert any("license" in message for message in said)
    assert any("instrument" in message for message in said)
    assert any("does not include the Data Entity" in message for message in said)


@pytest.fixture
def address(tools: Path, crate: Path) -> Iterator[str]:
    """Where optimade-maker serves the crate, by the names of our properties."""
    port = free_port()
    provider = {"prefix": "scdm", "name": "scdm-flows", "description": "layers", "homepage": None}
    process = subprocess.Popen(
        [str(tools / "bin" / "optimake"), "serve", str(crate), "--port", str(port)],
        env={"PATH": os.environ["PATH"], "HOME": str(tools), "OPTIMAKE_PROVIDER": json.dumps(provider)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url, end = f"http://127.0.0.1:{port}/v1", time.monotonic() + SECONDS
    try:
        while True:
            try:
                requests.get(f"{url}/info", timeout=5)
                break
            except requests.ConnectionError:
                assert process.poll() is None
                assert time.monotonic() < end, "optimade-maker does not answer"
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def test_optimade_maker_serves_the_candidates(address: str, crate: Path) -> None:
    def ask(filter_: str) -> set[str]:
        answer = requests.get(f"{address}/structures", params={"filter": filter_}, timeout=120)
        answer.raise_for_status()
        return {entry["id"] for entry in answer.json()["data"]}

    lines = [json.loads(line) for line in (crate / "optimade.jsonl").read_text().splitlines()]
    entries = {line["id"]: line["attributes"] for line in lines if line.get("type") == "structures"}
    assert ask('elements HAS ALL "Mo","S"') == entries.keys()
    low = {name for name, known in entries.items() if known.get("_scdm_e_above_hull", 1) < 0.05}
    assert low
    assert ask("_scdm_e_above_hull<0.05") == low
    about = requests.get(f"{address}/info/structures", timeout=120).json()["data"]["properties"]
    assert about["_scdm_e_above_hull"]["unit"] == "eV/atom"
    cited = [line["id"] for line in lines if line.get("type") == "references"]
    assert cited
    for name in cited:
        assert requests.get(f"{address}/references/{name}", timeout=120).json()["data"]["attributes"]["doi"]
