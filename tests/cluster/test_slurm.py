"""A campaign through a real queue: stock qlaunch, Slurm on 127.0.0.1, worker jobs cancelled and killed at work.

Run by ``make test-cluster``, which installs Slurm first where that can be done; not part of ``make test``.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.slurm import Slurm
from fireworks import LaunchPad
from pymatgen.core import Lattice, Structure
from support.layers import mx2
from support.memory import memory_database
from support.places import ROOT

from scdm_flows.builders import build_all
from scdm_flows.cli.launchpad import launchpad_dir
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.execution.fireworks import launchpad_of, submit, write_worker_config
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database, connect

PING_SECONDS, LOST_SECONDS = 2, 15  # the heartbeat of the workers, and the silence after which one counts as lost
COMPUTE = ("relax", "static", "phonon")
BIN = Path(sys.executable).parent


@pytest.fixture
def config(tmp_path: Path) -> CampaignConfig:
    """Three layers in two workflows: one that takes seconds to relax, and phonons of the two-atom layer only."""
    folder = tmp_path / "structures"
    folder.mkdir()
    slow = mx2("1H").make_supercell([3, 4, 1])
    slow.perturb(0.1, seed=0)
    layers = {
        "a": slow,
        "b": mx2("1T", a=3.2),
        "c": Structure(Lattice.hexagonal(2.51, 20), ["B", "N"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]),
    }
    for name, layer in layers.items():
        layer.to(filename=str(folder / f"{name}.cif"))
    return parse_config(
        {
            "name": "queued",
            "generator": {"kind": "files", "paths": [str(folder)], "shard_size": 2},
            "screen": {"require_novel": False},
            "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.03, "phonon_min_length_angstrom": 6},
            "gate": {"phonon_max_atoms": 2, "phonon_max_e_above_hull": 2, "max_e_above_hull": 2},
        }
    )


def worker_folder(database: Database, folder: Path) -> Path:
    """A FireWorks folder for this database and this Slurm: the packaged adapter with what every site fills in."""
    write_worker_config(database, folder)
    adapter = yaml.safe_load((launchpad_dir() / "my_qadapter.yaml").read_text())
    adapter |= {
        "rocket_launch": f"{BIN / 'rlaunch'} -c {folder} rapidfire --sleep 2",
        "cpus_per_task": 2,
        "walltime": "00:20:00",
        "queue": "main",
        "account": None,
        "pre_rocket": None,
        "post_rocket": None,
    }
    (folder / "my_qadapter.yaml").write_text(yaml.safe_dump(adapter))
    fast = {"PING_TIME_SECS": PING_SECONDS, "RUN_EXPIRATION_SECS": LOST_SECONDS, "QUEUE_UPDATE_INTERVAL": 2}
    (folder / "FW_config.yaml").write_text(yaml.safe_dump(fast))
    return folder


def recovery(folder: Path) -> list[str]:
    """What a cron line calls for the jobs of lost workers, while others work on."""
    return [str(BIN / "scdm"), "campaign", "resume", "--lost-after", str(LOST_SECONDS)]


@contextmanager
def background(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this test, ended with it."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **options)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # what it has started too
        process.wait()


def end_state(database: Database) -> dict[str, tuple[Any, ...]]:
    """What must not depend on how a campaign was run; energies to 1 meV/atom."""
    return {
        c.formula + str(c.layer_group): (c.state, c.dynamically_stable, round(c.e_above_hull or 9, 3), sorted(c.stages))
        for c in CandidateDB(database).find(campaign="queued")
    }


def cancel_while_it_computes(
    slurm: Slurm, launchpad: LaunchPad, *options: str, fw_id: int | None = None
) -> tuple[int, Path, int]:
    """``scancel`` the Slurm job whose worker has computed for a second (fw_id: that firework, else any).

    Returns the job's id, its folder, and the firework's id, once the job is gone.
    """
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        wanted = {"spec.stage": {"$in": list(COMPUTE)}} if fw_id is None else {"fw_id": fw_id}
        for firework in launchpad.fireworks.find({"state": "RUNNING", **wanted}, {"fw_id": 1, "launches": 1}):
            found, launches = firework["fw_id"], firework["launches"]
            if not launches:
                continue
            launch = launchpad.get_launch_by_id(launches[-1])
            age = (datetime.now(UTC) - launch.time_start).total_seconds()
            if age < 1 or launchpad.workflows.find_one({"nodes": found, "locked": {"$exists": True}}):
                continue  # the claim is not over yet
            for job, folder in slurm.jobs().items():
                if Path(launch.launch_dir).is_relative_to(folder):
                    slurm.output("scancel", *options, str(job))
                    while job in slurm.jobs():
                        time.sleep(0.1)
                    return job, folder, found
        time.sleep(0.05)
    raise AssertionError(f"no computation was seen within 180 s; jobs: {slurm.jobs()}")


def test_campaign_through_qlaunch_with_cancelled_jobs(
    slurm: Slurm, config: CampaignConfig, settings: ScdmSettings, tmp_path: Path
) -> None:
    reference = memory_database()
    run_campaign(config, reference, processes=1)
    build_all(reference)

    database = connect(settings)
    launchpad = launchpad_of(database)
    assert submit(config, database) == 2
    folder = worker_folder(database, tmp_path / "launchpad")
    work = tmp_path / "work"
    work.mkdir()
    environment = {
        **slurm.environment,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'models'}",
        "FW_CONFIG_FILE": str(folder / "FW_config.yaml"),
        "SCDM_MONGO_URI": str(database.uri),
        "SCDM_RETRY_WAIT_SECONDS": "1",
        "OMP_NUM_THREADS": "1",
    }
    # infinite: qlaunch's own end comes too early where the only running job has no children yet
    infinite = ["-m", "2", "--nlaunches", "infinite", "--sleep", "2"]
    qlaunch = [str(BIN / "qlaunch"), "-c", str(folder), "rapidfire", *infinite]
    cron = ["sh", "-c", f"while {shlex.join(recovery(folder))}; do sleep 3; done"]
    logs = [tmp_path / "qlaunch.log", tmp_path / "cron.log"]
    began = time.monotonic()
    with (
        background(qlaunch, logs[0], cwd=work, env=environment) as submitter,
        background(cron, logs[1], cwd=tmp_path, env=environment) as recoverer,
    ):
        job, cancelled, fw_id = cancel_while_it_computes(slurm, launchpad)
        assert slurm.state(job) == "CANCELLED"
        _, killed, _ = cancel_while_it_computes(slurm, launchpad, "--full", "--signal=KILL", fw_id=fw_id)
        open_ones = {"state": {"$ne": "COMPLETED"}}
        while (launchpad.fireworks.count_documents(open_ones) or slurm.jobs()) and time.monotonic() < began + 400:
            time.sleep(0.5)
        seconds = time.monotonic() - began
        assert submitter.poll() is None, logs[0].read_text()[-2000:]
        assert recoverer.poll() is None, logs[1].read_text()[-2000:]
    assert launchpad.fireworks.distinct("state") == ["COMPLETED"], logs[0].read_text()[-2000:]
    # what two Slurm jobs had begun was completed once, by a third
    (launch_id,) = launchpad.fireworks.find_one({"fw_id": fw_id})["launches"]  # earlier ones are archived
    home = Path(launchpad.get_launch_by_id(launch_id).launch_dir)
    assert cancelled != killed
    assert not any(home.is_relative_to(folder) for folder in (cancelled, killed))
    build_all(database)
    assert end_state(database) == end_state(reference)
    keys = [(d["uuid"], d["index"]) for d in database.job_store.docs_store.query({}, properties=["uuid", "index"])]
    assert len(keys) == len(set(keys)) == reference.job_store.docs_store.count()
    # every job was run by Slurm: its folder lies in one where qlaunch wrote a script
    scripts = {script.parent for script in work.glob("block_*/launcher_*/FW_submit.script")}
    homes = [Path(d["launch_dir"]) for d in launchpad.launches.find({}, {"launch_dir": 1})]
    assert homes
    assert all(any(home.is_relative_to(script) for script in scripts) for home in homes)
    jobs = len(list(work.glob("block_*/launcher_*/*.out")))
    print(f"{len(homes)} launches in {jobs} Slurm jobs, one cancelled and one killed at work, {seconds:.0f} s")
    database.close()
