"""Phonons of the best on the LaunchPad: when every gate is closed they are chosen, and each gets a workflow.

Done by ``scdm campaign resume``, which sees what is still open and what will be tried again.
"""

from __future__ import annotations

from fireworks import LaunchPad

from scdm_flows.campaigns.choice import choose, chosen, phonon_flow_of
from scdm_flows.config import CampaignConfig
from scdm_flows.documents import StageName
from scdm_flows.execution.fireworks.progress import collect_failures, status
from scdm_flows.execution.fireworks.workflows import insert, workflow_of
from scdm_flows.stores.database import Database

OPEN = ("READY", "WAITING", "RESERVED", "RUNNING", "PAUSED")
LATER = (StageName.PHONON.value, StageName.BANDS.value)  # stages that no gate waits for


def begin_phonons(config: CampaignConfig, database: Database, launchpad: LaunchPad) -> list[str]:
    """Put the phonons of the best on the LaunchPad where all gates are closed; returns whose are new there.

    Nothing where the budget limits no phonons, and has limited none.
    """
    name = config.name
    if config.budget.phonons is None and chosen(database, name) is None:
        return []
    counts = status(database, name, launchpad)
    if not counts or any(states.get(s) for stage, states in counts.items() if stage not in LATER for s in OPEN):
        return []
    collect_failures(database, name, launchpad)
    query = {"spec.campaign": name, "spec.stage": StageName.PHONON.value}
    there = {d["spec"]["candidate_id"] for d in launchpad.fireworks.find(query, {"spec.candidate_id": 1})}
    new = [candidate for candidate in choose(database, config) if candidate not in there]
    workflows = [
        workflow_of(phonon_flow_of(config, database, c), campaign=name, candidate_id=c, stage=StageName.PHONON.value)
        for c in new
    ]
    insert(launchpad, workflows)
    return new
