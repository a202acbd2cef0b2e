"""``scdm doctor``: what is there, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from scdm_flows.cli.common import echo_json, table
from scdm_flows.errors import ScdmError
from scdm_flows.settings import get_settings, masked


def _python() -> str:
    if sys.version_info < (3, 11):
        raise ScdmError(f"Python {sys.version.split()[0]} is too old; install 3.11 or newer")
    return sys.version.split()[0]


def _package(name: str, remedy: str) -> Callable[[], str]:
    def check() -> str:
        if importlib.util.find_spec(name) is None:
            raise ScdmError(f"not installed; {remedy}")
        return version({"secantus": "secantusdb"}.get(name, name))

    return check


def _checkpoint() -> str:
    from scdm_models.checkpoint import load_checkpoint

    loaded = load_checkpoint()
    return f"{loaded.model_id}, trained on {loaded.card['n_training']} layers"


def _fingerprints() -> str:
    from scdm_models.datasets.fingerprints import FingerprintIndex

    return f"{len(FingerprintIndex.load())} known layers"


def _references() -> str:
    from scdm_flows.analysis.calibration import load_calibration
    from scdm_flows.references.table import ReferenceTable

    reference = ReferenceTable.load()
    return f"{reference.scheme} (surrogate), {sum(reference.header['counts'].values())} phases; {load_calibration().header['id']}"


def _database() -> str:
    settings = get_settings()
    if settings.mongo_uri is None:
        from scdm_flows.stores.embedded import EmbeddedServer

        status = EmbeddedServer(settings.data_dir, settings.port).status()
        return f"embedded, {'running on port ' + str(status.port) if status.running else 'started when needed'}, {status.storage}"
    from scdm_flows.stores.database import connect

    connect().close()
    return f"{masked(settings.mongo_uri)} answers"


def _data_dir() -> str:
    folder = get_settings().data_dir.resolve()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        raise ScdmError(f"{existing} cannot be written; set SCDM_DATA_DIR to a folder that can")
    free = shutil.disk_usage(existing).free / 1e9
    if free < 1:
        raise ScdmError(f"{free:.1f} GB free in {existing}, at least 1 GB is needed; free some space")
    return f"{folder}, {free:.0f} GB free"


def _vasp() -> str:
    from scdm_flows.config import VaspEngineConfig
    from scdm_flows.engines import engine_of

    missing = engine_of(VaspEngineConfig()).check()
    if missing:
        raise ScdmError("; ".join(missing))
    return str(get_settings().vasp_cmd)


def _launchpad() -> str:
    if not Path("launchpad/my_launchpad.yaml").is_file():
        raise ScdmError("no launchpad/ here; run workers from the project's root or pass its path with -c")
    return "launchpad/my_launchpad.yaml"


# name, needed by the quickstart, check
CHECKS: list[tuple[str, bool, Callable[[], str]]] = [
    ("Python", True, _python),
    ("torch", True, _package("torch", "pip install torch==2.13.0")),
    ("CHGNet", True, _package("chgnet", "pip install chgnet==0.4.2")),
    ("atomate2", True, _package("atomate2", "pip install 'atomate2[phonons,ase]==0.1.5'")),
    ("FireWorks", False, _package("fireworks", "pip install FireWorks==2.1.4")),
    ("SecantusDB", True, _package("secantus", "pip install 'scdm-flows[embedded]', or set SCDM_MONGO_URI")),
    ("checkpoint", True, _checkpoint),
    ("fingerprints", True, _fingerprints),
    ("references", True, _references),
    ("data folder", True, _data_dir),
    ("database", True, _database),
    ("LaunchPad configuration", False, _launchpad),
    ("VASP", False, _vasp),
]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def doctor(as_json: bool) -> None:
    """What is there, what is missing, and how to get it. Exit code 2 if the quickstart cannot run."""
    results: list[dict[str, Any]] = []
    external = get_settings().mongo_uri is not None
    for name, needed, check in CHECKS:
        required = needed and not (name == "SecantusDB" and external)
        try:
            results.append({"what": name, "ok": True, "needed": required, "detail": check()})
        except Exception as error:  # a broken installation can fail in any way; each is a row
            results.append({"what": name, "ok": False, "needed": required, "detail": str(error) or type(error).__name__})
    if as_json:
        echo_json(results)
    else:
        rows = [[r["what"], "ok" if r["ok"] else ("MISSING" if r["needed"] else "optional"), r["detail"]] for r in results]
        table("scdm doctor", ["what", "state", "detail"], rows)
    if any(r["needed"] and not r["ok"] for r in results):
        raise click.exceptions.Exit(2)
