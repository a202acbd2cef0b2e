"""The image of docker/Dockerfile: built for real, a worker from it works off a campaign on a server outside.

Run by ``make test-docker``; not part of ``make test``. What docker/ holds besides is looked at by tests/test_docker.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from image.buildah import Buildah, missing
from pymatgen.core import Lattice, Structure
from support.layers import mx2
from support.memory import memory_database
from support.places import ROOT, unavailable

import scdm_flows
from scdm_flows.builders import build_all
from scdm_flows.config import parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.query import CandidateDB
from scdm_flows.stores import EmbeddedServer, connect
from scdm_flows.stores.process import free_port

ENTRYPOINT = "/usr/local/bin/scdm-entrypoint"
STOP_SECONDS = 60


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """The worker's image in a storage of its own, removed afterwards; some minutes.

    The shell's image differs by its default command alone (tests/test_docker.py), so it is not built as well.
    """
    folder = tmp_path_factory.mktemp("image")
    if (reason := missing(folder)) is not None:
        unavailable(reason)
    made = Buildah(folder)
    try:
        made.build(ROOT / "docker" / "Dockerfile", "worker", made.make_base())
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def worker(buildah: Buildah) -> str:
    """A container of the worker's image."""
    return buildah.container("localhost/worker")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[ScdmSettings]:
    """An embedded server of its own outside the containers, stopped afterwards."""
    made = ScdmSettings(data_dir=tmp_path / "data", port=free_port())
    yield made
    EmbeddedServer(made.data_dir, made.port).stop()


def output(command: list[str]) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def answer(address: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """What a server says, once it listens."""
    for _ in range(240):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urlopen(address, timeout=120) as found:
                return str(found.read().decode())
        except URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def test_image_is_what_it_says(buildah: Buildah, worker: str) -> None:
    config = json.loads(buildah.call("inspect", "--type", "image", "localhost/worker"))["OCIv1"]["config"]
    assert (config["Entrypoint"], config["Cmd"], config["User"]) == ([ENTRYPOINT], ["worker"], "scdm")
    assert output(buildah.run(worker, "id", "-u")) == "1000"
    assert output(buildah.run(worker, "sh", "-c", "test -w /work && test ! -e /src && pwd")) == "/work"
    assert output(buildah.run(worker, ENTRYPOINT, "scdm", "--version")).split()[-1] == scdm_flows.__version__
    # packaged data came along: all that the quickstart needs but the embedded server, which is another image's task
    found = subprocess.run(buildah.run(worker, "scdm", "doctor", "--json"), capture_output=True, text=True, check=False)
    rows = json.loads(found.stdout)["checks"]
    bad = [row["what"] for row in rows if row["needed"] and not row["ok"]]
    assert bad == ["SecantusDB (embedded database)"], bad


def test_wrong_addresses_are_told(buildah: Buildah, worker: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mongodb://x")
    secret.chmod(0o600)  # another user's, so that uid 1000 cannot read it
    cases: list[tuple[dict[str, str], str]] = [
        ({}, "set SCDM_MONGO_URI or SCDM_MONGO_URI_FILE"),
        ({"SCDM_MONGO_URI_FILE": "/run/secrets/uri"}, "cannot be read by user 1000"),
        ({"SCDM_MONGO_URI": f"mongodb://127.0.0.1:{free_port()}/scdm"}, "StoreError|cannot be reached|does not answer"),
    ]
    for variables, message in cases:
        command = buildah.run(worker, ENTRYPOINT, "worker", mounts={secret: "/run/secrets/uri"}, **variables)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode != 0
        assert any(part in done.stderr for part in message.split("|")), done.stderr[-2000:]


def test_campaign_on_a_server_outside(buildah: Buildah, worker: str, settings: ScdmSettings, tmp_path: Path) -> None:
    layers = tmp_path / "layers"
    layers.mkdir()
    mx2("1H").to(filename=str(layers / "a.cif"))
    Structure(Lattice.hexagonal(2.51, 20), ["B", "N"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]).to(
        filename=str(layers / "b.cif")
    )
    campaign = {
        "name": "boxed",
        "generator": {"kind": "files", "paths": ["/campaign/layers"]},
        "screen": {"require_novel": False},
        "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.1, "phonon_min_length_angstrom": 6},
        "gate": {"phonon_max_atoms": 2, "phonon_max_e_above_hull": 2, "max_e_above_hull": 2},
    }
    (tmp_path / "boxed.yaml").write_text(json.dumps(campaign))
    here = {**campaign, "generator": {"kind": "files", "paths": [str(layers)]}}
    reference = memory_database()
    run_campaign(parse_config(here), reference, processes=1)
    build_all(reference)

    database = connect(settings)
    secret = tmp_path / "mongo_uri"
    secret.write_text(f"{database.uri}\n")
    secret.chmod(0o644)
    tmp_path.chmod(0o755)
    mounts = {
        secret: "/run/secrets/mongo_uri",
        layers: "/campaign/layers",
        tmp_path / "boxed.yaml": "/campaign/boxed.yaml",
    }
    uri = {"SCDM_MONGO_URI_FILE": "/run/secrets/mongo_uri"}

    def scdm(*words: str) -> str:
        return output(buildah.run(worker, ENTRYPOINT, "scdm", *words, mounts=mounts, **uri))

    assert json.loads(scdm("campaign", "submit", "/campaign/boxed.yaml", "--json"))["workflows_added"] == 1
    command = buildah.run(worker, ENTRYPOINT, "worker", mounts=mounts, **uri)
    began = time.monotonic()
    with (tmp_path / "worker.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    fireworks = database.mongo["fireworks"]
    try:
        while fireworks.count_documents({"state": {"$ne": "COMPLETED"}}) and time.monotonic() < began + 240:
            assert process.poll() is None, (tmp_path / "worker.log").read_text()[-3000:]
            time.sleep(0.5)
        seconds = time.monotonic() - began
        os.kill(process.pid, signal.SIGTERM)
        process.wait(STOP_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert fireworks.distinct("state") == ["COMPLETED"], (tmp_path / "worker.log").read_text()[-3000:]

    status = json.loads(scdm("campaign", "status", "boxed", "--json"))
    assert (status["funnel"]["generated"], status["funnel"]["relaxed"], status["funnel"]["pending"]) == (2, 2, 0)
    ours = {c["formula"]: c for c in json.loads(scdm("candidates", "list", "--campaign", "boxed", "--json"))}
    for candidate in CandidateDB(reference).find(campaign="boxed"):
        found = ours[candidate.formula]
        assert found["dynamically_stable"] == candidate.dynamically_stable
        assert found["e_above_hull"] == pytest.approx(
            candidate.e_above_hull, abs=1e-3
        )  # threads change the last digits
    assert len(ours) == 2
    print(f"{fireworks.count_documents({})} jobs in the worker's container, {seconds:.0f} s")

    port = free_port()
    command = buildah.run(worker, ENTRYPOINT, "scdm", "serve", "--port", str(port), mounts=mounts, **uri)
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}/optimade/v1/structures?filter=nelements=2"
        found = json.loads(answer(address, process, tmp_path / "serve.log"))
        assert {e["attributes"]["chemical_formula_reduced"] for e in found["data"]} == {"MoS2", "BN"}
        assert answer(f"http://127.0.0.1:{port}/", process, tmp_path / "serve.log")
        os.kill(process.pid, signal.SIGTERM)
        process.wait(STOP_SECONDS)
    finally:
        process.kill()
        process.wait()
    database.close()
