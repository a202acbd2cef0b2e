"""FireWorks: submission without duplicates, tasks that may run twice, failures as documents. Real server, real tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fireworks import FWorker
from fireworks.core.rocket_launcher import launch_rocket
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.errors import StoreError
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution import jobs as execution
from scdm_flows.execution.fireworks import firetask
from scdm_flows.stores import Database

pytest.importorskip("secantus", reason="the embedded server is an optional extra")
pytestmark = pytest.mark.usefixtures("quiet_place")


@pytest.fixture
def config(tmp_path: Path) -> CampaignConfig:
    """Three structures in shards of two."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, structure in {"a": mx2("1H"), "b": mx2("1T"), "c": mx2("1H", a=3.5)}.items():
        structure.to(str(folder / f"{name}.cif"))
    return parse_config(
        {
            "name": "t",
            "generator": {"kind": "files", "paths": [str(folder)], "shard_size": 2},
            "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.3},
            "gate": {"phonon_max_atoms": 1},
        }
    )


def work(launchpad: Any, times: int = 100) -> int:
    """Run fireworks one after the other, as ``rlaunch`` does; returns how many ran."""
    with execution.hushed():
        for done in range(times):
            if not launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL"):
                return done
    return times


def test_submitting_again_adds_nothing_and_a_cut_submission_is_completed(
    config: CampaignConfig, database: Database
) -> None:
    assert launch.submit(config, database) == 2
    assert launch.submit(config, database) == 0
    launchpad = launch.launchpad_of(database)
    assert (launchpad.workflows.count_documents({}), launchpad.fireworks.count_documents({})) == (2, 4)
    # bulk insertion writes workflows first: a kill in between leaves one without all its fireworks
    nodes = launchpad.workflows.find_one({"metadata.shard": 1})["nodes"]
    launchpad.fireworks.delete_one({"fw_id": nodes[0]})
    assert launch.submit(config, database) == 1
    assert launch.submit(config, database) == 0
    assert (launchpad.workflows.count_documents({}), launchpad.fireworks.count_documents({})) == (2, 4)
    assert launch.status(database, "t") == {"generate": {"READY": 2}, "screen": {"WAITING": 2}}
    changed = config.model_copy(update={"description": "x"})
    assert launch.submit(changed, database) == 2  # nothing has been computed: what was queued gives way
    assert (launchpad.workflows.count_documents({}), launchpad.fireworks.count_documents({})) == (2, 4)


def test_fireworks_can_be_found_and_carry_no_address(config: CampaignConfig, database: Database) -> None:
    launch.submit(config, database)
    launchpad = launch.launchpad_of(database)
    found = list(launchpad.fireworks.find({"spec.campaign": "t"}, {"_id": 0}))
    assert len(found) == 4
    assert {f["spec"]["_category"] for f in found} == {"generate"}
    assert "mongodb://" not in json.dumps(found, default=str)
    stage = {f["spec"]["stage"]: f["spec"]["_priority"] for f in found}
    assert stage["screen"] > stage["generate"]  # a shard that was begun is finished before the next


def test_a_database_in_memory_is_refused(config: CampaignConfig) -> None:
    with pytest.raises(StoreError, match="SCDM_MONGO_URI"):
        launch.submit(config, memory_database())
    with pytest.raises(StoreError, match="uri_mode"):
        launch.job_store_on(None)


def test_work_off_with_a_failure_then_mend_it(
    config: CampaignConfig, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch.submit(config, database)
    launchpad = launch.launchpad_of(database)
    real, hit = firetask.run_job, []

    def run_job(job: Any, store: Any, **spent: float) -> Any:
        if job.metadata["stage"] == "static" and not hit:
            hit.append(job.uuid)
            raise RuntimeError("no energy today")
        return real(job, store, **spent)

    with monkeypatch.context() as patch:
        patch.setattr(firetask, "run_job", run_job)
        work(launchpad)
    states = launch.status(database, "t")
    assert states["static"] == {"COMPLETED": 2, "FIZZLED": 1}
    assert states["gate"] == {"COMPLETED": 2, "WAITING": 1}
    # children have the category of their own work, not of the screen that added them
    categories = {
        f["spec"]["stage"]: f["spec"]["_category"]
        for f in launchpad.fireworks.find({"spec.campaign": "t"}, {"spec": 1})
    }
    assert (categories["screen"], categories["relax"], categories["gate"]) == (
        "generate",
        "compute",
        "compute",
    )

    assert launch.collect_failures(database, "t") == 1
    (failure,) = database.failures.query({})
    assert (failure["stage"], failure["error_type"], failure["message"]) == (
        "static",
        "RuntimeError",
        "no energy today",
    )
    assert failure["job_uuid"] == hit[0]

    # rerun: the failure is forgotten once its job has an output
    fizzled = launchpad.fireworks.find_one({"state": "FIZZLED"})["fw_id"]
    launchpad.rerun_fw(fizzled)
    work(launchpad)
    assert launch.collect_failures(database, "t") == 0
    assert database.failures.count() == 0
    assert launch.status(database, "t")["gate"] == {"COMPLETED": 3}

    # a screen that runs again (a lost worker) does not add its candidates again
    fireworks = launchpad.fireworks.count_documents({})
    documents = {d["uuid"]: d["completed_at"] for d in database.job_store.docs_store.query({"metadata.stage": "relax"})}
    for firework in launchpad.fireworks.find({"spec.stage": "screen"}, {"fw_id": 1}):
        launchpad.rerun_fw(firework["fw_id"])
    work(launchpad)
    assert launchpad.fireworks.count_documents({}) == fireworks
    again = {d["uuid"]: d["completed_at"] for d in database.job_store.docs_store.query({"metadata.stage": "relax"})}
    assert again == documents  # nor is anything computed twice


def test_worker_configuration_is_private_and_right(database: Database, tmp_path: Path) -> None:
    from fireworks import LaunchPad

    path = launch.write_worker_config(database, tmp_path / "launchpad")
    assert path.stat().st_mode & 0o077 == 0
    launchpad = LaunchPad.from_file(str(path))
    assert launchpad.name == launch.launchpad_of(database).name
    assert launch.job_store_on(launchpad).docs_store.count() == 0
