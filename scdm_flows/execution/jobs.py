"""Runs one job, or the jobs of a flow in turn, on a job store. Knows neither processes nor FireWorks.

The rule that makes everything resumable: a job whose output is stored in full is not run again, and running
it again would only replace its output, because uuids are deterministic.
"""

from __future__ import annotations

import errno
import itertools
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow.core.store import JobStore
from pymongo.errors import PyMongoError

from scdm_flows.documents import DYNAMIC_STAGES, SHARD_STAGES, utc_now
from scdm_flows.engines.attempts import Attempts, among
from scdm_flows.errors import OutputError, ProgramKilled, StoreError, Unfinished
from scdm_flows.stores.driver_errors import explain

if TYPE_CHECKING:
    from jobflow.core.flow import Flow
    from jobflow.core.job import Job, Response
    from maggma.core import Store

logger = logging.getLogger(__name__)
# in a job's folder: its uuid and run, and ``ENDED`` or ``GIVEN_UP`` where an attempt, or the job, ended by itself
MARK = ".job"
ENDED, GIVEN_UP = "ended", "given-up"
TRIES = 3  # of a job whose program was killed


@dataclass(frozen=True)
class FailedJob:
    """A job that failed, how, and the wall time (s) that it took."""

    job: Job
    error: Exception
    seconds: float

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return stage_of(self.job)


def stage_of(job: Job) -> str:
    """The stage that a job is or is a part of."""
    return str(job.metadata.get("stage") or job.metadata.get("part_of") or job.name)


@dataclass(frozen=True)
class Output:
    """What a job leaves, as the job store keeps it: its document, and large objects by the name of their store."""

    document: dict[str, Any]
    large: dict[str, list[dict[str, Any]]]

    def write(self, store: JobStore) -> None:
        """Put it into the store, in place of an earlier output of the job; a second time changes nothing."""
        uuid, index = self.document["uuid"], self.document["index"]
        mine = {blob["blob_uuid"] for blobs in self.large.values() for blob in blobs}
        for name, ids in (_large_objects(store, uuid, index) or {}).items():
            if ids - mine:
                _large_store(store, name).remove_docs({"blob_uuid": {"$in": sorted(ids - mine)}})
        store.docs_store.update([self.document], key=["uuid", "index"])
        for name, blobs in self.large.items():
            _large_store(store, name).update(blobs, key="blob_uuid")


class _Taken:
    """Takes what a job store gives to one of its stores."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    def update(self, documents: list[dict[str, Any]], key: object = None) -> None:
        self.documents += documents


class _ComputingStore(JobStore):
    """A job store that a job reads its inputs from; what the job would store is kept in ``output``."""

    def __init__(self, store: JobStore) -> None:
        vars(self).update(vars(store))  # the same connected stores: jobflow's own __init__ changes them
        self.output: Output | None = None

    def update(self, docs: Any, key: Any = None, save: Any = None) -> None:
        taking, documents = _ComputingStore(self), _Taken()
        large = {name: _Taken() for name in self.additional_stores}  # type: ignore[has-type]
        vars(taking).update(docs_store=documents, additional_stores=large)
        JobStore.update(taking, docs, key, save)
        (document,) = documents.documents
        self.output = Output(document, {name: taken.documents for name, taken in large.items() if taken.documents})


def _large_objects(store: JobStore, uuid: str, index: int) -> dict[str, set[str]] | None:
    """Store name -> ids of the large objects that a job's document points to; None without a document."""
    from jobflow.utils.find import find_key
    from pydash import get

    found = store.docs_store.query_one({"uuid": uuid, "index": index}, properties=["output"])
    if found is None:
        return None
    wanted: dict[str, set[str]] = {}
    for location in find_key(found, "blob_uuid"):
        pointer = get(found, list(location))
        wanted.setdefault(pointer["store"], set()).add(pointer["blob_uuid"])
    return wanted


def _large_store(store: JobStore, name: str) -> Store:
    found: Store = store.additional_stores[name]  # type: ignore[has-type]
    return found


def complete_among(store: JobStore, uuids: Collection[str]) -> set[str]:
    """Those of the jobs with these uuids whose output is stored, its large objects included; index 1 of each."""
    from jobflow.utils.find import find_key
    from pydash import get

    pointers: dict[str, list[tuple[str, str]]] = {}
    for uuid in uuids:  # one by one: the embedded server has no index for a list of values
        found = store.docs_store.query_one({"uuid": uuid, "index": 1}, properties=["uuid", "output"])
        if found is None:
            continue
        ends = [get(found, list(location)) for location in find_key(found, "blob_uuid")]
        pointers[found["uuid"]] = [(end["store"], end["blob_uuid"]) for end in ends]
    wanted: dict[str, set[str]] = {}
    for name, blob in (pointer for several in pointers.values() for pointer in several):
        wanted.setdefault(name, set()).add(blob)
    present = {
        (name, blob)
        for name, blobs in wanted.items()
        for blob in _large_store(store, name).distinct("blob_uuid", {"blob_uuid": {"$in": sorted(blobs)}})
    }
    return {uuid for uuid, several in pointers.items() if present.issuperset(several)}


def is_complete(store: JobStore, job: Job) -> bool:
    """Whether the job's output is stored, its large objects included.

    A job store writes the document before the large objects it points to: a kill in between leaves a document
    that cannot be loaded, which must count as absent.
    """
    wanted = _large_objects(store, job.uuid, job.index)
    return wanted is not None and all(
        _large_store(store, name).count({"blob_uuid": {"$in": sorted(ids)}}) >= len(ids) for name, ids in wanted.items()
    )


def run_job(
    job: Job,
    store: JobStore,
    *,
    spent: float = 0.0,
    write: Callable[[Output, Response[Any], float], None] | None = None,
) -> Response[Any]:
    """Run the job and store its output, which takes the place of an earlier one.

    The document gets ``metadata.seconds`` (wall time, s) and ``metadata.completed_at`` (UTC): jobflow's own
    ``completed_at`` is naive local time.

    Parameters
    ----------
    job, store
        The job, and the connected store that has its inputs.
    spent
        Wall time that went into its result before, s.
    write
        Stores the output instead of ``Output.write``; it is given the output, the job's response and the wall time
        of this run, s.
    """
    started = time.monotonic()
    computing = _ComputingStore(store)
    response = job.run(store=computing)
    taken = time.monotonic() - started
    output = computing.output
    if output is None:
        raise RuntimeError(f"jobflow ran {job.name} without storing an output")
    output.document["metadata"] |= {"seconds": round(taken + spent, 3), "completed_at": utc_now()}
    if write is None:
        output.write(store)
    else:
        write(output, response, taken)
    logger.info("%s took %.1f s", job.name, taken + spent)
    return response


@contextmanager
def scratch() -> Iterator[None]:
    """A temporary working folder, as makers leave files in theirs."""
    with tempfile.TemporaryDirectory(prefix="scdm-") as folder, chdir(folder):
        yield


@contextmanager
def working_folder(job: Job, last: bool = False, run: str = "") -> Iterator[float]:
    """Where a job runs: a temporary folder, or one that stays where its engine's files are worth keeping.

    That is ``<data folder>/runs/<campaign>/<candidate>/<job>``; a second attempt gets a folder of its own, and knows
    those before it that are of the same job. Yields the wall time (s) of those among them that were killed and so
    counted by nobody. last: whether the job is given up if its program is killed again; run: what its attempts are
    told from those of its earlier runs by, which are not gone on with.
    """
    if not job.metadata.get("keep_folder"):
        with scratch():
            yield 0.0
        return
    from scdm_flows.config.settings import get_settings

    candidate = str(job.metadata["candidate_id"])
    name = "_".join(job.name.removesuffix(candidate).replace("/", " of ").split())
    parent = get_settings().data_dir.absolute() / "runs" / str(job.metadata["campaign"]) / candidate
    parent.mkdir(parents=True, exist_ok=True)
    mine = f"{job.uuid}@{run}" if run else job.uuid
    before, counted, lost = [], 0, 0.0
    for attempt in itertools.count(1):
        folder = parent / (name if attempt == 1 else f"{name}.{attempt}")
        mark = folder / MARK
        try:
            folder.mkdir()
        except FileExistsError:
            said = mark.read_text().split() if mark.is_file() else []
            if said[:1] == [mine]:
                before.append(folder)
                counted = 0 if GIVEN_UP in said else counted + 1
                if len(said) == 1:
                    lost += _seen_at_work(folder)
                    mark.write_text(f"{mine} {ENDED}")
            continue
        mark.write_text(mine)
        end = ENDED
        try:
            with chdir(folder), among(Attempts(tuple(before), counted)):
                yield lost
        except Exception as error:
            goes_on = isinstance(error, Unfinished) or (isinstance(error, ProgramKilled) and not last)
            end = ENDED if goes_on else GIVEN_UP
            raise
        finally:
            for one in (folder, *(before[-1:] if end == GIVEN_UP else ())):
                (one / MARK).write_text(f"{mine} {end}")
            if {path.name for path in folder.iterdir()} == {MARK}:  # of jobs that leave no files
                mark.unlink()
            with suppress(OSError):
                folder.rmdir()
        return


def _seen_at_work(folder: Path) -> float:
    """Wall time (s) from the mark of a job that was killed to the last change of a file in its folder."""
    times = [path.stat().st_mtime for path in folder.iterdir()]
    return max(times) - (folder / MARK).stat().st_mtime


def quiet() -> None:
    """Silence the libraries that report every step."""
    warnings.simplefilter("ignore")
    for name in ("jobflow", "moyo", "chgnet", "matgl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("custodian", "VasprunXMLValidator", "VaspFilesValidator"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say is in the stage's failure


@contextmanager
def hushed() -> Iterator[None]:
    """Standard output and warnings of chatty libraries kept away from the user."""
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _run_of(job: Job, store: JobStore) -> str:
    """What the attempts of a job are marked with that it makes since it was to begin anew; empty before the first."""
    if not job.metadata.get("keep_folder"):
        return ""
    from scdm_flows.campaigns.again import last_set_aside

    since = last_set_aside(store.docs_store._collection.database, job.metadata)
    return "" if since is None else f"{since:%Y-%m-%dT%H:%M:%S.%f}"


def _run_here(job: Job, store: JobStore, spent: float) -> Response[Any]:
    """Run a job in its folder; again where its time was over, and where its program was killed up to ``TRIES`` times.

    What is run again goes on where it can, and an engine gives up what gets no further; after ``scdm campaign rerun``
    it begins anew. The time of every attempt counts.
    """
    begun, run = time.monotonic(), _run_of(job, store)
    for tries in itertools.count(1):
        try:
            earlier = time.monotonic() - begun
            with working_folder(job, tries == TRIES, run) as lost, hushed():
                return run_job(job, store, spent=spent + earlier + lost)
        except Unfinished as error:
            logger.info("%s goes on: %s", job.name, error)
        except ProgramKilled as error:
            if tries == TRIES:
                raise
            logger.warning("%s is tried again: %s", job.name, error)
    raise AssertionError("no attempt")


def execute(
    flow: Flow | Job,
    store: JobStore,
    *,
    follow: bool = True,
    over: Collection[str] = (),
    spent: Mapping[str, float] | None = None,
) -> list[FailedJob]:
    """Run a flow's jobs in order, skipping what is stored; returns the failures, the first of each stage.

    After a failure nothing runs that depends on it, nor the rest of its stage; other stages go on.

    Parameters
    ----------
    flow
        Jobs with the metadata key ``stage``, or ``part_of`` where they are not the last of their stage.
    store
        Connected job store.
    follow
        Also run what the jobs add; what replaces a job runs in any case.
    over
        Stages that have failed before and are not tried again.
    spent
        Stage -> wall time that went into its result before, s.

    Raises
    ------
    StoreError
        If the database fails: no candidate's fault.
    OutputError
        If the disk is full.
    Exception
        Whatever a job of a whole shard (generate, screen) raises.
    """
    from jobflow.core.flow import get_flow

    failures: list[FailedJob] = []
    dead: set[str] = set()  # jobs that have no output, and stages that are over
    ended = set(over)
    for job, parents in get_flow(flow, allow_external_references=True).iterflow():
        begun = time.monotonic()
        if dead.intersection(parents) or stage_of(job) in ended:
            dead.add(job.uuid)
            continue
        try:
            if job.metadata.get("stage") not in DYNAMIC_STAGES and is_complete(store, job):
                continue
            response = _run_here(job, store, (spent or {}).get(str(job.metadata.get("stage")), 0.0))
        except PyMongoError as error:
            raise StoreError(
                f"during {job.name} the database {explain(error)}; what is finished is stored, "
                "the same command goes on from there"
            ) from error
        except StoreError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutputError(
                    f"the disk is full ({error.filename or tempfile.gettempdir()}); "
                    "what is finished is stored, make room and run the same command again"
                ) from error
            failures.append(FailedJob(job, error, time.monotonic() - begun))
        except Exception as error:
            if stage_of(job) in SHARD_STAGES:
                raise
            failures.append(FailedJob(job, error, time.monotonic() - begun))
        else:
            replaced: list[Any] = [f for f in (response.replace, response.detour) if f is not None]
            added: list[Any] = [response.addition] if follow and response.addition is not None else []
            for more in [*replaced, *added]:
                found = execute(more, store, over=ended)
                failures += found
                if found and more in replaced:
                    dead.add(job.uuid)
            continue
        dead.add(job.uuid)
        ended.add(stage_of(job))
    return failures
