"""Bands beside their density of states: what is drawn, as plain arrays, and matplotlib figures of it. Pure.

``phonon_plot`` and ``electronic_plot`` say what to draw; ``draw`` makes a figure for files, ``interactive`` one for
pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scdm_flows.report.figures import IMAGINARY, LINE, OURS, SOFT, STYLE, path_ticks, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scdm_flows.documents import BandsDoc, PhononDoc

Array = NDArray[np.float64]
SPIN_COLOURS = {"up": OURS, "down": "#d08a2e"}
WINDOW_EV = (-4.0, 4.0)  # of electronic bands, around zero
SAME_PLACE = 1e-9
TOO_CLOSE = 0.05  # of the path: nearer labels run into each other


@dataclass(frozen=True)
class Branches:
    """Bands of one colour: values (n_k, n_bands), with NaN rows where the path jumps."""

    name: str
    colour: str
    values: Array
    dashed: bool = False


@dataclass(frozen=True)
class BandPlot:
    """What is drawn.

    distances: (n_k,) with the path's jumps in them; ticks: place -> label; branches in order; dos: (name, colour,
    values of the vertical axis, densities); limit: below it, what is drawn is imaginary; spans: horizontal bands
    (low, high) that are shaded, such as a gap.
    """

    title: str
    ylabel: str
    dos_label: str
    distances: Array
    ticks: dict[float, str]
    branches: list[Branches]
    dos: list[tuple[str, str, Array, Array]] = field(default_factory=list)
    limit: float | None = None
    spans: list[tuple[float, float]] = field(default_factory=list)
    ylim: tuple[float, float] | None = None


def _jumps(distances: Array, labels: Sequence[tuple[float, str]]) -> NDArray[np.int64]:
    """Indices before which the path jumps: two different labels at one place."""
    ticks = path_ticks(labels)
    torn = [place for place, name in ticks.items() if "|" in name]
    same = np.flatnonzero(np.diff(distances) < SAME_PLACE) + 1
    return np.array([k for k in same if any(abs(distances[k] - place) < 1e-5 for place in torn)], dtype=np.int64)


def phonon_plot(document: PhononDoc, title: str = "") -> BandPlot:
    """Phonon bands and, where the document has it, their density of states."""
    distances, bands = np.array(document.distances), np.array(document.frequencies_thz)
    jumps = _jumps(distances, document.labels)
    distances, bands = np.insert(distances, jumps, distances[jumps]), np.insert(bands, jumps, np.nan, axis=0)
    dos = []
    if document.dos is not None:
        places, density = np.array(document.dos.frequencies_thz), np.array(document.dos.density_per_thz)
        dos = [("", OURS, places, density)]
    return BandPlot(
        title=title,
        ylabel="frequency (THz)",
        dos_label="DOS (1/THz)",
        distances=distances,
        ticks=path_ticks(document.labels),
        branches=[Branches("", OURS, bands)],
        dos=dos,
        limit=-document.threshold_thz,
    )


def electronic_plot(document: BandsDoc, title: str = "") -> BandPlot:
    """Electronic bands and, where the document has it, their density of states; the gap is shaded."""
    labels, energies = document.labels, document.energies_ev
    gap = None
    if document.vbm is not None and document.cbm is not None:
        gap = (document.vbm.energy_ev, document.cbm.energy_ev)
    dos = None if document.dos is None else (document.dos.energies_ev, document.dos.densities)
    zero = document.energy_zero
    places = np.asarray(document.distances, dtype=float)
    jumps = _jumps(places, labels)
    branches = [
        Branches(
            f"spin {spin}" if len(energies) > 1 else "",
            SPIN_COLOURS[spin],
            np.insert(np.asarray(values, dtype=float), jumps, np.nan, axis=0),
            dashed=spin == "down",
        )
        for spin, values in energies.items()
    ]
    densities: list[tuple[str, str, Array, Array]] = []
    if dos is not None:
        for spin, density in dos[1].items():
            name = f"spin {spin}" if len(dos[1]) > 1 else ""
            densities.append((name, SPIN_COLOURS[spin], np.asarray(dos[0], float), np.asarray(density, float)))
    return BandPlot(
        title=title,
        ylabel=f"energy − {zero} (eV)",
        dos_label="DOS (1/eV)",
        distances=np.insert(places, jumps, places[jumps]),
        ticks=path_ticks(labels),
        branches=branches,
        dos=densities,
        spans=[] if gap is None or gap[1] <= gap[0] else [gap],
        ylim=(min(WINDOW_EV[0], (gap or (0, 0))[0] - 2), max(WINDOW_EV[1], (gap or (0, 0))[1] + 2)),
    )


def draw(plot: BandPlot, width: float = 5.2, height: float = 3.6) -> Figure:
    """The figure, width and height in inches; the density of states has a quarter of it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        if plot.dos:
            axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
            _draw_dos(side, plot)
        else:
            axes = figure.add_subplot()
        draw_bands(axes, plot)
        if plot.title:
            figure.suptitle(plot.title, fontsize=10)
        return figure


def staggered(ticks: Mapping[float, str]) -> list[str]:
    """The labels of the path, one on a second line where it would run into the label before it."""
    apart = max(ticks) * TOO_CLOSE if ticks else 0.0
    labels: list[str] = []
    before, lowered = -np.inf, False
    for place, label in sorted(ticks.items()):
        lowered = place - before < apart and not lowered
        labels.append(f"\n{label}" if lowered else label)
        before = place
    return labels


def draw_bands(axes: Axes, plot: BandPlot) -> None:
    """Draw the bands alone on axes."""
    _common(axes, plot)
    for place in plot.ticks:
        axes.axvline(place, color=LINE, linewidth=0.7, zorder=0)
    for branch in plot.branches:
        style = (0, (3, 1.5)) if branch.dashed else "solid"
        lines = axes.plot(plot.distances, branch.values, color=branch.colour, linewidth=0.9, linestyle=style)
        lines[0].set_label(branch.name)
        if plot.limit is not None:
            imaginary = np.where(branch.values < plot.limit, branch.values, np.nan)
            if np.isfinite(imaginary).any():
                axes.plot(plot.distances, imaginary, color=IMAGINARY, linewidth=1.4, marker=".", markersize=2)
    if any(branch.name for branch in plot.branches):
        axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.set_xticks(sorted(plot.ticks), staggered(plot.ticks))
    axes.tick_params(axis="x", length=0)
    # a label is not rounded as distances are, and beyond the end it would not be drawn
    axes.set_xlim(float(plot.distances.min()), max(float(plot.distances.max()), *plot.ticks))
    axes.set_ylabel(plot.ylabel)
    if plot.ylim is not None:
        axes.set_ylim(*plot.ylim)


def _draw_dos(axes: Axes, plot: BandPlot) -> None:
    _common(axes, plot)
    highest = 0.0
    for _, colour, places, density in plot.dos:
        shown = density if plot.ylim is None else density[(places > plot.ylim[0]) & (places < plot.ylim[1])]
        highest = max(highest, float(shown.max(initial=0.0)))
        axes.fill_betweenx(places, 0, density, color=colour, alpha=0.18, linewidth=0)
        axes.plot(density, places, color=colour, linewidth=0.9)
        if plot.limit is not None and (density[places < plot.limit] > 0).any():
            below = places < plot.limit
            axes.plot(density[below], places[below], color=IMAGINARY, linewidth=1.2)
    axes.set_xlim(0, 1.08 * highest or 1.0)
    axes.set_xlabel(plot.dos_label)
    axes.set_xticks([])


def _common(axes: Axes, plot: BandPlot) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(0, color=SOFT, linewidth=0.6)
    for low, high in plot.spans:
        axes.axhspan(low, high, color=LINE, alpha=0.35, linewidth=0, zorder=0)


def phonon_bands(document: PhononDoc) -> str:
    """Bands and density of states as SVG text; what lies below the threshold of stability is red."""
    return svg(draw(phonon_plot(document), 3.6, 2.5))
