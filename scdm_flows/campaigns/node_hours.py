"""A campaign's node hours: wall time of its jobs, from outputs, those set aside too, and of attempts that left none."""

from __future__ import annotations

import time
from typing import Any

from scdm_flows.stores.names import CONTROLS, SET_ASIDE

LOST = "lost_seconds"  # field of a campaign's control
_known: dict[tuple[str, str], tuple[float, float]] = {}


def node_hours(outputs: Any, campaign: str, *, known_for: float = 0.0) -> float:
    """Wall time of a campaign's jobs with stored outputs, set aside or not, and of its lost attempts, hours.

    outputs: pymongo's collection of them; known_for: seconds for which an earlier sum of this process counts.
    """
    key = (str(outputs.database.name), campaign)
    if key in _known and time.monotonic() - _known[key][0] < known_for:
        return _known[key][1]
    stages = [
        {"$match": {"metadata.campaign": campaign}},
        {"$group": {"_id": None, "seconds": {"$sum": "$metadata.seconds"}}},
    ]
    mongo = outputs.database
    stored = sum(float(found["seconds"]) for some in (outputs, mongo[SET_ASIDE]) for found in some.aggregate(stages))
    lost = mongo[CONTROLS].find_one({"_id": campaign}, {LOST: 1}) or {}
    hours = (stored + float(lost.get(LOST, 0.0))) / 3600
    _known[key] = (time.monotonic(), hours)
    return hours


def add_lost(mongo: Any, campaign: str | None, seconds: float) -> None:
    """Count the wall time (s) of an attempt that left no output, as it failed or was stopped or killed.

    mongo: pymongo's database.
    """
    if campaign is not None and seconds > 0:
        mongo[CONTROLS].update_one({"_id": campaign}, {"$inc": {LOST: round(seconds, 3)}}, upsert=True)
