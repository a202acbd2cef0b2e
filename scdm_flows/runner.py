"""Runs a campaign's flows in this process and its worker processes: ``scdm campaign run``.

The same jobs as under FireWorks, with the same uuids. What is in the job store is not run again, so a killed
campaign goes on where it was: at most the jobs in flight are repeated, and repeating a job replaces its output.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scdm_flows.config import CampaignConfig
from scdm_flows.documents import CampaignDoc, CampaignState, Provenance, ScreenedCandidate, StageFailure
from scdm_flows.errors import CampaignError, EngineError
from scdm_flows.provenance import git_commit, versions
from scdm_flows.stores.database import Database, database_of

if TYPE_CHECKING:
    from jobflow import Flow, Job

logger = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunResult:
    """Candidates accepted by the screen, computed now, found finished, and failed so far."""

    accepted: int
    computed: int
    already_done: int
    failed: int


def register(config: CampaignConfig, database: Database) -> bool:
    """Write the campaign document; returns False where the same campaign is there already.

    Raises
    ------
    CampaignError
        If a campaign of this name has another configuration.
    EngineError
        If the engine lacks what it needs.
    """
    from scdm_flows.engines import engine_of
    from scdm_flows.flows import shard_count

    known = database.campaign(config.name)
    if known is not None:
        if known.config_hash != config.config_hash:
            changes = ", ".join(_differences(known.config, config.model_dump(mode="json")))
            raise CampaignError(
                f"campaign {config.name!r} exists with another configuration ({changes}); give the changed file a new name"
            )
        return False
    missing = engine_of(config.engine).check()
    if missing:
        raise EngineError("; ".join(missing))
    document = CampaignDoc(
        name=config.name,
        description=config.description,
        config=config.model_dump(mode="json"),
        config_hash=config.config_hash,
        n_requested=shard_count(config)[1],
        provenance=Provenance(versions=versions(), git_commit=git_commit(), config_hash=config.config_hash),
    )
    database.upsert(database.campaigns, [document.model_dump()])
    return True


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path}: {old!r} there, {new!r} here"


def stored(database: Database, campaign: str, stage: str, fields: list[str]) -> dict[str, dict[str, Any]]:
    """uuid -> output document of a stage, with the given fields."""
    found = database.job_store.docs_store.query(
        {"metadata.campaign": campaign, "metadata.stage": stage}, properties=["uuid", "metadata", *fields]
    )
    return {d["uuid"]: d for d in found}


def run_campaign(config: CampaignConfig, database: Database, *, processes: int = 2, progress: Progress | None = None) -> RunResult:
    """Run or go on with a campaign until every candidate has an end state.

    Parameters
    ----------
    config
        The campaign.
    database
        Connected; it must have a URI for more than one process.
    processes
        Worker processes, each with one CPU thread.
    progress
        Called with (stage, done, total).

    Raises
    ------
    CampaignError, EngineError
        See ``register``; a candidate that fails is recorded and never raises.
    """
    from scdm_flows.flows import shard_count

    register(config, database)
    shards, total = shard_count(config)
    accepted: list[ScreenedCandidate] = []
    for shard in range(shards):
        if progress is not None:
            progress("generate and screen", shard * config.generator.shard_size, total)
        accepted += [c for c in _screened(config, database, shard) if c.accepted]
    if progress is not None:
        progress("generate and screen", total, total)
    todo, failed_before = _unfinished(config, database, accepted)
    _set_state(config, database, CampaignState.RUNNING if todo else None)
    failed = failed_before
    done = 0
    for ok in _compute(config, database, todo, processes):
        done += 1
        failed += not ok
        if progress is not None:
            progress("relax, static, gate, phonon", len(accepted) - len(todo) + done, len(accepted))
    return RunResult(len(accepted), len(todo), len(accepted) - len(todo), failed)


def _set_state(config: CampaignConfig, database: Database, state: CampaignState | None) -> None:
    document = database.campaign(config.name)
    if document is not None and state is not None and document.state != state:
        document.state = state
        database.upsert(database.campaigns, [document.model_dump()])


def _screened(config: CampaignConfig, database: Database, shard: int) -> list[ScreenedCandidate]:
    """Verdicts of a shard, from the job store or made now."""
    from scdm_flows.flows import shard_flow
    from scdm_flows.jobs import job_uuid

    uuid = job_uuid(config, f"shard{shard}", "screen")
    found = database.job_store.docs_store.query_one({"uuid": uuid}, properties=["output"])
    if found is None:
        flow = shard_flow(config, shard)
        execute(flow, database, follow=False)
        found = database.job_store.docs_store.query_one({"uuid": uuid}, properties=["output"])
        if found is None:
            raise CampaignError(f"shard {shard} of campaign {config.name!r} left no output; run it again")
    return [ScreenedCandidate.model_validate(c) for c in _plain(found["output"])["candidates"]]


def _plain(output: Any) -> Any:
    """The output without monty's class marks."""
    if isinstance(output, dict):
        marks = {"@module", "@class", "@version"} if str(output.get("@module", "")).startswith("scdm_flows") else set()
        return {k: _plain(v) for k, v in output.items() if k not in marks}
    if isinstance(output, list):
        return [_plain(v) for v in output]
    return output


def _unfinished(
    config: CampaignConfig, database: Database, accepted: list[ScreenedCandidate]
) -> tuple[list[ScreenedCandidate], int]:
    """Candidates without an end state, and how many have failed."""
    gates = {
        d["metadata"]["candidate_id"]: bool(d["output"]["phonon"])
        for d in stored(database, config.name, "gate", ["output.phonon"]).values()
    }
    phonons = {d["metadata"]["candidate_id"] for d in stored(database, config.name, "phonon", []).values()}
    failures = {d["candidate_id"] for d in database.failures.query({"campaign": config.name}, properties=["candidate_id"])}
    todo = [
        c
        for c in accepted
        if c.candidate_id not in failures
        and (c.candidate_id not in gates or (gates[c.candidate_id] and c.candidate_id not in phonons))
    ]
    return todo, len(failures)


def _compute(
    config: CampaignConfig, database: Database, todo: list[ScreenedCandidate], processes: int
) -> Iterator[bool]:
    if not todo:
        return
    if database.uri is None or processes == 1 or len(todo) == 1:
        for candidate in todo:
            yield _run_candidate(config, database, candidate)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(todo)), context, initializer=_start_worker, initargs=(database.uri,))
    try:
        # a short queue: an interrupted run has little to throw away
        waiting = iter(todo)
        running: set[Future[bool]] = set()
        for candidate in waiting:
            running.add(pool.submit(_work, config.model_dump_json(), candidate.model_dump_json()))
            if len(running) >= 2 * processes:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        yield from (future.result() for future in running)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_database: Database | None = None


def _start_worker(uri: str) -> None:
    """Make a worker quiet, single-threaded, deaf to Ctrl-C (the parent decides) and dead when its parent dies."""
    global _database
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    import torch

    torch.set_num_threads(1)
    quiet()
    _database = database_of(uri).connect()


def quiet() -> None:
    """Silence the libraries that report every step."""
    warnings.simplefilter("ignore")
    for name in ("jobflow", "moyo", "chgnet", "matgl"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _work(config: str, candidate: str) -> bool:
    if _database is None:
        raise CampaignError("worker process has no database; start it through run_campaign")
    return _run_candidate(CampaignConfig.model_validate_json(config), _database, ScreenedCandidate.model_validate_json(candidate))


def _run_candidate(config: CampaignConfig, database: Database, candidate: ScreenedCandidate) -> bool:
    """Run what a candidate lacks; a failing stage becomes a ``StageFailure``. Returns whether all went well."""
    from scdm_flows.flows import candidate_flow

    failure = execute(candidate_flow(config, candidate), database)
    if failure is None:
        return True
    job, error = failure
    stage = str(job.metadata.get("stage", job.name))
    document = StageFailure(
        failure_id=f"{candidate.candidate_id}:{stage}",
        candidate_id=candidate.candidate_id,
        campaign=config.name,
        stage=stage,
        error_type=type(error).__name__,
        message=str(error)[:2000] or type(error).__name__,
        job_uuid=job.uuid,
    )
    database.upsert(database.failures, [document.model_dump()])
    logger.warning("%s failed in %s: %s", candidate.candidate_id, stage, error)
    return False


@contextmanager
def _scratch() -> Iterator[None]:
    """A temporary working folder (makers leave files there), and standard output kept clean."""
    from contextlib import chdir, redirect_stdout
    from io import StringIO

    with tempfile.TemporaryDirectory(prefix="scdm-") as folder, chdir(folder), redirect_stdout(StringIO()):
        yield


# Dynamic jobs are cheap and deterministic: they run again, so that their children are known again.
DYNAMIC_STAGES = frozenset({"gate"})


def execute(flow: Flow | Job, database: Database, *, follow: bool = True) -> tuple[Job, Exception] | None:
    """Run a flow's jobs in order, skipping those whose output is stored; returns the first failure, if any.

    follow: also run what the jobs add. The screen's additions are left to the caller.
    """
    from jobflow.core.flow import get_flow

    store = database.job_store
    for job, _ in get_flow(flow).iterflow():
        stage = job.metadata.get("stage")
        is_stored = store.docs_store.query_one({"uuid": job.uuid, "index": job.index}, properties=["uuid"]) is not None
        if is_stored and stage not in DYNAMIC_STAGES:
            continue
        try:
            started = time.monotonic()
            job.metadata["started"] = round(time.time(), 3)
            with _scratch(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                response = job.run(store=store)
            logger.info("%s took %.1f s", job.name, time.monotonic() - started)
        except Exception as error:
            if stage in ("generate", "screen"):
                raise  # not one candidate's trouble
            return job, error
        if follow and response.addition is not None:
            failure = execute(response.addition, database)
            if failure is not None:
                return failure
    return None
