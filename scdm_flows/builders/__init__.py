"""maggma builders: job outputs -> candidates -> hulls -> ranking, to be run in this order.

Shells around ``analysis``. Each is idempotent (what has not changed is not written), and one bad item never
ends it.
"""

from __future__ import annotations

import logging

from scdm_flows.builders.base import ScdmBuilder
from scdm_flows.builders.candidates import CandidateBuilder
from scdm_flows.builders.hulls import HullBuilder
from scdm_flows.builders.ranking import RankingBuilder
from scdm_flows.errors import ReferenceDataError
from scdm_flows.references.table import ReferenceTable
from scdm_flows.stores.database import Database
from scdm_flows.stores.trouble import store_errors

logger = logging.getLogger(__name__)

__all__ = ["CandidateBuilder", "HullBuilder", "RankingBuilder", "build_all"]


def build_all(database: Database, campaign: str | None = None) -> dict[str, int]:
    """Run all builders; returns how many documents each wrote.

    Parameters
    ----------
    database
        Connected.
    campaign
        Whose candidates to gather and rank; of all campaigns when absent. Hulls are always those of all
        candidates.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    StoreError
        If the database fails.
    """
    builders: list[ScdmBuilder] = [
        CandidateBuilder(database, campaign),
        HullBuilder(database),
        *_own_hulls(database),
        RankingBuilder(database, campaign),
    ]
    written: dict[str, int] = {}
    for builder in builders:
        builder.run()
        name = type(builder).__name__
        written[name] = written.get(name, 0) + builder.written
    return written


def _own_hulls(database: Database) -> list[HullBuilder]:
    """A hull builder for each reference file that campaigns name; one that cannot be read here is left out."""
    campaigns: dict[str, list[str]] = {}
    with store_errors(database.uri):
        for found in database.campaigns.query({}, properties=["name", "config.engine.references"]):
            path = ((found.get("config") or {}).get("engine") or {}).get("references")
            if path is not None:
                campaigns.setdefault(path, []).append(found["name"])
    builders = []
    for path, names in sorted(campaigns.items()):
        try:
            builders.append(HullBuilder(database, ReferenceTable.load(path), campaigns=names))
        except ReferenceDataError as error:
            logger.warning("candidates of %s keep the gate's energies above hull: %s", ", ".join(names), error)
    return builders
