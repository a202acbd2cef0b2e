"""VASP relaxations that are interrupted again and again end where an uninterrupted one does, and never start over."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest
from monty.os.path import zpath
from pymatgen.core import SETTINGS, Lattice, Structure
from pymatgen.io.vasp import Poscar
from support.forking import process_of
from support.places import ROOT
from support.standin import journal

from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.engines.vasp.continuing import ionic_steps
from scdm_flows.execution import fireworks as launch
from scdm_flows.stores import Database, EmbeddedServer, connect

pytest.importorskip("secantus", reason="the embedded server is an optional extra")
TIMES = int(os.environ.get("SCDM_TEST_INTERRUPTIONS", "1"))  # 20 before a release, with STEP_SECONDS at least 6
STEP_SECONDS = float(os.environ.get("SCDM_TEST_STEP_SECONDS", "0.3"))  # of an ionic step
MOST_STEPS = 6  # of a run before it is interrupted; the first relaxation takes eight
# seconds, and ionic steps, of a worker's time: it needs some to begin, and custodian keeps three steps for the end
WALLTIME, WALLTIME_STEPS = 2.0, (3.5, 9.5)
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
        "STANDIN_VASP_WALLTIME": "1e6",  # seconds; only workers are interrupted here
        journal.FILE: str(tmp_path / "journal"),
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


def _work(config: str, folder: str, walltime: float | None, potcars: str) -> None:
    SETTINGS["PMG_VASP_PSP_DIR"] = potcars
    from scdm_flows.execution.fireworks.worker import launchpad_in, work, worker_of

    work(launchpad_in(Path(config)), worker_of([]), folder=Path(folder), walltime=walltime)


class Clock(threading.Thread):
    """How long a worker is at jobs, seen from outside: it makes a folder for each, and goes on to the next or ends."""

    def __init__(self, folder: Path, process: Any) -> None:
        super().__init__(daemon=True)
        self.folder, self.process = folder, process
        self.jobs, self.seconds = 0, 0.0

    def run(self) -> None:
        before, place, begun = set(self.folder.iterdir()), None, 0.0
        while True:
            alive = self.process.is_alive()
            new = set(self.folder.iterdir()) - before
            if place is not None and (new or not alive or not place.exists()):
                self.jobs, self.seconds, place = self.jobs + 1, self.seconds + time.monotonic() - begun, None
            if not alive:
                return
            if new:
                place, begun = max(new), time.monotonic()
                before |= new
            time.sleep(0.005)


class Machine:
    """Starts workers and takes their time away."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.config = launch.write_worker_config(database, folder / "launchpad").parent
        self.folder = folder / "work"
        self.folder.mkdir()
        self.jobs, self.seconds = 0, 0.0  # that workers were at

    def run(self, how: str | None = None, random: Random | None = None) -> bool:
        """Let a worker work until nothing is left or it is interrupted; whether it was, with work left."""
        walltime = None
        if random is not None and how == "walltime":
            walltime = WALLTIME + STEP_SECONDS * random.uniform(*WALLTIME_STEPS)
        begun = time.time()
        process = process_of(_work, str(self.config), str(self.folder), walltime, SETTINGS["PMG_VASP_PSP_DIR"])
        process.start()
        clock = Clock(self.folder, process)
        clock.start()
        if random is not None and walltime is None:
            wanted, more = random.randint(1, MOST_STEPS), random.uniform(0, STEP_SECONDS)
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
        clock.join()
        self.jobs, self.seconds = self.jobs + clock.jobs, self.seconds + clock.seconds
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
    monkeypatch.setenv("STANDIN_VASP_STEP_SECONDS", str(STEP_SECONDS))
    machine, random = Machine(server, tmp_path), Random(how)
    assert launch.submit(campaign(tmp_path, "whole"), server) == 1
    machine.run()
    machine.jobs, machine.seconds = 0, 0.0
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

    whole, went_on = relaxed(server, "whole"), 0
    for name in names:
        assert set(launch.status(server, name)["static"]) == {"COMPLETED"}
        end = relaxed(server, name)
        assert np.abs(whole.lattice.matrix - end.lattice.matrix).max() < 1e-4
        moved = np.abs(whole.frac_coords - end.frac_coords)
        assert (np.minimum(moved, 1 - moved) @ whole.lattice.matrix).max() < 1e-4
    events, most = journal.read(Path(os.environ[journal.FILE])), Counter[str]()
    relaxations = [several for name in names for several in attempts(server, name)]
    mine = {folder for folders in relaxations for folder in folders}
    for folders in relaxations:
        for what in ("begun", "computed"):
            geometries = Counter(e.geometry for e in events if e.what == what and e.folder in folders)
            most[what] = max(most[what], *geometries.values())
        for before, after in pairwise(folders):
            if ionic_steps(before):  # the next attempt begins where this one was
                left, began = left_by(before), geometry(after / "POSCAR")
                assert np.abs(left.lattice.matrix - began.lattice.matrix).max() < 1e-6
                assert np.abs(left.frac_coords - began.frac_coords).max() < 1e-6
                went_on += 1
    assert went_on > 0 or how == "walltime"  # which may end where a run has just begun
    counted = 3600 * sum(node_hours(server.job_store.docs_store._collection, name) for name in names)
    print(
        f"{how}, {interruptions} times in {len(names)} campaigns, {machine.jobs} attempts: no ionic step computed more than "
        f"{most['computed']} times nor begun more than {most['begun']} times; {counted:.1f} s counted of {machine.seconds:.1f} s"
    )
    assert most["computed"] <= 2
    # what is at work is counted, and nothing twice; of short steps a job's claim and its end, which nobody counts, are
    # the larger part on a busy machine
    assert STEP_SECONDS * sum(e.what == "computed" for e in events if e.folder in mine) <= counted
    assert counted <= 1.05 * machine.seconds
    assert STEP_SECONDS < 6 or counted >= 0.95 * machine.seconds
