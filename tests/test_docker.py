"""docker/ without an engine: the compose file is valid, and it and the Dockerfile name what exists.

``make test-docker`` builds the images and runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
SCHEMA = json.loads((ROOT / "tests" / "data" / "compose_spec.json").read_text())


def errors(compose: dict[str, Any]) -> list[str]:
    """What the compose schema has against a file."""
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(compose)]


def test_compose_file_is_valid() -> None:
    assert errors(COMPOSE) == []


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("worker", {"depend_on": ["mongo"]}),
        ("worker", {"depends_on": {"mongo": {"condition": "service_fine"}}}),
        ("mongo", {"healthcheck": {"tests": "true"}}),
        ("shell", {"secrets": "mongo_uri"}),
    ],
    ids=["key", "condition", "healthcheck", "type"],
)
def test_a_mistake_in_it_would_be_found(service: str, change: dict[str, Any]) -> None:
    changed = {**COMPOSE, "services": {**COMPOSE["services"], service: {**COMPOSE["services"][service], **change}}}
    assert errors(changed)


def test_everything_it_names_exists() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE))
    for name, service in COMPOSE["services"].items():
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys(), name
        assert set(service.get("depends_on", {})) <= COMPOSE["services"].keys(), name
        if "build" in service:
            assert service["build"]["target"] in targets, name
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).samefile(
                DOCKER / "Dockerfile"
            )
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
    for line in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / path).exists() for path in line.split()), line


def test_database_has_a_login_a_health_check_and_a_volume() -> None:
    mongo = COMPOSE["services"]["mongo"]
    assert mongo["environment"].keys() == {"MONGO_INITDB_ROOT_USERNAME", "MONGO_INITDB_ROOT_PASSWORD_FILE"}
    assert mongo["healthcheck"]["test"][0] == "CMD"
    assert [v for v in mongo["volumes"] if v.endswith(":/data/db")]
    assert "ports" not in mongo  # reached by the other services only
    waiting = [s for name, s in COMPOSE["services"].items() if name != "mongo"]
    assert all(s["depends_on"]["mongo"]["condition"] == "service_healthy" for s in waiting)


def test_what_workers_leave_on_disk_outlives_their_containers() -> None:
    # undelivered results are in the data folder and jobs run below the working folder; who delivers must see the same
    worker = COMPOSE["services"]["worker"]
    folder = worker["environment"]["SCDM_DATA_DIR"]
    assert worker["working_dir"] == folder
    (volume,) = worker["volumes"]
    assert volume.split(":") == ["work", folder]
    for name in ("shell", "resume"):  # their data folder is scdm-data in the image's working folder
        assert volume in COMPOSE["services"][name]["volumes"], name
    assert "WORKDIR /work\n" in DOCKERFILE
    assert folder == "/work/scdm-data"


def test_no_secret_is_in_the_files_or_in_the_image() -> None:
    for path in DOCKER.iterdir():
        assert not re.search(r"mongodb://\w+:(?!%s@)[^@\s]+@", path.read_text()), path
    assert all(s["file"].startswith("../secrets/") for s in COMPOSE["secrets"].values())
    assert "secrets" in (ROOT / ".dockerignore").read_text().split()
    assert "secrets/" in (ROOT / ".gitignore").read_text().split()


def test_images_are_pinned_and_not_root() -> None:
    for image in [s["image"] for s in COMPOSE["services"].values() if "build" not in s]:
        assert re.search(r":\d+\.\d+\.\d+$", image), image
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert '--constraint requirements.lock ".[server]"' in DOCKERFILE
    assert re.search(r"^USER scdm$", DOCKERFILE, re.MULTILINE)


def test_targets_differ_by_their_command_alone() -> None:
    stages = dict(re.findall(r"^FROM base AS (\w+)\n(.*(?:\n(?!FROM|#|$).*)*)", DOCKERFILE, re.MULTILINE))
    assert stages.keys() == {"worker", "api", "shell"}  # make test-docker builds one of them
    assert all(re.fullmatch(r"(EXPOSE \d+\n)?CMD \[.*\]", stage) for stage in stages.values())


def test_pages_are_read_by_a_user_who_may_only_read() -> None:
    api = COMPOSE["services"]["api"]
    assert api["secrets"] == ["mongo_reader_uri"]
    assert all(port.startswith("127.0.0.1:") for port in api["ports"])
    users = (DOCKER / "mongo-user.js").read_text()
    assert re.search(r'user: "reader".*roles: \[\{ role: "read", db: "scdm" \}\]', users)


@pytest.mark.parametrize("variables", [{}, {"SCDM_MONGO_URI_FILE": "/no/such/file"}], ids=["unset", "no file"])
def test_entrypoint_refuses_to_guess(variables: dict[str, str]) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SCDM_")}
    done = subprocess.run(
        ["sh", str(DOCKER / "entrypoint.sh"), "worker"],
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "SCDM_MONGO_URI_FILE" in done.stderr


def test_entrypoint_takes_the_address_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "uri").write_text("mongodb://user:secret@db/scdm\n")
    done = subprocess.run(
        ["sh", str(DOCKER / "entrypoint.sh"), "sh", "-c", 'echo "$SCDM_MONGO_URI ${SCDM_MONGO_URI_FILE-gone}"'],
        env={**os.environ, "SCDM_MONGO_URI_FILE": str(tmp_path / "uri")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "mongodb://user:secret@db/scdm gone"  # `scdm` refuses variables it does not know
