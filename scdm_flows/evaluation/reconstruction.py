"""Distances of reconstructed layers from the originals (``scdm reconstruct``), summed up. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

DEFINITIONS = ("published", "periodic")
DISTANCES = ("energy", "sinkhorn", "superpose", "crystalnn", "xrd", "ofm")  # see ``scdm_models.metrics.csp``
Distances = Mapping[str, Sequence[Mapping[str, Any]]]  # kind of reconstruction -> rows of definition -> distances
SIZES = ((1, 4), (5, 9), (10, 14), (15, None))  # atoms of the primitive cell, both ends within
ASSEMBLED = {"matches": "come out as they are", "bonded": "come out as one bonded layer"}
Boxes = dict[str, dict[str, dict[str, list[float]]]]


def by_size(right: Sequence[bool], n_atoms: Sequence[int]) -> dict[str, dict[str, float]]:
    """Share of layers for which something holds with its 95 % interval: ``all``, and by number of atoms.

    right, n_atoms: (n,); sizes of which there is no layer are left out.
    """
    import numpy as np

    from scdm_models.metrics.intervals import share_interval

    holds, n = np.array(right, dtype=bool), np.array(n_atoms)
    parts = {"all": np.ones(len(n), dtype=bool)}
    for low, high in SIZES:
        parts[f"{low}+" if high is None else f"{low}-{high}"] = (n >= low) & (n <= (high or n.max()))
    return {
        name: asdict(share_interval(int(holds[part].sum()), int(part.sum())))
        for name, part in parts.items()
        if part.any()
    }


def medians(distances: Distances) -> dict[str, dict[str, dict[str, float | None]]]:
    """Definition -> kind -> distance -> median over the layers; None where it could be computed for none of them."""
    return {
        definition: {
            kind: {name: median(values) if (values := _values(rows, definition, name)) else None for name in DISTANCES}
            for kind, rows in distances.items()
        }
        for definition in DEFINITIONS
    }


def boxes(distances: Distances) -> Boxes:
    """Definition -> kind -> distance -> lower whisker, quartile, median, quartile, upper whisker.

    Whiskers reach to the last value within 1.5 of the box; distances that could not be computed are left out.
    """
    from matplotlib.cbook import boxplot_stats

    found: Boxes = {}
    for definition in DEFINITIONS:
        found[definition] = {}
        for kind, rows in distances.items():
            found[definition][kind] = {}
            for name in DISTANCES:
                (box,) = boxplot_stats(_values(rows, definition, name))
                five = (box["whislo"], box["q1"], box["med"], box["q3"], box["whishi"])
                found[definition][kind][name] = [float(value) for value in five]
    return found


def _values(rows: Sequence[Mapping[str, Any]], definition: str, name: str) -> list[float]:
    return [row[definition][name] for row in rows if row[definition][name] is not None]
