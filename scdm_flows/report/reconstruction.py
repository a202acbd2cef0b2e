"""Distances of ``scdm reconstruct`` as boxes, from a file of it or from the packaged results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scdm_flows.errors import DatasetError
from scdm_flows.evaluation.reconstruction import Boxes, boxes
from scdm_flows.report.cards import RESULTS, card

REMEDY = "give what `scdm reconstruct --data CURATED -o FILE` writes, or models/cards/results.json"


@dataclass(frozen=True)
class Reconstruction:
    """How far reconstructed layers are from the originals.

    n: layers; models: ids of those that denoised, none where the file does not say; boxes: definition -> kind ->
    distance -> lower whisker, quartile, median, quartile, upper whisker, in the unit that
    ``report.evaluation.DISTANCES`` names.
    """

    n: int
    models: tuple[str, ...]
    boxes: Boxes


def read(path: Path | None = None) -> Reconstruction | None:
    """What a file of ``scdm reconstruct`` says, or the packaged results (None), which may not be installed.

    Raises
    ------
    DatasetError
        If the file is missing or of another kind.
    """
    if path is None:
        found = (card(RESULTS) or {}).get("reconstruction")
        return None if found is None else _of(found, found["boxes"])
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
            return _of(content, content["boxes"])
        if "distances" in content:
            return _of(content, boxes(content["distances"]))
    raise DatasetError(f"{path} holds no distances of a reconstruction; {REMEDY}")


def _of(content: dict[str, Any], found: Boxes) -> Reconstruction:
    return Reconstruction(int(content["n"]), tuple(map(str, content.get("models", ()))), found)
