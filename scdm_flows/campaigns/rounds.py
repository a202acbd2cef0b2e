"""A loop's rounds: what comes next, what is promoted, what it found. Whom a round chooses is in ``worth``.

What comes next is a pure function of the loop's document and of which campaigns are over, and every choice is stored
before anything is computed for it: a loop that was killed goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

import numpy as np
from pymongo.errors import DuplicateKeyError

from scdm_flows.campaigns.controls import loop_key
from scdm_flows.campaigns.estimate import cores_of
from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.campaigns.promotion import UNLIMITED, Asked
from scdm_flows.campaigns.removal import is_being_removed
from scdm_flows.config.loop import LoopConfig, parse_loop
from scdm_flows.documents import CandidateDoc, CandidateState, Choice, LoopDoc, LoopRound, utc_now
from scdm_flows.documents.provenance import made_here
from scdm_flows.documents.states import SHARD_STAGES
from scdm_flows.errors import CampaignError
from scdm_flows.query import CandidateDB
from scdm_flows.stores.database import Database, plain_values
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import OUTPUTS

SMALLEST_BUDGET_HOURS = 1e-6
CORE_HOURS, NODE_HOURS = "core hours", "node hours"


class Step(StrEnum):
    """What a round does, in order; ``END``: there is no further round."""

    TEACH = "teach the generator"
    GENERATE = "generate and relax"
    CHOOSE = "choose"
    COMPUTE = "compute"
    END = "end"


@dataclass(frozen=True)
class Next:
    """What comes next. number: of the round; why: there is no further one."""

    step: Step
    number: int
    why: str | None = None


def next_step(
    config: LoopConfig,
    document: LoopDoc,
    over: Collection[str],
    core_hours: float,
    taught: Collection[int] = (),
    unit: str = CORE_HOURS,
) -> Next:
    """What comes next.

    over: surrogate campaigns whose work is done; core_hours: that all jobs of the loop have taken; taught: rounds whose
    generator has learned, or could not; unit: what the hours are, as ``unit_of`` says.
    """
    rounds = document.rounds
    if rounds and not rounds[-1].finished:
        return Next(Step.COMPUTE, rounds[-1].number)
    number = len(rounds) + 1
    if number > config.rounds:
        return Next(Step.END, number, f"all {config.rounds} rounds are done")
    if config.core_hours is not None and core_hours >= config.core_hours:
        return Next(Step.END, number, f"its {config.core_hours:g} {unit} are used up")
    campaign = config.campaign(number)
    if campaign is not None and campaign.name not in over:
        learns = config.learn.generator and number > 1 and number not in taught
        return Next(Step.TEACH if learns else Step.GENERATE, number)
    return Next(Step.CHOOSE, number)


def register_loop(config: LoopConfig, database: Database) -> LoopDoc:
    """The loop's document, made where there is none; rounds and core hours of the file are taken over.

    Raises
    ------
    CampaignError
        If there is another loop or a campaign of this name, or the loop is being removed.
    """
    why = refusal(config, database)
    if why is not None:
        raise CampaignError(why)
    known = database.loop(config.name)
    wanted = config.model_dump(mode="json")
    if known is None:
        known = LoopDoc(
            name=config.name,
            description=config.description,
            config=wanted,
            config_hash=config.config_hash,
            provenance=made_here(config_hash=config.config_hash),
        )
        _insert(database, known)
    elif known.config != wanted:
        known.config, known.description, known.ended = wanted, config.description, None
        save(database, known)
    return known


def refusal(config: LoopConfig, database: Database) -> str | None:
    """Why ``register_loop`` would refuse a loop, in words; None where it would not."""
    name = config.name
    with store_errors(database.uri):
        if is_being_removed(database.mongo, loop_key(name)):
            return f"loop {name!r} is being removed; `scdm campaign remove {name}` completes that"
    known = database.loop(name)
    if known is None:
        taken = database.campaign(name) is not None
        return f"a campaign is called {name!r}; give the loop another name" if taken else None
    if known.config_hash == config.config_hash:
        return None
    return (
        f"loop {name!r} exists with another configuration; only rounds, core_hours and the description may change; "
        "give the changed file a new name"
    )


def stored_loop(database: Database, name: str) -> tuple[LoopConfig, LoopDoc]:
    """The loop of a name and what it was asked for; ``CampaignError`` where there is none."""
    document = CandidateDB(database).loop(name)
    return parse_loop(document.config, origin=f"loop {name}"), document


def _insert(database: Database, document: LoopDoc) -> None:
    """Write the document of a new loop; ``CampaignError`` where another process made one in this moment."""
    made = {"$setOnInsert": plain_values(document.model_dump())}
    with store_errors(database.uri), suppress(DuplicateKeyError):
        if database.loops._collection.update_one({"name": document.name}, made, upsert=True).upserted_id is not None:
            return
    raise _changed(document)


def save(database: Database, document: LoopDoc) -> None:
    """Write the document over the one that was read, with the time.

    Raises
    ------
    CampaignError
        If another process has written or removed the loop since.
    """
    as_read = {"name": document.name, "last_updated": document.last_updated}
    document.last_updated = max(utc_now(), document.last_updated + timedelta(milliseconds=1))
    with store_errors(database.uri):
        found = database.loops._collection.replace_one(as_read, plain_values(document.model_dump()))
    if not found.matched_count:
        raise _changed(document)


def _changed(document: LoopDoc) -> CampaignError:
    return CampaignError(
        f"loop {document.name!r} was changed by another process meanwhile, so nothing was written over it; wait for "
        "its end, or stop it, and give the same command again"
    )


def computing_cores(config: LoopConfig) -> int | None:
    """Cores of each job that computes what was chosen, see ``cores_of``; the jobs of surrogate campaigns have one."""
    return 1 if config.compute is None else cores_of(config.compute.engine.kind)


def unit_of(config: LoopConfig) -> str:
    """What the hours of a loop are: those of cores, or of nodes (wall time) where VASP's ranks are not known."""
    return NODE_HOURS if computing_cores(config) is None else CORE_HOURS


def hours_of(config: LoopConfig, database: Database, number: int, *, computed: bool = True) -> float:
    """Hours of a round's jobs, wall time by the cores of each; without ``computed`` of its surrogate campaign alone."""
    campaign, name, found = config.campaign(number), config.computed(number), 0.0
    with store_errors(database.uri):
        outputs = database.mongo[OUTPUTS]
        if campaign is not None:
            found += node_hours(outputs, campaign.name)
        if computed and name is not None:
            found += node_hours(outputs, name) * (computing_cores(config) or 1)
    return found


def asked_of(config: LoopConfig, this: LoopRound, left: float | None) -> Asked:
    """The promotion of a round's choice. left: hours of the loop's budget; None without one."""
    last = next(n for n in range(this.number, 0, -1) if config.campaign(n) is not None)
    parent = config.campaign(last)
    assert parent is not None
    assert config.compute is not None
    return Asked(
        parent=parent.name,
        top=len(this.chosen),
        engine=config.compute.engine.model_dump(mode="json"),
        name=config.computed(this.number),
        node_hours=UNLIMITED if left is None else max(left / (computing_cores(config) or 1), SMALLEST_BUDGET_HOURS),
        gate=config.compute.gate.model_dump(mode="json"),
        candidates=tuple(choice.candidate_id for choice in this.chosen),
        description=f"chosen in round {this.number} of the loop {config.name}, by {config.choose.by}",
    )


def count(config: LoopConfig, database: Database, this: LoopRound, before: Sequence[LoopRound]) -> LoopRound:
    """The round with what it found so far; hulls and novelty must have been built since the last job.

    before: earlier rounds, whose finds are none of a later one.
    """
    earlier = {name for one in before for name in one.found_ids}
    ended, found = 0, []
    if this.computed is not None:
        for one in CandidateDB(database).stream(sort="candidate_id", campaign=this.computed):
            if one.state is CandidateState.PENDING:
                continue
            if one.e_above_hull is None and one.state is not CandidateState.FAILED:
                continue
            ended += 1  # what failed was computed for nothing
            if is_found(config, one) and not earlier & {known.id for known in one.known_as}:
                found.append(one.candidate_id)
    hours = round(hours_of(config, database, this.number), 6)
    return this.model_copy(update={"ended": ended, "found": len(found), "found_ids": found, "core_hours": hours})


def begun(query: CandidateDB, this: LoopRound, taken_out: Collection[str] = ()) -> list[Choice]:
    """The choices of a round but those that the budget left out, which a later round may choose again.

    Left out is what a finished round has not begun. taken_out: computed candidates that somebody has taken out of the
    queue, which is no budget's doing.
    """
    if not this.finished or this.computed is None:
        return this.chosen
    came = {
        one.promoted_from
        for one in query.stream(campaign=this.computed)
        if one.state is not CandidateState.PENDING or one.stages.keys() - SHARD_STAGES or one.candidate_id in taken_out
    }
    return [choice for choice in this.chosen if choice.candidate_id in came]


def is_found(config: LoopConfig, one: CandidateDoc) -> bool:
    """Whether a computed candidate is what is looked for: new after its own relaxation, stable, its gap as asked."""
    rules = config.choose
    if one.novel is not True or one.duplicate_of is not None or one.e_above_hull is None:
        return False
    if one.e_above_hull > rules.stable_ev or one.e_above_hull_lower_bound:
        return False
    if rules.gap_ev is None:
        return True
    return one.band_gap is not None and rules.gap_ev[0] <= one.band_gap <= rules.gap_ev[1]


def hours_left(config: LoopConfig, database: Database, number: int) -> float | None:
    """Hours of the budget that a round may compute for, what it has used of them included; None without one."""
    if config.core_hours is None:
        return None
    before = spent(config, database, number - 1) + hours_of(config, database, number, computed=False)
    return max(config.core_hours - before, 0.0)


def spent(config: LoopConfig, database: Database, number: int) -> float:
    """Hours of the first ``number`` rounds."""
    return sum(hours_of(config, database, k) for k in range(1, number + 1))


def summary(rounds: Sequence[LoopRound]) -> dict[str, Any]:
    """What all rounds together gave: computed, found, expected ones, core hours, found ones for each."""
    ended, found = sum(r.ended or 0 for r in rounds), sum(r.found or 0 for r in rounds)
    hours = float(np.sum([r.core_hours or 0.0 for r in rounds]))
    return {
        "computed": ended,
        "found": found,
        "core_hours": hours,
        "found_per_core_hour": found / hours if hours else None,
    }
