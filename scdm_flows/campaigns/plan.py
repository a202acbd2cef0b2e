"""What of a campaign is still to do: a pure function of its configuration and of what is stored.

Whoever runs campaigns (this process, FireWorks) asks it again after every step, so a kill at any point costs one step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from scdm_flows.campaigns.budget import let_past
from scdm_flows.config import CampaignConfig
from scdm_flows.documents.states import CORE_STAGES, OPENED_STAGES, StageName


@dataclass(frozen=True)
class Stored:
    """What is stored of a campaign, as far as it decides what is open.

    Parameters
    ----------
    accepted
        Shard -> ids of the samples that passed its screen, in their order, without those that repeat a sample of
        another shard; a shard that has not been screened is missing.
    shares
        Shard -> how many of its candidates the budget has let past before.
    opened
        Candidate -> the stages that its gate opens; a candidate without a gate is missing.
    done
        Candidate -> its stages behind the gate that have an output.
    failed
        Candidate -> its stages that have failed for good.
    set_aside
        Candidates that somebody has taken out of the queue.
    chosen
        Candidates chosen for phonons; None before the first choice.
    """

    accepted: Mapping[int, Sequence[str]] = field(default_factory=dict)
    shares: Mapping[int, int] = field(default_factory=dict)
    opened: Mapping[str, Collection[str]] = field(default_factory=dict)
    done: Mapping[str, Collection[str]] = field(default_factory=dict)
    failed: Mapping[str, Collection[str]] = field(default_factory=dict)
    set_aside: Collection[str] = ()
    chosen: Sequence[str] | None = None


@dataclass(frozen=True)
class Plan:
    """The open work of a campaign.

    Parameters
    ----------
    shards
        Shards to generate and screen.
    past
        Candidates that the screen and the budget let past, in their order.
    candidates
        Those of them with open stages, phonons aside where the budget chooses whose are computed.
    left_out
        How many accepted candidates the budget leaves out.
    choose
        Whether the best are to be chosen for phonons now: the budget says how many, and every gate has closed.
    phonons
        Chosen candidates whose phonons are open.
    """

    shards: tuple[int, ...]
    past: tuple[str, ...]
    candidates: tuple[str, ...]
    left_out: int
    choose: bool
    phonons: tuple[str, ...]


def open_stages(
    opened: Collection[str] | None, done: Collection[str], failed: Collection[str] = ()
) -> tuple[StageName, ...]:
    """The stages of a candidate past the screen that are still to run.

    opened: the stages that its gate opens, None where the gate has not closed; done, failed: stages with an output,
    and with a failure for good. A failure before the gate is the candidate's end.
    """
    if opened is not None:
        return tuple(s for s in OPENED_STAGES if s in opened and s not in done and s not in failed)
    if any(stage in failed for stage in CORE_STAGES):
        return ()
    return tuple(stage for stage in CORE_STAGES if stage not in done)


def plan(config: CampaignConfig, shards: int, stored: Stored) -> Plan:
    """What is to be done, in the order in which it is done.

    shards: how many the campaign has.
    """
    let = let_past(stored.accepted, stored.shares, config.budget.max_candidates)
    past = tuple(candidate for _, candidates in sorted(let.items()) for candidate in candidates)
    still = {
        c: open_stages(stored.opened.get(c), stored.done.get(c, ()), stored.failed.get(c, ()))
        for c in past
        if c not in stored.set_aside
    }
    chooses = config.budget.phonons is not None
    unscreened = tuple(shard for shard in range(shards) if shard not in stored.accepted)
    gates_closed = not unscreened and not any(StageName.GATE in stages for stages in still.values())
    return Plan(
        shards=unscreened,
        past=past,
        candidates=tuple(
            c for c, stages in still.items() if any(s is not StageName.PHONON or not chooses for s in stages)
        ),
        left_out=sum(map(len, stored.accepted.values())) - len(past),
        choose=gates_closed and (chooses or stored.chosen is not None),
        phonons=tuple(
            c
            for c in stored.chosen or ()
            # chosen, and its gate has failed when it ran again: there is no relaxed structure
            if c in stored.opened and StageName.PHONON not in {*stored.done.get(c, ()), *stored.failed.get(c, ())}
        ),
    )
