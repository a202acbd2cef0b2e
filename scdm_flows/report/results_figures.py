"""Figures of the results page: funnel by generator, distances of reconstruction, E_hull by generator, the best layers.

Pure: counts and documents in, matplotlib figures out. Colours are two that every kind of sight tells apart, blue and
amber, and what is new is told from what is known by its filling, not by its colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scdm_flows.documents import CandidateDoc, PhononDoc
from scdm_flows.query.candidate_files import structure_of
from scdm_flows.report import bands, content, crystals, paper
from scdm_flows.report.evaluation import COLOURS, DISTANCES
from scdm_flows.report.figures import INK, LINE, SOFT, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scdm_flows.report.recount import Counts

OTHER = "#8a8f98"
GENERATOR_COLOURS = {"scdm": COLOURS[0], "unscdm": COLOURS[1]}
STEPS = {
    "generated": "generated",
    "valid": "valid",
    "unique": "no duplicates",
    "sample_novel": "of these new as sampled",
    "relaxed": "relaxed",
    "novel": "new after relaxation",
    "below": "E$_{hull}$ in the window",
    "dynamically_stable": "phonon-stable",
}
HULL_EDGES = (-0.3, 1.2)  # eV/atom, what lies outside is drawn in the last bins
BIN_WIDTH = 0.05
LOGARITHMIC = ("energy", "sinkhorn", "superpose")  # distances of several orders of magnitude


def colour(generator: str) -> str:
    """Of a generator."""
    return GENERATOR_COLOURS.get(generator, OTHER)


def name(generator: str) -> str:
    """Of a generator, as the paper writes it."""
    return paper.NAMES.get(generator, generator)


def funnel(counts: Mapping[str, Counts], window: float) -> Figure:
    """Steps of each generator in percent of its samples, the paper's as a mark on the bar."""
    with mpl.rc_context(STYLE):
        height = 0.8 / max(1, len(counts))
        figure = Figure(figsize=(7.6, 1.2 + 0.5 * len(STEPS) * max(1.0, 0.5 * len(counts))), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right", "left"]].set_visible(False)
        for k, (generator, found) in enumerate(counts.items()):
            values = _steps(found, window)
            total = values["generated"] or 1
            papers = paper.BY_GENERATOR.get(generator, {})
            for row, step in enumerate(STEPS):
                place = len(STEPS) - 1 - row + 0.4 - height * (k + 0.5)
                share = 100 * values[step] / total
                axes.barh(place, share, height * 0.92, color=colour(generator))
                axes.text(share + 0.8, place, f"{values[step]:,}", va="center", fontsize=8, color=INK)
                of_paper = papers.get("in_window" if step == "below" else step)
                if of_paper is not None and step != "generated":
                    at = 100 * of_paper / papers["generated"]
                    axes.plot([at, at], [place - height * 0.46, place + height * 0.46], color=INK, lw=2.2)
        axes.set_yticks(range(len(STEPS) - 1, -1, -1), STEPS.values(), fontsize=9, color=INK)
        axes.set_xlim(0, 109)
        axes.set_xlabel("% of the generator's samples")
        axes.tick_params(axis="y", length=0)
        handles: list[Any] = [Patch(color=colour(g), label=name(g)) for g in counts]
        handles.append(Line2D([], [], color=INK, lw=2.2, label="the paper's (DFT), where it says"))
        axes.legend(handles=handles, frameon=False, fontsize=9, loc="lower right")
        return figure


def _steps(found: Counts, window: float) -> dict[str, int]:
    return {**found.funnel.model_dump(), "below": found.below[window]}


def energies(candidates: Sequence[CandidateDoc], window: float, *, surrogate: bool) -> Figure:
    """E_hull of the unique candidates of each generator (paper, Fig. 5): new ones filled, known ones hollow,
    phonon-stable ones marked where they lie.
    """
    known = content.computed(candidates)
    generators = sorted({c.generator for c in known}, key=lambda g: ({"scdm": 0, "unscdm": 1}.get(g, 2), g))
    low, high = HULL_EDGES
    bins = np.linspace(low, high, round((high - low) / BIN_WIDTH) + 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.8 + 2.3 * max(1, len(generators))), layout="constrained")
        panels = figure.subplots(max(1, len(generators)), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, generator in zip(panels, generators, strict=False):
            own = [c for c in known if c.generator == generator]
            _histogram(axes, own, bins, generator)
            for place in (0.0, window):
                axes.axvline(place, color=SOFT, lw=0.9, ls=(0, (4, 3)), zorder=0)
        for axes, generator in zip(panels, generators, strict=False):
            _marks(axes, [c for c in known if c.generator == generator], generator)
        top = 1.1 * max(float(axes.dataLim.ymax) for axes in panels) or 1.0
        for axes in panels:
            axes.set_ylim(0, top)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_ylabel("candidates")
            axes.text(window - 0.01, top * 0.97, f"window {window:g}", fontsize=8, color=SOFT, ha="right", va="top")
            axes.text(-0.01, top * 0.97, "hull", fontsize=8, color=SOFT, ha="right", va="top")
        kind = "surrogate energy above hull" if surrogate else "energy above hull"
        panels[-1].set_xlabel(f"{kind} (eV/atom)")
        panels[-1].set_xlim(low, high)
        ticks = np.arange(low, high + 0.01, 0.3)
        labels = [f"{tick:.1f}".replace("-", "−") for tick in ticks]
        panels[-1].set_xticks(ticks, [f"≤ {labels[0]}", *labels[1:-1], f"≥ {labels[-1]}"])
        return figure


def _histogram(axes: Axes, own: Sequence[CandidateDoc], bins: Any, generator: str) -> None:
    inside = [np.clip([float(c.e_above_hull or 0) for c in group], bins[0], bins[-1]) for group in _new_and_known(own)]
    axes.hist(
        inside,
        bins=bins,
        stacked=True,
        color=[colour(generator), "white"],
        edgecolor=colour(generator),
        linewidth=0.7,
    )


def _new_and_known(own: Sequence[CandidateDoc]) -> tuple[list[CandidateDoc], list[CandidateDoc]]:
    return [c for c in own if c.novel], [c for c in own if not c.novel]


def _marks(axes: Axes, own: Sequence[CandidateDoc], generator: str) -> None:
    """Phonon-stable candidates, new and known, in a row above the bars."""
    top = float(axes.dataLim.ymax)
    handles: list[Any] = [
        Patch(facecolor=colour(generator), edgecolor=colour(generator), label=f"{name(generator)}, new"),
        Patch(facecolor="white", edgecolor=colour(generator), label=f"{name(generator)}, known"),
    ]
    rows = zip(_new_and_known(own), ("*", "^"), ("new", "known"), (7.0, 4.5), (1.06, 1.3), strict=True)
    for group, marker, word, size, level in rows:
        stable = [float(c.e_above_hull or 0) for c in group if c.dynamically_stable]
        filled = INK if word == "new" else "white"
        style: dict[str, Any] = {"marker": marker, "ms": size, "mfc": filled, "mec": INK, "mew": 0.4, "ls": "none"}
        if stable:
            # in three rows, so that neighbours can be told apart
            heights = top * (level + 0.06 * (np.arange(len(stable)) % 3))
            axes.plot(np.clip(sorted(stable), *HULL_EDGES), heights, alpha=0.8, **style)
        handles.append(Line2D([], [], label=f"phonon-stable, {word} ({len(stable)})", **style))
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1.0, 0.93))


def distances(boxes: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """The six distances of each kind of reconstruction (paper, Fig. 4), as boxes.

    boxes: kind such as "SCDM, t* = 0.3" -> distance -> lower whisker, quartile, median, quartile, upper whisker.
    """
    times = sorted({time for kind in boxes if (time := _time(kind)) is not None})
    places = {time: float(k) for k, time in enumerate(times)}
    baseline = len(times) - 0.2
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 5.4), layout="constrained")
        panels = figure.subplots(2, 3).flat
        for axes, (key, title) in zip(panels, DISTANCES.items(), strict=True):
            for kind, values in boxes.items():
                model, time = kind.split(",")[0], _time(kind)
                shift = {"SCDM": -0.19, "UnSCDM": 0.19}.get(model, 0.0)
                place = baseline if time is None else places[time] + shift
                face = {"SCDM": COLOURS[0], "UnSCDM": COLOURS[1]}.get(model, LINE)
                _box(axes, values[key], place, face, logarithmic=key in LOGARITHMIC)
            if key in LOGARITHMIC:
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0)
            axes.set_xticks([*places.values(), baseline], [*(f"t* = {t:g}" for t in times), "15 %"], color=INK)
            axes.tick_params(axis="x", length=0)
            axes.set_xlim(-0.5, baseline + 0.4)
            axes.set_title(title, fontsize=9.5, color=INK)
            axes.spines[["top", "right"]].set_visible(False)
        handles = [
            Patch(facecolor=COLOURS[0], edgecolor=INK, label="SCDM"),
            Patch(facecolor=COLOURS[1], edgecolor=INK, label="UnSCDM"),
            Patch(facecolor=LINE, edgecolor=INK, label="baseline: coordinates perturbed by 15 %"),
        ]
        figure.legend(handles=handles, frameon=False, ncols=3, loc="outside lower center")
        return figure


def _time(kind: str) -> float | None:
    _, found, time = kind.partition("t* = ")
    return float(time) if found else None


def _box(axes: Axes, values: Sequence[float], place: float, face: str, *, logarithmic: bool) -> None:
    keys = ("whislo", "q1", "med", "q3", "whishi")
    smallest = max(values[2] / 300, 1e-9) if logarithmic else -np.inf  # a distance of 0 has no logarithm
    axes.bxp(
        [{**dict(zip(keys, (max(v, smallest) for v in values), strict=True)), "fliers": []}],
        positions=[place],
        widths=0.32,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": face, "edgecolor": INK, "linewidth": 0.7},
        medianprops={"color": INK, "linewidth": 1.3},
        whiskerprops={"color": INK, "linewidth": 0.7},
        capprops={"color": INK, "linewidth": 0.7},
    )


def best_layers(layers: Sequence[tuple[CandidateDoc, PhononDoc, str]], columns: int = 3) -> Figure:
    """Top view, side view and phonon bands of each layer (paper, Fig. 6), with its title over them."""
    rows = -(-len(layers) // columns) or 1
    wide, high, gap = 3.6, 3.3, 0.12  # inches of a panel
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(wide * columns, high * rows))
        for k, (candidate, phonon, title) in enumerate(layers):
            left, bottom = wide * (k % columns), high * (rows - 1 - k // columns)
            box = (left + gap / 2, bottom, wide - gap, high)
            _panel(figure, box, candidate, phonon, f"({'abcdefghijkl'[k]}) {title}")
        return figure


def _panel(
    figure: Figure, box: tuple[float, float, float, float], candidate: CandidateDoc, phonon: PhononDoc, title: str
) -> None:
    """A panel of a figure; box: left, bottom, width and height in inches."""
    left, bottom, width, height = box
    across, down = figure.get_size_inches()

    def axes(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes(((left + x) / across, (bottom + y) / down, w / across, h / down))

    structure = structure_of(candidate)
    views = crystals.LayerViews.of(structure)
    room, tall = 1.45, height - 0.75  # inches for the views; the rest is the title, the legend and the ticks
    scale = min(room / views.width, (tall - 0.08) / sum(views.heights))  # inches per angstrom
    tops = [h * scale for h in views.heights]
    free = tall - sum(tops)
    x = 0.02 + (room - views.width * scale) / 2
    upper = axes(x, 0.4 + tops[1] + 0.66 * free, views.width * scale, tops[0])
    lower = axes(x, 0.4 + 0.33 * free, views.width * scale, tops[1])
    views.draw(upper, lower, 72 * scale)
    plot = axes(room + 0.52, 0.32, width - room - 0.6, tall + 0.06)
    bands.draw_bands(plot, bands.phonon_plot(phonon))
    plot.set_ylabel("THz", fontsize=8.5, labelpad=1)
    plot.tick_params(axis="y", labelsize=8, length=2, pad=2)
    figure.text((left + 0.04) / across, (bottom + height - 0.2) / down, title, fontsize=9.5, color=INK, va="center")
    elements = crystals.legend(structure)
    for k, (symbol, shade) in enumerate(elements):
        place = (left + 0.14 + 0.42 * k) / across, (bottom + 0.17) / down
        figure.add_artist(Line2D([place[0]], [place[1]], marker="o", ms=7, mfc=shade, mec=INK, mew=0.5, ls="none"))
        figure.text(place[0] + 0.09 / across, place[1], symbol, fontsize=8.5, color=INK, va="center")
