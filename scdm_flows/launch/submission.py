"""Puts a campaign on the LaunchPad."""

from __future__ import annotations

from fireworks import LaunchPad

from scdm_flows.config import CampaignConfig
from scdm_flows.launch.firetask import workflow_of
from scdm_flows.launch.launchpad import launchpad_of
from scdm_flows.runner import register
from scdm_flows.stores.database import Database

SHARDS_AT_ONCE = 200  # workflows built and inserted together


def submit(config: CampaignConfig, database: Database, launchpad: LaunchPad | None = None) -> int:
    """Put a campaign on the LaunchPad: its document, then a workflow for each shard that is not there yet.

    Returns how many workflows are new: submitting again adds none, and a submission that was cut short is
    completed.

    Raises
    ------
    CampaignError
        If a campaign of this name has another configuration.
    EngineError
        If the engine lacks what it needs.
    StoreError
        If the database is in memory.
    """
    from scdm_flows.flows import shard_count, shard_flow

    launchpad = launchpad or launchpad_of(database)
    register(config, database)
    present = _complete_shards(launchpad, config.name)
    missing = [shard for shard in range(shard_count(config)[0]) if shard not in present]
    for start in range(0, len(missing), SHARDS_AT_ONCE):
        chunk = missing[start : start + SHARDS_AT_ONCE]
        launchpad.bulk_add_wfs(
            [workflow_of(shard_flow(config, shard), campaign=config.name, shard=shard) for shard in chunk]
        )
    return len(missing)


def _complete_shards(launchpad: LaunchPad, campaign: str) -> set[int]:
    """Shards that are there with all their fireworks; the rest of a cut submission is removed."""
    present = set()
    for workflow in launchpad.workflows.find({"metadata.campaign": campaign}, {"nodes": 1, "metadata": 1}):
        nodes = workflow["nodes"]
        if launchpad.fireworks.count_documents({"fw_id": {"$in": nodes}}) == len(nodes):
            present.add(int(workflow["metadata"]["shard"]))
        else:
            launchpad.fireworks.delete_many({"fw_id": {"$in": nodes}})
            launchpad.workflows.delete_one({"_id": workflow["_id"]})
    return present
