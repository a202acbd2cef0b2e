"""Sets a candidate's outputs aside from some stage on, so that they are computed again; nothing stored is lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from scdm_flows.campaigns.removal import who_computes
from scdm_flows.documents import StageName, utc_now
from scdm_flows.errors import CampaignError
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import OUTPUTS, SET_ASIDE

# stage -> what is made of its result, and so is made again with it
AFTER = {
    StageName.RELAX: (StageName.RELAX, StageName.STATIC, StageName.GATE, StageName.PHONON, StageName.BANDS),
    StageName.STATIC: (StageName.STATIC, StageName.GATE, StageName.PHONON, StageName.BANDS),
    StageName.GATE: (StageName.GATE, StageName.PHONON, StageName.BANDS),
    StageName.PHONON: (StageName.PHONON,),
    StageName.BANDS: (StageName.BANDS,),
}


def outputs_from(database: Database, campaign: str, candidate_id: str, stage: StageName) -> dict[str, Any]:
    """A query for a candidate's outputs of a stage and of all that is made of it; they may have been set aside before.

    Raises
    ------
    CampaignError
        If the campaign has no such candidate, or has never computed any of these.
    """
    stages = [one.value for one in AFTER[stage]]
    mine = {"metadata.campaign": campaign, "metadata.candidate_id": candidate_id}
    query = {**mine, "$or": [{"metadata.stage": {"$in": stages}}, {"metadata.part_of": {"$in": stages}}]}
    with store_errors(database.uri):
        kept = (database.mongo[OUTPUTS], database.mongo[SET_ASIDE])
        if not any(outputs.find_one(mine, {"_id": 1}) for outputs in kept):
            raise CampaignError(
                f"campaign {campaign!r} has computed nothing of a candidate {candidate_id!r}; "
                f"`scdm candidates list --where campaign={campaign}` shows its candidates"
            )
        if not any(outputs.find_one(query, {"_id": 1}) for outputs in kept):
            raise CampaignError(
                f"{candidate_id} has no stored output from {stage.value} on, so there is nothing to do again; "
                f"`scdm campaign resume {campaign} --retry-failed` tries what has failed"
            )
    return query


def last_set_aside(mongo: Any, about: Mapping[str, Any]) -> datetime | None:
    """When outputs that a job's is made of, or its own, were last set aside; None where none were.

    What the job left in a folder before is of another run. mongo: pymongo's database; about: the job's metadata.
    """
    stage = about.get("stage") or about.get("part_of")
    sources = {one.value for one, after in AFTER.items() if stage in {later.value for later in after}}
    mine = {"metadata.campaign": about.get("campaign"), "metadata.candidate_id": about.get("candidate_id")}
    fields = {"metadata.stage": 1, "metadata.part_of": 1, "set_aside_at": 1}
    return max(
        (
            d["set_aside_at"]
            for d in mongo[SET_ASIDE].find(mine, fields)
            if (d["metadata"].get("stage") or d["metadata"].get("part_of")) in sources
        ),
        default=None,
    )


def set_aside(database: Database, campaign: str, candidate_id: str, stage: StageName) -> int:
    """Move these outputs to the collection ``outputs_set_aside``, their large objects stay; returns how many.

    Failures of these stages are forgotten. Killed in the middle, the same call completes it; a call that finds them all
    set aside moves none, and ``run_again`` can follow it as it follows the first.

    Raises
    ------
    CampaignError
        If none of them was ever computed, or the campaign computes.
    """
    query = outputs_from(database, campaign, candidate_id, stage)
    with store_errors(database.uri):
        mongo, moved = database.mongo, 0
        busy = who_computes(mongo, campaign)
        if busy is not None:
            raise CampaignError(f"campaign {campaign!r} computes, so nothing of it can be set aside: {busy}")
        for document in mongo[OUTPUTS].find(query):
            kept = {**document, "set_aside_at": utc_now()}
            mongo[SET_ASIDE].replace_one({"_id": document["_id"]}, kept, upsert=True)
            mongo[OUTPUTS].delete_one({"_id": document["_id"]})
            moved += 1
        stages = [one.value for one in AFTER[stage]]
        mongo["failures"].delete_many({"campaign": campaign, "candidate_id": candidate_id, "stage": {"$in": stages}})
    return moved
