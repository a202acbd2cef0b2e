"""A campaign's node hours: the wall time of its jobs, from their stored outputs."""

from __future__ import annotations

import time
from typing import Any

_known: dict[tuple[str, str], tuple[float, float]] = {}


def node_hours(outputs: Any, campaign: str, *, known_for: float = 0.0) -> float:
    """Wall time of a campaign's jobs with stored outputs, hours.

    outputs: pymongo's collection of them; known_for: seconds for which an earlier sum of this process counts.
    """
    key = (str(outputs.database.name), campaign)
    if key in _known and time.monotonic() - _known[key][0] < known_for:
        return _known[key][1]
    stages = [
        {"$match": {"metadata.campaign": campaign}},
        {"$group": {"_id": None, "seconds": {"$sum": "$metadata.seconds"}}},
    ]
    found = next(iter(outputs.aggregate(stages)), {"seconds": 0.0})
    hours = float(found["seconds"]) / 3600
    _known[key] = (time.monotonic(), hours)
    return hours
