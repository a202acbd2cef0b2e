"""Runs a campaign's flows in this process and its worker processes: ``scdm campaign run``.

The same jobs as under FireWorks, with the same uuids. What is in the job store is not run again, so a killed
campaign goes on where it was: at most the jobs in flight are repeated, and repeating a job replaces its
output.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pymatgen.core.structure import Structure

from scdm_flows.campaigns.choice import choose, phonon_flow_of
from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.config import CampaignConfig
from scdm_flows.documents import (
    CampaignDoc,
    CampaignState,
    ScreenedCandidate,
    StageFailure,
    StageName,
)
from scdm_flows.documents.provenance import made_here
from scdm_flows.errors import CampaignError, EngineError
from scdm_flows.execution.jobs import execute, progress_hook
from scdm_flows.execution.local.processes import Work, WorkerDied, work_off
from scdm_flows.stores.database import Database, database_of

if TYPE_CHECKING:
    from jobflow.core.flow import Flow

logger = logging.getLogger(__name__)
FOLLOWING = (StageName.PHONON.value, StageName.BANDS.value)  # stages that the gate opens, each by itself
TOGETHER = 200  # candidates that a worker process has at a time, to fill its batches
MOST_NAMED = 5  # layers that an error names
Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")
Task = Callable[[CampaignConfig, Database, Sequence[Item]], Iterator[tuple[int, bool | None]]]


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
    from scdm_flows.flows.build import shard_count

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
    report: Progress = progress or (lambda stage, done, total: None)
    register(config, database)
    if retry_failed:
        database.failures.remove_docs({"campaign": config.name})
    following = "relax, static, gate, phonon, bands" if config.budget.phonons is None else "relax, static, gate, bands"
    done = held = 0
    try:
        accepted = _accepted(config, database, processes, report)
        passed = len(accepted)
        accepted = accepted[: config.budget.max_candidates]
        todo, failed = _unfinished(config, database, accepted)
        _set_state(config, database, CampaignState.RUNNING if todo else None)
        before = len(accepted) - len(todo)
        report(following, before, len(accepted))
        for candidate, outcome in _spread(config, database, todo, run_candidates, processes, TOGETHER):
            done += 1
            ok = _judged(config, database, candidate.candidate_id, outcome)
            failed += ok is False
            held += ok is None
            report(following, before + done, len(accepted))
        if config.budget.phonons is not None and not held:
            failed += _phonons_of_the_best(config, database, processes, report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"campaign {config.name!r} was interrupted after {done} candidates; what is finished is stored, "
            "the same command goes on from there"
        ) from None
    return RunResult(passed, len(todo) - held, before, failed, passed - len(accepted) + held)


def _accepted(config: CampaignConfig, database: Database, processes: int, report: Progress) -> list[ScreenedCandidate]:
    """What passes the screen, in the order of the samples, without duplicates of other shards."""
    from scdm_flows.analysis.duplicates import across_shards
    from scdm_flows.flows.build import shard_count

    shards, total = shard_count(config)
    verdicts = {shard: screened_before(config, database, shard) for shard in range(shards)}
    missing = [shard for shard, found in verdicts.items() if found is None]
    made = total - sum(_size(config, shard, total) for shard in missing)
    report("generate, screen", made, total)
    with progress_hook(lambda now: report("generate, screen", made + now, total)):
        for shard, outcome in _spread(config, database, missing, run_shards, processes):
            if isinstance(outcome, WorkerDied):
                raise CampaignError(f"shard {shard} of campaign {config.name!r}: {outcome}; run it again")
            made += _size(config, shard, total)
            report("generate, screen", made, total)
    for shard in missing:
        verdicts[shard] = screened_before(config, database, shard)
        if verdicts[shard] is None:
            raise CampaignError(f"shard {shard} of campaign {config.name!r} left no output; run it again")
    whole = [found or [] for found in verdicts.values()]
    report("duplicates", 0, 1)
    again = across_shards(whole, {}) if len(whole) > 1 else {}
    report("duplicates", 1, 1)
    return [c for found in whole for c in found if c.accepted and c.candidate_id not in again]


def _size(config: CampaignConfig, shard: int, total: int) -> int:
    """Samples of a shard."""
    return min(config.generator.shard_size, total - shard * config.generator.shard_size)


def _phonons_of_the_best(config: CampaignConfig, database: Database, processes: int, report: Progress) -> int:
    """Choose the best and compute their phonons; returns how many failed now."""
    report("novelty, hulls and ranking", 0, 1)
    best = choose(database, config)
    report("novelty, hulls and ranking", 1, 1)
    ended = {d["metadata"]["candidate_id"] for d in stored(database, config.name, StageName.PHONON.value, []).values()}
    ended |= {c for c, stages in _failed_stages(config, database).items() if StageName.PHONON.value in stages}
    todo = [candidate for candidate in best if candidate not in ended]
    report("phonon", len(best) - len(todo), len(best))
    failed = 0
    for done, (candidate, outcome) in enumerate(_spread(config, database, todo, run_phonons, processes), 1):
        failed += _judged(config, database, candidate, outcome) is False
        report("phonon", len(best) - len(todo) + done, len(best))
    return failed


def _set_state(config: CampaignConfig, database: Database, state: CampaignState | None) -> None:
    document = database.campaign(config.name)
    if document is not None and state is not None and document.state != state:
        document.state = state
        database.upsert(database.campaigns, [document.model_dump()])


def screened_before(config: CampaignConfig, database: Database, shard: int) -> list[ScreenedCandidate] | None:
    """Verdicts of a shard, from the job store; None where it has not been screened."""
    from scdm_flows.flows.jobs import job_uuid

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
    following = FOLLOWING if config.budget.phonons is None else (StageName.BANDS.value,)
    gates = {
        d["metadata"]["candidate_id"]: {s for s in following if d["output"].get(s)}
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


def _spread(
    config: CampaignConfig,
    database: Database,
    items: Sequence[Item],
    task: Task[Item],
    processes: int,
    together: int = 1,
) -> Iterator[tuple[Item, bool | WorkerDied | None]]:
    """Each item with what the task says of it: in worker processes where it pays, ``together`` at a time."""
    if database.uri is None or processes == 1 or len(items) < 2:
        for place, outcome in task(config, database, items):
            yield items[place], outcome
        return
    start = partial(_start_worker, config.model_dump_json(), database.uri, task)
    yield from work_off(items, start, processes, together)


def _start_worker(config: str, uri: str, task: Task[Item]) -> Work[Item, bool | None]:
    """What a worker process does first: connect, and return the function that works on items."""
    import torch

    torch.set_num_threads(1)
    quiet()
    return partial(task, CampaignConfig.model_validate_json(config), database_of(uri).connect(indexes=False))


def _judged(
    config: CampaignConfig, database: Database, candidate_id: str, outcome: bool | WorkerDied | None
) -> bool | None:
    """The outcome; where its workers died, a failure of the candidate's open stage is stored."""
    if isinstance(outcome, WorkerDied):
        stage = _open_stage(config, database, candidate_id)
        _record_failure(config, database, candidate_id, stage, "WorkerDied", str(outcome))
        return False
    return outcome


def quiet() -> None:
    """Silence the libraries that report every step."""
    warnings.simplefilter("ignore")
    for name in ("jobflow", "moyo", "chgnet", "matgl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("custodian", "VasprunXMLValidator", "VaspFilesValidator"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say is in the stage's failure


def run_shards(config: CampaignConfig, database: Database, shards: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Generate and screen shards; yields the place of each as it is done, and raises what fails."""
    from scdm_flows.flows.build import shard_flow

    for place, shard in enumerate(shards):
        execute(shard_flow(config, shard), database.job_store, follow=False)
        yield place, True


def run_candidates(
    config: CampaignConfig, database: Database, candidates: Sequence[ScreenedCandidate]
) -> Iterator[tuple[int, bool | None]]:
    """Run what candidates lack, those to be relaxed together; yields the place of each and how ``run_candidate`` went.

    A candidate's jobs run as soon as its relaxation has ended, while others are still under way.
    """
    from scdm_flows.engines import engine_of
    from scdm_flows.flows.jobs import job_uuid

    if config.budget.node_hours is not None:  # each asks for itself whether it may begin, so none is relaxed ahead
        for place, candidate in enumerate(candidates):
            yield place, run_candidate(config, database, candidate)
        return
    fresh = []
    for place, candidate in enumerate(candidates):
        uuid = job_uuid(config, candidate.candidate_id, StageName.RELAX.value)
        if database.job_store.docs_store.query_one({"uuid": uuid}, properties=["uuid"]) is None:
            fresh.append(place)
        else:
            yield place, run_candidate(config, database, candidate)
    layers = [Structure.from_dict(candidates[place].structure or {}) for place in fresh]
    for number in engine_of(config.engine).relax_ahead(layers):
        yield fresh[number], run_candidate(config, database, candidates[fresh[number]])


def run_candidate(config: CampaignConfig, database: Database, candidate: ScreenedCandidate) -> bool | None:
    """Run what a candidate lacks; returns whether all went well, else a ``StageFailure`` is stored.

    None where it has not begun and the campaign's node hours are used up.
    """
    from scdm_flows.flows.build import candidate_flow

    outputs = database.job_store.docs_store._collection
    if config.budget.node_hours is not None and node_hours(outputs, config.name) >= config.budget.node_hours:
        begun = {"metadata.campaign": config.name, "metadata.candidate_id": candidate.candidate_id}
        if outputs.find_one(begun, {"_id": 1}) is None:
            return None
    return _run_flow(config, database, candidate.candidate_id, candidate_flow(config, candidate))


def run_phonons(config: CampaignConfig, database: Database, candidate_ids: Sequence[str]) -> Iterator[tuple[int, bool]]:
    """Phonons of candidates whose gate is open to them; yields the place of each and whether it went well."""
    for place, candidate_id in enumerate(candidate_ids):
        yield place, _run_flow(config, database, candidate_id, phonon_flow_of(config, database, candidate_id))


def _run_flow(config: CampaignConfig, database: Database, candidate_id: str, flow: Flow) -> bool:
    """Run what a flow of a candidate lacks; returns whether all went well, else its failures are stored."""
    before = {"candidate_id": candidate_id, "campaign": config.name}
    over = {d["stage"] for d in database.failures.query(before, properties=["stage"])}
    failures = execute(flow, database.job_store, over=over)
    for failure in failures:
        kind, message = type(failure.error).__name__, str(failure.error)
        _record_failure(config, database, candidate_id, failure.stage, kind, message, failure.job.uuid)
    return not failures


def _open_stage(config: CampaignConfig, database: Database, candidate_id: str) -> str:
    """The first stage of a candidate that has no output."""
    criteria = {"metadata.campaign": config.name, "metadata.candidate_id": candidate_id}
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
    candidate_id: str,
    stage: str,
    error_type: str,
    message: str,
    job_uuid: str | None = None,
) -> None:
    document = StageFailure(
        failure_id=f"{candidate_id}:{stage}",
        candidate_id=candidate_id,
        campaign=config.name,
        stage=stage,
        error_type=error_type,
        message=message[:2000] or error_type,
        job_uuid=job_uuid,
        provenance=made_here(config_hash=config.config_hash),
    )
    database.upsert(database.failures, [document.model_dump()])
    logger.warning("%s failed in %s: %s", candidate_id, stage, message)
