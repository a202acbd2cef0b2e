"""What ``scdm campaign resume`` finds, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What was found, in words for people; the names are the keys of the JSON output."""

    SUBMITTED = "workflows that a cut submission lacked"
    DELIVERED = "outputs that a worker of this machine had kept: stored"
    ASIDE = "kept outputs that no job waits for: put aside"
    CLAIM = "claims by a worker that never started"
    LOST = "runs whose worker was lost"
    LOCK = "locks of workflows that nobody held"
    STATE = "jobs whose end or start the workflow did not show"
    CHILD = "children whose insertion was cut short"
    STORED = "jobs called failed whose output is stored: finished without computing"
    RETRIED = "failed jobs tried again"
    CHOSEN = "best candidates, chosen for phonons: put in the queue"
    OUTPUT = "finished jobs whose output is missing or has parts missing: tried again"
    KEPT = "kept outputs that are not stored yet"
    CLAIMED = "claims by a worker that may still start"
    SILENT = "runs without a heartbeat, whose worker may live"
    WAITING = "failed jobs that wait for their next try"
    FAILED = "failed jobs that are not tried again"
    QUARANTINED = "jobs in quarantine, for the workers that were lost in them"
    BUSY = "workflows that another process is changing: left to the next resume"
    TROUBLE = "campaigns whose submission cannot be completed here"


# something changed
DONE = frozenset(Kind) - {
    Kind.KEPT,
    Kind.CLAIMED,
    Kind.SILENT,
    Kind.WAITING,
    Kind.FAILED,
    Kind.QUARANTINED,
    Kind.BUSY,
    Kind.TROUBLE,
}


@dataclass(frozen=True)
class Item:
    """One finding: its kind, the firework (None for a whole workflow or campaign), its name, more in words."""

    kind: Kind
    fw_id: int | None
    name: str
    detail: str = ""
