"""Pictures of ``scdm evaluate`` and ``scdm reconstruct``: models side by side, distributions, steps, distances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from pymatgen.core import Structure

from scdm_flows.report.figures import INK, LINE, SOFT, STYLE
from scdm_models.symmetry.lattice import slab_thickness

COLOURS = ("#1f6f8b", "#d08a2c", "#7a5195", "#c2412d")
# distances of reconstruction (``scdm_models.metrics.csp``), in words
DISTANCES = {
    "energy": "surrogate energy, eV/atom",
    "sinkhorn": "Sinkhorn, Å",
    "superpose": "superposition, Å",
    "crystalnn": "CrystalNN fingerprint",
    "xrd": "powder pattern",
    "ofm": "orbital field matrix",
}


# what is shown of a judgement by a protocol, in short words
FOUND = {
    "valid": "valid",
    "one_layer": "one layer after relaxing",
    "group_kept": "layer group kept",
    "unique": "unique",
    "new": "new",
    "stable_0.1": "surrogate E$_{hull}$ ≤ 0.1 eV/atom",
}
SUN = {
    "sun_0.1": "MetaS.U.N.\n(≤ 0.1 eV/atom)",
    "sun_0.05": "S.U.N.\n(≤ 0.05 eV/atom)",
    "sun_0": "S.U.N.\n(≤ 0)",
    "sun_phonon": "MetaS.U.N. and\nphonon-stable",
}
MARKERS = "osD^v"


def side_by_side(models: Sequence[Mapping[str, Any]]) -> Figure:
    """The measures of several models with their 95 % intervals: of the samples, what is found among them, and of that
    how much 1,000 raw draws hold.

    models: as ``scdm_flows.evaluation.run`` gives them; baselines are grey.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 1.6 + 0.42 * len(models) + 1.9), layout="constrained")
        panels = (
            ("of the samples, %", FOUND, "measures", 100.0),
            ("surrogate stable, unique, new, % of samples", SUN, "measures", 100.0),
            ("the same per 1,000 raw draws", SUN, "per_1000_draws", 1.0),
        )
        for axes, (title, names, source, unit) in zip(figure.subplots(1, 3), panels, strict=True):
            for place, (label, (colour, marker)) in enumerate(_looks(models).items()):
                model = models[place]
                offset = 0.7 * (place / max(1, len(models) - 1) - 0.5)
                rows = [(y + offset, model[source][key]) for y, key in enumerate(names) if key in model[source]]
                value, low, high = (np.array([unit * row[k] for _, row in rows]) for k in ("value", "low", "high"))
                axes.errorbar(
                    value,
                    [y for y, _ in rows],
                    xerr=[value - low, high - value],
                    fmt=marker,
                    color=colour,
                    ms=4,
                    lw=1,
                    label=f"{label}, n = {model['n']}",
                )
            axes.set_yticks(range(len(names)), list(names.values()))
            axes.set_ylim(len(names) - 0.5, -0.5)
            for y in range(1, len(names)):
                axes.axhline(y - 0.5, color=LINE, lw=0.6)
            axes.set_xlim(0, 100 if names is FOUND else None)
            axes.tick_params(axis="y", length=0)
            axes.set_xlabel(title)
            axes.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def _looks(models: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Label -> colour and marker: colours for the model and its peers, greys for baselines."""
    colours, greys = cycle(COLOURS), cycle(zip((INK, SOFT, "#8b94a1", "#b0b8c3"), MARKERS[1:], strict=True))
    return {m["label"]: next(greys) if m["kind"] == "baseline" else (next(colours), MARKERS[0]) for m in models}


def against_steps(models: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """File name -> picture of quality against denoising steps, for each model that was run with several of them."""
    by_steps: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for model in models:
        if model["steps"] is not None:
            by_steps[model["model_id"]][model["steps"]] = model["measures"]
    return {
        f"steps-{model_id}.svg": quality_against_steps(measures)
        for model_id, measures in by_steps.items()
        if len(measures) > 1 and _in_all(measures)
    }


def _figure(columns: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(3.4 * columns, 2.8), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_yticks([])
    return figure, axes


def distributions(models: Sequence[Mapping[str, Any]], held_out: Sequence[Structure] | None) -> Figure:
    """Atoms in the cell, area per atom and thickness of the samples of each model, held-out layers behind them.

    models: as ``scdm_flows.evaluation.quick`` gives them.
    """
    known: dict[str, list[float]] = {}
    if held_out is not None:
        known = {
            "n_atoms": [len(s) for s in held_out],
            "area_per_atom": [s.volume / s.lattice.c / len(s) for s in held_out],
            "thickness": [slab_thickness(s) for s in held_out],
        }
    titles = {
        "n_atoms": ("atoms in the primitive cell", np.arange(0.5, 41.5, 2)),
        "area_per_atom": ("area per atom, Å$^2$", np.linspace(0, 16, 33)),
        "thickness": ("thickness, Å", np.linspace(0, 12, 33)),
    }
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3)
        for one, (name, (title, bins)) in zip(axes, titles.items(), strict=True):
            if name in known:
                one.hist(known[name], bins=bins, density=True, color=LINE, label="held-out layers")
            for colour, model in zip(cycle(COLOURS), models, strict=False):
                values = [v for v in model["populations"][name] if v is not None]
                one.hist(values, bins=bins, density=True, histtype="step", color=colour, lw=1.4, label=model["label"])
            one.set_xlabel(title)
        axes[-1].legend(frameon=False, fontsize=8)
    return figure


QUALITIES = {
    "kept_draws": "bonded layers, of all draws",
    "stable_0.1": "surrogate E$_{hull}$ ≤ 0.1 eV/atom",
    "one_layer": "one layer after relaxing",
    "group_kept": "layer group kept on relaxing",
    "rmsd_angstrom": "RMSD to relaxed, Å",
}


def _in_all(measured: Mapping[int, Mapping[str, Any]]) -> list[str]:
    return [name for name in QUALITIES if all(name in measures for measures in measured.values())]


def quality_against_steps(measured: Mapping[int, Mapping[str, Any]]) -> Figure:
    """Shares and the distance to the relaxed structures, with their 95 % intervals, against denoising steps.

    measured: steps -> measure -> value, low, high; measures that are absent are not drawn.
    """
    steps = sorted(measured)
    with mpl.rc_context(STYLE):
        names = _in_all(measured)
        figure = Figure(figsize=(2.3 * len(names), 2.6), layout="constrained")
        for one, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            rows = [measured[s][name] for s in steps]
            value, low, high = (np.array([row[key] for row in rows]) for key in ("value", "low", "high"))
            one.errorbar(steps, value, [value - low, high - value], fmt="o-", color=COLOURS[0], ms=4, lw=1, capsize=2)
            one.set_xscale("log")
            one.set_ylim(0, max(1.0, float(high.max())) if name != "rmsd_angstrom" else None)
            one.set_title(QUALITIES[name], fontsize=8)
            one.set_xlabel("denoising steps")
            one.spines[["top", "right"]].set_visible(False)
    return figure


def box_plots(measured: Mapping[str, Sequence[Mapping[str, Any]]], names: Mapping[str, str]) -> Figure:
    """The six distances of each kind of reconstruction (paper, Fig. 4): published above, periodic below.

    measured: kind -> rows of definition -> distances; names: key and title of each distance.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(names), 6.4), layout="constrained")
        axes = figure.subplots(2, len(names), squeeze=False)
        for row, definition in zip(axes, ("published", "periodic"), strict=True):
            for one, (key, title) in zip(row, names.items(), strict=True):
                values = [
                    [r[definition][key] for r in rows if r[definition][key] is not None] for rows in measured.values()
                ]
                boxes = one.boxplot(
                    values, patch_artist=True, showfliers=False, widths=0.6, medianprops={"color": "#1c2430"}
                )
                for kind, box in zip(measured, boxes["boxes"], strict=True):
                    first = kind.split(",")[0]
                    box.set_facecolor({"SCDM": COLOURS[0], "UnSCDM": COLOURS[1]}.get(first, LINE))
                    box.set_alpha(0.75)
                one.set_xticks(range(1, len(measured) + 1), list(measured), rotation=90, fontsize=7)
                one.set_title(f"{title}\n({definition})", fontsize=8)
                one.spines[["top", "right"]].set_visible(False)
                one.set_ylim(bottom=0)
    return figure
