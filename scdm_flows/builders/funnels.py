"""Counts the funnels of campaigns, and says where each campaign stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scdm_flows.builders.base import ScdmBuilder, content
from scdm_flows.campaigns.funnel import FUNNEL_FIELDS, campaign_state, funnel
from scdm_flows.documents import SHARD_STAGES, CampaignDoc, StageName, utc_now
from scdm_flows.documents.migrations import migrate
from scdm_flows.stores.database import Database, strip


class FunnelBuilder(ScdmBuilder):
    """Candidates and failures -> the funnels and states in ``campaigns``."""

    def __init__(self, database: Database, campaign: str | None = None, **kwargs: Any) -> None:
        self.campaign = campaign
        sources = [database.candidates, database.failures, database.job_store]
        super().__init__(database, sources, [database.campaigns], **kwargs)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Each campaign with the numbers of its screened shards and of its shards that failed."""
        names = sorted(self.database.campaigns.distinct("name")) if self.campaign is None else [self.campaign]
        for campaign in self.readable_campaigns(names):
            screens = {"metadata.campaign": campaign.name, "metadata.stage": StageName.SCREEN.value}
            outputs = self.database.job_store.docs_store.query(screens, properties=["metadata.shard"])
            failed = {"campaign": campaign.name, "stage": {"$in": [stage.value for stage in SHARD_STAGES]}}
            yield {
                "campaign": campaign,
                "screened": len({int(d["metadata"].get("shard", 0)) for d in outputs}),
                "failed": len(set(self.database.failures.distinct("candidate_id", failed))),
            }

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item as it is: candidates are counted as they are read."""
        return item

    def update_targets(self, items: list[dict[str, Any]]) -> None:
        """Count, and write what changed."""
        for item in items:
            campaign: CampaignDoc = item["campaign"]
            stored = self.database.candidates.query({"campaign": campaign.name}, properties=FUNNEL_FIELDS)
            screen = campaign.config.get("screen", {})
            counts = funnel(
                stored, radii=screen.get("require_radii", True), one_layer=screen.get("require_one_layer", True)
            )
            size = int(campaign.config.get("generator", {}).get("shard_size", 1))
            shards = -(-(campaign.n_requested or 0) // size)
            state = campaign_state(
                campaign.state, counts, screened=item["screened"], shards=shards, failed=item["failed"]
            )
            counted = {"funnel": counts.model_dump()}
            self._write(campaign, counted if state == campaign.state else {**counted, "state": state.value})

    def _write(self, campaign: CampaignDoc, counted: dict[str, Any]) -> None:
        """Set what was counted alone: since it was read, a campaign may have got another budget, or be gone."""
        campaigns = self.database.campaigns._collection
        ours = {"$not": {"$gt": campaign.schema_version}}
        stored = campaigns.find_one({"name": campaign.name, "schema_version": ours})
        if stored is None:
            return
        before = strip(stored)
        after = migrate(CampaignDoc, before) | counted  # of an earlier version the rest too, as the version is one
        changed = {k: v for k, v in after.items() if k not in before or content({k: before[k]}) != content({k: v})}
        gone = {k: "" for k in before if k not in after}
        if changed or gone:
            same = {"_id": stored["_id"], "schema_version": ours}
            change = {"$set": {**changed, "last_updated": utc_now()}} | ({"$unset": gone} if gone else {})
            self.written += int(campaigns.update_one(same, change).matched_count)
