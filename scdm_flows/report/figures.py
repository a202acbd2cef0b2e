"""The look of all diagrams, SVG text of a figure, and the E_hull histogram. Pure; matplotlib's global state stays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scdm_flows.report.content import BinRow, FunnelRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE = "#1c2430", "#5b6472", "#d5dae1"
OURS, PALE, IMAGINARY = "#1f6f8b", "#c3ccd6", "#c2412d"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "scdm",  # the same documents give the same bytes
    "svg.fonttype": "path",  # looks alike wherever it is opened
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


def svg(figure: Figure, *, transparent: bool = True) -> str:
    """The figure as SVG text, the same bytes for the same figure."""
    buffer = StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def published(figure: Figure) -> str:
    """SVG text for a file among others: on white, as its page may be dark, and with paths to a hundredth of a point."""
    text = svg(figure, transparent=False)

    def rounded(match: re.Match[str]) -> str:
        return match[1] + re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", match[2]) + '"'

    # not transforms: glyphs are scaled by 0.0153125
    return re.sub(r'(\s(?:d|x|y)=")([^"]*)"', rounded, text)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def hull_histogram(bins: Sequence[BinRow], surrogate: bool) -> Figure:
    """Bars of the E_hull bins; the axis says where energies are surrogate ones."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(5.2, 2.9)
        x = np.arange(len(bins))
        counts = [b.count for b in bins]
        bars = axes.bar(x, counts, 0.66, color=OURS)
        axes.bar_label(bars, labels=[str(n) if n else "" for n in counts], padding=2, fontsize=8, color=INK)
        axes.set_xticks(x, [b.label for b in bins])
        axes.set_xlabel(f"{'surrogate ' * surrogate}energy above hull (eV/atom)")
        axes.set_ylabel("candidates")
        axes.set_ylim(0, 1.15 * max(1, *counts))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(axis="x", length=0)
        return figure


def funnel(rows: Sequence[FunnelRow], surrogate: bool) -> Figure:
    """The steps of a campaign in percent of what was generated, the paper's (DFT) beside them."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(5.2, 3.4)
        y = np.arange(len(rows))[::-1]
        name = "this campaign" + " (surrogate energies)" * surrogate
        axes.barh(y + 0.2, [r.share for r in rows], 0.38, color=OURS, label=name)
        axes.barh(y - 0.2, [r.paper_share or 0 for r in rows], 0.38, color=PALE, label="paper (DFT)")
        for place, row in zip(y, rows, strict=True):
            axes.text(row.share + 1, place + 0.2, f"{row.count:,}", va="center", fontsize=8)
            if row.paper is not None:
                axes.text(
                    (row.paper_share or 0) + 1, place - 0.2, f"{row.paper:,}", va="center", fontsize=8, color=SOFT
                )
        axes.set_yticks(y, [r.words for r in rows])
        axes.set_xlim(0, 112)
        axes.set_xlabel("% of generated")
        axes.tick_params(axis="y", length=0)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        return figure


def path_ticks(labels: Sequence[tuple[float, str]]) -> dict[float, str]:
    """Place -> label; where two points of the path meet they share a tick, as ``K|M``."""
    ticks: dict[float, str] = {}
    for place, name in labels:
        near = next((t for t in ticks if abs(t - place) < 1e-5), None)
        if near is None:
            ticks[float(place)] = name
        elif name not in ticks[near].split("|"):
            ticks[near] += f"|{name}"
    return ticks
