"""The import graph of both packages, read from their source and not from what happens to be loaded; its picture.

A *room* is a folder or a module directly below one of the packages: ``stores``, ``errors``, ``scdm_models.symmetry``.
Imports inside functions count, as they run sooner or later; those for type checking do not, as they never run. What is
imported by a name in a string (commands, engines) is not seen.

    python tests/support/imports.py --picture docs/architecture.svg
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import resolve_name
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import matplotlib as mpl
import networkx as nx
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve
from scipy.optimize import linprog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"scdm_flows": ROOT / "scdm_flows", "scdm_models": ROOT / "models" / "scdm_models"}
# Old dotted paths that stored jobs and outputs still name. They hold re-exports only and belong to no room.
ALIASES = frozenset(
    {
        "scdm_flows.jobs",
        "scdm_flows.launch",
        "scdm_flows.engines.makers",
        "scdm_flows.engines.vasp_inputs",
        "scdm_flows.engines.vasp_makers",
    }
)


@cache
def modules() -> dict[str, Path]:
    """Dotted name of every module of both packages -> its file."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _that_run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below a node but those under ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _that_run(child)


def names_in(text: str, package: str) -> set[str]:
    """Dotted names that source text imports: ``a.b`` of ``import a.b``, ``a.b.c`` of ``from a.b import c``.

    package: where the text stands, for ``from . import c``.
    """
    names: set[str] = set()
    for node in _that_run(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


@cache
def imported(module: str) -> frozenset[str]:
    """What a module of ours imports, see ``names_in``."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(names_in(path.read_text(), package))


def file_graph() -> nx.DiGraph:
    """Every module of both packages, with an edge to each module of ours that it imports.

    ``from a.b import c`` is an import of ``a.b.c`` where that is a module, else of ``a.b``. The ``__init__`` of the
    packages above, which Python runs too, does not count: it would make one circle of every package that re-exports
    what is in its files.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(modules())
    for module in modules():
        for name in imported(module):
            target = name if name in modules() else name.rpartition(".")[0]
            if target in modules() and target != module:
                graph.add_edge(module, target)
    return graph


def room_of(module: str) -> str | None:
    """The room of a module; None of aliases and of the packages' own ``__init__``."""
    package, _, rest = module.partition(".")
    if module in ALIASES or not rest:
        return None
    first = rest.partition(".")[0]
    return first if package == "scdm_flows" else f"{package}.{first}"


def room_graph() -> nx.DiGraph:
    """Every room, with an edge to each other room that one of its modules imports."""
    graph = nx.DiGraph()
    graph.add_nodes_from(room for room in map(room_of, modules()) if room is not None)
    for ends in file_graph().edges:
        importer, target = map(room_of, ends)
        if importer is not None and target is not None and importer != target:
            graph.add_edge(importer, target)
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Groups of nodes that all lead to each other: the strongly connected components of more than one node."""
    return [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]


def neighbours(rooms: nx.DiGraph) -> dict[str, list[str]]:
    """Room -> the rooms right below it: what it imports without a third room between (the transitive reduction)."""
    reduced = nx.transitive_reduction(rooms)
    return {room: sorted(reduced[room]) for room in sorted(rooms)}


# --- the picture ------------------------------------------------------------------------------------------------------

INK, SOFT = "#1c2430", "#9aa4b1"
COLOURS = {"scdm_flows": ("#e3eef2", "#1f6f8b"), "scdm_models": ("#f5ecdc", "#a9772b")}  # inside, border
WIDTH, HEIGHT, ROW, GAP = 1.5, 0.4, 0.85, 0.3  # of a box, from row to row, between boxes; inches
LANE = 0.16  # what an arrow takes that passes through a row; inches
SWEEPS = 24


def draw(rooms: nx.DiGraph, path: Path) -> None:
    """Draw the rooms in rows: each one row above the highest that it imports. The same bytes for the same graph.

    Arrows go to the rooms of ``neighbours``; these are also written into the file's description, for ``drawn_in``.
    """
    below = neighbours(rooms)
    rows, lines = _rows(below)
    place = _abscissas(rows, lines)
    x_max = max(place[room] for room in below) + WIDTH / 2
    y_max = (len(rows) - 1) * ROW + HEIGHT / 2
    figure = Figure(figsize=(x_max + 0.4, y_max + 0.9))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-WIDTH / 2 - 0.2, x_max + 0.2), ylim=(-HEIGHT / 2 - 0.2, y_max + 0.7), aspect="equal")
    axes.axis("off")
    height = {node: number * ROW for number, row in enumerate(rows) for node in row}
    for upper, lower in nx.DiGraph(below).edges:  # in a transitive reduction, the only path from one to the other
        axes.add_patch(_arrow([(place[node], height[node]) for node in nx.shortest_path(lines, upper, lower)]))
    for room in below:
        package = "scdm_models" if room.startswith("scdm_models.") else "scdm_flows"
        _box(axes, place[room], height[room], room.removeprefix("scdm_models."), package)
    for number, package in enumerate(PACKAGES):
        _box(axes, number * (WIDTH + GAP), y_max + 0.35, package, package, bold=True)
    axes.text(2 * (WIDTH + GAP) - WIDTH / 2, y_max + 0.35, "an arrow: imports", va="center", color=INK, fontsize=9)
    with mpl.rc_context({"svg.hashsalt": "scdm", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        about = {"Title": "Rooms and what they import", "Description": json.dumps(below), "Date": None, "Creator": None}
        figure.savefig(path, format="svg", metadata=about)


def drawn_in(path: Path) -> dict[str, list[str]]:
    """What a picture shows: room -> the rooms that its arrows lead to."""
    found = ElementTree.parse(path).getroot().findtext(".//{http://purl.org/dc/elements/1.1/}description")
    shown: dict[str, list[str]] = json.loads(found or "{}")
    return shown


def _rows(below: dict[str, list[str]]) -> tuple[list[list[str]], nx.DiGraph]:
    """Rows from the lowest, each from left to right, and the lines through them, from row to row.

    Where an arrow passes a row it has a node there, ``upper > lower row``. Nodes are ordered by the mean position of
    what they are joined to, below and above in turn, and the order with the fewest crossings counts (Sugiyama, Tagawa
    and Toda 1981, doi:10.1109/TSMC.1981.4308636).
    """
    height: dict[str, int] = {}
    for room in reversed(list(nx.lexicographical_topological_sort(nx.DiGraph(below)))):
        height[room] = 1 + max((height[other] for other in below[room]), default=-1)
    rows: list[list[str]] = [[] for _ in range(max(height.values()) + 1)]
    for room, number in sorted(height.items()):
        rows[number].append(room)
    lines = nx.DiGraph()
    for room in below:
        for other in below[room]:
            passed = range(height[room] - 1, height[other], -1)
            nx.add_path(lines, [room, *(f"{room} > {other} {number}" for number in passed), other])
            for number in passed:
                rows[number].append(f"{room} > {other} {number}")

    def order(row: list[str], joined: Callable[[str], Iterable[str]]) -> None:
        position = {node: number for row in rows for number, node in enumerate(row)}
        mean = {node: fmean([position[other] for other in joined(node)] or [position[node]]) for node in row}
        row.sort(key=mean.__getitem__)

    best = [list(row) for row in rows]
    for _ in range(SWEEPS):
        for row in rows[1:]:
            order(row, lines.successors)
        for row in rows[-2::-1]:
            order(row, lines.predecessors)
        if _crossings(rows, lines) < _crossings(best, lines):
            best = [list(row) for row in rows]
    return best, lines


def _crossings(rows: list[list[str]], lines: nx.DiGraph) -> int:
    """How often lines cross between neighbouring rows."""
    place = {node: (number, position) for number, row in enumerate(rows) for position, node in enumerate(row)}
    steps = [(*place[upper], place[lower][1]) for upper, lower in lines.edges]
    return sum(row == other and (x - a) * (y - b) < 0 for (row, x, y), (other, a, b) in combinations(steps, 2))


def _abscissas(rows: list[list[str]], lines: nx.DiGraph) -> dict[str, float]:
    """x of every node, inches: each row's order kept, the sideways lengths of all lines together the least.

    A linear programme in x and the length of each step; those of arrows that pass rows weigh more, so that they are
    straight (Gansner et al. 1993, doi:10.1109/32.221135).
    """
    nodes = [node for row in rows for node in row]
    column = {node: number for number, node in enumerate(nodes)}
    weights = [1.0 + 3.0 * sum(" > " in end for end in step) for step in lines.edges]
    limits: list[dict[int, float]] = []
    bounds: list[float] = []
    for number, (upper, lower) in enumerate(lines.edges, len(nodes)):
        for sign in (1.0, -1.0):
            limits.append({column[upper]: sign, column[lower]: -sign, number: -1.0})
            bounds.append(0.0)
    for left, right in (pair for row in rows for pair in pairwise(row)):
        limits.append({column[left]: 1.0, column[right]: -1.0})
        bounds.append(-sum((LANE if " > " in node else WIDTH) / 2 for node in (left, right)) - GAP / 2)
    matrix = np.zeros((len(limits), len(nodes) + len(weights)))
    for number, terms in enumerate(limits):
        matrix[number, list(terms)] = list(terms.values())
    # x itself weighs a little, which keeps the picture narrow
    solved = linprog([1e-3] * len(nodes) + weights, A_ub=matrix, b_ub=bounds, bounds=(0, None))
    return {node: round(float(solved.x[number]), 3) for node, number in column.items()}


def _arrow(points: Iterable[tuple[float, float]]) -> FancyArrowPatch:
    """From the lower edge of the first box through the points between to the upper edge of the last."""
    (x, y), *between, (x_end, y_end) = points
    y, y_end = y - HEIGHT / 2, y_end + HEIGHT / 2
    corners = [(x, y)]
    codes = [Curve.MOVETO]
    for x_next, y_next in [*((a, b + HEIGHT / 2) for a, b in between), (x_end, y_end)]:
        x, y = corners[-1]
        middle = (y + y_next) / 2
        corners += [(x, middle), (x_next, middle), (x_next, y_next)]
        codes += [Curve.CURVE4] * 3
        if y_next > y_end:  # straight past the boxes of this row
            corners.append((x_next, y_next - HEIGHT))
            codes.append(Curve.LINETO)
    return FancyArrowPatch(
        path=Curve(corners, codes),
        arrowstyle="-|>",
        mutation_scale=7,
        color=SOFT,
        linewidth=0.8,
        zorder=1,
        capstyle="butt",
    )


def _box(axes: Axes, x: float, y: float, text: str, package: str, *, bold: bool = False) -> None:
    inside, border = COLOURS[package]
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=inside,
            edgecolor=border,
            linewidth=0.9,
            zorder=2,
        )
    )
    axes.text(
        x, y, text, ha="center", va="center", color=INK, fontsize=10, weight="bold" if bold else "normal", zorder=3
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the rooms of both packages and what they import.")
    parser.add_argument("--picture", type=Path, required=True, help="SVG file to write")
    draw(room_graph(), parser.parse_args().picture)
