"""Goes on with a loop: does what its plan says next until it ends or has to wait for workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scdm_flows.builders import build_all
from scdm_flows.campaigns.plan import Plan, plan
from scdm_flows.campaigns.promotion import promote
from scdm_flows.campaigns.registration import is_same
from scdm_flows.campaigns.removal import who_computes
from scdm_flows.campaigns.rounds import (
    Step,
    asked_of,
    count,
    hours_left,
    next_step,
    register_loop,
    save,
    spent,
    unit_of,
)
from scdm_flows.campaigns.stored import stored_of
from scdm_flows.campaigns.worth import choose_round, teach_round
from scdm_flows.config import CampaignConfig, stored_config
from scdm_flows.config.loop import LoopConfig
from scdm_flows.documents import LoopDoc
from scdm_flows.execution.fireworks.cancel import MARK
from scdm_flows.execution.fireworks.submission import TAKEN_OUT
from scdm_flows.flows.campaign import shard_count
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import OUTPUTS

# computes what is open of a campaign, or sees to it that workers do
Execute = Callable[[CampaignConfig], None]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Went:
    """How far a call came: the loop's document, and the campaign that workers are at; None where the loop ended."""

    document: LoopDoc
    waits_for: str | None = None


def go_on(
    config: LoopConfig,
    database: Database,
    execute: Execute,
    folder: Path,
    *,
    deadline: float | None = None,
    report: Report = lambda words: None,
) -> Went:
    """Go on with a loop, from wherever it is.

    Parameters
    ----------
    execute
        Runs a campaign (then it is over when this returns, or out of budget or time), or submits it.
    folder
        Of the loop: checkpoints of generators that have learned go there, and those who generate read them there.
    deadline
        ``time.time()`` from which on nothing begins; the same call goes on later.
    report
        Called with what happens, in words.

    Raises
    ------
    CampaignError
        If there is another loop of this name, or another campaign of one of its names, or another process has gone on
        with the loop meanwhile.
    ReferenceDataError
        If there is no energy model to choose by.
    """
    document = register_loop(config, database)
    while True:
        number = len(document.rounds) + 1
        campaign = config.campaign(number, document.checkpoint(number))
        over = [campaign.name] if campaign is not None and _is_done(database, campaign) else []
        hours = spent(config, database, number)
        now = next_step(config, document, over, hours, [one.number for one in document.taught], unit_of(config))
        if now.step is Step.END:
            if document.ended != now.why:
                document.ended = now.why
                save(database, document)
            return Went(document)
        if deadline is not None and time.time() >= deadline:
            return Went(document, "time")
        report(f"round {now.number}: {now.step.value}")
        if now.step is Step.TEACH:
            file = folder / f"r{number:02d}.safetensors"
            document.taught.append(teach_round(config, database, number, document, file))
            save(database, document)
        elif now.step is Step.GENERATE:
            assert campaign is not None
            execute(campaign)
            build_all(database, campaign.name)
            if not _is_done(database, campaign):
                return Went(document, campaign.name)
        elif now.step is Step.CHOOSE:
            build_all(database)
            taken_out = _taken_out(database, [one.computed for one in document.rounds])
            document.rounds.append(choose_round(config, database, now.number, document, taken_out))
            document.ended = None
            save(database, document)
        else:
            waits = _compute(config, database, document, execute)
            if waits is not None:
                return Went(document, waits)


def _compute(config: LoopConfig, database: Database, document: LoopDoc, execute: Execute) -> str | None:
    """Compute what the last round has chosen, and count what it found; the campaign that is still under way, or None.

    A campaign whose hours are used up is over once what it has begun is, whatever it has not begun.
    """
    *before, this = document.rounds
    left = hours_left(config, database, this.number)
    promotion = promote(database, asked_of(config, this, left))
    name = promotion.config.name
    execute(promotion.config)
    build_all(database, name)
    document.rounds[-1] = count(config, database, this, before)
    used_up = config.core_hours is not None and spent(config, database, this.number) >= config.core_hours
    document.rounds[-1].finished = is_over(database, name) or (used_up and not _under_way(database, promotion.config))
    save(database, document)
    return None if document.rounds[-1].finished else name


def _is_done(database: Database, campaign: CampaignConfig) -> bool:
    """Whether a round's campaign is over; another one of its name is not, so that whoever executes it refuses it."""
    known = database.campaign(campaign.name)
    return known is not None and is_same(known, campaign) and is_over(database, campaign.name)


def is_over(database: Database, name: str) -> bool:
    """Whether a campaign is there and nothing of it is open."""
    document = database.campaign(name)
    if document is None:
        return False
    open_work = _open(database, stored_config(document.config))
    return not (open_work.shards or open_work.candidates or open_work.phonons)


def _open(database: Database, config: CampaignConfig) -> Plan:
    """What is open of a campaign, without candidates whose jobs somebody has taken out of the queue."""
    taken_out = _taken_out(database, [config.name])
    return plan(config, shard_count(config)[0], stored_of(config, database, set_aside=taken_out))


def _taken_out(database: Database, campaigns: Sequence[str | None]) -> set[str]:
    """Candidates whose jobs somebody has taken out of the queue; not with a campaign that is cancelled as a whole,
    which whoever executes it refuses.
    """
    query = {"spec.campaign": {"$in": list(campaigns)}, "state": {"$in": list(TAKEN_OUT)}, MARK: {"$exists": False}}
    with store_errors(database.uri):
        return set(database.mongo["fireworks"].distinct("spec.candidate_id", query)) - {None}


def _under_way(database: Database, config: CampaignConfig) -> bool:
    """Whether workers run jobs of a campaign, or a candidate that has begun has not ended."""
    if who_computes(database.mongo, config.name) is not None:
        return True
    candidates = list(_open(database, config).candidates)
    query = {"metadata.campaign": config.name, "metadata.candidate_id": {"$in": candidates}}
    with store_errors(database.uri):
        return database.mongo[OUTPUTS].find_one(query, {"_id": 1}) is not None
