"""Lets the fireworks of a candidate run again from some stage on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from fireworks import LaunchPad

from scdm_flows.campaigns.again import AFTER
from scdm_flows.documents import StageName
from scdm_flows.execution.fireworks import repair
from scdm_flows.execution.fireworks.launchpad import launchpad_of
from scdm_flows.execution.fireworks.progress import stage_in
from scdm_flows.execution.fireworks.retries import PARDON
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors

ENDED = ("COMPLETED", "FIZZLED")


def run_again(
    database: Database, campaign: str, candidate_id: str, stage: StageName, launchpad: LaunchPad | None = None
) -> int:
    """Fireworks of a stage, and of all that is made of its result, that run again; 0 for a campaign that has none."""
    if database.uri is None:
        return 0
    launchpad = launchpad or launchpad_of(database)
    with store_errors(database.uri):
        query = {"spec.campaign": campaign, "spec.candidate_id": candidate_id}
        fields = {"fw_id": 1, "state": 1, "spec.stage": 1, "spec.part_of": 1}
        found = {d["fw_id"]: d for d in launchpad.fireworks.find(query, fields)}
        stages = {one.value for one in AFTER[stage]}
        mine = {node for node, d in found.items() if stage_in(d["spec"]) in stages and d["state"] in ENDED}
        if not mine:
            return 0
        last = max((d["launch_id"] for d in launchpad.launches.find({"fw_id": {"$in": sorted(mine)}})), default=0)
        launchpad.fireworks.update_many({"fw_id": {"$in": sorted(mine)}}, {"$max": {f"spec.{PARDON}": last}})
        for workflow in launchpad.workflows.find({"nodes": {"$in": sorted(mine)}}, {"nodes": 1, "links": 1}):
            by_state: defaultdict[str, list[int]] = defaultdict(list)
            for node in _first(workflow, mine):
                by_state[found[node]["state"]].append(node)
            for state, nodes in by_state.items():
                repair.rerun(launchpad, sorted(nodes), state)
    return len(mine)


def _first(workflow: dict[str, Any], among: Collection[int]) -> set[int]:
    """Those of a workflow's fireworks among these that are no child of another of them."""
    nodes = {node for node in workflow["nodes"] if node in among}
    children = {int(child) for parent, own in workflow["links"].items() if int(parent) in nodes for child in own}
    return nodes - children
