"""VASP relaxations that are interrupted again and again end where an uninterrupted one does, and never start over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest
from monty.os.path import zpath
from pymatgen.core import SETTINGS, Lattice, Structure
from pymatgen.io.vasp import Poscar
from support.places import ROOT

from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.engines.vasp.continuing import ionic_steps
from scdm_flows.execution import fireworks as launch
from scdm_flows.stores import Database, EmbeddedServer, connect

pytest.importorskip("secantus", reason="the embedded server is an optional extra")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["scdm_flows.engines.vasp.makers", "scdm_flows.execution.fireworks.worker"])
TIMES = int(os.environ.get("SCDM_TEST_INTERRUPTIONS", "1"))  # 20 before a release
STEP_SECONDS = {"SIGTERM": 0.2, "SIGKILL": 0.2, "walltime": 0.6}
MOST_STEPS = 6  # of a run before it is interrupted; the first relaxation takes eight
WALLTIME = (4.0, 8.0)  # a worker needs some to begin, and custodian keeps three steps for the end
ENGINE = {
    "kind": "vasp",
    "fmax_ev_per_angstrom": 0.0003,  # so that the ends agree to 1e-4 angstrom
    "first_fmax_ev_per_angstrom": 0.01,
    "kpoint_spacing_per_angstrom": 0.6,
    "max_relax_steps": 100,
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin_vasp: dict[str, Any]) -> Iterator[Database]:
    """A database server, and the stand-in as a VASP that takes its time over an ionic step."""
    for name, value in {
        "SCDM_DATA_DIR": str(tmp_path / "data"),
        "SCDM_VASP_VERSION": "6.5.0",
        "SCDM_VASP_POLL_SECONDS": "0.1",
        "SCDM_RETRY_WAIT_SECONDS": "0",
        "STANDIN_VASP_FAIL": "slow:999@relax",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'models'}",
    }.items():
        monkeypatch.setenv(name, value)
    settings = ScdmSettings(data_dir=tmp_path / "data")
    with connect(settings) as database:
        yield database
    EmbeddedServer(settings.data_dir).stop()


def campaign(folder: Path, name: str) -> CampaignConfig:
    """Boron nitride, stretched by 4 %, with nothing after its relaxation but the static run."""
    (folder / "in").mkdir(exist_ok=True)
    stretched = Structure(Lattice.hexagonal(2.62, 20), ["B", "N"], [[1 / 3, 2 / 3, 0.51], [2 / 3, 1 / 3, 0.49]])
    stretched.to(filename=str(folder / "in" / "bn.cif"))
    references = folder / "references.json"
    phase = {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedEntry",
        "parameters": {"run_type": "GGA", "is_hubbard": False},
    }
    entries = [{**phase, "entry_id": e, "composition": {e: 1}, "energy": -8.0} for e in ("B", "N")]
    references.write_text(json.dumps(entries))
    return parse_config(
        {
            "name": name,
            "generator": {"kind": "files", "paths": [str(folder / "in")]},
            "screen": {"require_novel": False},
            "engine": {**ENGINE, "references": str(references)},
            "gate": {"phonon_max_atoms": 1, "bands_max_atoms": 1},
        }
    )


def _work(config: str, folder: str, walltime: float | None, environment: dict[str, str], potcars: str) -> None:
    os.environ.update(environment)  # the fork server has that of the first test
    SETTINGS["PMG_VASP_PSP_DIR"] = potcars
    from scdm_flows.execution.fireworks.worker import launchpad_in, work, worker_of

    work(launchpad_in(Path(config)), worker_of([]), folder=Path(folder), walltime=walltime)


class Machine:
    """Starts workers and takes their time away."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.config = launch.write_worker_config(database, folder / "launchpad").parent
        self.folder = folder / "work"
        self.folder.mkdir()
        self.seconds = 0.0  # that workers were at work

    def run(self, how: str | None = None, random: Random | None = None) -> bool:
        """Let a worker work until nothing is left or it is interrupted; whether it was, with work left."""
        walltime = random.uniform(*WALLTIME) if random is not None and how == "walltime" else None
        begun = time.time()
        process: Any = CONTEXT.Process(
            target=_work,
            args=(str(self.config), str(self.folder), walltime, dict(os.environ), SETTINGS["PMG_VASP_PSP_DIR"]),
        )
        process.start()
        if random is not None and walltime is None:
            wanted, more = random.randint(1, MOST_STEPS), random.uniform(0, 0.3)
            while process.is_alive() and self._steps_since(begun) < wanted:
                time.sleep(0.02)
            process.join(more)  # somewhere in the step that follows
        else:
            process.join()
        interrupted = bool(process.is_alive())
        if interrupted:
            # a node that goes down takes everything with it
            whole = psutil.Process(process.pid).children(recursive=True) if how == "SIGKILL" else []
            for one in (psutil.Process(process.pid), *whole):
                one.send_signal(signal.SIGKILL if how == "SIGKILL" else signal.SIGTERM)
        process.join(120)
        assert not process.is_alive()
        self.seconds += time.time() - begun
        if how == "SIGKILL":
            launch.resume(self.database, lost_after=0.1)
        fireworks = self.database.mongo["fireworks"]
        assert [f["name"] for f in fireworks.find({"state": "FIZZLED"})] == []
        left = fireworks.count_documents({"state": {"$nin": ["COMPLETED", "ARCHIVED"]}})
        return (interrupted or how == "walltime") and left > 0

    def _steps_since(self, begun: float) -> int:
        """Ionic steps of the run that this worker has begun last."""
        runs = [path.parent for path in self.folder.glob("*/OSZICAR") if path.stat().st_mtime > begun]
        return max((ionic_steps(run) for run in runs), default=0)


def relaxed(database: Database, name: str) -> Structure:
    """The end of the last relaxation."""
    found = database.job_store.query_one({"metadata.campaign": name, "metadata.stage": "relax"}, load=True)
    assert found is not None
    return Structure.from_dict(found["output"]["structure"])


def attempts(database: Database, name: str) -> list[list[Path]]:
    """For each relaxation the folders of its attempts that began, oldest first."""
    launchpad, found = launch.launchpad_of(database), defaultdict(list)
    query = {"spec.campaign": name, "name": {"$regex": "relax"}}
    mine = [d["fw_id"] for d in launchpad.fireworks.find(query, {"fw_id": 1})]
    for d in sorted(launchpad.launches.find({"fw_id": {"$in": mine}}), key=lambda d: d["launch_id"]):
        if list(Path(d["launch_dir"]).glob("INCAR*")):
            found[d["fw_id"]].append(Path(d["launch_dir"]))
    return list(found.values())


def geometry(path: Path) -> Structure:
    found: Structure = Poscar.from_file(zpath(str(path)), check_for_potcar=False).structure
    return found


def left_by(folder: Path) -> Structure:
    """The last geometry of a run; the one that it began with where it was cut off while it wrote CONTCAR."""
    try:
        return geometry(folder / "CONTCAR")
    except (ValueError, IndexError):
        return geometry(folder / "POSCAR")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "walltime"])
def test_an_interrupted_relaxation_ends_where_an_uninterrupted_one_does(
    how: str, server: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCDM_LOST_LIMIT", "100")  # a kill before the first step of a run counts as no progress
    monkeypatch.setenv("STANDIN_VASP_STEP_SECONDS", str(STEP_SECONDS[how]))
    machine, random = Machine(server, tmp_path), Random(how)
    assert launch.submit(campaign(tmp_path, "whole"), server) == 1
    machine.run()
    machine.seconds = 0.0
    names: list[str] = []
    interruptions, goes_on = 0, False
    while interruptions < TIMES:
        if not goes_on:  # the one before has come to its end
            names.append(f"broken-{len(names)}")
            assert launch.submit(campaign(tmp_path, names[-1]), server) == 1
        goes_on = machine.run(how, random)
        interruptions += goes_on
    machine.run()
    launch.resume(server, lost_after=0.1)
    machine.run()

    whole, spent, went_on = relaxed(server, "whole"), 0.0, 0
    for name in names:
        assert set(launch.status(server, name)["static"]) == {"COMPLETED"}
        end = relaxed(server, name)
        assert np.abs(whole.lattice.matrix - end.lattice.matrix).max() < 1e-4
        moved = np.abs(whole.frac_coords - end.frac_coords)
        assert (np.minimum(moved, 1 - moved) @ whole.lattice.matrix).max() < 1e-4
    for folders in (several for name in names for several in attempts(server, name)):
        steps = [ionic_steps(folder) for folder in folders]
        spent += STEP_SECONDS[how] * sum(steps)
        for before, done, after in zip(folders, steps, folders[1:], strict=False):
            if done:  # no finished step is made again: the next attempt begins where this one was
                left, began = left_by(before), geometry(after / "POSCAR")
                assert np.abs(left.lattice.matrix - began.lattice.matrix).max() < 1e-6
                assert np.abs(left.frac_coords - began.frac_coords).max() < 1e-6
                went_on += 1
    assert went_on > 0 or how == "walltime"  # which may end where a run has just begun
    # the time of every attempt counts, to 5 %: at least that of the ionic steps, which is most of it, and no more than
    # the workers were there
    counted = 3600 * sum(node_hours(server.job_store.docs_store._collection, name) for name in names)
    assert 0.95 * spent <= counted <= 1.05 * machine.seconds
