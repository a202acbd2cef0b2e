"""Which candidates a budget chooses for phonons: the best by the campaign's ranking, when every gate has closed.

The choice is kept in the collection ``scdm_controls``, so that a later change of ranks does not start others: a larger
budget adds to it, a smaller one cuts its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pymatgen.core import Structure

from scdm_flows.documents import StageName
from scdm_flows.errors import CampaignError
from scdm_flows.stores.names import CONTROLS
from scdm_flows.stores.trouble import store_errors

if TYPE_CHECKING:
    from jobflow import Flow

    from scdm_flows.config import CampaignConfig, PhononBudgetConfig
    from scdm_flows.stores.database import Database


def chosen(database: Database, campaign: str) -> list[str] | None:
    """Candidates chosen for phonons, in the order they were chosen; None where nothing has been chosen yet."""
    with store_errors(database.uri):
        found = database.mongo[CONTROLS].find_one({"_id": campaign}, {"phonons": 1}) or {}
    return found.get("phonons")


def choose(database: Database, config: CampaignConfig) -> list[str]:
    """Choose, or add to what was chosen before, and keep it; returns the chosen candidates.

    To be called when every candidate has closed its gate or failed before. Builds novelty, hulls and ranking first.

    Raises
    ------
    StoreError
        If the database fails.
    """
    from scdm_flows.builders import build_all

    budget = config.budget.phonons
    before = chosen(database, config.name) or []
    if budget is None or len(before) < budget.best:
        build_all(database, config.name)
        before += [c for c in _ranked(database, config) if c not in set(before)]
    found = before if budget is None else before[: budget.best]
    with store_errors(database.uri):
        database.mongo[CONTROLS].update_one({"_id": config.name}, {"$set": {"phonons": found}}, upsert=True)
    return found


def _ranked(database: Database, config: CampaignConfig) -> list[str]:
    """Candidates whose gate is open to phonons, the best first; only new layers where the budget says so: after
    relaxation, or as sampled where that could not be judged."""
    table = database.catalogue.table(config.name)
    fits = np.isfinite(table.columns["rank"])
    if config.budget.phonons is not None and config.budget.phonons.novel_only:
        novel, of_sample = table.columns["novel"], table.columns["sample_novel"]
        fits &= np.where(np.isnan(novel), of_sample, novel) == 1
    rows = np.flatnonzero(fits)
    rows = rows[np.argsort(table.columns["rank"][rows])]
    open_gates = database.job_store.docs_store.query(
        {"metadata.campaign": config.name, "metadata.stage": StageName.GATE.value, "output.phonon": True},
        properties=["metadata.candidate_id"],
    )
    may = {document["metadata"]["candidate_id"] for document in open_gates}
    return [name for name in (raw.decode() for raw in table.ids[rows].tolist()) if name in may]


def phonon_flow_of(config: CampaignConfig, database: Database, candidate_id: str) -> Flow:
    """The phonon jobs of a candidate by its stored gate.

    Raises
    ------
    CampaignError
        If the gate is not stored.
    """
    from scdm_flows.flows.build import phonon_flow
    from scdm_flows.flows.jobs import job_uuid

    uuid = job_uuid(config, candidate_id, StageName.GATE.value)
    stored = database.job_store.docs_store.query_one({"uuid": uuid}, properties=["output.relaxed_structure"])
    if stored is None:
        raise CampaignError(f"the gate of {candidate_id} is not stored; run the campaign again")
    return phonon_flow(config, candidate_id, Structure.from_dict(stored["output"]["relaxed_structure"]))


def why_not(budget: PhononBudgetConfig) -> str:
    """Why a candidate has no phonons that was not chosen."""
    return f"no phonons: not among {budget} (budget.phonons)"
