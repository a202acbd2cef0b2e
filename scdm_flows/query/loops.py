"""Which campaigns are a loop's. Pure."""

from __future__ import annotations

from scdm_flows.config import stored_config
from scdm_flows.config.loop import parse_loop
from scdm_flows.config.science import science
from scdm_flows.documents import CampaignDoc, LoopDoc
from scdm_flows.errors import ConfigError


def is_of_loop(campaign: CampaignDoc, loop: LoopDoc) -> bool:
    """Whether a campaign is of one of a loop's rounds, or of the one that has begun and chosen nothing yet.

    What is only called so, as it was there before the loop came to it or was promoted by hand, is none of it: the loop
    refuses to go on with it.
    """
    for one in loop.rounds:
        if campaign.name == one.surrogate:
            return True
        if campaign.name == one.computed:
            generator = campaign.config.get("generator") or {}
            return generator.get("candidates") == [choice.candidate_id for choice in one.chosen]
    number = len(loop.rounds) + 1
    try:
        begun, known = parse_loop(loop.config).campaign(number, loop.checkpoint(number)), stored_config(campaign.config)
    except ConfigError:  # of a program that knows other fields
        return False
    if begun is None or begun.name != campaign.name:
        return False
    # the contents of the engine's files as they were noted, as they need not lie on this machine
    return science(begun.model_copy(update={"registered": known.registered})) == science(known)
