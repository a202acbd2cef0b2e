"""Makes the old data beside this file: a LaunchPad and a store in the middle of two campaigns, as commit 0cb4bfc wrote.

``python tests/data/old/make.py`` in a checkout of that commit, with the packages of its requirements.lock. It writes
``inputs`` (layers, references, campaign files) and ``database.jsonl.gz``, all collections as extended JSON (canonical),
a document a line. ``tests/test_old_data.py`` lets the code of today work off what is queued in there. To make it again
with newer code would defeat its purpose: old data are made once.

``old-forcefield`` has four layers: BN has been through everything, C is relaxed and waits for its static run, the
worker that relaxed MoS2 was killed with SIGKILL and is still called running, BP waits. ``old-vasp`` has two: BN has been
through everything but its displacements and the summary of its bands, by the stand-in for VASP, and C waits.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bson import json_util
from pymongo import MongoClient
from pymongo.database import Database

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
STANDIN = ROOT / "tests" / "standin"
# Campaigns hold their files by absolute paths, which go into their hash and so into all uuids: one folder that every
# machine can have, and not a temporary one with another name each time. The test puts the inputs there, too.
PLACE = Path("/tmp/scdm-old-data")
LAYERS = {  # hexagonal: a in angstrom, fractional positions of each species
    "bn": (2.51, {"B": [(1 / 3, 2 / 3, 0.5)], "N": [(2 / 3, 1 / 3, 0.5)]}),
    "bp": (3.21, {"B": [(1 / 3, 2 / 3, 0.5)], "P": [(2 / 3, 1 / 3, 0.5)]}),
    "c": (2.46, {"C": [(1 / 3, 2 / 3, 0.5), (2 / 3, 1 / 3, 0.5)]}),
    "mos2": (3.18, {"Mo": [(1 / 3, 2 / 3, 0.5)], "S": [(2 / 3, 1 / 3, 0.57825), (2 / 3, 1 / 3, 0.42175)]}),
}
GATE = "gate: {max_e_above_hull: 5, phonon_max_e_above_hull: 5, bands_max_e_above_hull: 5, phonon_max_atoms: 2}\n"
FORCE_FIELD = f"""\
name: old-forcefield
description: four layers in the middle of their stages
generator: {{kind: files, paths: [layers/bn.vasp, layers/c.vasp, layers/mos2.vasp, layers/bp.vasp]}}
screen: {{require_novel: false}}
engine: {{kind: forcefield, fmax_ev_per_angstrom: 0.1, phonon_min_length_angstrom: 6}}
{GATE}"""
VASP = f"""\
name: old-vasp
description: two layers in the middle of their stages, by a stand-in for VASP
generator: {{kind: files, paths: [layers/bn.vasp, layers/c.vasp]}}
screen: {{require_novel: false}}
engine:
  kind: vasp
  references: references.json
  fmax_ev_per_angstrom: 0.02
  first_fmax_ev_per_angstrom: 0.05
  kpoint_spacing_per_angstrom: 0.6
  dos_kpoint_spacing_per_angstrom: 0.4
  phonon_min_length_angstrom: 5.0
  band_points: 31
  dos_points: 301
  max_custodian_errors: 2
{GATE}"""


def poscar(name: str) -> str:
    """The text of a layer's POSCAR, 20 angstrom high."""
    a, atoms = LAYERS[name]
    vectors = [(a, 0, 0), (-a / 2, a * 3**0.5 / 2, 0), (0, 0, 20)]
    lines = [name, "1.0", *(" ".join(f"{x:.10f}" for x in vector) for vector in vectors)]
    lines += [" ".join(atoms), " ".join(str(len(places)) for places in atoms.values()), "direct"]
    lines += [" ".join(f"{x:.10f}" for x in place) for places in atoms.values() for place in places]
    return "\n".join(lines) + "\n"


def write_inputs(folder: Path) -> None:
    """Write layers, campaign files and references with the energies that the stand-in gives, which are CHGNet's."""
    from scdm_flows.thermo.table import ReferenceTable

    (folder / "layers").mkdir(parents=True, exist_ok=True)
    for name in LAYERS:
        (folder / "layers" / f"{name}.vasp").write_text(poscar(name))
    (folder / "old-forcefield.yaml").write_text(FORCE_FIELD)
    (folder / "old-vasp.yaml").write_text(VASP)
    entries = [
        {
            "@module": "pymatgen.entries.computed_entries",
            "@class": "ComputedEntry",
            "entry_id": phase.name,
            "composition": {element: 12 * share for element, share in phase.fractions.items()},
            "energy": 12 * phase.energy_per_atom,
            "parameters": {"run_type": "GGA", "is_hubbard": False},
        }
        for phase in ReferenceTable.load().entries(["B", "C", "N"])
    ]
    (folder / "references.json").write_text(json.dumps(entries, indent=1) + "\n")


class Commands:
    """``scdm`` and ``rlaunch`` as processes, with a database in a folder and the stand-in as VASP."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "counts").mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SCDM_", "FW_"))},
            "OMP_NUM_THREADS": "1",
            "PMG_VASP_PSP_DIR": str(folder / "potcars"),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'models'}",
            "SCDM_DATA_DIR": str(folder / "data"),
            "SCDM_VASP_CMD": f"{sys.executable} {STANDIN / 'vasp.py'}",
            "SCDM_VASP_POLL_SECONDS": "0.1",
            "SCDM_VASP_VERSION": "6.5.0",
            "STANDIN_VASP_STATE": str(folder / "counts"),
        }

    def start(self, where: Path, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a program of this environment; one group of processes, so that all of it can be killed."""
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        return subprocess.Popen(
            command, cwd=where, env=self.environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def scdm(self, *arguments: str) -> Any:
        """Run ``scdm`` where the inputs are; what it says, from JSON if that was asked for."""
        process = self.start(PLACE, "scdm", *arguments)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return json.loads(said) if "--json" in arguments else said

    def rlaunch(self, config: str, number: int) -> subprocess.Popen[str]:
        """Start the worker of one firework, in a folder of its own."""
        folder = self.folder / "work" / str(number)
        folder.mkdir(parents=True)
        return self.start(folder, "rlaunch", "-c", config, "singleshot", "--fw_id", str(number))


class Queue:
    """The LaunchPad, worked off by stock ``rlaunch``, one firework at a time."""

    def __init__(self, commands: Commands, database: Database[Any], folder: str) -> None:
        self.commands, self.database, self.folder = commands, database, folder

    def find(self, campaign: str, name: str = "", layer: str = "") -> list[int]:
        """Fireworks of a campaign that are ready, by the beginning of their name and the formula of their layer."""
        query: dict[str, Any] = {"state": "READY", "spec.campaign": campaign, "name": {"$regex": f"^{name}"}}
        if layer:
            outputs = self.database["outputs"].find({"metadata.campaign": campaign, "metadata.stage": "screen"})
            found = [c for d in outputs for c in d["output"]["candidates"] if c["formula"] == layer]
            query["spec.candidate_id"] = found[0]["candidate_id"]
        return sorted(d["fw_id"] for d in self.database["fireworks"].find(query, {"fw_id": 1}))

    def launch(self, *what: str) -> None:
        """Run the one firework that is found."""
        (number,) = self.find(*what)
        self.commands.rlaunch(self.folder, number).communicate()
        state = self.database["fireworks"].find_one({"fw_id": number})["state"]
        assert state == "COMPLETED", (what, state)

    def lose(self, *what: str) -> None:
        """Kill the worker of the firework that is found while it computes, when it has let go of the workflow's lock."""
        (number,) = self.find(*what)
        process = self.commands.rlaunch(self.folder, number)
        while not self.runs(number):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert self.runs(number)

    def runs(self, number: int) -> bool:
        """Whether a firework runs, by its workflow's document, which nobody is changing."""
        workflow = self.database["workflows"].find_one({"nodes": number})
        return workflow["fw_states"][str(number)] == "RUNNING" and "locked" not in workflow


@contextmanager
def database_of(commands: Commands) -> Iterator[Database[Any]]:
    """An embedded server's database, stopped afterwards."""
    port = commands.scdm("db", "start", "--json")["port"]
    try:
        with MongoClient(f"mongodb://127.0.0.1:{port}/?directConnection=true") as client:
            yield client["scdm"]
    finally:
        commands.scdm("db", "stop")


def work(commands: Commands, database: Database[Any]) -> None:
    """Submit both campaigns and work them off in part."""
    folder = commands.scdm("campaign", "submit", "old-forcefield.yaml", "--json")["worker_config"]
    queue = Queue(commands, database, folder)
    queue.launch("old-forcefield", "generate")
    queue.launch("old-forcefield", "screen")
    while queue.find("old-forcefield", "", "BN"):
        queue.launch("old-forcefield", "", "BN")
    queue.launch("old-forcefield", "relax", "C")
    queue.lose("old-forcefield", "relax", "MoS2")
    commands.scdm("campaign", "submit", "old-vasp.yaml")
    queue.launch("old-vasp", "generate")
    queue.launch("old-vasp", "screen")
    for name in ("relax 1", "relax", "static", "gate", "uniform", "line"):
        queue.launch("old-vasp", name, "BN")
    commands.scdm("build")


def neutral(value: Any, words: dict[str, str]) -> Any:
    """A document without the places and the name of the machine that it was made on."""
    if isinstance(value, dict):
        return {key: neutral(item, words) for key, item in value.items()} | (
            {"host": "old-host", "ip": "192.0.2.1"} if "host" in value and "ip" in value else {}
        )
    if isinstance(value, list):
        return [neutral(item, words) for item in value]
    if isinstance(value, str):
        for word, instead in words.items():
            value = value.replace(word, instead)
    return value


def dump(database: Database[Any], path: Path, words: dict[str, str]) -> None:
    """Write all collections; words: what stands in a path -> what is written instead."""
    options = json_util.CANONICAL_JSON_OPTIONS
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        for name in sorted(database.list_collection_names()):
            for document in database[name].find().sort("_id"):
                line = {"collection": name, "document": neutral(document, words)}
                file.write(json_util.dumps(line, json_options=options).encode() + b"\n")


def main() -> None:
    """Make everything anew."""
    sys.path[:0] = [str(ROOT), str(ROOT / "models"), str(ROOT / "tests")]
    from standin.potcars import fake_potcars

    shutil.rmtree(HERE / "inputs", ignore_errors=True)
    write_inputs(HERE / "inputs")
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.copytree(HERE / "inputs", PLACE)
    with TemporaryDirectory() as name:
        commands = Commands(Path(name).resolve())
        fake_potcars(commands.folder / "potcars", ["B", "C", "N"])
        words = {
            f"{socket.gethostname()}:{commands.folder}": "old-host:/scratch/old",
            str(commands.folder): "/scratch/old",
            sys.prefix: "/scratch/environment",
            str(ROOT): "/scratch/checkout",
        }
        with database_of(commands) as database:
            work(commands, database)
            dump(database, HERE / "database.jsonl.gz", words)


if __name__ == "__main__":
    main()
