"""Figures of a report as SVG text. Pure: documents in, text out; no global matplotlib state."""

from __future__ import annotations

from io import StringIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from pymatgen.core import Structure

from scdm_flows.documents import PhononDoc
from scdm_models.lattice import BOND_FACTOR, covalent_radii

BIN_EDGES = [0.0, 0.05, 0.1, 0.2, 0.6]
BLUE, ORANGE, GREY = "#2a6f97", "#e07a1f", "#8a8f98"


def svg(figure: Figure) -> str:
    """The figure as inline SVG, reproducible byte for byte."""
    import matplotlib as mpl

    buffer = StringIO()
    with mpl.rc_context({"svg.hashsalt": "scdm", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def hull_histogram(calibrated: list[float], raw: list[float], window: float) -> str:
    """Energies above hull: calibrated bars, raw outline, the window's edge."""
    figure = Figure(figsize=(6.4, 3.0))
    axes = figure.add_subplot()
    values = [*calibrated, *raw]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    edges = np.linspace(min(low, 0.0) - 0.05, max(high, window) + 0.1, 31)
    axes.hist(calibrated, bins=edges, color=BLUE, label="calibrated (comparable with DFT)")
    axes.hist(raw, bins=edges, histtype="step", color=ORANGE, linewidth=1.4, label="raw surrogate")
    axes.axvline(window, color="black", linewidth=0.9, linestyle="--")
    axes.text(window, axes.get_ylim()[1] * 0.97, f" window {window:g}", va="top", fontsize=8)
    axes.set_xlabel("energy above hull (eV/atom)")
    axes.set_ylabel("candidates")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def phonon_plot(document: PhononDoc) -> str:
    """Phonon bands on the in-plane path; imaginary frequencies below zero."""
    figure = Figure(figsize=(3.6, 2.7))
    axes = figure.add_subplot()
    x, bands = np.array(document.distances), np.array(document.frequencies_thz)
    axes.plot(x, bands, color=BLUE, linewidth=0.9)
    axes.axhline(0, color="black", linewidth=0.6)
    ticks: dict[float, str] = {}
    for place, name in document.labels:
        key = round(place, 5)
        ticks[key] = f"{ticks[key]}|{name}" if key in ticks and ticks[key] != name else name
    for place in ticks:
        axes.axvline(place, color=GREY, linewidth=0.5)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(0, max(x.max(), *ticks))
    axes.set_ylabel("frequency (THz)")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def structure_plot(structure: Structure) -> str:
    """Top and side view of the layer: atoms to scale by covalent radius, bonds, the cell."""
    from ase.data.colors import jmol_colors

    area = float(np.linalg.norm(np.cross(*np.array(structure.lattice.matrix)[:2])))
    repeat = int(np.clip(np.ceil(8.0 / np.sqrt(area)), 1, 4))
    supercell = structure.copy()
    supercell.make_supercell([repeat, repeat, 1])
    positions = np.array(supercell.cart_coords)
    positions[:, 2] -= positions[:, 2].mean()
    numbers = np.array([s.specie.Z for s in supercell])
    radii = covalent_radii(numbers)
    figure = Figure(figsize=(3.4, 3.6))
    top, side = figure.subplots(2, 1, gridspec_kw={"height_ratios": [3, 1.4]})
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    bonds = np.argwhere(np.triu(distance < BOND_FACTOR * (radii[:, None] + radii[None]), 1))
    for axes, (i, j, depth) in ((top, (0, 1, 2)), (side, (0, 2, 1))):
        for a, b in bonds:
            axes.plot(positions[[a, b], i], positions[[a, b], j], color=GREY, linewidth=1.0, zorder=0)
        for k in np.argsort(positions[:, depth] * (1 if depth == 2 else -1)):
            color = jmol_colors[numbers[k]]
            axes.add_patch(
                Circle((positions[k, i], positions[k, j]), 0.45 * radii[k], facecolor=color, edgecolor="black", linewidth=0.4, zorder=1)
            )
        axes.set_aspect("equal")
        axes.autoscale_view()
        axes.axis("off")
    a, b = np.array(structure.lattice.matrix)[:2, :2]
    corners = np.array([[0, 0], a, a + b, b, [0, 0]])
    top.plot(corners[:, 0], corners[:, 1], color="black", linewidth=0.8, linestyle="--")
    return svg(figure)


def element_legend(structure: Structure) -> list[dict[str, Any]]:
    """Symbols with the colours that ``structure_plot`` gives them."""
    from ase.data.colors import jmol_colors

    found = []
    for element in structure.composition:
        red, green, blue = (int(255 * x) for x in jmol_colors[element.Z])
        found.append({"symbol": str(element), "color": f"rgb({red},{green},{blue})"})
    return found
