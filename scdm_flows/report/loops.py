"""Loops side by side: what each round chose, and what that gave for the core hour. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scdm_flows.campaigns.rounds import summary
from scdm_flows.documents import LoopDoc, LoopRound
from scdm_flows.report.figures import INK, LINE, OURS, PALE, STYLE, published
from scdm_flows.report.markdown import formula, number, picture, table
from scdm_flows.report.results import MarkdownReport
from scdm_models.metrics.intervals import share_interval

COLOURS = (OURS, "#c2412d", "#7a5c00", "#4b6b3a", "#5b4a86")
FIGURE = "yields.svg"


def render(loops: Sequence[LoopDoc], folder: str) -> MarkdownReport:
    """The page and its figure. folder: of the figures, from the page."""
    return MarkdownReport("\n".join(_page(loops, folder)).rstrip() + "\n", {FIGURE: published(yields(loops))})


def cumulated(rounds: Sequence[LoopRound]) -> tuple[list[float], list[int]]:
    """Core hours and found layers after each round."""
    hours = list(accumulate(r.core_hours or 0.0 for r in rounds))
    return hours, list(accumulate(r.found or 0 for r in rounds))


def _page(loops: Sequence[LoopDoc], folder: str) -> Iterator[str]:
    yield "# What the rounds gave\n"
    command = f"scdm campaign yields {' '.join(one.name for one in loops)}"
    yield f"Made by `{command}` from stored documents. Found is a layer that is new after its own relaxation and whose"
    yield "energy above hull, computed by the loop's engine, is at most what was asked for. Core hours are wall time"
    yield "of all jobs, generation and surrogate included, each on one core.\n"
    yield table(
        ["loop", "chosen by", "rounds", "computed", "found", "share found (95 %)", "core hours", "found a core hour"],
        [_whole(one) for one in loops],
    )
    yield "\n" + picture("Layers found against core hours", f"{folder}/{FIGURE}", 520) + "\n"
    for one in loops:
        yield from _rounds(one)


def _whole(one: LoopDoc) -> list[str]:
    whole, interval = summary(one.rounds), "–"
    if whole["computed"]:
        of = share_interval(whole["found"], whole["computed"])
        interval = f"{100 * of.value:.0f} % ({100 * of.low:.0f} to {100 * of.high:.0f})"
    counts = [str(len(one.rounds)), str(whole["computed"]), str(whole["found"])]
    hours = [number(whole[name], 2) for name in ("core_hours", "found_per_core_hour")]
    return [one.name, str(one.config["choose"]["by"]), *counts, interval, *hours]


def _rounds(one: LoopDoc) -> Iterator[str]:
    yield f"## {one.name}\n"
    yield f"{one.description or 'A loop'}; {one.ended or 'not at its end yet'}.\n"
    rows = [
        [
            str(r.number),
            "–" if r.samples is None else f"{r.promising} of {r.samples}",
            str(r.pool),
            str(r.learned_from),
            f"{r.expected:.1f}",
            f"{r.expected_by_rank:.1f}",
            f"{r.expected_at_random:.1f}",
            "–" if r.found is None else f"{r.found} of {r.ended}",
            number(r.core_hours, 2),
        ]
        for r in one.rounds
    ]
    head = [
        "round",
        "promising samples",
        "to choose from",
        "learned from",
        "expected",
        "by rank",
        "at random",
        "found",
        "core hours",
    ]
    yield table(head, rows)
    yield "\nExpected is what the energy model of the round says of its choice, and of as many chosen otherwise.\n"
    names = {name for r in one.rounds for name in r.found_ids}
    chosen = [
        [
            str(r.number),
            f"`{choice.candidate_id}`",
            formula(choice.formula),
            f"{number(choice.e_above_hull)} ± {number(choice.e_above_hull_error, 2)}",
            f"{100 * choice.chance:.0f} %",
        ]
        for r in one.rounds
        for choice in r.chosen
    ]
    if chosen:
        yield table(["round", "chosen", "formula", "E_hull predicted, eV/atom", "chance"], chosen, left=3) + "\n"
    if names:
        yield "Found, as computed: " + ", ".join(f"`{name}`" for name in sorted(names)) + ".\n"


def yields(loops: Sequence[LoopDoc]) -> Figure:
    """Found layers against core hours, a line for each loop; pale: what its energy models expected of the choice."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.1), layout="constrained")
        axes: Any = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=LINE, linewidth=0.5)
        for one, colour in zip(loops, np.resize(COLOURS, len(loops)), strict=True):
            counted = [r for r in one.rounds if r.core_hours is not None]
            hours, found = cumulated(counted)
            expected = list(accumulate(r.expected for r in counted))
            axes.plot([0, *hours], [0, *expected], color=PALE, linewidth=1.2, zorder=1)
            label = f"{one.name} (by {one.config['choose']['by']})"
            axes.plot([0, *hours], [0, *found], "o-", color=str(colour), markersize=4, linewidth=1.6, label=label)
        axes.set_xlabel("core hours")
        axes.set_ylabel("new stable layers found")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
        return figure
