"""The in-process runner: failures, interruptions, lost objects; and worker processes that die with their parent."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Structure
from pymongo.errors import AutoReconnect
from support.layers import mx2
from support.memory import memory_database
from support.places import ROOT

from scdm_flows.builders import build_all
from scdm_flows.campaigns.registration import register
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.documents import CampaignState
from scdm_flows.errors import CampaignError, ConfigError, EngineError, OutputError, StoreError
from scdm_flows.execution import jobs as execution
from scdm_flows.execution.local.processes import Work, WorkerDied, work_off
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database
from scdm_models.datasets.known import KnownLayers


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KnownLayers, "load", classmethod(lambda cls, path=None: cls.build([])[0]))


@pytest.fixture
def config(tmp_path: Path, graphene: Structure) -> CampaignConfig:
    """Two layers; the gate is shut to phonons, so that a run takes a second or two."""
    mx2("1H").to(str(tmp_path / "a.cif"))
    graphene.to(str(tmp_path / "b.cif"))
    return parse_config(
        {
            "name": "t",
            "generator": {"kind": "files", "paths": [str(tmp_path)]},
            "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.2},
            "gate": {"phonon_max_atoms": 1},
        }
    )


def outputs(database: Database) -> dict[tuple[str, str | None], Any]:
    """(stage, candidate) -> document."""
    return {
        (d["metadata"]["stage"], d["metadata"].get("candidate_id")): d for d in database.job_store.docs_store.query({})
    }


def stages(database: Database) -> list[str]:
    return sorted(stage for stage, _ in outputs(database))


def spoil(monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException, times: int = 10**6) -> list[str]:
    """Make the jobs of a stage raise; returns the names of those that did."""
    real, hit = execution.run_job, []

    def run_job(job: Any, store: Any, **spent: float) -> Any:
        if job.metadata["stage"] == stage and len(hit) < times:
            hit.append(job.name)
            raise error
        return real(job, store, **spent)

    monkeypatch.setattr(execution, "run_job", run_job)
    return hit


def test_a_stage_that_fails_is_recorded_and_the_others_go_on(
    config: CampaignConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = memory_database()
    with monkeypatch.context() as patch:
        spoil(patch, "static", RuntimeError("no energy today"), times=1)
        result = run_campaign(config, database, processes=1)
    assert (result.accepted, result.computed, result.failed) == (2, 2, 1)
    (failure,) = database.failures.query({})
    assert (failure["stage"], failure["error_type"], failure["message"]) == (
        "static",
        "RuntimeError",
        "no energy today",
    )
    assert failure["failure_id"] == f"{failure['candidate_id']}:static"
    assert stages(database) == ["gate", "generate", "relax", "relax", "screen", "static"]
    # an end state: not tried again unless asked
    assert run_campaign(config, database, processes=1).computed == 0
    again = run_campaign(config, database, processes=1, retry_failed=True)
    assert (again.computed, again.failed) == (1, 0)
    assert database.failures.count() == 0
    assert stages(database) == ["gate", "gate", "generate", "relax", "relax", "screen", "static", "static"]


def test_every_output_has_its_wall_time_and_a_utc_time(config: CampaignConfig) -> None:
    database = memory_database()
    run_campaign(config, database, processes=1)
    for document in outputs(database).values():
        assert document["metadata"]["seconds"] > 0
        assert document["metadata"]["completed_at"].utcoffset().total_seconds() == 0


def test_an_interruption_says_how_to_go_on_and_loses_nothing(
    config: CampaignConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = memory_database()
    with monkeypatch.context() as patch:
        spoil(patch, "gate", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt, match="'t' was interrupted after 0 candidates.*same command goes on"):
            run_campaign(config, database, processes=1)
    assert stages(database) == ["generate", "relax", "screen", "static"]
    assert database.campaign("t").state is CampaignState.RUNNING
    before = outputs(database)
    assert run_campaign(config, database, processes=1).failed == 0
    after = outputs(database)
    # what was finished was not computed again
    assert {k: after[k]["completed_at"] for k in before} == {k: d["completed_at"] for k, d in before.items()}
    assert stages(database) == ["gate", "gate", "generate", "relax", "relax", "screen", "static", "static"]


@pytest.mark.parametrize(
    ("error", "raised", "text"),
    [
        (AutoReconnect("connection closed"), StoreError, "does not answer: connection closed"),
        (OSError(errno.ENOSPC, "No space left on device", "/somewhere"), OutputError, "the disk is full"),
    ],
)
def test_trouble_that_is_no_candidates_fault_stops_the_run(
    config: CampaignConfig,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: type[Exception],
    text: str,
) -> None:
    database = memory_database()
    spoil(monkeypatch, "relax", error)
    with pytest.raises(raised, match=text):
        run_campaign(config, database, processes=1)
    assert database.failures.count() == 0


def test_an_output_whose_large_objects_were_lost_is_computed_again(
    config: CampaignConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the document and the objects it points to."""
    database = memory_database()
    with monkeypatch.context() as patch:
        spoil(patch, "static", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_campaign(config, database, processes=1)
    blobs = database.job_store.additional_stores["data"]
    count = blobs.count()
    relax = next(d for (stage, _), d in outputs(database).items() if stage == "relax")
    blobs.remove_docs({"job_uuid": relax["uuid"]})
    assert blobs.count() < count
    assert run_campaign(config, database, processes=1).failed == 0
    again = database.job_store.query_one({"uuid": relax["uuid"]}, load=True)
    assert again["completed_at"] != relax["completed_at"]
    assert database.job_store.docs_store.count({"uuid": relax["uuid"]}) == 1


def test_another_configuration_of_the_same_name_is_refused_once_something_is_computed(config: CampaignConfig) -> None:
    database = memory_database()
    assert register(config, database)
    assert not register(config, database)
    run_campaign(config, database, processes=1)
    changed = config.model_copy(update={"gate": config.gate.model_copy(update={"phonon_max_atoms": 5})})
    with pytest.raises(CampaignError, match="gate.phonon_max_atoms: 1 there, 5 here"):
        register(changed, database)


def test_another_objective_ranks_anew_and_computes_nothing(config: CampaignConfig) -> None:
    database = memory_database()
    run_campaign(config, database, processes=1)
    build_all(database)
    first = {c.candidate_id: c.score_terms for c in CandidateDB(database).find()}
    assert {frozenset(terms) for terms in first.values()} == {
        frozenset({"stability", "dynamics", "novelty", "prototype", "symmetry"})
    }
    objective = {"stability": 1, "dynamics": 0, "novelty": 0, "prototype": 0, "symmetry": 0}
    changed = parse_config({**config.model_dump(mode="json"), "objective": objective})
    assert changed.config_hash == config.config_hash
    assert run_campaign(changed, database, processes=1).computed == 0
    build_all(database)
    found = CandidateDB(database).find(sort="rank")
    assert all(set(c.score_terms) == {"stability"} for c in found)
    known = [max(0.0, c.e_above_hull) for c in found if c.e_above_hull is not None and not c.extrapolated]
    assert known == sorted(known)  # the nearer to the hull, the better; on it and below it are alike


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ({"gap": 0.2}, "gap_ev, the range in eV, go together"),
        ({"gap_ev": [1, 2]}, "gap_ev, the range in eV, go together"),
        ({"gap": 0.2, "gap_ev": [2, 1]}, "0 <= lowest <= highest"),
        ({"stability": 0, "dynamics": 0, "novelty": 0, "prototype": 0, "symmetry": 0}, "all weights are 0"),
        ({"stabilty": 1}, "did you mean 'stability'"),
    ],
)
def test_an_objective_that_means_nothing_is_refused(objective: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config({"name": "t", "objective": objective})


def test_an_engine_that_cannot_run_is_refused_before_anything_is_written(
    config: CampaignConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCDM_VASP_CMD", raising=False)
    database = memory_database()
    vasp = parse_config({**config.model_dump(mode="json"), "engine": {"kind": "vasp"}})
    with pytest.raises(EngineError, match="SCDM_VASP_CMD is not set"):
        run_campaign(vasp, database)
    assert database.campaigns.count() == 0


# workers: functions of the module, because they are pickled


def each(work: Callable[[int], int]) -> Work[int, int]:
    return lambda items: ((place, work(item)) for place, item in enumerate(items))


def square() -> Work[int, int]:
    return each(lambda x: x * x)


def refuse_three() -> Work[int, int]:
    def work(x: int) -> int:
        if x == 3:
            raise EngineError("three is refused")
        return x

    return each(work)


def die_on_two() -> Work[int, int]:
    def work(x: int) -> int:
        if x == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    return each(work)


def test_workers_do_everything_once() -> None:
    assert sorted(work_off(range(5), square, 2)) == [(i, i * i) for i in range(5)]
    assert list(work_off([], square, 2)) == []
    assert sorted(work_off(range(50), square, 2, 7)) == [(i, i * i) for i in range(50)]


def test_what_a_worker_raises_reaches_the_caller() -> None:
    with pytest.raises(EngineError, match="three is refused"):
        list(work_off(range(6), refuse_three, 2))


@pytest.mark.parametrize("together", [1, 3])
def test_an_item_that_kills_its_worker_is_named_and_the_others_are_done(together: int) -> None:
    done = dict(work_off(range(4), die_on_two, 2, together))
    assert {k: v for k, v in done.items() if k != 2} == {0: 0, 1: 1, 3: 3}
    assert done[2] == WorkerDied(-signal.SIGKILL)
    assert "SIGKILL" in str(done[2])


PARENT = """
import os, sys, time
from scdm_flows.execution.local.processes import work_off
def start():
    os.write(1, b"%d\\n" % os.getpid())  # at once: two workers write
    return lambda items: ((place, time.sleep(item)) for place, item in enumerate(items))
if __name__ == "__main__":
    list(work_off([600, 600], start, 2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it takes a second, by polling")
def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'models'}"},
    )
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(Path(f"/proc/{pid}").exists() for pid in children)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_elements_may_be_a_list() -> None:
    text, listed = (
        parse_config(
            {"name": "e", "generator": {"kind": "scdm", "n": 1, "elements": e}, "engine": {"kind": "forcefield"}}
        )
        for e in ("Mo,S", ["Mo", "S"])
    )
    assert listed.config_hash == text.config_hash


LOCKS = """
import multiprocessing
from scdm_flows.execution.local.processes import work_off

held = []

def negative(numbers):
    return enumerate(-number for number in numbers)

def start():
    held.append(multiprocessing.get_context("spawn").RLock())  # as tqdm does
    return negative

if __name__ == "__main__":
    print(sorted(result for _, result in work_off(range(4), start, 2)))
"""


def test_workers_give_back_what_they_hold_of_the_system(tmp_path: Path) -> None:
    script = tmp_path / "locks.py"
    script.write_text(LOCKS)
    path = os.pathsep.join([str(ROOT), str(ROOT / "models")])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("[-3, -2, -1, 0]\n", "")  # Python warns of semaphores that are left
