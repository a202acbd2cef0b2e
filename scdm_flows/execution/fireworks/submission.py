"""Puts a campaign on the LaunchPad."""

from __future__ import annotations

from fireworks import LaunchPad

from scdm_flows.config import CampaignConfig
from scdm_flows.execution.fireworks.budget import left_out, release
from scdm_flows.execution.fireworks.cancel import refuse_cancelled
from scdm_flows.execution.fireworks.launchpad import launchpad_of
from scdm_flows.execution.fireworks.workflows import AT_ONCE, insert, insert_candidates, workflow_of
from scdm_flows.execution.local.runner import register
from scdm_flows.stores.database import Database


def submit(config: CampaignConfig, database: Database, launchpad: LaunchPad | None = None) -> int:
    """Put a campaign on the LaunchPad: its document, then a workflow for each shard that is not there yet.

    Returns how many workflows are new: submitting again adds none, also at the same moment, and a submission that was
    cut short is completed.

    Raises
    ------
    CampaignError
        If a campaign of this name has another configuration, or was cancelled.
    EngineError
        If the engine lacks what it needs.
    StoreError
        If the database is in memory.
    """
    from scdm_flows.flows.build import shard_count, shard_flow

    launchpad = launchpad or launchpad_of(database)
    refuse_cancelled(database, config.name)
    register(config, database)
    shards, added = shard_count(config)[0], 0
    for start in range(0, shards, AT_ONCE):
        flows = ((k, shard_flow(config, k)) for k in range(start, min(start + AT_ONCE, shards)))
        added += insert(launchpad, [workflow_of(flow, campaign=config.name, shard=k) for k, flow in flows])
    added += _let_past(config, database, launchpad)
    release(launchpad, config.name)
    return added


def _let_past(config: CampaignConfig, database: Database, launchpad: LaunchPad) -> int:
    """Insert candidates that an earlier, smaller budget left out; returns how many."""
    from scdm_flows.execution.local.runner import screened_before
    from scdm_flows.flows.build import candidate_flow

    added = 0
    for shard in left_out(launchpad.db, config.name):
        accepted = [c for c in screened_before(config, database, int(shard)) or [] if c.accepted]
        flows = [candidate_flow(config, candidate) for candidate in accepted]
        added += insert_candidates(launchpad, config.name, int(shard), flows)
    return added
