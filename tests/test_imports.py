"""Imports run one way, and what must be quick stays light. Fresh interpreters: this one has loaded everything."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "atomate2",
    "fireworks",
    "jobflow",
    "maggma",
    "pymatgen",
    "ase",
    "matplotlib",
    "scipy",
    "chgnet",
)
FLOWS = [
    "analysis",
    "builders",
    "cli",
    "documents",
    "engines",
    "evaluation",
    "execution",
    "flows",
    "generators",
    "hours",
    "jobs",
    "launch",
    "query",
    "report",
    "runner",
    "server",
    "stores",
    "workers",
]
# room -> what it may import of scdm_flows besides itself, errors, config, settings, provenance and references
MAY_USE = {
    "documents": set(),
    "analysis": {"documents"},
    "stores": {"documents"},
    "query": {"stores", "documents"},
    "generators": {"documents"},
    "engines": {"analysis", "documents", "hours", "jobs"},  # jobs: an engine makes its phonon job, when it is asked to
    "jobs": {
        "generators",
        "engines",
        "analysis",
        "documents",
        "flows",
        "execution",
    },  # flows: jobs that add flows, when they run
    "evaluation": {"analysis", "engines", "documents"},
    "flows": {"jobs", "generators", "engines", "documents"},
    "report": {"query", "analysis", "documents", "stores", "builders"},  # builders: one funnel
    "server": {"query", "report", "analysis", "documents", "stores"},
}


def _sources(package: Path) -> Iterator[Path]:
    for path in sorted(package.rglob("*.py")):
        if "_launchpad" not in path.parts:
            yield path


def _imports(path: Path) -> set[str]:
    """Every module a file imports, at its top or inside functions; type checking counts too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _rooms(path: Path) -> set[str]:
    """Rooms of scdm_flows that a file imports."""
    return {m.split(".")[1] for m in _imports(path) if m.startswith("scdm_flows.")} & set(FLOWS)


def test_the_model_package_knows_nothing_of_workflows() -> None:
    forbidden = {"scdm_flows", "jobflow", "fireworks", "maggma", "pymongo", "atomate2", "click"}
    for path in _sources(ROOT / "models" / "scdm_models"):
        assert not {m.split(".")[0] for m in _imports(path)} & forbidden, path


@pytest.mark.parametrize("room", MAY_USE)
def test_rooms_import_one_way(room: str) -> None:
    package = ROOT / "scdm_flows" / room
    files = list(_sources(package)) if package.is_dir() else [package.with_suffix(".py")]
    assert files
    for path in files:
        assert _rooms(path) - {room} <= MAY_USE[room], path


def test_only_launch_imports_fireworks() -> None:
    sources = _sources(ROOT / "scdm_flows")
    users = {p.parent.name for p in sources if any(m.split(".")[0] == "fireworks" for m in _imports(p))}
    assert users == {"launch"}


def test_nobody_imports_the_command_line_or_the_embedded_server() -> None:
    for path in _sources(ROOT / "scdm_flows"):
        imported = _imports(path)
        assert not any(m.split(".")[0] == "secantus" for m in imported), f"{path}: GPL-2.0, a process of its own"
        if path.parent.name != "cli":
            assert "cli" not in _rooms(path), path


def _loaded(code: str) -> tuple[set[str], float]:
    """Modules that a fresh interpreter holds after running some code, and the seconds it took."""
    script = f"import sys\n{code}\nsys.stderr.write(' '.join(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "models")])}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        timeout=120,
    )
    return set(done.stderr.split()), time.perf_counter() - started


def test_query_loads_neither_torch_nor_atomate2_nor_fireworks() -> None:
    loaded, seconds = _loaded("import scdm_flows.query")
    print(f"import scdm_flows.query: {seconds:.2f} s")
    assert "scdm_flows.query" in loaded
    assert not loaded & {"torch", "atomate2", "fireworks", "chgnet"}


@pytest.mark.parametrize("package", ["scdm_flows", "scdm_models", "scdm_flows.errors", "scdm_flows.cli"])
def test_packages_import_cheaply(package: str) -> None:
    loaded, _ = _loaded(f"import {package}")
    assert not loaded & {*HEAVY, "numpy", "pydantic", "rich"}


def test_help_loads_nothing_heavy() -> None:
    # what makes it quick: half a second on the slowest machine, when only click is loaded
    bare = _loaded("import click")[1]
    loaded, seconds = _loaded(
        "from scdm_flows.cli import main\nsys.argv = ['scdm', '--help']\ntry:\n    main()\nexcept SystemExit:\n    pass"
    )
    print(f"scdm --help: {seconds:.2f} s, of which python and click {bare:.2f} s")
    assert not loaded & {
        *HEAVY,
        "numpy",
        "pydantic",
        "pydantic_settings",
        "pymongo",
        "rich",
        "jinja2",
        "yaml",
    }


@pytest.mark.parametrize(
    "command",
    [
        "doctor",
        "quickstart",
        "data",
        "train",
        "generate",
        "screen",
        "campaign",
        "build",
        "candidates",
        "refs",
        "serve",
        "db",
    ],
)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    loaded, _ = _loaded(
        f"from scdm_flows.cli import main\nsys.argv = ['scdm', '{command}', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    )
    assert not loaded & {*HEAVY, "numpy"}
