"""maggma builders: job outputs -> candidates -> hulls -> ranking. Shells around ``analysis``; run them in this order.

Each is idempotent: what has not changed is not written.
"""

from __future__ import annotations

from typing import Any

from scdm_flows.builders.candidates import CandidateBuilder
from scdm_flows.builders.hulls import HullBuilder
from scdm_flows.builders.ranking import RankingBuilder
from scdm_flows.stores.database import Database

__all__ = ["CandidateBuilder", "HullBuilder", "RankingBuilder", "build_all"]


def build_all(database: Database, campaign: str | None = None) -> dict[str, int]:
    """Run all builders; returns how many documents each wrote."""
    written: dict[str, int] = {}
    builders: list[Any] = [
        CandidateBuilder(database, campaign),
        HullBuilder(database),
        RankingBuilder(database, campaign),
    ]
    for builder in builders:
        for item in builder.get_items():
            builder.update_targets([builder.process_item(item)])
        written[type(builder).__name__] = builder.written
    return written
