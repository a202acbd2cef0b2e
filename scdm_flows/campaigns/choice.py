"""Which candidates a budget chooses for phonons: the best by the campaign's ranking, when every gate has closed.

The choice is kept, so that a later change of ranks does not start others: a larger budget adds to it, a smaller one
cuts its end.
"""

from __future__ import annotations

from typing import Any

from scdm_flows.campaigns.controls import control_of, keep_choice
from scdm_flows.campaigns.stored import outputs
from scdm_flows.config import CampaignConfig, PhononBudgetConfig
from scdm_flows.documents import StageName
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors


def needs_ranking(config: CampaignConfig, chosen: list[str] | None) -> bool:
    """Whether ``choose`` looks at the ranking, which is then to be built before."""
    budget = config.budget.phonons
    return budget is None or len(chosen or ()) < budget.best


def choose(database: Database, config: CampaignConfig) -> list[str]:
    """Choose, or add to what was chosen before, and keep it; returns the chosen candidates.

    To be called when the plan says so, with novelty, hulls and ranking built since. Raises ``StoreError`` if the
    database fails.
    """
    budget = config.budget.phonons
    with store_errors(database.uri):
        before = control_of(database.mongo, config.name).chosen or []
    if needs_ranking(config, before):
        before += [c for c in _ranked(database, config) if c not in set(before)]
    found = before if budget is None else before[: budget.best]
    with store_errors(database.uri):
        keep_choice(database.mongo, config.name, found)
    return found


def _ranked(database: Database, config: CampaignConfig) -> list[str]:
    """Candidates whose gate is open to phonons, the best first; only new layers where the budget says so: after
    relaxation, or as sampled where that could not be judged."""
    novel_only = config.budget.phonons is not None and config.budget.phonons.novel_only
    gates = outputs(database, config.name, StageName.GATE, ["output.phonon"])
    may = {d["metadata"]["candidate_id"] for d in gates if (d.get("output") or {}).get("phonon")}
    ranked = database.candidates.query(
        {"campaign": config.name, "rank": {"$gte": 1}},
        properties=["candidate_id", "novel", "sample_novel"],
        sort={"rank": 1},
    )
    with store_errors(database.uri):
        return [d["candidate_id"] for d in ranked if d["candidate_id"] in may and (_is_novel(d) or not novel_only)]


def _is_novel(candidate: dict[str, Any]) -> bool:
    novel = candidate.get("novel")
    return bool(candidate.get("sample_novel") if novel is None else novel)


def why_not(budget: PhononBudgetConfig) -> str:
    """Why a candidate has no phonons that was not chosen."""
    return f"no phonons: not among {budget} (budget.phonons)"
