"""What was measured of the packaged models, as it lies beside their cards: in a checkout or an installed package."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

RESULTS, PHONONS = "results.json", "phonons.json"


def card_path(name: str) -> Path | None:
    """The file of ``models/cards``; None where it is not installed."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "_cards", package.parent / "models" / "cards")
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


@cache
def card(name: str) -> dict[str, Any] | None:
    """Its content; None where it is not installed."""
    path = card_path(name)
    if path is None:
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found
