"""Runs a campaign's flows in this process and its worker processes: ``scdm campaign run``.

The same jobs as under FireWorks, with the same uuids. What is in the job store is not run again, so a killed
campaign goes on where it was: at most the jobs in flight are repeated, and repeating a job replaces its
output.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from scdm_flows.config import CampaignConfig
from scdm_flows.documents import (
    CampaignDoc,
    CampaignState,
    ScreenedCandidate,
    StageFailure,
    StageName,
)
from scdm_flows.errors import CampaignError, EngineError
from scdm_flows.execution import execute, progress_hook
from scdm_flows.hours import node_hours
from scdm_flows.provenance import made_here
from scdm_flows.stores.database import Database, database_of
from scdm_flows.workers import WorkerDied, work_off

logger = logging.getLogger(__name__)
FOLLOWING = (StageName.PHONON.value, StageName.BANDS.value)  # stages that the gate opens, each by itself
MOST_NAMED = 5  # layers that an error names
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunResult:
    """Candidates accepted by the screen, computed now, found finished, failed so far, and left out by the budget."""

    accepted: int
    computed: int
    already_done: int
    failed: int
    left_out: int = 0


def register(config: CampaignConfig, database: Database) -> bool:
    """Write the campaign document; returns False where it is there already, if with another objective or budget.

    Raises
    ------
    CampaignError
        If a campaign of this name has another configuration.
    EngineError
        If the engine lacks what it needs.
    """
    from scdm_flows.flows import shard_count

    known = database.campaign(config.name)
    if known is not None:
        if known.config_hash != config.config_hash:
            changes = ", ".join(_differences(known.config, config.model_dump(mode="json")))
            raise CampaignError(
                f"campaign {config.name!r} exists with another configuration ({changes}); "
                "give the changed file a new name"
            )
        wanted = config.model_dump(mode="json")
        if any(known.config.get(part) != wanted[part] for part in ("objective", "budget")):
            known.config = wanted
            database.upsert(database.campaigns, [known.model_dump()])
        return False
    missing = obstacles(config)
    if missing:
        raise EngineError("; ".join(missing))
    document = CampaignDoc(
        name=config.name,
        description=config.description,
        config=config.model_dump(mode="json"),
        config_hash=config.config_hash,
        n_requested=shard_count(config)[1],
        provenance=made_here(config_hash=config.config_hash),
    )
    database.upsert(database.campaigns, [document.model_dump()])
    return True


def obstacles(config: CampaignConfig) -> list[str]:
    """What keeps a campaign from running: the engine's needs, elements and, where structures are known, layers.

    Each in words with the remedy; of many layers the first five are named.
    """
    from scdm_flows.engines import engine_of
    from scdm_flows.generators import GENERATORS

    engine, generator = engine_of(config.engine), GENERATORS[config.generator.kind]
    found = engine.check()
    elements = generator.elements(config.generator)
    if elements:
        found += engine.check_elements(elements)
    layers = []
    for name, structure in generator.given(config.generator):
        layers += [f"{name}: {problem}" for problem in engine.layer_problems(structure, as_given=True)]
    if len(layers) > MOST_NAMED:
        layers = [*layers[:MOST_NAMED], f"and {len(layers) - MOST_NAMED} more"]
    return list(dict.fromkeys(found + layers))  # a broken file shows in more than one check


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


def run_campaign(
    config: CampaignConfig,
    database: Database,
    *,
    processes: int = 2,
    retry_failed: bool = False,
    progress: Progress | None = None,
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

    Raises
    ------
    CampaignError, EngineError
        See ``register``; a candidate that fails is recorded and never raises.
    StoreError, OutputError
        If the database fails or the disk is full; the same call goes on when that is mended.
    KeyboardInterrupt
        On Ctrl-C, with how far it came; workers are ended first, and the same call goes on from there.
    """
    from scdm_flows.flows import shard_count

    report: Progress = progress or (lambda stage, done, total: None)
    register(config, database)
    if retry_failed:
        database.failures.remove_docs({"campaign": config.name})
    shards, total = shard_count(config)
    accepted: list[ScreenedCandidate] = []
    done = held = 0
    try:
        for shard in range(shards):
            first = shard * config.generator.shard_size
            with progress_hook(lambda made, first=first: report("generate", first + made, total)):  # type: ignore[misc]
                accepted += [c for c in _screened(config, database, shard) if c.accepted]
        report("generate", total, total)
        passed = len(accepted)
        accepted = accepted[: config.budget.max_candidates]
        todo, failed = _unfinished(config, database, accepted)
        _set_state(config, database, CampaignState.RUNNING if todo else None)
        before = len(accepted) - len(todo)
        report("relax, static, gate, phonon, bands", before, len(accepted))
        for ok in _compute(config, database, todo, processes):
            done += 1
            failed += ok is False
            held += ok is None
            report("relax, static, gate, phonon, bands", before + done, len(accepted))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"campaign {config.name!r} was interrupted after {done} candidates; what is finished is stored, "
            "the same command goes on from there"
        ) from None
    return RunResult(passed, len(todo) - held, before, failed, passed - len(accepted) + held)


def _set_state(config: CampaignConfig, database: Database, state: CampaignState | None) -> None:
    document = database.campaign(config.name)
    if document is not None and state is not None and document.state != state:
        document.state = state
        database.upsert(database.campaigns, [document.model_dump()])


def _screened(config: CampaignConfig, database: Database, shard: int) -> list[ScreenedCandidate]:
    """Verdicts of a shard, from the job store or made now."""
    from scdm_flows.flows import shard_flow

    found = screened_before(config, database, shard)
    if found is None:
        execute(shard_flow(config, shard), database.job_store, follow=False)
        found = screened_before(config, database, shard)
        if found is None:
            raise CampaignError(f"shard {shard} of campaign {config.name!r} left no output; run it again")
    return found


def screened_before(config: CampaignConfig, database: Database, shard: int) -> list[ScreenedCandidate] | None:
    """Verdicts of a shard, from the job store; None where it has not been screened."""
    from scdm_flows.jobs import job_uuid

    uuid = job_uuid(config, f"shard{shard}", "screen")
    found = database.job_store.docs_store.query_one({"uuid": uuid}, properties=["output"])
    if found is None:
        return None
    return [ScreenedCandidate.model_validate(c) for c in _plain(found["output"])["candidates"]]


def _plain(output: Any) -> Any:
    """The output without monty's class marks."""
    if isinstance(output, dict):
        marks = {"@module", "@class", "@version"} if str(output.get("@module", "")).startswith("scdm_flows") else set()
        return {k: _plain(v) for k, v in output.items() if k not in marks}
    if isinstance(output, list):
        return [_plain(v) for v in output]
    return output


def _failed_stages(config: CampaignConfig, database: Database) -> dict[str, set[str]]:
    """candidate_id -> stages that have failed."""
    failed: dict[str, set[str]] = {}
    for d in database.failures.query({"campaign": config.name}, properties=["candidate_id", "stage"]):
        failed.setdefault(d["candidate_id"], set()).add(d["stage"])
    return failed


def _unfinished(
    config: CampaignConfig, database: Database, accepted: list[ScreenedCandidate]
) -> tuple[list[ScreenedCandidate], int]:
    """Candidates without an end state, and how many have failed in some stage."""
    gates = {
        d["metadata"]["candidate_id"]: {s for s in FOLLOWING if d["output"].get(s)}
        for d in stored(database, config.name, StageName.GATE.value, [f"output.{s}" for s in FOLLOWING]).values()
    }
    done: dict[str, set[str]] = {}
    for stage in FOLLOWING:
        for d in stored(database, config.name, stage, []).values():
            done.setdefault(d["metadata"]["candidate_id"], set()).add(stage)
    failed = _failed_stages(config, database)

    def is_open(candidate: str) -> bool:
        ended = done.get(candidate, set()) | failed.get(candidate, set())
        if candidate not in gates:
            return not ended - set(FOLLOWING)  # a failure before the gate is an end
        return bool(gates[candidate] - ended)

    return [c for c in accepted if is_open(c.candidate_id)], len(failed)


def _compute(
    config: CampaignConfig, database: Database, todo: list[ScreenedCandidate], processes: int
) -> Iterator[bool | None]:
    """Run the candidates, in worker processes where it pays; yields for each what ``run_candidate`` says."""
    if database.uri is None or processes == 1 or len(todo) == 1:
        for candidate in todo:
            yield run_candidate(config, database, candidate)
        return
    items = [candidate.model_dump_json() for candidate in todo]
    for item, outcome in work_off(items, partial(_start_worker, config.model_dump_json(), database.uri), processes):
        if isinstance(outcome, WorkerDied):
            candidate = ScreenedCandidate.model_validate_json(item)
            _record_failure(
                config,
                database,
                candidate,
                _open_stage(config, database, candidate),
                "WorkerDied",
                str(outcome),
            )
            yield False
        else:
            yield outcome


def _start_worker(config: str, uri: str) -> Callable[[str], bool | None]:
    """What a worker process does first: connect, and return the function that runs one candidate."""
    import torch

    torch.set_num_threads(1)
    quiet()
    campaign, database = CampaignConfig.model_validate_json(config), database_of(uri).connect()
    return lambda item: run_candidate(campaign, database, ScreenedCandidate.model_validate_json(item))


def quiet() -> None:
    """Silence the libraries that report every step."""
    warnings.simplefilter("ignore")
    for name in ("jobflow", "moyo", "chgnet", "matgl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("custodian", "VasprunXMLValidator", "VaspFilesValidator"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say is in the stage's failure


def run_candidate(config: CampaignConfig, database: Database, candidate: ScreenedCandidate) -> bool | None:
    """Run what a candidate lacks; returns whether all went well, else a ``StageFailure`` is stored.

    None where it has not begun and the campaign's node hours are used up.
    """
    from scdm_flows.flows import candidate_flow

    outputs = database.job_store.docs_store._collection
    if config.budget.node_hours is not None and node_hours(outputs, config.name) >= config.budget.node_hours:
        begun = {"metadata.campaign": config.name, "metadata.candidate_id": candidate.candidate_id}
        if outputs.find_one(begun, {"_id": 1}) is None:
            return None

    over = _failed_stages(config, database).get(candidate.candidate_id, set())
    failures = execute(candidate_flow(config, candidate), database.job_store, over=over)
    for failure in failures:
        kind, message = type(failure.error).__name__, str(failure.error)
        _record_failure(config, database, candidate, failure.stage, kind, message, failure.job.uuid)
    return not failures


def _open_stage(config: CampaignConfig, database: Database, candidate: ScreenedCandidate) -> str:
    """The first stage of a candidate that has no output."""
    criteria = {"metadata.campaign": config.name, "metadata.candidate_id": candidate.candidate_id}
    found = database.job_store.docs_store.query(criteria, properties=["metadata", "output.phonon", "output.bands"])
    done = {d["metadata"].get("stage"): d for d in found}
    for stage in (StageName.RELAX.value, StageName.STATIC.value, StageName.GATE.value):
        if stage not in done:
            return stage
    opened = [s for s in FOLLOWING if done[StageName.GATE.value].get("output", {}).get(s)]
    return next((s for s in opened if s not in done), StageName.GATE.value)


def _record_failure(
    config: CampaignConfig,
    database: Database,
    candidate: ScreenedCandidate,
    stage: str,
    error_type: str,
    message: str,
    job_uuid: str | None = None,
) -> None:
    document = StageFailure(
        failure_id=f"{candidate.candidate_id}:{stage}",
        candidate_id=candidate.candidate_id,
        campaign=config.name,
        stage=stage,
        error_type=error_type,
        message=message[:2000] or error_type,
        job_uuid=job_uuid,
        provenance=made_here(config_hash=config.config_hash),
    )
    database.upsert(database.failures, [document.model_dump()])
    logger.warning("%s failed in %s: %s", candidate.candidate_id, stage, message)
