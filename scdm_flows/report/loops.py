"""Loops side by side: what each round chose, and what that gave for the core hour. Pure.

What tables say of a loop, a round and a choice is said here for the pages of ``scdm serve`` as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scdm_flows.campaigns.rounds import summary
from scdm_flows.documents import CandidateDoc, CandidateState, LoopDoc, LoopRound
from scdm_flows.query.candidate_db import known_words
from scdm_flows.query.words import number
from scdm_flows.report.figures import INK, LINE, OURS, PALE, STYLE, published
from scdm_flows.report.markdown import formula, picture, table
from scdm_flows.report.results import MarkdownReport
from scdm_models.metrics.intervals import share_interval

COLOURS = (OURS, "#c2412d", "#7a5c00", "#4b6b3a", "#5b4a86")
FIGURE = "yields.svg"
YIELDS_TITLE = "Layers found against core hours"
LOOP_HEAD = (
    "loop",
    "chosen by",
    "rounds",
    "computed",
    "found",
    "share found (95 %)",
    "core hours",
    "found a core hour",
)
ROUND_HEAD = (
    *("round", "promising samples", "to choose from", "learned from"),
    *("expected", "by rank", "at random", "found", "core hours"),
)
FOUND_WORDS = (
    "Found is a layer that is new after its own relaxation and whose energy above hull, computed by the loop's engine, "
    "is at most what was asked for; computed are also those whose computation failed. Core hours are wall "
    "time of all jobs, generation and surrogate included, by the cores of each: SCDM_VASP_RANKS of VASP's, one of all "
    "others. Of a loop by VASP that ran without that setting they are node hours."
)
EXPECTED_WORDS = "Expected is what the energy model of the round says of its choice, and of as many chosen otherwise."


def render(loops: Sequence[LoopDoc], folder: str) -> MarkdownReport:
    """The page and its figure. folder: of the figures, from the page."""
    return MarkdownReport("\n".join(_page(loops, folder)).rstrip() + "\n", {FIGURE: published(yields(loops))})


def cumulated(rounds: Sequence[LoopRound]) -> tuple[list[float], list[int]]:
    """Core hours and found layers after each round."""
    hours = list(accumulate(r.core_hours or 0.0 for r in rounds))
    return hours, list(accumulate(r.found or 0 for r in rounds))


def loop_cells(one: LoopDoc) -> list[str]:
    """What all rounds of a loop gave, under ``LOOP_HEAD``."""
    whole, interval = summary(one.rounds), "–"
    if whole["computed"]:
        of = share_interval(whole["found"], whole["computed"])
        interval = f"{100 * of.value:.0f} % ({100 * of.low:.0f} to {100 * of.high:.0f})"
    counts = [str(len(one.rounds)), str(whole["computed"]), str(whole["found"])]
    hours = [number(whole[name], 2) for name in ("core_hours", "found_per_core_hour")]
    return [one.name, str(one.config["choose"]["by"]), *counts, interval, *hours]


def state(one: LoopDoc) -> str:
    """Why there are no more rounds, or that there may be."""
    return one.ended or "not at its end yet"


def round_cells(r: LoopRound) -> list[str]:
    """What a round had to choose from and what came of it, under ``ROUND_HEAD``."""
    return [
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


def came_of(one: LoopRound, computed: CandidateDoc | None) -> str:
    """What came of a choice, in words. computed: the candidate that was promoted from it; None where there is none."""
    if computed is None:
        return "left out: the loop's budget was used up" if one.finished else "not computed yet"
    if computed.candidate_id in one.found_ids:
        return "found"
    if one.finished and computed.state is CandidateState.PENDING:
        return "left out: the loop's budget was used up"
    if computed.e_above_hull is None or computed.state is CandidateState.PENDING:
        return computed.reason or computed.state.value
    if computed.duplicate_of is not None:
        return f"the same layer as {computed.duplicate_of}"
    if computed.novel is False:
        return f"not new: {known_words(computed.known_as) or 'known'}"
    return "not what is looked for" if one.finished else "not counted yet"


def _page(loops: Sequence[LoopDoc], folder: str) -> Iterator[str]:
    yield "# What the rounds gave\n"
    command = f"scdm campaign yields {' '.join(one.name for one in loops)}"
    yield f"Made by `{command}` from stored documents. {FOUND_WORDS}\n"
    yield table(LOOP_HEAD, [loop_cells(one) for one in loops])
    yield "\n" + picture(YIELDS_TITLE, f"{folder}/{FIGURE}", 520) + "\n"
    for one in loops:
        yield from _rounds(one)


def _rounds(one: LoopDoc) -> Iterator[str]:
    yield f"## {one.name}\n"
    yield f"{one.description or 'A loop'}; {state(one)}.\n"
    yield table(ROUND_HEAD, [round_cells(r) for r in one.rounds])
    yield f"\n{EXPECTED_WORDS}\n"
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
    names = {name for r in one.rounds for name in r.found_ids}
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
        axes.set_ylabel("found: new layers near the hull")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
        return figure
