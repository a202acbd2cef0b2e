"""A campaign counted from its candidates, in total and by generator, and from its jobs' own outputs.

Nothing here looks at the funnel that the candidate builder stored in the campaign: the numbers can be set beside it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from scdm_flows.campaigns.funnel import FUNNEL_FIELDS, funnel
from scdm_flows.config import WINDOW_EV
from scdm_flows.documents import SHARD_STAGES, CandidateDoc, CandidateState, Funnel, StageName
from scdm_flows.report.content import computed

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

LEVELS = (0.0, 0.05, 0.1, 0.2)  # eV/atom, below the window
JOB_STEPS = ("generated", "in_window", "phonon_done", "dynamically_stable")


@dataclass(frozen=True)
class Counts:
    """Counts of some candidates.

    funnel: as the campaign's; new_*: those of them that relaxed to no known layer; below, new_below: level
    (eV/atom) -> unique candidates whose E_hull is at most that, and those of them that are new; above_since: passed
    the gate, which judges by the known phases alone, and lie above the window beside the other candidates.
    """

    funnel: Funnel
    new_in_window: int
    new_phonon_done: int
    new_stable: int
    below: dict[float, int]
    new_below: dict[float, int]
    above_since: int
    copies_of_other_generators: int


def count(candidates: Sequence[CandidateDoc], config: Mapping[str, Any], generators: Mapping[str, str]) -> Counts:
    """The counts of a campaign's candidates, or of some of them.

    config: of the campaign, for what its screen requires and its window; generators: candidate_id -> generator of all
    candidates, to tell whose copy a duplicate is.
    """
    screen = config.get("screen", {})
    rules = {"radii": screen.get("require_radii", True), "one_layer": screen.get("require_one_layer", True)}
    fields = set(FUNNEL_FIELDS)
    known = computed(candidates)
    levels = (*LEVELS, window(config))
    new = [c for c in candidates if c.novel]

    def below(among: Iterable[CandidateDoc]) -> dict[float, int]:
        values = [c.e_above_hull for c in among if c.e_above_hull is not None]
        return {level: sum(v <= level for v in values) for level in levels}

    def above(candidate: CandidateDoc) -> bool:
        return candidate.e_above_hull is not None and candidate.e_above_hull > window(config)

    of_new = funnel((c.model_dump(include=fields) for c in new), **rules)
    return Counts(
        funnel=funnel((c.model_dump(include=fields) for c in candidates), **rules),
        new_in_window=of_new.in_window,
        new_phonon_done=of_new.phonon_done,
        new_stable=of_new.dynamically_stable,
        below=below(known),
        new_below=below(c for c in known if c.novel),
        above_since=funnel((c.model_dump(include=fields) for c in known if above(c)), **rules).in_window,
        copies_of_other_generators=sum(
            c.duplicate_of is not None and generators.get(c.duplicate_of, c.generator) != c.generator
            for c in candidates
        ),
    )


def window(config: Mapping[str, Any]) -> float:
    """The campaign's window, eV/atom."""
    return float(config.get("gate", {}).get("max_e_above_hull", WINDOW_EV))


def by_generator(candidates: Sequence[CandidateDoc], config: Mapping[str, Any]) -> dict[str, Counts]:
    """Generator -> counts, SCDM and UnSCDM first."""
    groups: dict[str, list[CandidateDoc]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.generator].append(candidate)
    owners = {c.candidate_id: c.generator for c in candidates}
    order = sorted(groups, key=lambda g: ({"scdm": 0, "unscdm": 1}.get(g, 2), g))
    return {g: count(groups[g], config, owners) for g in order}


@dataclass
class StageTime:
    """What a stage took: jobs, their wall time added up (s), the middle one (s)."""

    jobs: int = 0
    seconds: float = 0.0
    middle: float = 0.0
    _all: list[float] = field(default_factory=list, repr=False)


def stage_times(candidates: Iterable[CandidateDoc]) -> dict[str, StageTime]:
    """Stage -> its time, of the stages that noted it; a job that many candidates share counts once."""
    jobs: dict[str, dict[str, float]] = defaultdict(dict)
    for candidate in candidates:
        for name, record in candidate.stages.items():
            if record.seconds is not None:
                shared = StageName(name) in SHARD_STAGES
                jobs[name][record.job_uuid or candidate.candidate_id if shared else candidate.candidate_id] = (
                    record.seconds
                )
    found = {}
    for stage in StageName:
        if values := list(jobs.get(stage.value, {}).values()):
            found[stage.value] = StageTime(len(values), sum(values), median(values))
    return found


def generation_time(database: Database, campaign: str) -> StageTime:
    """Time of the jobs that generated samples, from their own outputs: candidates do not note it."""
    criteria = {"metadata.campaign": campaign, "metadata.stage": StageName.GENERATE.value}
    found = database.job_store.docs_store.query(criteria, properties=["metadata.seconds"])
    values = [d["metadata"]["seconds"] for d in found if "seconds" in d["metadata"]]
    return StageTime(len(values), sum(values), median(values) if values else 0.0)


def span(candidates: Iterable[CandidateDoc]) -> tuple[datetime, datetime] | None:
    """When the first and the last stage ended, UTC; None where no stage noted it."""
    times = [r.completed_at for c in candidates for r in c.stages.values() if r.completed_at is not None]
    return (min(times), max(times)) if times else None


def without_end(candidates: Iterable[CandidateDoc]) -> list[str]:
    """Ids of the candidates without an end state."""
    return sorted(c.candidate_id for c in candidates if c.state is CandidateState.PENDING)


def states(candidates: Iterable[CandidateDoc]) -> dict[str, int]:
    """State -> candidates in it, in the order of the states."""
    counts = Counter(c.state for c in candidates)
    return {state.value: counts[state] for state in CandidateState}


def job_counts(database: Database, campaign: str) -> dict[str, int]:
    """``JOB_STEPS`` counted from the outputs of the campaign's jobs, in a connected database.

    Only which samples repeat one of another shard is taken from the candidates: no job knows that.
    """
    outputs = database.job_store.docs_store
    screens: dict[int, int] = {}
    for output in outputs.query(
        {"metadata.campaign": campaign, "metadata.stage": StageName.SCREEN.value},
        properties=["metadata.shard", "output.candidates.candidate_id"],
    ):
        screens[int(output["metadata"].get("shard", 0))] = len(output["output"].get("candidates", []))
    repeated = {
        d["candidate_id"]
        for d in database.candidates.query({"campaign": campaign}, properties=["candidate_id", "duplicate_of"])
        if d.get("duplicate_of") is not None
    }

    def passed(stage: StageName, fields: Mapping[str, bool | None]) -> int:
        """Candidates whose stage has an output with these values; None: any but False."""
        found = set()
        for output in outputs.query(
            {"metadata.campaign": campaign, "metadata.stage": stage.value},
            properties=["metadata.candidate_id", *(f"output.{name}" for name in fields)],
        ):
            values = output.get("output") or {}
            if all(values.get(n) is not False if v is None else values.get(n) is v for n, v in fields.items()):
                found.add(output["metadata"]["candidate_id"])
        return len(found - repeated)

    return {
        "generated": sum(screens.values()),
        "in_window": passed(StageName.GATE, {"in_window": True, "relax_converged": True, "one_layer": None}),
        "phonon_done": passed(StageName.PHONON, {}),
        "dynamically_stable": passed(StageName.PHONON, {"dynamically_stable": True}),
    }
