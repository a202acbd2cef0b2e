"""Pictures of ``scdm evaluate`` as SVG files: distributions, energies above hull, steps, reconstruction distances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from pymatgen.core import Structure

from scdm_flows.report.figures import LINE, SOFT, STYLE, svg
from scdm_models.lattice import slab_thickness

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


def write_pictures(
    folder: Path,
    runs: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    held_out: Sequence[Structure] | None,
) -> list[Path]:
    """Distributions of the samples' sizes and, where they were relaxed, of their energies; quality against steps where
    a model was run with several numbers of them; the files written.
    """
    by_model: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    by_steps: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for run in runs:
        by_model[run["label"]].append(run)
    for model in models:
        if model["steps"] is not None:
            by_steps[model["model_id"]][model["steps"]] = model["measures"]
    pictures = {"distributions.svg": _distributions(by_model, held_out)}
    if any("e_above_hull" in run for run in runs):
        pictures["e_hull.svg"] = _energies(by_model)
    for model_id, measures in by_steps.items():
        if len(measures) > 1 and _in_all(measures):
            pictures[f"steps-{model_id}.svg"] = quality_against_steps(measures)
    written = []
    for name, figure in pictures.items():
        (folder / name).write_text(svg(figure))
        written.append(folder / name)
    return written


def _figure(columns: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(3.4 * columns, 2.8), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_yticks([])
    return figure, axes


def _distributions(by_model: Mapping[str, Sequence[Mapping[str, Any]]], held_out: Sequence[Structure] | None) -> Figure:
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
            for colour, (model, runs) in zip(COLOURS, by_model.items(), strict=False):
                values = [v for run in runs for v in run["populations"][name] if v is not None]
                one.hist(values, bins=bins, density=True, histtype="step", color=colour, lw=1.4, label=model)
            one.set_xlabel(title)
        axes[-1].legend(frameon=False, fontsize=8)
    return figure


def _energies(by_model: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    bins = np.linspace(-0.5, 1.5, 41)
    with mpl.rc_context(STYLE):
        figure, (axes,) = _figure(1)
        for colour, (model, runs) in zip(COLOURS, by_model.items(), strict=False):
            values = [v for run in runs for v in run.get("e_above_hull", []) if v is not None]
            axes.hist(
                np.clip(values, bins[0], bins[-1]),
                bins=bins,
                density=True,
                histtype="step",
                color=colour,
                lw=1.4,
                label=model,
            )
        axes.axvline(0.6, color=SOFT, lw=0.8, ls="--")
        axes.set_xlabel("surrogate E$_{hull}$, eV/atom")
        axes.legend(frameon=False, fontsize=8)
    return figure


QUALITIES = {
    "kept_draws": "bonded layers, of all draws",
    "e_hull_0.6": "surrogate E$_{hull}$ ≤ 0.6 eV/atom",
    "one_layer_relaxed": "one layer after relaxing",
    "group_kept": "operations kept on relaxing",
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
