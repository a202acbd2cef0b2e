"""maggma builders: job outputs -> candidates -> novelty -> funnels, hulls -> ranking, to be run in this order.

Shells around ``analysis``. Each is idempotent (what has not changed is not written), and one bad item never
ends it.
"""

from __future__ import annotations

from scdm_flows.builders.base import ScdmBuilder
from scdm_flows.builders.candidates import CandidateBuilder
from scdm_flows.builders.funnels import FunnelBuilder
from scdm_flows.builders.hulls import HullBuilder
from scdm_flows.builders.novelty import NoveltyBuilder
from scdm_flows.builders.ranking import RankingBuilder
from scdm_flows.stores.database import Database

__all__ = ["CandidateBuilder", "FunnelBuilder", "HullBuilder", "NoveltyBuilder", "RankingBuilder", "build_all"]


def build_all(database: Database, campaign: str | None = None, *, everything: bool = False) -> dict[str, int]:
    """Run all builders; returns how many documents each wrote.

    Parameters
    ----------
    database
        Connected.
    campaign
        Whose candidates to gather and rank; of all campaigns when absent. Novelty and hulls are always those of all
        candidates.
    everything
        Compute every novelty, hull and ranking again, whatever is known.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    StoreError
        If the database fails.
    """
    builders: list[ScdmBuilder] = [
        CandidateBuilder(database, campaign),
        NoveltyBuilder(database, everything=everything),
        FunnelBuilder(database, campaign),
        HullBuilder(database, everything=everything),
        RankingBuilder(database, campaign, everything=everything),
    ]
    for builder in builders:
        builder.run()
    return {type(builder).__name__: builder.written for builder in builders}
