"""Distances of ``scdm reconstruct`` as boxes: what a file of it, or the packaged results, holds. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scdm_flows.errors import DatasetError
from scdm_flows.report.cards import RESULTS, card
from scdm_flows.report.evaluation import DISTANCES

DEFINITIONS = ("published", "periodic")
Boxes = dict[str, dict[str, dict[str, list[float]]]]
REMEDY = "give what `scdm reconstruct --data CURATED -o FILE` writes, or models/cards/results.json"


@dataclass(frozen=True)
class Reconstruction:
    """How far reconstructed layers are from the originals.

    n: layers; boxes: definition -> kind -> distance -> lower whisker, quartile, median, quartile, upper whisker, in the
    unit that ``DISTANCES`` names.
    """

    n: int
    boxes: Boxes


def boxes_of(distances: Mapping[str, Sequence[Mapping[str, Any]]]) -> Boxes:
    """Boxes of what was measured: kind -> rows of definition -> distances. Whiskers reach to the last value within 1.5
    of the box; distances that could not be computed are left out.
    """
    from matplotlib.cbook import boxplot_stats

    found: Boxes = {}
    for definition in DEFINITIONS:
        found[definition] = {}
        for kind, rows in distances.items():
            found[definition][kind] = {}
            for key in DISTANCES:
                values = [row[definition][key] for row in rows if row[definition][key] is not None]
                (box,) = boxplot_stats(values)
                five = (box["whislo"], box["q1"], box["med"], box["q3"], box["whishi"])
                found[definition][kind][key] = [float(value) for value in five]
    return found


def read(path: Path | None = None) -> Reconstruction | None:
    """What a file of ``scdm reconstruct`` says, or the packaged results (None), which may not be installed.

    Raises
    ------
    DatasetError
        If the file is missing or of another kind.
    """
    if path is None:
        found = (card(RESULTS) or {}).get("reconstruction")
        return None if found is None else Reconstruction(int(found["n"]), found["boxes"])
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; {REMEDY}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); {REMEDY}") from None
    if isinstance(content, dict) and isinstance(content.get("reconstruction"), dict):
        content = content["reconstruction"]
    if isinstance(content, dict) and "n" in content:
        if "boxes" in content:
            return Reconstruction(int(content["n"]), content["boxes"])
        if "distances" in content:
            return Reconstruction(int(content["n"]), boxes_of(content["distances"]))
    raise DatasetError(f"{path} holds no distances of a reconstruction; {REMEDY}")
