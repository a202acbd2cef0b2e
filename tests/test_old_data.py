"""Old data go on: a LaunchPad and a store that commit 0cb4bfc wrote, worked off, built and reported by the code here.

What lies in ``data/old`` is described in its ``make.py``. Everything is done by ``scdm`` and ``rlaunch``, as people do
who upgrade in the middle of a campaign: no other function of the code is called, so that none has to keep its place for it.
"""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
import os
import runpy
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from bson import json_util
from pymatgen.core import SETTINGS
from pymongo import MongoClient
from pymongo.database import Database
from support.commands import commands as in_this_process

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OLD = HERE / "data" / "old"
PLACE = Path("/tmp/scdm-old-data")  # where the campaigns' files were, which is in their hash and so in every uuid

# What the old code wrote into jobs and documents, to be found again by whoever reads them: a name here never changes
# as long as there are data with it. Read off the dump; a module that moves leaves its name behind.
CLASSES = {
    "scdm_flows.documents.bands": {"BandsDoc"},
    "scdm_flows.documents.phonon": {"PhononDoc"},
    "scdm_flows.documents.stages": {"GateDoc", "ScreenOutput"},
    "scdm_flows.engines.makers": {"LayerRelaxMaker", "LayerStaticMaker"},
    "scdm_flows.engines.vasp_inputs": {"SlabSetGenerator"},
    "scdm_flows.engines.vasp_makers": {"SlabBandsMaker", "SlabMaker"},
}
FUNCTIONS = {
    "scdm_flows.engines.vasp_makers": {"SlabBandsMaker.make", "SlabMaker.make"},
    "scdm_flows.jobs": {"bands_summary", "gate", "generate", "phonon", "phonon_summary", "screen"},
}
FIRETASK = "{{scdm_flows.launch.ScdmJobFiretask}}"  # FireWorks' form of the same

# The layer of old-forcefield that had been through everything, as the old code's `scdm candidates show` said.
BN = "old-forcefield-08cd6e02ce82"
BN_NUMBERS = {
    "energy_per_atom": -8.820374300598681,
    "formation_energy_per_atom": -1.2919043005986808,
    "e_above_hull": 0.0013656994013189205,
    "e_above_hull_error": 0.04433269090574785,
    "min_frequency_thz": -3.365973810271974e-07,
}
BN_JOBS = {
    "screen": "d0c7626a-882b-589d-8884-5b3a0e9b8ca4",
    "relax": "eeb9dc36-6068-5a52-ab70-38275fbb19f3",
    "static": "5828b99c-b366-5567-9fe4-07374c513872",
    "gate": "36da5563-7caa-545f-be76-6d69f6dfb4fd",
    "phonon": "323b6583-547e-5828-83aa-4c2f831f9540",
}
LOST = "relax old-forcefield-0b3c2d6daec0"  # of MoS2, whose worker was killed

# Jobs by campaign and stage, "+" for parts of a stage. MoS2 has three atoms, and phonons are of layers with two. Under
# VASP a relaxation has one part, phonons their displacements (two of BN, one of C, whose atoms are alike) and
# atomate2's document, bands the uniform and the line run.
QUEUED = {
    "old-forcefield": {"generate": 1, "screen": 1, "relax": 4, "static": 4, "gate": 4, "phonon": 1},
    "old-vasp": {
        "generate": 1,
        "screen": 1,
        "relax": 2,
        "relax+": 2,
        "static": 2,
        "gate": 2,
        "phonon": 1,
        "phonon+": 3,
        "bands": 1,
        "bands+": 2,
    },
}
STORED = {
    "old-forcefield": {"generate": 1, "screen": 1, "relax": 2, "static": 1, "gate": 1, "phonon": 1},
    "old-vasp": {"generate": 1, "screen": 1, "relax": 1, "relax+": 1, "static": 1, "gate": 1, "bands+": 2},
}
IN_THE_END = {
    "old-forcefield": {**QUEUED["old-forcefield"], "phonon": 3},
    # the phonons of one layer were in the queue as they were computed before, those of the other are computed as now
    "old-vasp": {**QUEUED["old-vasp"], "phonon": 2, "phonon+": 7, "bands": 2, "bands+": 4},
}


def dump() -> Iterator[tuple[str, dict[str, Any]]]:
    """Collection and document of each line."""
    with gzip.open(OLD / "database.jsonl.gz", "rt") as file:
        for line in file:
            found = json_util.loads(line)
            yield found["collection"], found["document"]


def by_stage(jobs: Any) -> dict[str, dict[str, int]]:
    """How many there are of each campaign and stage, in the form of ``QUEUED``; jobs: specs or metadata."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for about in jobs:
        found[about["campaign"]][about.get("stage") or about["part_of"] + "+"] += 1
    return {campaign: dict(counts) for campaign, counts in found.items()}


def marks(value: Any) -> Iterator[tuple[str, str, str]]:
    """(kind of mark, module, name) of everything in a document, its large objects included, that is to be imported."""
    if isinstance(value, bytes) and value.startswith(b"{"):
        value = json.loads(value)
    if isinstance(value, dict):
        for kind in ("@class", "@callable"):
            if value.get("@module") and kind in value:
                yield kind, value["@module"], value[kind]
        if "_fw_name" in value:
            yield "_fw_name", "", value["_fw_name"]
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from marks(item)


def test_the_old_data_name_what_is_listed_here() -> None:
    found = {mark for _, document in dump() for mark in marks(document)}
    ours = {mark for mark in found if mark[1].startswith(("scdm_flows", "scdm_models"))}
    assert {(m, n) for kind, m, n in ours if kind == "@class"} <= {
        (m, n) for m, names in CLASSES.items() for n in names
    }
    # a schema of a job's output is stored as a callable, too
    listed = {(m, n) for part in (CLASSES, FUNCTIONS) for m, names in part.items() for n in names}
    assert {(module, name) for _, module, name in ours} == listed
    assert {name for kind, _, name in found if kind == "_fw_name"} == {FIRETASK}


@pytest.mark.parametrize(("module", "name"), sorted((m, n) for m, names in CLASSES.items() for n in names))
def test_an_old_class_is_where_it_was(module: str, name: str) -> None:
    assert inspect.isclass(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(("module", "name"), sorted((m, n) for m, names in FUNCTIONS.items() for n in names))
def test_an_old_function_is_where_it_was(module: str, name: str) -> None:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)


def test_the_old_firetask_is_where_it_was() -> None:
    module, _, name = FIRETASK.strip("{}").rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert found.__name__ == name  # an alias; what it writes into new fireworks is where the task lives now
    module, _, name = found._fw_name.strip("{}").rpartition(".")
    assert getattr(importlib.import_module(module), name) is found


@pytest.fixture
def inputs() -> Path:
    """The campaigns' files where they were; several tests at once may write the same."""
    for source in (OLD / "inputs").rglob("*"):
        file = PLACE / source.relative_to(OLD / "inputs")
        if source.is_dir() or (file.is_file() and file.read_bytes() == source.read_bytes()):
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.{os.getpid()}")
        new.write_bytes(source.read_bytes())
        new.replace(file)
    return PLACE


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment variables that let a worker take the stand-in for VASP, which stays in memory meanwhile."""
    (program,) = HERE.rglob("standin/vasp.py")
    runpy.run_path(str(program.with_name("potcars.py")))["fake_potcars"](tmp_path / "potcars", ["B", "C", "N"])
    (tmp_path / "counts").mkdir()
    with TemporaryDirectory(prefix="standin-", dir="/tmp") as folder:  # the path of a socket has to be short
        command = [sys.executable, str(program.with_name("server.py")), f"{folder}/socket"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield {
                "PMG_VASP_PSP_DIR": str(tmp_path / "potcars"),
                "SCDM_VASP_CMD": f"{sys.executable} {program}",
                "SCDM_VASP_POLL_SECONDS": "0.1",
                "SCDM_VASP_VERSION": "6.5.0",
                "STANDIN_VASP_SERVER": f"{folder}/socket",
                "STANDIN_VASP_STATE": str(tmp_path / "counts"),
            }
            process.communicate()  # closes its standard input, which ends it


class Commands:
    """``scdm`` in this process and stock ``rlaunch`` in one of its own, with a data folder and an environment of theirs."""

    def __init__(self, folder: Path, said: Callable[..., Any]) -> None:
        self.folder, self.said = folder, said

    def scdm(self, *arguments: str) -> Any:
        """What ``scdm ... --json`` says."""
        return self.said(*arguments, "--json")

    def rapidfire(self, config: str) -> None:
        """Stock ``rlaunch rapidfire`` until nothing is left to run."""
        (self.folder / "work").mkdir(exist_ok=True)
        command = [str(Path(sys.executable).with_name("rlaunch")), "-c", config, "rapidfire"]
        done = subprocess.run(command, cwd=self.folder / "work", capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture
def commands(
    tmp_path: Path,
    inputs: Path,
    standin: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Commands]:
    """The programs where the inputs are, with an embedded server that is stopped afterwards."""
    pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    for name in [name for name in os.environ if name.startswith(("SCDM_", "FW_", "STANDIN_", "PMG_"))]:
        monkeypatch.delenv(name)
    variables = {
        **standin,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'models'}",
        "SCDM_DATA_DIR": str(tmp_path / "data"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", standin["PMG_VASP_PSP_DIR"])  # read when it is imported
    monkeypatch.chdir(inputs)
    said = in_this_process(capsys)
    yield Commands(tmp_path, said)
    said("db", "stop")


@pytest.fixture
def database(commands: Commands) -> Iterator[Database[Any]]:
    """The old data on that server, put there before any command makes an index."""
    documents: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for collection, document in dump():
        documents[collection].append(document)
    port = commands.scdm("db", "start")["port"]
    with MongoClient(f"mongodb://127.0.0.1:{port}/?directConnection=true") as client:
        for collection, some in documents.items():
            client["scdm"][collection].insert_many(some)
        yield client["scdm"]


def check_bn(document: dict[str, Any]) -> None:
    """The candidate that was complete is what it was."""
    assert document["candidate_id"] == BN
    assert document["state"] == "completed"
    assert {name: document[name] for name in BN_NUMBERS} == pytest.approx(BN_NUMBERS, abs=1e-6)
    assert document["dynamically_stable"] is True
    stages = {name: stage["job_uuid"] for name, stage in document["stages"].items() if stage["job_uuid"]}
    assert stages == BN_JOBS


@pytest.mark.slow
def test_old_campaigns_are_gone_on_with(commands: Commands, database: Database[Any]) -> None:
    scdm, fireworks, outputs = commands.scdm, database["fireworks"], database["outputs"]
    assert by_stage(f["spec"] for f in fireworks.find()) == QUEUED
    old = {d["uuid"]: d["metadata"] for d in outputs.find()}
    assert by_stage(old.values()) == STORED
    check_bn(scdm("candidates", "show", BN))
    assert {d["name"]: d["state"] for d in scdm("campaign", "list")} == dict.fromkeys(QUEUED, "running")

    # the same files have the same hash: nothing is refused, and nothing is added
    submitted = [scdm("campaign", "submit", f"{name}.yaml") for name in QUEUED]
    assert [s["workflows_added"] for s in submitted] == [0, 0]
    # of old documents none is in the way of a later schema
    assert not any(result["problems"] for result in scdm("db", "migrate").values())

    # the lost run is found and put back, and then all is in order
    resumed = scdm("campaign", "resume")
    assert resumed["counts"] == {"lost": 1, "retried": 1}
    assert {item["name"] for item in resumed["items"]} == {LOST}
    assert fireworks.find_one({"name": LOST})["state"] == "READY"
    assert scdm("campaign", "resume")["items"] == []

    commands.rapidfire(submitted[0]["worker_config"])
    states = Counter(f["state"] for f in fireworks.find())
    assert set(states) == {"COMPLETED"}, [
        (f["name"], launch["action"]["stored_data"]["_exception"]["_details"])
        for f in fireworks.find({"state": "FIZZLED"})
        for launch in database["launches"].find({"fw_id": f["fw_id"]})
    ]
    assert by_stage(f["spec"] for f in fireworks.find()) == IN_THE_END
    # each output is there once, and none of the old ones was computed again
    new = {d["uuid"]: d["metadata"] for d in outputs.find()}
    assert outputs.count_documents({}) == len(new)
    assert by_stage(new.values()) == IN_THE_END
    assert {uuid: new[uuid]["completed_at"] for uuid in old} == {uuid: d["completed_at"] for uuid, d in old.items()}

    scdm("build")
    listed = scdm("candidates", "list")
    assert Counter((c["campaign"], c["state"]) for c in listed) == {
        ("old-forcefield", "completed"): 4,
        ("old-vasp", "completed"): 2,
    }
    assert sorted(c["rank"] for c in listed if c["campaign"] == "old-forcefield") == [1, 2, 3, 4]
    check_bn(scdm("candidates", "show", BN))
    funnels = {d["name"]: d["funnel"] for d in scdm("campaign", "list")}
    wanted = ("generated", "relaxed", "phonon_done", "bands_done", "failed", "pending")
    assert [funnels["old-forcefield"][step] for step in wanted] == [4, 4, 3, 0, 0, 0]
    assert [funnels["old-vasp"][step] for step in wanted] == [2, 2, 2, 2, 0, 0]
    for name in QUEUED:
        said = commands.said("campaign", "report", name)
        text = Path(said.partition(": ")[2].strip()).read_text()
        assert all(c["candidate_id"] in text for c in listed if c["campaign"] == name)
    assert scdm("db", "check")["ok"]
    assert set(scdm("build").values()) == {0}  # there is nothing left to bring up to date
