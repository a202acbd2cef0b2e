"""Budgets that are kept, cancelled campaigns, jobs given back: real server, real fireworks, jobs that do nothing."""

from __future__ import annotations

import threading
import time
from contextlib import chdir
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fireworks import FWAction, FWorker
from fireworks.core.rocket_launcher import launch_rocket
from jobflow import Response
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.campaigns.budget import in_words, take_candidates
from scdm_flows.campaigns.controls import cancelled_campaigns, control_of
from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.config import CampaignConfig, parse_config, stored_config
from scdm_flows.engines.forcefield.engine import ForceFieldEngine
from scdm_flows.errors import CampaignError
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution.fireworks import firetask, slots
from scdm_flows.execution.jobs import hushed
from scdm_flows.execution.local import runner
from scdm_flows.execution.local import work as local_work
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.stores import Database

pytest.importorskip("secantus", reason="the embedded server is an optional extra")
pytestmark = pytest.mark.usefixtures("quiet_place")


def campaign(tmp_path: Path, n: int = 5, shard: int = 3, **limits: Any) -> CampaignConfig:
    """``n`` layers in shards, with a budget."""
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    elements = [(metal, other) for metal in ("Mo", "W", "Nb", "Ta", "Ti", "Zr") for other in ("S", "Se")]
    for k, (metal, other) in enumerate(elements[:n]):  # the screen would drop layers that are alike
        mx2("1H").replace_species({"Mo": metal, "S": other}).to(filename=str(folder / f"{k:02}.cif"))
    return parse_config(
        {
            "name": "b",
            "generator": {"kind": "files", "paths": [str(folder)], "shard_size": shard},
            "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.5},
            "gate": {"phonon_max_atoms": 1},
            "budget": limits,
        }
    )


@pytest.fixture
def idle_engine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Generation and screening are real, everything after them does nothing and takes an hour by its own account."""
    real, ran = firetask.run_job, []

    def run_job(job: Any, store: Any, **spent: float) -> Any:
        if job.metadata["stage"] in ("generate", "screen"):
            return real(job, store, **spent)
        ran.append(job.metadata["candidate_id"])
        document = {"uuid": job.uuid, "index": 1, "output": {}, "metadata": {**job.metadata, "seconds": 3600.0}}
        store.docs_store.update([document], key=["uuid", "index"])
        return Response(output={})

    monkeypatch.setattr(firetask, "run_job", run_job)
    monkeypatch.setattr(slots, "HOURS_KNOWN_SECONDS", 0.0)
    return ran


def work(launchpad: Any, times: int = 100) -> int:
    """Run fireworks one after the other, as ``rlaunch`` does; returns how many were claimed."""
    with hushed():
        for done in range(times):
            if not launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL"):
                return done
    return times


def candidates(launchpad: Any) -> int:
    return int(launchpad.workflows.count_documents({"metadata.candidate_id": {"$exists": True}}))


def test_no_more_candidates_than_allowed_and_a_raised_budget_lets_more_past(
    tmp_path: Path, database: Database, idle_engine: list[str]
) -> None:
    config = campaign(tmp_path, max_candidates=2)
    launch.submit(config, database)
    launchpad = launch.launchpad_of(database)
    work(launchpad)
    assert candidates(launchpad) == len(set(idle_engine)) == 2
    assert "candidates: 2 of at most 2 put in the queue; 3 that passed the screen are left out" in in_words(
        launchpad.db, "b"
    )
    for firework in launchpad.fireworks.find({"spec.stage": "screen"}, {"fw_id": 1}):
        launchpad.rerun_fw(firework["fw_id"])  # the same shards again take nothing more
    work(launchpad)
    assert candidates(launchpad) == 2
    # a budget is no part of what is computed: the same campaign, with more of it
    more = campaign(tmp_path, max_candidates=4)
    assert more.config_hash == config.config_hash == campaign(tmp_path).config_hash
    assert launch.submit(more, database) == 2
    assert launch.submit(more, database) == 0
    work(launchpad)
    assert candidates(launchpad) == len(set(idle_engine)) == 4
    assert launch.submit(campaign(tmp_path), database) == 1  # no limit any more
    work(launchpad)
    assert len(set(idle_engine)) == 5


def test_what_was_run_here_before_has_its_share(tmp_path: Path, database: Database, idle_engine: list[str]) -> None:
    with chdir(tmp_path):
        result = run_campaign(campaign(tmp_path, n=8, shard=3, max_candidates=4), database, processes=1)
    assert result.computed == 4
    more = campaign(tmp_path, n=8, shard=3, max_candidates=6)
    assert launch.submit(more, database) == 2
    work(launch.launchpad_of(database))
    assert launch.submit(more, database) == 0
    assert sum(control_of(database.mongo, "b").shares.values()) == 6
    assert len(set(idle_engine)) == 2


def test_shards_that_are_screened_at_the_same_moment_share_one_budget(tmp_path: Path, database: Database) -> None:
    launch.submit(campaign(tmp_path, max_candidates=25), database)
    launchpad = launch.launchpad_of(database)
    barrier, taken = threading.Barrier(6), []

    def go(shard: int) -> None:
        barrier.wait()
        taken.append(take_candidates(launchpad.db, "b", shard, [f"{shard}-{k}" for k in range(10)]))

    threads = [threading.Thread(target=go, args=(shard,)) for shard in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, taken)) == 25
    again = [take_candidates(launchpad.db, "b", s, [f"{s}-{k}" for k in range(10)]) for s in range(6)]
    assert sorted(map(tuple, again)) == sorted(map(tuple, taken))


def test_a_queued_job_is_executed_as_its_campaign_was_submitted_last(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, idle_engine: list[str]
) -> None:
    """The file of the energy model has moved since the job was put into the queue: another path, the same science."""
    idle, seen = firetask.run_job, []

    def run_job(job: Any, store: Any, **more: Any) -> Any:
        if job.metadata["stage"] == "gate":
            seen.append(stored_config(job.function_args[0]))
        return idle(job, store, **more)

    monkeypatch.setattr(firetask, "run_job", run_job)
    file = tmp_path / "model.npz"
    file.write_bytes(files("scdm_flows").joinpath("thermo", "data", "energy-model.npz").read_bytes())
    config = campaign(tmp_path, n=1, shard=1)
    before = config.model_copy(update={"engine": config.engine.model_copy(update={"energy_model": str(file)})})
    assert launch.submit(before, database) == 1
    launchpad = launch.launchpad_of(database)
    work(launchpad, times=4)  # generate and screen; relax and static
    moved = file.rename(tmp_path / "moved.npz")
    now = config.model_copy(update={"engine": config.engine.model_copy(update={"energy_model": str(moved)})})
    assert launch.submit(now, database) == 0
    work(launchpad)
    (gate,) = seen
    assert gate.engine == now.engine
    assert gate.config_hash == now.config_hash


def test_node_hours_are_those_that_were_spent(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 5 %, an attempt that failed among them: not less than its jobs took, not more than their worker did."""
    real, inside = firetask.run_job, []

    def sleep(*_: Any, **__: Any) -> dict[str, Any]:
        begun = time.monotonic()
        time.sleep(0.5)
        inside.append(time.monotonic() - begun)
        if len(inside) == 1:
            raise RuntimeError("a node fault")
        return {}

    def run_job(job: Any, store: Any, **more: Any) -> Any:
        if job.metadata["stage"] not in ("generate", "screen"):
            job.function, job.output_schema, job.config.resolve_references = sleep, None, False
        return real(job, store, **more)

    monkeypatch.setattr(firetask, "run_job", run_job)
    launch.submit(campaign(tmp_path, n=1, shard=1), database)
    launchpad = launch.launchpad_of(database)
    work(launchpad, times=2)  # generate and screen
    before, begun = node_hours(launchpad.db["outputs"], "b"), time.monotonic()
    work(launchpad)
    (failed,) = launchpad.get_fw_ids({"state": "FIZZLED"})
    launchpad.rerun_fw(failed)
    work(launchpad)
    outside = time.monotonic() - begun
    assert len(inside) == 3 + 1  # relax, static, gate; and relax once more
    counted = 3600 * (node_hours(launchpad.db["outputs"], "b") - before)
    assert 0.95 * sum(inside) <= counted <= 1.05 * outside


def test_no_candidate_starts_when_the_node_hours_are_used_up(
    tmp_path: Path, database: Database, idle_engine: list[str]
) -> None:
    config = campaign(tmp_path, node_hours=4)
    launch.submit(config, database)
    launchpad = launch.launchpad_of(database)
    work(launchpad)
    # later stages go first: a candidate takes 3 h, so the second passes the 4 h in its first job and is finished
    assert len(set(idle_engine)) == 2
    assert len(idle_engine) == 6
    (words,) = in_words(launchpad.db, "b")
    assert words.startswith("node hours: 6 of 4; no new candidate starts")
    # the third candidate of the first shard, and the second shard
    assert launchpad.fireworks.count_documents({"spec._fworker": slots.HELD["hours"]}) == 2
    launch.submit(campaign(tmp_path, node_hours=100), database)
    work(launchpad)
    assert len(set(idle_engine)) == 5


def test_running_jobs_of_a_category_are_never_more_than_allowed(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six workers (threads, as a job that only waits needs no process), two jobs at once, each exactly once."""
    launch.submit(campaign(tmp_path, n=12, shard=12, jobs={"compute": 2}), database)
    launchpad = launch.launchpad_of(database)
    work(launchpad, 2)  # generate, screen
    running, most, ran, lock, together = 0, 0, [], threading.Lock(), threading.Event()

    def run_job(job: Any, store: Any, **spent: float) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 2:
                together.set()
        together.wait(60)  # on a busy machine the first would be gone before a second comes
        time.sleep(0.05)
        with lock:
            running -= 1
            ran.append(job.uuid)
        document = {"uuid": job.uuid, "index": 1, "output": {}, "metadata": dict(job.metadata)}
        store.docs_store.update([document], key=["uuid", "index"])
        return Response(output={})

    monkeypatch.setattr(firetask, "run_job", run_job)

    def worker() -> None:
        for _ in range(100):
            if not launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL"):
                return

    with hushed():
        threads = [threading.Thread(target=worker) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        work(launchpad)  # the last worker to leave may have let one go
    assert most == 2
    assert len(ran) == len(set(ran)) == 36
    assert launch.status(database, "b")["gate"] == {"COMPLETED": 12}
    assert launchpad.db[slots.SLOTS].count_documents({}) == 0


def test_the_slot_of_a_killed_worker_is_taken_over(tmp_path: Path, database: Database, idle_engine: list[str]) -> None:
    launch.submit(campaign(tmp_path, n=2, jobs={"compute": 1}), database)
    launchpad = launch.launchpad_of(database)
    work(launchpad, 2)
    lost, launch_id = launchpad.checkout_fw(FWorker(), ".")  # a worker that claims a job, takes the slot and dies
    control = control_of(launchpad.db, "b")
    assert slots.refusal(launchpad, lost.spec, control, lost.fw_id, launch_id) is None
    work(launchpad)
    assert idle_engine == []  # the other candidate waits
    assert launch.release(launchpad) == 0
    launchpad.rerun_fw(lost.fw_id)  # what a sweep of lost jobs does
    assert launch.release(launchpad) == 1
    work(launchpad)
    assert len(idle_engine) == 6


def test_a_cancelled_campaign_keeps_what_it_has_and_comes_back_as_it_was(
    tmp_path: Path, database: Database, idle_engine: list[str]
) -> None:
    config = campaign(tmp_path)
    launch.submit(config, database)
    launchpad = launch.launchpad_of(database)
    work(launchpad, 3)  # a shard with three candidates, one of which has begun
    stored = database.job_store.docs_store.count()
    running, launch_id = launchpad.checkout_fw(FWorker(), ".")
    assert running.spec["stage"] == "static"
    assert launch.would_cancel(database, "b") == 9 - 2 + 2
    assert launch.cancel(database, "b") == 9
    assert launch.cancel(database, "b") == 0
    assert work(launchpad) == 0
    assert cancelled_campaigns(database) == {"b"}
    with pytest.raises(CampaignError, match="cancelled on .* --undo"):
        launch.submit(config, database)
    # the running job ends by itself; what follows it does not start
    launchpad.complete_launch(launch_id, FWAction())
    assert launchpad.get_fw_by_id(running.fw_id).state == "COMPLETED"
    assert work(launchpad) == 0
    # a job that was claimed at the moment of the cancellation sees it and goes back
    ready = launchpad.fireworks.find_one({"spec.stage": "relax", "state": "DEFUSED"})["fw_id"]
    launchpad.fireworks.update_one({"fw_id": ready}, {"$set": {"state": "READY"}})
    assert work(launchpad) == 1
    assert launchpad.get_fw_by_id(ready).state == "DEFUSED"
    assert database.job_store.docs_store.count() == stored
    assert {d["state"] for d in launchpad.workflows.find({"metadata.shard": 1})} == {"DEFUSED"}

    assert launch.undo(database, "b") == 9
    with pytest.raises(CampaignError, match="not cancelled"):
        launch.undo(database, "b")
    assert launch.submit(config, database) == 0
    work(launchpad)
    assert len(set(idle_engine)) == 5
    assert set(launch.status(database, "b")["gate"]) == {"COMPLETED"}
    assert not launchpad.fireworks.count_documents({"spec.cancelled_from": {"$exists": True}})


def test_budgets_hold_without_fireworks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = memory_database()
    ahead: list[int] = []
    real = ForceFieldEngine.relax_ahead
    monkeypatch.setattr(
        ForceFieldEngine, "relax_ahead", lambda self, layers: ahead.append(len(layers)) or real(self, layers)
    )
    with chdir(tmp_path):
        result = run_campaign(campaign(tmp_path, n=3, max_candidates=2, node_hours=1e-9), database, processes=1)
        assert (result.accepted, result.computed, result.left_out) == (3, 0, 3)
        assert ahead == []  # what was relaxed ahead would be spent before a candidate asks whether it may begin
        result = run_campaign(campaign(tmp_path, n=3, max_candidates=1), database, processes=1)
        assert (result.accepted, result.computed, result.left_out) == (3, 1, 2)
    documents = database.job_store.docs_store.query({"metadata.stage": "relax"})
    assert len(list(documents)) == 1


def test_each_asks_whether_it_ends_in_time_when_its_turn_comes(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process as well, which is given all of them: the second one's turn comes when the time is over."""
    asked: list[str] = []

    def ends_in_time(config: Any, database: Any, structure: Any, deadline: float, stage: Any = None) -> bool:
        asked.append(f"after {database.job_store.docs_store.count({'metadata.stage': 'relax'})}")
        return len(asked) == 1

    monkeypatch.setattr(local_work, "ends_in_time", ends_in_time)
    monkeypatch.setattr(local_work, "together", lambda config, deadline: 1)
    with chdir(tmp_path):
        result = run_campaign(campaign(tmp_path, n=2), database, processes=1, deadline=1e12)
    assert asked == ["after 0", "after 1"]
    assert (result.computed, result.left_out) == (1, 1)


@pytest.mark.slow
def test_within_node_hours_no_process_is_given_candidates_ahead(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []

    def work_off(items: Any, start: Any, processes: int, together: int = 1) -> Any:
        given.append((len(items), together))
        return ((item, None) for item in items)

    monkeypatch.setattr(runner, "work_off", work_off)
    with chdir(tmp_path):
        run_campaign(campaign(tmp_path, n=3, node_hours=5), database, processes=2)
        run_campaign(campaign(tmp_path, n=3), database, processes=2)
    # one by one they begin in their order, however many processes there are; else in batches
    assert given == [(3, 1), (3, local_work.TOGETHER)]
