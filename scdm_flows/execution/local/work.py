"""What the processes of a local run do with shards, candidates and chosen candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from jobflow.core.flow import Flow

from scdm_flows.campaigns.budget import hours_are_used_up
from scdm_flows.campaigns.estimate import ends_in_time
from scdm_flows.campaigns.failures import failure, record
from scdm_flows.campaigns.node_hours import add_lost
from scdm_flows.campaigns.stored import relaxed_structure
from scdm_flows.config import CampaignConfig
from scdm_flows.documents import ScreenedCandidate, StageName
from scdm_flows.engines import engine_of
from scdm_flows.engines.base import Ahead
from scdm_flows.execution.jobs import execute, quiet
from scdm_flows.execution.local.processes import Work
from scdm_flows.flows.campaign import shard_flow
from scdm_flows.flows.gate import phonon_flow
from scdm_flows.flows.identity import job_uuid
from scdm_flows.flows.layer import candidate_flow
from scdm_flows.stores.database import Database, database_of

Item = TypeVar("Item")
TOGETHER = 200  # candidates that a worker process has at a time, to fill its batches
IN_TIME = 20  # the same where there is a deadline, and each costs next to nothing
# takes items, and yields the place of each as it is done and whether all went well; None: it may not begin
Task = Callable[[CampaignConfig, Database, Sequence[Item]], Iterator[tuple[int, bool | None]]]


def start_worker(config: str, uri: str, task: Task[Item]) -> Work[Item, bool | None]:
    """What a worker process does first: connect, and return the function that works on items."""
    import torch

    torch.set_num_threads(1)
    quiet()
    return partial(task, CampaignConfig.model_validate_json(config), database_of(uri).connect(indexes=False))


def run_shards(
    config: CampaignConfig,
    database: Database,
    shards: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, bool]]:
    """Generate and screen shards; yields the place of each as it is done, and raises what fails.

    progress: called with how many samples of a shard are made.
    """
    for place, shard in enumerate(shards):
        execute(shard_flow(config, shard, progress), database.job_store, follow=False)
        yield place, True


def run_candidates(
    config: CampaignConfig,
    database: Database,
    candidates: Sequence[ScreenedCandidate],
    deadline: float | None = None,
) -> Iterator[tuple[int, bool | None]]:
    """Run what candidates lack, those to be relaxed together; yields the place of each and how it went.

    None where it has not begun as the campaign's node hours are used up, or as it would not end before the deadline
    (``time.time()``). A candidate's jobs run as soon as its relaxation has ended, while others are still under way.
    """
    most = together(config, deadline)
    if most == 1:  # each asks for itself whether it may begin, so none is relaxed ahead
        for place, candidate in enumerate(candidates):
            may = _may_go(config, database, candidate, deadline)
            yield place, _run_candidate(config, database, candidate) if may else None
        return
    for first in range(0, len(candidates), most):
        part = candidates[first : first + most]
        late = deadline is not None and time.time() >= deadline
        outcomes = ((k, None) for k in range(len(part))) if late else _run_together(config, database, part)
        yield from ((first + place, outcome) for place, outcome in outcomes)


def together(config: CampaignConfig, deadline: float | None) -> int:
    """Candidates that are computed together: one where each asks for itself whether it may begin."""
    if config.budget.node_hours is not None:
        return 1
    if deadline is None:
        return TOGETHER
    return 1 if engine_of(config.engine).cost(None, 1) else IN_TIME


def _run_together(
    config: CampaignConfig, database: Database, candidates: Sequence[ScreenedCandidate]
) -> Iterator[tuple[int, bool | None]]:
    """Run what candidates lack, all that are not relaxed yet relaxed in batches."""
    fresh, layers = [], []
    for place, candidate in enumerate(candidates):
        uuid = job_uuid(config, candidate.candidate_id, StageName.RELAX.value)
        stored = database.job_store.docs_store.query_one({"uuid": uuid}, properties=["uuid"])
        if stored is None and candidate.structure is not None:
            fresh.append(place)
            layers.append(candidate.structure)
        else:
            yield place, _run_candidate(config, database, candidate)
    for ahead in engine_of(config.engine).relax_ahead(layers):
        yield fresh[ahead.index], _run_candidate(config, database, candidates[fresh[ahead.index]], ahead)


def _may_go(config: CampaignConfig, database: Database, candidate: ScreenedCandidate, deadline: float | None) -> bool:
    """Whether a candidate may go on: it ends in time, and the node hours last or it has begun."""
    if deadline is not None and not ends_in_time(config, database, candidate.structure, deadline):
        return False
    outputs = database.job_store.docs_store._collection
    begun = {"metadata.campaign": config.name, "metadata.candidate_id": candidate.candidate_id}
    return not hours_are_used_up(config.budget, outputs, config.name) or outputs.find_one(begun, {"_id": 1}) is not None


def _run_candidate(
    config: CampaignConfig, database: Database, candidate: ScreenedCandidate, ahead: Ahead | None = None
) -> bool:
    """Run what a candidate lacks; returns whether all went well. ahead: its relaxation, where it was computed."""
    flow = candidate_flow(config, candidate, None if ahead is None else ahead.maker)
    spent = {} if ahead is None else {StageName.RELAX.value: ahead.seconds}
    return _run_flow(config, database, candidate.candidate_id, flow, spent)


def run_phonons(
    config: CampaignConfig, database: Database, candidate_ids: Sequence[str], deadline: float | None = None
) -> Iterator[tuple[int, bool | None]]:
    """Phonons of candidates whose gate is open to them; yields the place of each and whether it went well.

    None where they would not end before the deadline, ``time.time()``.
    """
    for place, candidate_id in enumerate(candidate_ids):
        structure = relaxed_structure(config, database, candidate_id)
        if deadline is not None and not ends_in_time(config, database, structure, deadline, StageName.PHONON):
            yield place, None
            continue
        flow = phonon_flow(config, candidate_id, structure)
        yield place, _run_flow(config, database, candidate_id, flow)


def _run_flow(
    config: CampaignConfig,
    database: Database,
    candidate_id: str,
    flow: Flow,
    spent: dict[str, float] | None = None,
) -> bool:
    """Run what a flow of a candidate lacks; returns whether all went well, else its failures are stored."""
    before = {"candidate_id": candidate_id, "campaign": config.name}
    over = {d["stage"] for d in database.failures.query(before, properties=["stage"])}
    failed = execute(flow, database.job_store, over=over, spent=spent)
    for one in failed:
        add_lost(database.mongo, config.name, one.seconds)
    record(
        database,
        [
            failure(
                config.name,
                candidate_id,
                one.stage,
                type(one.error).__name__,
                str(one.error),
                job_uuid=one.job.uuid,
                config_hash=config.config_hash,
            )
            for one in failed
        ],
    )
    return not failed
