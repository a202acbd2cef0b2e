"""The stages of a candidate, the states of candidates and campaigns, and how both divide: one table for everybody."""

from __future__ import annotations

from enum import StrEnum


class StageName(StrEnum):
    """The stages of a candidate, in order."""

    GENERATE = "generate"
    SCREEN = "screen"
    RELAX = "relax"
    STATIC = "static"
    GATE = "gate"
    PHONON = "phonon"
    BANDS = "bands"


# One job for a whole shard: where one of these fails it is no single candidate's trouble.
SHARD_STAGES = (StageName.GENERATE, StageName.SCREEN)
# What every candidate that passed the screen goes through; a failure in one of them is its end.
CORE_STAGES = (StageName.RELAX, StageName.STATIC, StageName.GATE)
# What the gate opens, each by itself.
OPENED_STAGES = (StageName.PHONON, StageName.BANDS)
# Their jobs add others. They are cheap and deterministic, and run again on resuming, so that their children are known.
DYNAMIC_STAGES = frozenset({StageName.SCREEN, StageName.GATE})


class CandidateState(StrEnum):
    """Where a candidate stands; ``END_STATES`` are final."""

    PENDING = "pending"  # screened in, not everything computed yet
    REJECTED = "rejected"  # stopped by the screen or by the gate, with the reason
    FAILED = "failed"  # a stage failed, with the reason; bands alone do not count, the stage's record tells of them
    COMPLETED = "completed"  # every stage that its gates opened has ended


END_STATES = frozenset(CandidateState) - {CandidateState.PENDING}


class CampaignState(StrEnum):
    """Where a campaign stands."""

    SUBMITTED = "submitted"
    RUNNING = "running"
    COMPLETED = "completed"
