"""Imports run one way, the rooms are as docs/architecture.md says, and what must be quick stays light.

What is light is seen in fresh interpreters: this one has loaded everything.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import networkx as nx
import pytest
from support.imports import (
    ALIASES,
    circles,
    drawn_in,
    file_graph,
    imported,
    modules,
    names_in,
    neighbours,
    room_graph,
    room_of,
)

from scdm_flows.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PICTURE = ROOT / "docs" / "architecture.svg"
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
MOST_LINES = 450  # of a file
MOST_ROOMS = 25
LONGEST_CHAIN = 14  # rooms, each of which imports the next
# what every room may import that stands above it in ROOMS
COMMON = {"config", "documents", "errors", "scdm_models.errors"}
# Room -> what it imports besides. From the top to the bottom of the house: a room imports only what stands below it.
ROOMS: dict[str, set[str]] = {
    "cli": {
        "server",
        "report",
        "evaluation",
        "execution",
        "builders",
        "campaigns",
        "query",
        "flows",
        "generators",
        "engines",
        "analysis",
        "thermo",
        "stores",
        "scdm_models.training",
        "scdm_models.sampling",
        "scdm_models.metrics",
        "scdm_models.model",
        "scdm_models.datasets",
        "scdm_models.symmetry",
        "scdm_models.processes",
    },
    "server": {"report", "query", "analysis", "stores", "scdm_models.symmetry"},
    "report": {
        "evaluation",
        "campaigns",
        "query",
        "analysis",
        "thermo",
        "scdm_models.metrics",
        "scdm_models.model",
        "scdm_models.symmetry",
    },
    "evaluation": {
        "engines",
        "analysis",
        "thermo",
        "scdm_models.training",
        "scdm_models.sampling",
        "scdm_models.metrics",
        "scdm_models.model",
        "scdm_models.datasets",
        "scdm_models.symmetry",
        "scdm_models.processes",
    },
    "execution": {"builders", "campaigns", "query", "flows", "engines", "analysis", "stores", "scdm_models.processes"},
    "builders": {"campaigns", "engines", "analysis", "thermo", "stores", "scdm_models.datasets"},
    "campaigns": {"query", "flows", "generators", "engines", "analysis", "thermo", "stores"},
    "query": {"stores", "scdm_models.datasets", "scdm_models.symmetry"},
    "flows": {"generators", "engines", "analysis", "thermo", "stores"},
    "generators": {
        "engines",
        "thermo",
        "scdm_models.training",
        "scdm_models.sampling",
        "scdm_models.model",
        "scdm_models.datasets",
        "scdm_models.symmetry",
    },
    "engines": {"analysis", "thermo", "scdm_models.training", "scdm_models.symmetry", "scdm_models.processes"},
    "analysis": {"thermo", "scdm_models.metrics", "scdm_models.datasets", "scdm_models.symmetry"},
    "thermo": {"scdm_models.datasets", "scdm_models.symmetry"},
    "stores": {"scdm_models.datasets"},
    "config": set(),
    "documents": set(),
    "errors": set(),
    "scdm_models.training": {"scdm_models.model", "scdm_models.symmetry", "scdm_models.processes"},
    "scdm_models.sampling": {"scdm_models.model", "scdm_models.symmetry", "scdm_models.processes"},
    "scdm_models.metrics": {"scdm_models.datasets", "scdm_models.symmetry"},
    "scdm_models.model": {"scdm_models.symmetry"},
    "scdm_models.datasets": {"scdm_models.symmetry", "scdm_models.processes"},
    "scdm_models.symmetry": set(),
    "scdm_models.processes": set(),
    "scdm_models.errors": set(),
}


def test_no_circle_among_files() -> None:
    assert circles(file_graph()) == []


def test_every_file_is_in_a_room_of_the_table() -> None:
    assert {room for room in map(room_of, modules()) if room} == ROOMS.keys()
    assert len(ROOMS) <= MOST_ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_says_and_all_of_it(room: str) -> None:
    below = list(ROOMS)[list(ROOMS).index(room) + 1 :]
    assert ROOMS[room] <= set(below) - COMMON, "a room imports downwards"
    uses = set(room_graph()[room])
    wrong = uses - ROOMS[room] - (COMMON & set(below))
    assert not wrong, [ends for ends in file_graph().edges if room_of(ends[0]) == room and room_of(ends[1]) in wrong]
    assert ROOMS[room] <= uses, "take out of ROOMS what is no longer imported"


def test_the_house_is_not_too_high() -> None:
    assert len(nx.dag_longest_path(room_graph())) <= LONGEST_CHAIN


def test_files_are_short() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in modules().items()}
    assert {module: number for module, number in lines.items() if number > MOST_LINES} == {}


@pytest.mark.parametrize("module", sorted(ALIASES))
def test_an_alias_only_re_exports_and_nobody_imports_it(module: str) -> None:
    said, *rest = ast.parse(modules()[module].read_text()).body
    assert isinstance(said, ast.Expr)  # the docstring
    assert rest
    for statement in rest:
        assert isinstance(statement, ast.ImportFrom)
        assert all(alias.asname == alias.name for alias in statement.names)
    assert not list(file_graph().predecessors(module))


def test_only_one_folder_imports_fireworks() -> None:
    users = {module for module in modules() if any(name.split(".")[0] == "fireworks" for name in imported(module))}
    assert users
    assert {".".join(module.split(".")[:3]) for module in users} == {"scdm_flows.execution.fireworks"}


def test_nobody_imports_the_embedded_server() -> None:
    for module in modules():
        names = imported(module)
        assert not any(name.split(".")[0] == "secantus" for name in names), f"{module}: GPL-2.0, a process of its own"


def test_gpaw_is_executed_and_never_imported() -> None:
    runner = "scdm_flows.engines.gpaw.runner"
    assert not list(file_graph().predecessors(runner)), "it is executed by a process of its own"
    roots = {name.split(".")[0] for name in imported(runner)}
    assert roots - set(sys.stdlib_module_names) == {"gpaw", "ase", "numpy"}, "what the environment of GPAW has"
    for module in modules():
        names = imported(module)
        assert module == runner or not any(name.split(".")[0] == "gpaw" for name in names), f"{module}: gpaw is GPL"


def test_the_model_package_knows_nothing_of_workflows() -> None:
    # in the text, as these would be too much for type checking too
    unwanted = re.compile(r"^\s*(?:from|import) (?:scdm_flows|jobflow|fireworks|maggma|pymongo|atomate2|click)\b", re.M)
    for module, path in modules().items():
        if module.startswith("scdm_models"):
            assert not unwanted.search(path.read_text()), path


def test_imports_in_functions_count_and_those_for_type_checking_do_not() -> None:
    text = """
import a.b
from . import sibling
from ..other import name
if TYPE_CHECKING:
    from never import imported
def function():
    if sometimes:
        from late import one, two as three
"""
    # where relative names lead: https://docs.python.org/3/reference/import.html#package-relative-imports
    found = {"a.b", "package.room.sibling", "package.other.name", "late.one", "late.two"}
    assert names_in(text, "package.room") == found


def test_a_circle_is_found() -> None:
    assert circles(nx.DiGraph([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])) == [["a", "b", "c"]]


# --- docs/architecture.md ---------------------------------------------------------------------------------------------


def test_the_picture_shows_these_rooms() -> None:
    redraw = "python tests/support/imports.py --picture docs/architecture.svg"
    assert drawn_in(PICTURE) == neighbours(room_graph()), f"the picture is old: {redraw}"


def test_the_page_has_the_table_of_rooms() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| .+ \| ([^|]*) \|$", PAGE, re.MULTILINE)
    assert [room for room, _ in rows] == list(ROOMS)
    for room, uses in rows:
        said = ROOMS.keys() - COMMON - {room} if uses == "all others" else set(re.findall(r"`([\w.]+)`", uses))
        assert said == ROOMS[room], room


def test_what_the_page_names_exists() -> None:
    words = [word for words in re.findall(r"`([^`\n]+)`", PAGE) for word in words.split()]
    paths = [word for word in words if re.fullmatch(r"[\w.-]+(/[\w.-]+)*(/|\.(?:py|md|svg|yaml|json))", word)]
    assert len(paths) > 40
    for path in paths:
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path


def test_what_the_page_finds_in_a_file_is_there() -> None:
    found = re.findall(r"`([A-Za-z_]\w*)`\s+in\s+`([\w./-]+)`", PAGE)
    assert len(found) > 5
    for name, path in found:
        assert re.search(rf"^(?:\s*(?:class|def) )?{name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)


# --- what must be quick -----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    loaded, _ = _loaded(
        f"from scdm_flows.cli import main\nsys.argv = ['scdm', '{command}', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    )
    assert not loaded & {*HEAVY, "numpy"}
