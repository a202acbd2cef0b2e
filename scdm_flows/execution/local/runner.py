"""Runs the open work of a campaign in this process and its worker processes: ``scdm campaign run``.

The same jobs as under FireWorks, with the same uuids. What is in the job store is not run again, so a killed
campaign goes on where it was: at most the jobs in flight are repeated, and repeating a job replaces its
output. What is open, and what the budget allows, is said by ``scdm_flows.campaigns``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from scdm_flows.analysis.duplicates import across_shards
from scdm_flows.builders import build_all
from scdm_flows.campaigns.choice import choose, needs_ranking
from scdm_flows.campaigns.controls import refuse_cancelled
from scdm_flows.campaigns.failures import failure, forget_all, record
from scdm_flows.campaigns.plan import Plan, open_stages, plan
from scdm_flows.campaigns.registration import registered, shard_size
from scdm_flows.campaigns.stored import screened, stored_of
from scdm_flows.config import CampaignConfig
from scdm_flows.documents import CampaignState, ScreenedCandidate, StageName
from scdm_flows.errors import CampaignError
from scdm_flows.execution.local.processes import WorkerDied, work_off
from scdm_flows.execution.local.work import Task, run_candidates, run_phonons, run_shards, start_worker, together
from scdm_flows.flows.campaign import shard_count
from scdm_flows.stores.database import Database

Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class RunResult:
    """Candidates accepted by the screen, computed now, found finished, failed so far, and left out by the budget."""

    accepted: int
    computed: int
    already_done: int
    failed: int
    left_out: int = 0


def run_campaign(
    config: CampaignConfig,
    database: Database,
    *,
    processes: int = 2,
    retry_failed: bool = False,
    progress: Progress | None = None,
    deadline: float | None = None,
) -> RunResult:
    """Run or go on with a campaign until every candidate has an end state.

    Parameters
    ----------
    config
        The campaign.
    database
        Connected; it must have a URI for more than one process.
    processes
        Worker processes, each with one CPU thread; with 1 everything happens in this process.
    retry_failed
        Forget the campaign's failures first, so that they are tried again.
    progress
        Called with (stage, done, total).
    deadline
        ``time.time()`` beyond which no candidate begins that is not expected to end before it (``ends_in_time``).

    Raises
    ------
    CampaignError, EngineError
        See ``register`` and ``refuse_cancelled``; a candidate that fails is recorded and never raises.
    StoreError, OutputError
        If the database fails or the disk is full; the same call goes on when that is mended.
    KeyboardInterrupt
        On Ctrl-C, with how far it came; workers are ended first, and the same call goes on from there.
    """
    refuse_cancelled(database, config.name)
    config = registered(config, database)
    if retry_failed:
        forget_all(database, config.name)
    run = _Run(config, database, processes, progress or (lambda stage, done, total: None), deadline)
    try:
        return run.all()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"campaign {config.name!r} was interrupted after {run.done} candidates; what is finished is stored, "
            "the same command goes on from there"
        ) from None


class _Run:
    """One call: shards, then candidates, then the phonons of the best; the plan is asked before each."""

    def __init__(
        self, config: CampaignConfig, database: Database, processes: int, report: Progress, deadline: float | None
    ) -> None:
        self.config, self.database, self.processes, self.report = config, database, processes, report
        self.deadline = deadline
        self.n_shards, self.total = shard_count(config)
        self.samples: dict[str, ScreenedCandidate] = {}
        self.repeated: set[str] = set()  # samples that repeat one of another shard
        self.done = 0  # candidates
        self.failed = 0  # candidates with a stage that has failed for good

    def all(self) -> RunResult:
        self._run_shards(self._plan().shards)
        self._read_samples()
        now = self._plan()
        failed_before = self.failed
        todo = [self.samples[c] for c in now.candidates]
        failed, held = self._run_candidates(todo, len(now.past))
        before, computed = len(now.past) - len(todo), len(todo) - held
        if self._plan().choose and self.config.budget.phonons is not None:
            failed_phonons, held_phonons = self._run_phonons()
            failed, held = failed + failed_phonons, held + held_phonons
        failed += failed_before
        return RunResult(len(now.past) + now.left_out, computed, before, failed, now.left_out + held)

    def _plan(self) -> Plan:
        stored = stored_of(self.config, self.database, repeated=self.repeated)
        self.failed = len(stored.failed)
        return plan(self.config, self.n_shards, stored)

    def _run_shards(self, shards: Sequence[int]) -> None:
        """Generate and screen."""
        step, config = "generate, screen", self.config
        made = self.total - sum(shard_size(config, shard) for shard in shards)
        self.report(step, made, self.total)
        task = partial(run_shards, progress=lambda now: self.report(step, made + now, self.total))
        for shard, outcome in self._spread(shards, task if self._alone(shards) else run_shards):
            if isinstance(outcome, WorkerDied):
                raise CampaignError(f"shard {shard} of campaign {config.name!r}: {outcome}; run it again")
            made += shard_size(config, shard)
            self.report(step, made, self.total)

    def _read_samples(self) -> None:
        """The accepted samples, in their order, and which of them repeat others."""
        whole = []
        for shard in range(self.n_shards):
            found = screened(self.config, self.database, shard)
            if found is None:
                raise CampaignError(f"shard {shard} of campaign {self.config.name!r} left no output; run it again")
            whole.append(found)
        self.report("duplicates", 0, 1)
        self.repeated = set(across_shards(whole, {})) if len(whole) > 1 else set()
        self.report("duplicates", 1, 1)
        self.samples = {c.candidate_id: c for found in whole for c in found if c.accepted}

    def _run_candidates(self, todo: list[ScreenedCandidate], total: int) -> tuple[int, int]:
        """Run what candidates lack; returns how many failed and how many the node hours held back."""
        config = self.config
        chooses = config.budget.phonons is not None
        step = "relax, static, gate, bands" if chooses else "relax, static, gate, phonon, bands"
        if todo:
            self._set_state(CampaignState.RUNNING)
        before, failed, held = total - len(todo), 0, 0
        self.report(step, before, total)
        task = partial(run_candidates, deadline=self.deadline)
        for candidate, outcome in self._spread(todo, task, together(self.config, self.deadline)):
            self.done += 1
            ok = self._judged(candidate.candidate_id, outcome)
            failed += ok is False
            held += ok is None
            self.report(step, before + self.done, total)
        return failed, held

    def _run_phonons(self) -> tuple[int, int]:
        """Choose the best and compute their phonons; returns how many failed now and how many did not begin."""
        self.report("novelty, hulls and ranking", 0, 1)
        stored = stored_of(self.config, self.database, repeated=self.repeated)
        if needs_ranking(self.config, None if stored.chosen is None else list(stored.chosen)):
            build_all(self.database, self.config.name)
        best = choose(self.database, self.config)
        self.report("novelty, hulls and ranking", 1, 1)
        todo = list(self._plan().phonons)
        self.report("phonon", len(best) - len(todo), len(best))
        failed, held = 0, 0
        task = partial(run_phonons, deadline=self.deadline)
        for done, (candidate, outcome) in enumerate(self._spread(todo, task), 1):
            ok = self._judged(candidate, outcome)
            failed += ok is False
            held += ok is None
            self.report("phonon", len(best) - len(todo) + done, len(best))
        return failed, held

    def _set_state(self, state: CampaignState) -> None:
        document = self.database.campaign(self.config.name)
        if document is not None and document.state != state:
            document.state = state
            self.database.upsert(self.database.campaigns, [document.model_dump()])

    def _alone(self, items: Sequence[Item]) -> bool:
        """Whether the work happens in this process."""
        return self.database.uri is None or self.processes == 1 or len(items) < 2

    def _spread(
        self, items: Sequence[Item], task: Task[Item], together: int = 1
    ) -> Iterator[tuple[Item, bool | WorkerDied | None]]:
        """Each item with what the task says of it: in worker processes where it pays, ``together`` at a time."""
        if self._alone(items):
            for place, outcome in task(self.config, self.database, items):
                yield items[place], outcome
            return
        start = partial(start_worker, self.config.model_dump_json(), str(self.database.uri), task)
        yield from work_off(items, start, self.processes, together)

    def _judged(self, candidate_id: str, outcome: bool | WorkerDied | None) -> bool | None:
        """The outcome; where its workers died, a failure of the candidate's open stage is stored."""
        if not isinstance(outcome, WorkerDied):
            return outcome
        stage = self._open_stage(candidate_id)
        said = failure(
            self.config.name,
            candidate_id,
            stage,
            "WorkerDied",
            str(outcome),
            config_hash=self.config.config_hash,
        )
        record(self.database, [said])
        return False

    def _open_stage(self, candidate_id: str) -> str:
        """The first stage of a candidate that has no output."""
        criteria = {"metadata.campaign": self.config.name, "metadata.candidate_id": candidate_id}
        fields = ["metadata", "output.phonon", "output.bands"]
        found = self.database.job_store.docs_store.query(criteria, properties=fields)
        done = {d["metadata"].get("stage"): d for d in found}
        gate = done.get(StageName.GATE)
        opened = None if gate is None else {s for s in ("phonon", "bands") if gate.get("output", {}).get(s)}
        return str(next(iter(open_stages(opened, done)), StageName.GATE).value)
