"""Puts a campaign's open work on the LaunchPad: what its plan names and the LaunchPad does not hold yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fireworks import LaunchPad

from scdm_flows.builders import build_all
from scdm_flows.campaigns.budget import take_candidates
from scdm_flows.campaigns.choice import choose, needs_ranking
from scdm_flows.campaigns.controls import control_of, refuse_cancelled
from scdm_flows.campaigns.plan import Plan, Stored, plan
from scdm_flows.campaigns.registration import registered
from scdm_flows.campaigns.stored import relaxed_structure, repeats, screened, stored_of
from scdm_flows.campaigns.under_way import who_runs
from scdm_flows.config import CampaignConfig
from scdm_flows.documents import StageName
from scdm_flows.errors import CampaignError
from scdm_flows.execution.fireworks.firetask import insert_candidates, workflow_of
from scdm_flows.execution.fireworks.launchpad import launchpad_of
from scdm_flows.execution.fireworks.progress import collect_failures, span
from scdm_flows.execution.fireworks.slots import release
from scdm_flows.execution.fireworks.workflows import AT_ONCE, insert
from scdm_flows.flows.campaign import shard_count, shard_flow
from scdm_flows.flows.gate import phonon_flow
from scdm_flows.flows.layer import candidate_flow
from scdm_flows.stores.database import Database

TAKEN_OUT = ("DEFUSED", "ARCHIVED")  # states of fireworks that somebody has taken out of the queue


@dataclass(frozen=True)
class Missing:
    """Open work that the LaunchPad does not hold, or holds in part: shards, and candidates by shard."""

    shards: list[int]
    candidates: dict[int, list[str]]
    accepted: dict[int, list[str]]  # all of each shard that the screen let past, whatever is open


def submit(config: CampaignConfig, database: Database, launchpad: LaunchPad | None = None) -> int:
    """Put a campaign on the LaunchPad: its document, then a workflow for all open work that is not there yet.

    Returns how many workflows are new: submitting again adds none, also at the same moment, and a submission that was
    cut short is completed.

    Raises
    ------
    CampaignError
        If a campaign of this name has another configuration, was cancelled, or another process runs it.
    EngineError
        If the engine lacks what it needs.
    StoreError
        If the database is in memory.
    """
    launchpad = launchpad or launchpad_of(database)
    refuse_cancelled(database, config.name)
    run = who_runs(database.mongo, config.name)
    if run is not None:
        raise CampaignError(
            f"campaign {config.name!r} is run by another process ({run}), so workers would compute the same; wait for "
            "its end, or stop it with Ctrl-C, and submit what it has left"
        )
    config = registered(config, database)
    missing, added = missing_work(config, database, launchpad), 0
    for shard, accepted in sorted(missing.accepted.items()):  # what was run here has its share of the budget too
        take_candidates(launchpad.db, config.name, shard, accepted)
    for start in range(0, len(missing.shards), AT_ONCE):
        flows = ((k, shard_flow(config, k)) for k in missing.shards[start : start + AT_ONCE])
        added += insert(launchpad, [workflow_of(flow, campaign=config.name, shard=k) for k, flow in flows])
    for shard, wanted in missing.candidates.items():
        samples = [c for c in screened(config, database, shard) or [] if c.accepted]
        added += insert_candidates(
            launchpad,
            config.name,
            shard,
            [c.candidate_id for c in samples],
            {c.candidate_id: candidate_flow(config, c) for c in samples if c.candidate_id in wanted},
        )
    release(launchpad, config.name)
    return added


def missing_work(config: CampaignConfig, database: Database, launchpad: LaunchPad) -> Missing:
    """What ``submit`` would add."""
    now, stored = _plan(config, database, launchpad)
    whole, queued = _held(launchpad, config.name)
    lacking = {c for c in now.candidates if f"{config.name}:{c}" not in whole and c not in queued}
    lacking -= repeats(database, config.name)  # who has seen all shards has left them out
    return Missing(
        [k for k in now.shards if f"{config.name}:shard{k}" not in whole],
        {k: found for k, ids in stored.accepted.items() if (found := [c for c in ids if c in lacking])},
        {k: list(ids) for k, ids in stored.accepted.items()},
    )


def begin_phonons(config: CampaignConfig, database: Database, launchpad: LaunchPad) -> list[str]:
    """Put the phonons of the best on the LaunchPad where all gates are closed; returns whose are new there.

    Nothing where the budget limits no phonons, and has limited none.
    """
    name = config.name
    if config.budget.phonons is None and control_of(launchpad.db, name).chosen is None:
        return []
    collect_failures(database, name, launchpad)
    now, stored = _plan(config, database, launchpad)
    if not now.choose:
        return []
    if needs_ranking(config, None if stored.chosen is None else list(stored.chosen)):
        build_all(database, name)
    choose(database, config)
    query = {"spec.campaign": name, "spec.stage": StageName.PHONON.value}
    there = {d["spec"]["candidate_id"] for d in launchpad.fireworks.find(query, {"spec.candidate_id": 1})}
    new = [c for c in _plan(config, database, launchpad)[0].phonons if c not in there]
    flows = {c: phonon_flow(config, c, relaxed_structure(config, database, c)) for c in new}
    stage = StageName.PHONON.value
    insert(launchpad, [workflow_of(flow, campaign=name, candidate_id=c, stage=stage) for c, flow in flows.items()])
    return new


def _plan(config: CampaignConfig, database: Database, launchpad: LaunchPad) -> tuple[Plan, Stored]:
    """The plan; a sample that repeats one of another shard goes on, as workers screen each shard by itself."""
    document = database.campaign(config.name)  # counts its samples, which may be in files that are not here
    requested = None if document is None else document.n_requested
    shards = shard_count(config)[0] if requested is None else -(-requested // config.generator.shard_size)
    query = {"spec.campaign": config.name, "state": {"$in": list(TAKEN_OUT)}}
    taken_out = {d["spec"].get("candidate_id") for d in launchpad.fireworks.find(query, {"spec.candidate_id": 1})}
    stored = stored_of(config, database, repeated=(), set_aside=taken_out)
    return plan(config, shards, stored), stored


def _held(launchpad: LaunchPad, campaign: str) -> tuple[set[str], set[str]]:
    """Keys of the campaign's workflows that are there in full, and candidates that are queued without a key.

    The latter are in the workflow of their shard, on a LaunchPad of an earlier scdm-flows.
    """
    nodes = {str(d["_id"]): d["nodes"] for d in launchpad.workflows.find({"metadata.campaign": campaign}, {"nodes": 1})}
    there = _present(launchpad, [node for ids in nodes.values() for node in ids])
    whole = {key for key, ids in nodes.items() if there.issuperset(ids)}
    fireworks = launchpad.fireworks.find({"spec.campaign": campaign}, {"spec.candidate_id": 1})
    candidates = {str(d["spec"]["candidate_id"]) for d in fireworks if "candidate_id" in d["spec"]}
    return whole, {c for c in candidates if f"{campaign}:{c}" not in nodes}


def _present(launchpad: LaunchPad, nodes: Sequence[int]) -> set[int]:
    found = launchpad.fireworks.find(span(nodes), {"fw_id": 1}) if nodes else ()
    return {d["fw_id"] for d in found}
