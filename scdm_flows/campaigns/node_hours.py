"""Wall time of jobs: what was spent for one before it ran, and a campaign's node hours from its stored outputs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_before: ContextVar[list[float]] = ContextVar("_before")
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


def add_seconds(seconds: float) -> None:
    """Count time that was spent for the job that runs, before it ran; nothing where no job runs."""
    if (before := _before.get(None)) is not None:
        before.append(seconds)


@contextmanager
def spent_before() -> Iterator[list[float]]:
    """In here a job runs; the list gets what ``add_seconds`` counts for it."""
    before: list[float] = []
    token = _before.set(before)
    try:
        yield before
    finally:
        _before.reset(token)
