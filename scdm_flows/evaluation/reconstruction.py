"""Distances of reconstructed layers from the originals (``scdm reconstruct``), summed up. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

DEFINITIONS = ("published", "periodic")
DISTANCES = ("energy", "sinkhorn", "superpose", "crystalnn", "xrd", "ofm")  # see ``scdm_models.metrics.csp``
Distances = Mapping[str, Sequence[Mapping[str, Any]]]  # kind of reconstruction -> rows of definition -> distances
Boxes = dict[str, dict[str, dict[str, list[float]]]]


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
