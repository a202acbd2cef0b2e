"""What was decided for a campaign besides its configuration: the collection ``scdm_controls``, a document each.

A loop has one as well, for who runs it and whether it is being removed.

Its fields: cancelled (when), taken and shards (candidates that the budget has let past the screen, in all and of each
shard), phonons (the candidates that were chosen for phonons), lost_seconds (of attempts that left no output).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from scdm_flows.config import BudgetConfig
from scdm_flows.errors import CampaignError
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import CONTROLS


@dataclass(frozen=True)
class Control:
    """What a campaign's documents say now.

    budget: of its configuration; cancelled: when it was; shares: shard -> candidates let past the screen; left_out:
    shard -> candidates that were not; chosen: candidates chosen for phonons, in that order, None before the first
    choice.
    """

    budget: BudgetConfig = field(default_factory=BudgetConfig)
    cancelled: datetime | None = None
    shares: dict[int, int] = field(default_factory=dict)
    left_out: dict[int, int] = field(default_factory=dict)
    chosen: list[str] | None = None


def loop_key(loop: str) -> str:
    """Key of a loop's document; no campaign has such a name."""
    return f":loop {loop}"


def control_of(mongo: Any, campaign: str | None) -> Control:
    """The control of a campaign; nothing is limited where there is no such campaign. mongo: pymongo's database."""
    if campaign is None:
        return Control()
    document = mongo["campaigns"].find_one({"name": campaign}, {"config.budget": 1}) or {}
    said = mongo[CONTROLS].find_one({"_id": campaign}) or {}
    shards = {int(shard): counts for shard, counts in said.get("shards", {}).items()}
    return Control(
        BudgetConfig.model_validate((document.get("config") or {}).get("budget") or {}),
        said.get("cancelled"),
        {shard: counts["taken"] for shard, counts in shards.items()},
        {shard: counts["left_out"] for shard, counts in shards.items()},
        said.get("phonons"),
    )


def keep_choice(mongo: Any, campaign: str, candidates: Sequence[str]) -> None:
    """Keep which candidates are chosen for phonons."""
    mongo[CONTROLS].update_one({"_id": campaign}, {"$set": {"phonons": list(candidates)}}, upsert=True)


def mark_cancelled(mongo: Any, campaign: str) -> None:
    """Say that a campaign is cancelled; the first time counts."""
    mongo[CONTROLS].update_one({"_id": campaign}, {"$min": {"cancelled": datetime.now(UTC)}}, upsert=True)


def unmark_cancelled(mongo: Any, campaign: str) -> None:
    """Say that it is not."""
    mongo[CONTROLS].update_one({"_id": campaign}, {"$unset": {"cancelled": ""}})


def refuse_cancelled(database: Database, campaign: str) -> None:
    """Raise ``CampaignError`` where a campaign is cancelled, with how to undo that."""
    with store_errors(database.uri):
        since = control_of(database.mongo, campaign).cancelled
    if since is not None:
        raise CampaignError(
            f"campaign {campaign!r} was cancelled on {since:%Y-%m-%d at %H:%M} UTC; "
            f"`scdm campaign cancel {campaign} --undo` puts it back as it was"
        )


def cancelled_campaigns(database: Database) -> set[str]:
    """Names of cancelled campaigns."""
    with store_errors(database.uri):
        return {d["_id"] for d in database.mongo[CONTROLS].find({"cancelled": {"$exists": True}}, {"_id": 1})}
