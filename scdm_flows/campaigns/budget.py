"""What a campaign's budget allows: candidates past the screen, new candidates as node hours go by; and says in words.

Which phonons it pays for is in ``choice``, how many jobs run at once is a matter of FireWorks workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scdm_flows.campaigns.controls import Control, control_of
from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.config import BudgetConfig
from scdm_flows.stores.names import CONTROLS, OUTPUTS


def share(limit: int | None, taken: int, had: int, wanted: int) -> int:
    """How many of the ``wanted`` candidates of a shard go past the screen.

    limit: of the campaign; taken: by all shards before; had: by this one. What was let past stays so, and a raised
    limit lets more past.
    """
    room = wanted if limit is None else min(wanted, had + max(limit - taken, 0))
    return max(had, room)


def let_past(wanted: Mapping[int, Sequence[str]], shares: Mapping[int, int], limit: int | None) -> dict[int, list[str]]:
    """Of each shard's accepted candidates the first ones that the budget lets past, shard by shard.

    shares: what each shard has had already.
    """
    taken, found = sum(shares.values()), {}
    for shard, candidates in sorted(wanted.items()):
        had = shares.get(shard, 0)
        most = share(limit, taken, had, len(candidates))
        taken += most - had
        found[shard] = list(candidates[:most])
    return found


def take_candidates(mongo: Any, campaign: str, shard: int, wanted: Sequence[str]) -> list[str]:
    """The same for one shard, kept: whoever asks again gets the same answer, also of several workers at once.

    None where the campaign was cancelled. mongo: pymongo's database.
    """
    control = control_of(mongo, campaign)
    if control.cancelled is not None:
        return []
    limit = control.budget.max_candidates
    controls = mongo[CONTROLS]
    controls.update_one({"_id": campaign}, {"$setOnInsert": {"taken": 0, "shards": {}}}, upsert=True)
    while True:
        now = controls.find_one({"_id": campaign})
        taken, had = now.get("taken", 0), now.get("shards", {}).get(str(shard), {}).get("taken", 0)
        most = share(limit, taken, had, len(wanted))
        change = {
            "taken": taken + most - had,
            f"shards.{shard}": {"taken": most, "left_out": len(wanted) - most},
        }
        query = {"_id": campaign, "taken": now.get("taken", {"$exists": False})}
        if controls.update_one(query, {"$set": change}).matched_count:
            return list(wanted[:most])


def hours_are_used_up(budget: BudgetConfig, outputs: Any, campaign: str, *, known_for: float = 0.0) -> bool:
    """Whether no new candidate may begin; those that have begun go on.

    outputs: pymongo's collection of the jobs' outputs; known_for: seconds for which an earlier sum counts.
    """
    if budget.node_hours is None:
        return False
    return node_hours(outputs, campaign, known_for=known_for) >= budget.node_hours


def in_words(mongo: Any, campaign: str) -> list[str]:
    """What the budget does to a campaign now, a sentence each; empty where nothing is limited."""
    control: Control = control_of(mongo, campaign)
    budget, lines = control.budget, []
    if control.cancelled is not None:
        lines.append(f"cancelled {control.cancelled:%Y-%m-%d %H:%M} UTC; `scdm campaign cancel {campaign} --undo`")
    if budget.max_candidates is not None:
        out = sum(control.left_out.values())
        lines.append(
            f"candidates: {sum(control.shares.values())} of at most {budget.max_candidates} put in the queue"
            + (f"; {out} that passed the screen are left out" if out else "")
        )
    if budget.node_hours is not None:
        used = node_hours(mongo[OUTPUTS], campaign)
        over = "; no new candidate starts, those that have begun go on" if used >= budget.node_hours else ""
        lines.append(f"node hours: {used:.3g} of {budget.node_hours:g}{over}")
    if budget.phonons is not None:
        picks = control.chosen
        when = f"{len(picks)} are chosen" if picks is not None else "chosen when every gate is closed"
        lines.append(f"phonons of {budget.phonons}: {when}")
    return lines
