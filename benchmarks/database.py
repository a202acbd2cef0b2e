"""How quickly the embedded database answers, among 10,000 candidates (`make bench`; alone, with options:
`python benchmarks/database.py --help`).

The candidates are synthetic: real layers' documents in size and shape, values drawn so that they correlate as those of
a campaign do (only what relaxed has an energy, only what is near the hull a phonon). The first page of 20 is asked for
with every sort, and with every filter in some orders, with values that occur.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

PAGE = 20
GOAL_MS = 400
ORDERS = ("rank", "-e_above_hull", "formula", "-band_gap")  # in which each filter is asked for
CAMPAIGNS = 5
BATCH = 1000
RANDOM = random.Random(0)


class Timer:
    """Wall time of questions, and the processor time that they cost this process and the server."""

    def __init__(self, server: int) -> None:
        self._server = Path(f"/proc/{server}/stat")

    def _processor(self) -> float:
        fields = self._server.read_text().rpartition(")")[2].split()
        return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __call__(self, run: Any, questions: list[dict[str, Any]]) -> tuple[float, str]:
        """95th percentile of the wall time of a question, ms; and a line of text."""
        taken = []
        before = self._processor()
        for question in questions:
            start = time.perf_counter()
            run(**question)
            taken.append(1e3 * (time.perf_counter() - start))
        busy = 1e3 * (self._processor() - before) / len(questions)
        p50, p95 = float(np.percentile(taken, 50)), float(np.percentile(taken, 95))
        return p95, f"p50 {p50:7.1f} ms   p95 {p95:7.1f} ms   processor, mean {busy:6.1f} ms"


def candidates(n: int) -> Iterator[dict[str, Any]]:
    """``n`` candidate documents of ``CAMPAIGNS`` campaigns."""
    from pymatgen.core import Lattice, Structure

    from scdm_flows.builders.optimade import optimade_of
    from scdm_flows.documents import CandidateDoc, Provenance, StageRecord

    metals = ["Mo", "W", "Nb", "Ti", "Zr", "V", "Ta", "Fe", "Ni", "Pt", "Pd", "Sn", "Ge", "In", "Ga", "Bi", "Sb", "Hf"]
    others = ["S", "Se", "Te", "O", "Cl", "Br", "I", "N", "P", "F"]
    weights = [1 / (k + 2) for k in range(80)]  # a few layer groups hold most layers
    for number in range(n):
        campaign = f"bench{number * CAMPAIGNS // n}"
        chosen = sorted({RANDOM.choice(metals), RANDOM.choice(others), RANDOM.choice(metals + others)})
        species = [RANDOM.choice(chosen) for _ in range(RANDOM.randint(2, 6))] + chosen
        sites = [[RANDOM.random(), RANDOM.random(), 0.45 + 0.1 * RANDOM.random()] for _ in species]
        structure = Structure(Lattice.hexagonal(3 + RANDOM.random(), 20), species, sites)
        fate = RANDOM.random()
        relaxed, near = fate > 0.45, fate > 0.7
        group = RANDOM.choices(range(1, 81), weights)[0]
        known: dict[str, Any] = {"state": "rejected", "reason": "atoms too close"}
        if relaxed:
            hull = RANDOM.gammavariate(2, 0.15) if near else 0.6 + RANDOM.expovariate(3)
            known = {
                "state": "completed" if near and fate > 0.75 else "pending" if near else "rejected",
                "relaxed_structure": structure.as_dict(),
                "energy_per_atom": 0.0,  # until the hulls are there
                "area_per_atom_angstrom2": 2 + 2 * RANDOM.random(),
                "thickness_angstrom": 5 * RANDOM.random(),
                "energy_scheme": "c2db-pbe",
                "surrogate": True,
                "energy_model": "bench",
                "extrapolated": RANDOM.random() < 0.1,
                "e_above_hull": hull,  # where the energy is put
                "e_above_hull_error": 0.1,
            }
        if fate > 0.93:
            known |= {"dynamically_stable": RANDOM.random() < 0.4, "min_frequency_thz": -RANDOM.random()}
            known |= {"band_gap": 0.0 if RANDOM.random() < 0.6 else RANDOM.random() * 4}
        elif not relaxed and RANDOM.random() < 0.05:
            known["state"] = "failed"
        document = CandidateDoc(
            candidate_id=f"{campaign}-{hashlib.sha256(f'{campaign} {number}'.encode()).hexdigest()[:12]}",
            campaign=campaign,
            generator="scdm",
            model_id="scdm-0123abcd",
            seed=0,
            index=number,
            formula=structure.composition.reduced_formula,
            chemsys="-".join(chosen),
            elements=chosen,
            nelements=len(chosen),
            nsites=len(structure),
            layer_group_generated=group,
            layer_group=group,
            space_group=min(230, 3 * group - 2),
            novel=True,
            structure=structure.as_dict(),
            stages={"screen": StageRecord(status="passed" if relaxed else "rejected", job_uuid="0" * 36)},
            provenance=Provenance(versions={"scdm-flows": "0", "torch": "0"}, config_hash="0" * 64),
            **known,
        )
        document.optimade = optimade_of(document)
        yield document.model_dump(mode="json") | {"last_updated": document.last_updated}


def fill(database: Any, n: int) -> None:
    """Store ``n`` candidates and their hulls as the builders would have left them."""
    from scdm_flows.builders.hulls import pending_token
    from scdm_flows.documents import CampaignDoc

    for k in range(CAMPAIGNS):
        database.upsert(database.campaigns, [CampaignDoc(name=f"bench{k}", config={}, config_hash="0").model_dump()])
    documents = list(candidates(n))
    hulls = hulls_of(documents)
    for what, stored in (("candidates", documents), ("hulls", hulls)):
        taken = 0.0
        for first in range(0, len(stored), BATCH):
            start = time.perf_counter()
            database.mongo[what].insert_many(stored[first : first + BATCH], ordered=False)
            taken += time.perf_counter() - start
            if what == "candidates" and first == 0:
                memory(database)
        print(f"{what:<10} stored           {len(stored) / taken:8.0f} /s, {len(stored)}", flush=True)
    some = next(d for d in documents if pending_token(d) is not None)
    assert some["hull_revision"] == 1


_READER = """
import sys
from pathlib import Path
from scdm_flows.query import CandidateDB
from scdm_flows.stores.database import database_of
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
with database_of(sys.argv[1]).connect(indexes=False) as database:
    db = CandidateDB(database)
    db.flat_records(sort="candidate_id", limit=1)
    before = peak()
    for sort in ("rank", "-e_above_hull", "formula"):
        db.window(0, 50, sort=sort)
    n = sum(1 for _ in db.stream(sort="candidate_id"))
    print(f"a process that reads {n:>7} candidates: at most {peak():.0f} MiB, {peak() - before:.0f} since the first")
"""


def memory(database: Any) -> None:
    """Print the memory of a process of its own that lists, and reads every candidate."""
    subprocess.run([sys.executable, "-c", _READER, database.uri], check=True)


def hulls_of(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The hull documents of all candidates, by the builder's own computation; sets the candidates' hull fields."""
    from pymatgen.core import Composition
    from support.memory import memory_database

    from scdm_flows.builders.hulls import Basis, HullBuilder
    from scdm_flows.thermo.completeness import missing_phases
    from scdm_flows.thermo.hull import energy_above_hull

    builder = HullBuilder(memory_database())
    basis = Basis(builder.table.scheme, builder.table, {})
    systems: dict[str, list[dict[str, Any]]] = {}
    for d in documents:
        if d["energy_per_atom"] is not None:
            systems.setdefault(d["chemsys"], []).append(d)
    lower: dict[str, list[dict[str, Any]]] = {}
    hulls = []
    for chemsys in sorted(systems, key=lambda name: (name.count("-"), name)):
        elements = chemsys.split("-")
        smaller = ["-".join(c) for k in range(1, len(elements)) for c in combinations(elements, k)]
        references = basis.table.entries(elements)
        for d in systems[chemsys]:
            fractions = dict(Composition(d["formula"]).fractional_composition.get_el_amt_dict())
            d["energy_per_atom"] = d["e_above_hull"] - energy_above_hull(fractions, 0.0, references).e_above_hull
        item = {
            "hull_id": basis.hull_id(chemsys),
            "chemsys": chemsys,
            "about": basis.about,
            "references": references,
            "titles": basis.table.titles,
            "missing": missing_phases(basis.table, elements),
            "members": systems[chemsys],
            "lower": [phase for name in smaller for phase in lower.get(name, [])],
        }
        done = builder.process_item(item)
        lower[chemsys] = done["document"]["lower"]
        hulls.append({**done["document"], "revision": 1, "spread": True})
        for d in systems[chemsys]:
            d.update(
                done["fields"].get(d["candidate_id"], {}), hull_id=item["hull_id"], hull_revision=1, hull_pending=None
            )
    return hulls


def add_phases(database: Any) -> None:
    """Print how long all hulls take to be right again after one candidate more, of four elements or below a hull."""
    from scdm_flows.builders import HullBuilder
    from scdm_flows.builders.hulls import pending_token
    from scdm_flows.query import CandidateDB

    some = CandidateDB(database).flat_records(state="completed", campaign="bench1", limit=1)[0]
    base = database.mongo["candidates"].find_one({"candidate_id": some["candidate_id"]}, {"_id": 0})
    HullBuilder(database).run()  # reads the reference table
    for what, elements, energy in (
        ("four elements", ["Mo", "S", "Se", "W"], -5.0),
        ("four elements, below the hull", ["Mo", "Se", "Te", "W"], -30.0),
        ("two elements, below the hull", ["Fe", "I"], -30.0),
    ):
        digits = hashlib.sha256(f"{what} {RANDOM.random()}".encode()).hexdigest()[:12]
        known = {
            "candidate_id": f"bench1-{digits}",
            "elements": elements,
            "chemsys": "-".join(elements),
            "formula": "".join(elements),
            "energy_per_atom": energy,
            "one_layer": True,
            "stages": {"relax": {"status": "passed"}},
            "hull_revision": None,
        }
        document = {**base, **known}
        document["hull_pending"] = pending_token(document)
        key = {"candidate_id": document.pop("candidate_id")}
        document.pop("last_updated")
        database.mongo["candidates"].update_one(key, database.stamped({"$set": document}), upsert=True)
        builder = HullBuilder(database)
        start = time.perf_counter()
        items = builder.get_items()
        builder.update_targets([builder.process_item(next(items))])  # its own system, and all that follow from it
        right = time.perf_counter() - start
        found = database.mongo["candidates"].find_one(key)
        assert found["hull_pending"] is None
        for item in items:
            builder.update_targets([builder.process_item(item)])
        whole = time.perf_counter() - start
        print(f"one candidate more, {what:<28} hulls right in {right:5.2f} s, whole run {whole:5.2f} s", flush=True)


def rank(database: Any) -> None:
    """Print how long ranking takes: all candidates anew, one that changed, and nothing."""
    from scdm_flows.builders import RankingBuilder
    from scdm_flows.query import CandidateDB

    one = CandidateDB(database).flat_records(state="completed", campaign="bench1", limit=1)[0]["candidate_id"]
    changes: dict[str, Any] = {"every candidate": None, "one that changed": one, "nothing new": None}
    for what, changed in changes.items():
        if changed is not None:
            change = database.stamped({"$set": {"e_above_hull": RANDOM.random()}})
            database.mongo["candidates"].update_one({"candidate_id": changed}, change)
        start = time.perf_counter()
        RankingBuilder(database, everything=what.startswith("every")).run()
        print(f"ranking, {what:<18} {time.perf_counter() - start:8.1f} s", flush=True)


def questions(database: Any, times: int) -> dict[str, list[dict[str, Any]]]:
    """Filter -> ``times`` values that occur, as arguments of ``CandidateDB.find``."""
    from scdm_flows.query import CandidateDB

    some = [d.model_dump(mode="json") for d in CandidateDB(database).find(campaign="bench1", limit=4 * times)]
    some += list(database.mongo["candidates"].find({"candidate_id": {"$gte": "bench2-0", "$lt": "bench2-02"}}))
    RANDOM.shuffle(some)

    def values(field: str) -> list[Any]:
        return [d[field] for d in some if d.get(field) is not None][:times]

    plain = ["campaign", "state", "formula", "chemsys", "layer_group", "space_group", "dynamically_stable", "rank"]
    asked: dict[str, list[dict[str, Any]]] = {"(none)": [{}] * times}
    asked |= {field: [{field: v} for v in values(field)] for field in plain}
    asked["elements"] = [{"elements": v[:1]} for v in values("elements")]
    pairs = [d for d in some if len(d["elements"]) > 1][:times]
    asked["chemsys and layer group"] = [{"chemsys": d["chemsys"], "layer_group": d["layer_group"]} for d in pairs]
    asked["two elements"] = [{"elements": d["elements"][:2]} for d in pairs]
    asked["max_e_above_hull"] = [{"max_e_above_hull": v} for v in values("e_above_hull")]
    asked["min_band_gap"] = [{"min_band_gap": v} for v in values("band_gap")]
    asked["campaign, state"] = [{"campaign": d["campaign"], "state": d["state"]} for d in some[:times]]
    asked["campaign, max_e_above_hull"] = [
        {"campaign": d["campaign"], "max_e_above_hull": 0.1 + 0.5 * RANDOM.random()} for d in some[:times]
    ]
    return {name: found for name, found in asked.items() if found}


def measure(database: Any, options: argparse.Namespace, timer: Timer) -> None:
    """Print the percentiles of each filter and sort, and by id."""
    from scdm_flows.query import CandidateDB
    from scdm_flows.stores.indexes import sort_fields

    db = CandidateDB(database)
    ids = [{"candidate_id": d["candidate_id"]} for d in db.flat_records(campaign="bench3", limit=100)]
    print(f"by id                       {timer(db.get, ids)[1]}", flush=True)
    offered = [f"{sign}{field}" for field in sort_fields() for sign in ("", "-")]
    summary: dict[str, float] = {}
    for name, filters in questions(database, options.times).items():
        for sort in offered if name == "(none)" else ORDERS:
            p95, text = timer(lambda sort=sort, **f: db.page(sort=sort, limit=PAGE, **f), filters)
            summary[f"{name} by {sort}"] = p95
            if options.verbose:
                print(f"{name:<26} by {sort:<20} {text}", flush=True)
    slowest = max(summary, key=lambda name: summary[name])
    good = sum(p <= GOAL_MS for p in summary.values())
    print(
        f"{good} of {len(summary)} filters and sorts have a p95 of at most {GOAL_MS} ms (median of the p95 "
        f"{np.median(list(summary.values())):.0f} ms); the slowest: {slowest}, {summary[slowest]:.0f} ms"
    )


def sizes(database: Any) -> None:
    """Print the bytes of a document as BSON, and of each declared index's keys, not compressed.

    A key is its values as BSON and the number of its document (8 bytes); of a list there is one for each value.
    """
    import bson

    from scdm_flows.stores.indexes import declared
    from scdm_flows.stores.names import KEYS

    documents = list(database.mongo["candidates"].find({}, limit=1000))
    whole = sum(len(bson.encode(d)) for d in documents) / len(documents)
    print(f"bytes a document            {whole:8.0f}")
    total = 0.0
    for index in [i for i in declared(KEYS) if i.collection == "candidates"]:
        size = sum(_key_bytes(d, index.fields) for d in documents) / len(documents)
        total += size
        print(f"bytes a document in index   {size:8.0f}   {', '.join(index.fields)}")
    print(f"bytes a document, indexes   {total:8.0f}")


def _key_bytes(document: dict[str, Any], fields: tuple[str, ...]) -> int:
    import bson

    def values(value: Any, path: list[str]) -> list[Any]:
        if isinstance(value, list):
            return [found for part in value for found in values(part, path)] or [None]
        if not path:
            return [value]
        return values(value.get(path[0]), path[1:]) if isinstance(value, dict) else [None]

    lists = [values(document, field.split(".")) for field in fields]
    return sum(8 + sum(len(bson.encode({"": v})) - 5 for v in key) for key in product(*lists))


def main() -> None:
    """Fill a database, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10_000, help="candidates")
    parser.add_argument("--times", type=int, default=5, help="questions for each filter and sort")
    parser.add_argument("--verbose", action="store_true", help="a line for each filter and sort")
    parser.add_argument("--keep", type=Path, help="folder of a database to keep, and to use again")
    options = parser.parse_args()

    from scdm_flows.config.settings import ScdmSettings
    from scdm_flows.stores import EmbeddedServer, connect
    from scdm_flows.stores.process import free_port

    with TemporaryDirectory() as folder:
        server = EmbeddedServer(options.keep or folder, free_port())
        try:
            with connect(ScdmSettings(data_dir=server.data_dir, port=server.port)) as database:
                if database.mongo["campaigns"].find_one({}) is None:
                    fill(database, options.n)
                rank(database)
                memory(database)
                add_phases(database)
                measure(database, options, Timer(server.status().pid or 0))
                sizes(database)
        finally:
            pid = server.status().pid
            if pid is not None:
                os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    main()
