"""How long `scdm campaign resume` takes on a LaunchPad of 10,000 fireworks in the embedded database.

    python benchmarks/resume.py [--fireworks 10000]

Candidates of three jobs (relax, static, gate) as the force-field engine makes them: 60 of 100 finished, 30 not begun,
the others left as kills leave them. Times of a machine that does other things vary by a factor of two.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from scdm_flows.config import parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import ScreenedCandidate
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution.fireworks.firetask import workflow_of
from scdm_flows.flows.layer import candidate_flow
from scdm_flows.stores import EmbeddedServer, connect
from scdm_flows.stores.process import free_port

JOBS = 3
AT_ONCE = 1000
OLD = datetime.now(UTC) - timedelta(hours=10)
# states of relax, static, gate; what the workflow shows of the first where that differs; of a hundred candidates
CASES: list[tuple[int, tuple[str, str, str], str | None]] = [
    (60, ("COMPLETED", "COMPLETED", "COMPLETED"), None),
    (30, ("READY", "WAITING", "WAITING"), None),
    (4, ("RUNNING", "WAITING", "WAITING"), None),  # worker lost
    (2, ("RESERVED", "WAITING", "WAITING"), "READY"),  # killed after the claim
    (2, ("FIZZLED", "WAITING", "WAITING"), None),  # the database was in trouble
    (1, ("COMPLETED", "WAITING", "WAITING"), "RUNNING"),  # killed before the workflow was written
    (1, ("COMPLETED", "READY", "WAITING"), "locked"),  # or before it was unlocked
]


def template() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Documents of the fireworks and the workflow of one candidate."""
    config = parse_config(
        {
            "name": "bench",
            "generator": {"kind": "files", "paths": ["."]},
            "engine": {"kind": "forcefield"},
        }
    )
    frac = [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.578], [2 / 3, 1 / 3, 0.422]]
    layer = Structure(Lattice.hexagonal(3.18, 20.0), ["Mo", "S", "S"], frac)
    screened = ScreenedCandidate(
        candidate_id="bench-0", index=0, generator="files", accepted=True, structure=layer.as_dict(), formula="MoS2"
    )
    workflow = workflow_of(candidate_flow(config, screened), campaign="bench", candidate_id="bench-0")
    numbers = {old: new for new, old in enumerate(sorted(workflow.id_fw, reverse=True))}
    for firework in workflow:
        firework.fw_id = numbers[firework.fw_id]
    workflow._reassign_ids(numbers)
    fireworks = sorted((f.to_db_dict() for f in workflow), key=lambda d: int(d["fw_id"]))
    return fireworks, workflow.to_db_dict()


def launch_document(number: int, node: int, state: str) -> dict[str, Any]:
    """A launch as it was ten hours ago."""
    history: list[dict[str, Any]] = [
        {"state": "RUNNING", "created_on": OLD.isoformat(), "updated_on": OLD.isoformat()},
    ]
    action: dict[str, Any] | None = None
    if state != "RUNNING":
        history.append({"state": state, "created_on": OLD.isoformat()})
        details = {"error_type": "AutoReconnect", "message": "gone", "trouble": "the database was in trouble"}
        stored = {"_exception": {"_stacktrace": "", "_details": details}} if state == "FIZZLED" else {}
        action = {"stored_data": stored, "exit": False, "update_spec": {}, "mod_spec": [], "additions": []}
        action |= {"detours": [], "defuse_children": False, "defuse_workflow": False, "append_wfs": []}
        action |= {"propagate": False}
    return {
        "launch_id": number,
        "fw_id": node,
        "state": state,
        "host": "bench",
        "ip": "127.0.0.1",
        "launch_dir": "/tmp",
        "fworker": {"name": "bench", "category": "", "query": "{}", "env": {}},
        "state_history": history,
        "action": action,
        "trackers": [],
        "time_start": OLD.isoformat(),
        "time_end": None if state == "RUNNING" else OLD.isoformat(),
    }


def documents(candidates: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(collection, document) of so many candidates."""
    fireworks, workflow = template()
    shares = np.cumsum([share for share, _, _ in CASES])
    for k in range(candidates):
        _, states, shown = CASES[int(np.searchsorted(shares, k * 37 % 100, side="right"))]
        first, name = JOBS * k + 1, f"bench-{k}"
        for offset, state in enumerate(states):
            node, uuid = first + offset, f"{name}-{offset}"
            document = copy.deepcopy(fireworks[offset])
            document |= {"fw_id": node, "state": state, "updated_on": OLD.isoformat(), "launches": []}
            document["spec"] |= {"candidate_id": name, "job_uuid": uuid}
            if state in ("COMPLETED", "RUNNING", "FIZZLED"):
                document["launches"] = [node]
                yield "launches", launch_document(node, node, state)
            if state == "COMPLETED":
                metadata = {"campaign": "bench", "candidate_id": name, "stage": document["spec"]["stage"]}
                yield "outputs", {"uuid": uuid, "index": 1, "metadata": metadata, "output": {"energy": -1.0}}
            yield "fireworks", document
        whole = copy.deepcopy(workflow)
        for key in ("links", "parent_links"):
            whole[key] = {str(int(a) + first): [b + first for b in bs] for a, bs in workflow[key].items()}
        whole["nodes"] = [first + offset for offset in range(JOBS)]
        whole["fw_states"] = {str(first + offset): state for offset, state in enumerate(states)}
        whole |= {"_id": f"bench:{name}", "updated_on": OLD, "metadata": {"campaign": "bench", "candidate_id": name}}
        if shown == "locked":
            whole["locked"] = True
        elif shown is not None:
            whole["fw_states"][str(first)] = shown
        yield "workflows", whole


def main() -> None:
    """Fill a database, resume twice, say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fireworks", type=int, default=10_000)
    candidates = -(-parser.parse_args().fireworks // JOBS)
    with tempfile.TemporaryDirectory() as folder:
        settings = ScdmSettings(data_dir=folder, port=free_port())
        try:
            with connect(settings) as database:
                launchpad = launch.launchpad_of(database)
                start, batch = time.perf_counter(), dict[str, list[dict[str, Any]]]()
                for name, document in documents(candidates):
                    several = batch.setdefault(name, [])
                    several.append(document)
                    if len(several) == AT_ONCE:
                        database.mongo[name].insert_many(several)
                        several.clear()
                for name, several in batch.items():
                    if several:
                        database.mongo[name].insert_many(several)
                print(f"{JOBS * candidates} fireworks inserted in {time.perf_counter() - start:.1f} s", flush=True)
                for words, dry_run in ("dry run", True), ("first resume", False), ("second resume", False):
                    start = time.perf_counter()
                    items = launch.resume(database, dry_run=dry_run, launchpad=launchpad)
                    counts = ", ".join(f"{k.name.lower()} {n}" for k, n in Counter(i.kind for i in items).items())
                    print(f"{words:14} {time.perf_counter() - start:6.1f} s   {counts or 'nothing to do'}", flush=True)
        finally:
            EmbeddedServer(settings.data_dir).stop()


if __name__ == "__main__":
    main()
