"""What was measured of the packaged models, as it lies beside their cards: in a checkout or an installed package; and
of the energy model, as its file says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from scdm_flows.documents import CandidateDoc
from scdm_flows.thermo.energy_model import load_energy_model_card

RESULTS, PHONONS = "results.json", "phonons.json"
PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED, CHECKOUT = PACKAGE / "_cards", PACKAGE.parent / "models" / "cards"


def card_path(name: str) -> Path | None:
    """The file of ``models/cards``; None where it is not installed."""
    return next((folder / name for folder in (INSTALLED, CHECKOUT) if (folder / name).is_file()), None)


@cache
def card(name: str) -> dict[str, Any] | None:
    """Its content; None where it is not installed."""
    path = card_path(name)
    if path is None:
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def energy_models(candidates: Iterable[CandidateDoc]) -> list[str]:
    """Ids of the energy models that the candidates' energies come from."""
    return sorted({c.energy_model for c in candidates if c.energy_model})


def energy_model_card(candidates: Iterable[CandidateDoc]) -> dict[str, Any] | None:
    """What was measured of the packaged energy model; None where no energy of the candidates is its.

    Raises
    ------
    ReferenceDataError
        If the packaged energy model is missing or damaged.
    """
    used = energy_models(candidates)
    found = load_energy_model_card() if used else None
    return found if found is not None and found["id"] in used else None
