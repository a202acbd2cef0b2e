"""Several VASP runs side by side in a Slurm job, by the files of ``scdm doctor --init`` and the lines of the docs.

The first such job is cancelled at work; a second one goes on with what it had begun.

VASP is the stand-in of ``support/standin``: the first of the eight tasks of a step computes, the others end at once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from cluster.slurm import Slurm
from pymatgen.core import Lattice, Structure
from support.places import ROOT
from support.standin.fixtures import VASP_CMD

from scdm_flows.config.settings import ScdmSettings
from scdm_flows.execution.fireworks import launchpad_of
from scdm_flows.stores import connect
from scdm_flows.stores.names import OUTPUTS

BIN = Path(sys.executable).parent
LAYERS = {"BN": 2.51, "GaN": 3.20, "AlN": 3.13, "SiC": 3.09}  # planar, a in angstrom
STRETCHED = 1.04  # by so much, so that they take some ionic steps
SECONDS = 240.0  # that a Slurm job may take


def documented() -> dict[str, Any]:
    """What docs/cluster.md puts into the adapter for several runs in one allocation."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    block = re.search(r"```yaml\n(ntasks: .*?)```", text, re.DOTALL)
    assert block is not None
    found: dict[str, Any] = yaml.safe_load(block[1])
    return found


def documented_command() -> str:
    """And how each of these runs starts VASP."""
    found = re.search(r"SCDM_VASP_CMD='(srun [^']* vasp_std)'", (ROOT / "docs" / "cluster.md").read_text())
    assert found is not None
    return found[1]


def campaign(folder: Path) -> Path:
    """The file of a campaign with a relaxation and a static run of each layer."""
    (folder / "layers").mkdir()
    for name, a in LAYERS.items():
        layer = Structure(
            Lattice.hexagonal(STRETCHED * a, 20),
            re.findall("[A-Z][a-z]?", name),
            [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]],
        )
        layer.to(filename=str(folder / "layers" / f"{name}.cif"))
    phase = {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedEntry",
        "parameters": {"run_type": "GGA", "is_hubbard": False},
    }
    elements = sorted({e for name in LAYERS for e in re.findall("[A-Z][a-z]?", name)})
    entries = [{**phase, "entry_id": e, "composition": {e: 1}, "energy": -8.0} for e in elements]
    (folder / "references.json").write_text(json.dumps(entries))
    config = {
        "name": "small",
        "generator": {"kind": "files", "paths": [str(folder / "layers")]},
        "screen": {"require_novel": False},
        "engine": {
            "kind": "vasp",
            "references": str(folder / "references.json"),
            "kpoint_spacing_per_angstrom": 0.6,
            "fmax_ev_per_angstrom": 0.05,
        },
        "gate": {"phonon_max_atoms": 1, "bands_max_atoms": 1},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def vasp_in(folder: Path) -> Path:
    """A folder with ``vasp_std``; which job and step ran it where is noted in ``steps``."""
    folder.mkdir()
    program = folder / "vasp_std"
    program.write_text(
        "#!/bin/sh\n"
        '[ "$SLURM_PROCID" = 0 ] || exit 0\n'
        f'echo "$SLURM_JOB_ID $SLURM_STEP_ID $SLURM_NTASKS $PWD" >> {folder / "steps"}\n'
        f"exec {VASP_CMD}\n"
    )
    program.chmod(0o755)
    return folder


def until(happened: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_several_small_runs_share_an_allocation(
    slurm: Slurm, settings: ScdmSettings, standin_vasp: dict[str, Any], tmp_path: Path
) -> None:
    database = connect(settings)
    vasp = vasp_in(tmp_path / "vasp")
    work, folder = tmp_path / "work", tmp_path / "fw"
    work.mkdir()
    slurm.environment = {
        **os.environ,  # what the stand-in needs
        **slurm.environment,
        "PATH": f"{BIN}:{slurm.environment['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'models'}",
        "SCDM_MONGO_URI": str(database.uri),
        "SCDM_DATA_DIR": str(settings.data_dir),
        "SCDM_VASP_CMD": documented_command().replace("vasp_std", str(vasp / "vasp_std")),
        "SCDM_VASP_VERSION": "6.5.0",
        "SCDM_VASP_POLL_SECONDS": "0.5",
        "STANDIN_VASP_FAIL": "slow:999@relax",
        "STANDIN_VASP_STEP_SECONDS": "3",
        "OMP_NUM_THREADS": "1",
    }

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=work, env=slurm.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    run("scdm", "doctor", "--init", str(folder))
    adapter = folder / "my_qadapter.vasp.yaml"
    several = documented()
    workers = several["rocket_launch"].split(" in ")[1].partition(";")[0].split()
    several["rocket_launch"] = (
        several["rocket_launch"].replace("/shared/scdm/venv/bin", str(BIN)).replace("/shared/scdm/fw", str(folder))
    )
    adapter.write_text(yaml.safe_dump(yaml.safe_load(adapter.read_text()) | several | {"queue": "main"}))

    run("scdm", "campaign", "submit", str(campaign(tmp_path)))
    run("scdm", "worker", "-c", str(folder), "--category", "generate", "--category", "compute")
    launchpad = launchpad_of(database)
    qlaunch = ["qlaunch", "-c", str(folder), "-w", str(folder / "my_fworker.vasp.yaml"), "-q", str(adapter)]
    once = [*qlaunch, "rapidfire", "-m", "1", "--nlaunches", "1"]
    run(*once)
    until(lambda: sum(" F= " in path.read_text() for path in work.glob("block_*/*/*/OSZICAR")) == len(workers))
    slurm.output("scancel", *map(str, slurm.jobs()))
    until(lambda: not slurm.jobs())
    assert launchpad.fireworks.count_documents({"state": {"$in": ["RUNNING", "FIZZLED"]}}) == 0  # all were given back
    run(*once)
    until(lambda: not slurm.jobs())
    cancelled, script = sorted(work.glob("block_*/launcher_*/FW_submit.script"))
    output = "".join(path.read_text()[-3000:] for path in script.parent.glob("*.out"))
    assert launchpad.fireworks.distinct("state") == ["COMPLETED"], output
    begun = {path.parent.name for path in cancelled.parent.glob("*/OSZICAR")}
    further = {f["spec"].get("further_launch") for f in launchpad.fireworks.find({}, {"spec.further_launch": 1})}
    gone_on = {Path(launchpad.get_launch_by_id(one).launch_dir).name for one in further - {None}}
    assert gone_on == begun  # and gone on with

    found = list(database.mongo[OUTPUTS].find({"metadata.part_of": "relax"}, {"metadata": 1, "output.dir_name": 1}))
    assert len(found) == len(LAYERS) == len(workers)
    spans = []
    for document in found:
        home = Path(document["output"]["dir_name"].partition(":")[2])
        assert home.is_relative_to(script.parent)
        end = document["metadata"]["completed_at"]
        spans.append((end - timedelta(seconds=document["metadata"]["seconds"]), end))
    together = [min(a[1], b[1]) - max(a[0], b[0]) for a, b in combinations(spans, 2)]
    assert min(together) > timedelta(0)  # each beside every other
    steps = [line.split(maxsplit=3) for line in (vasp / "steps").read_text().splitlines()]
    first, second = dict.fromkeys(job for job, *_ in steps)
    assert [sum(job == one for job, *_ in steps) for one in (first, second)] == [len(LAYERS), 3 * len(LAYERS)]
    assert len({(job, step) for job, step, *_ in steps}) == len(steps)
    assert {tasks for _, _, tasks, _ in steps} == {str(several["ntasks"] // len(workers))}
    alone = sum((end - begin for begin, end in spans), timedelta()).total_seconds()
    whole = (max(end for _, end in spans) - min(begin for begin, _ in spans)).total_seconds()
    print(f"{len(found)} relaxations of {alone:.0f} s together within {whole:.0f} s of one Slurm job")
    database.close()
