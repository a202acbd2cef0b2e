"""Convex hulls: ours beside pymatgen's, a published table, and a store of candidates (`make bench`).

    python benchmarks/hulls.py --systems 2000 --table mp_compositions_ef_ed.csv.gz --candidates 10000

The table is that of Bartel et al. 2020 (columns formula, formation_energy_ev_per_atom,
decomposition_energy_ev_per_atom); its decomposition energies are worked out again. Candidates are synthetic.
"""

from __future__ import annotations

import argparse
import csv
import gc
import gzip
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

CHUNK = 500  # chemical systems handed to a process at a time


def beside_pymatgen(n: int, sizes: Sequence[int] = (2, 3, 4)) -> None:
    """Energies above hull in ``n`` random chemical systems of ``sizes`` elements, all packaged phases competing.

    Asked for the phases themselves, for one candidate (as the gate does), and for thirty of a system (as the builder).
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    from scdm_flows.thermo.hull import Phase, PhaseSystem
    from scdm_flows.thermo.table import ReferenceTable

    table = ReferenceTable.load()
    rng, draw = random.Random(0), np.random.default_rng(0)
    elements = sorted(table.elements)
    systems = [sorted(rng.sample(elements, rng.choice(sizes))) for _ in range(n)]

    def candidates(names: list[str], many: int) -> list[Phase]:
        counts = draw.integers(1, 5, (many, len(names)))
        return [Phase("", dict(zip(names, (c / c.sum()).tolist(), strict=True)), draw.uniform(-12, 0)) for c in counts]

    def entries(phases: list[Phase]) -> list[PDEntry]:
        return [PDEntry(Composition(dict(p.fractions)), p.energy_per_atom) for p in phases]

    gc.collect()
    gc.freeze()  # else the table is looked at for garbage at random moments
    for what, many in (("their own phases", 0), ("one candidate each", 1), ("30 candidates each", 30)):
        ours = theirs = worst = 0.0
        compared = 0
        for names in systems:
            phases = table.entries(names)
            asked = candidates(names, many) if many else phases
            competing, other = entries(phases), entries(asked)
            start = time.process_time()
            system = PhaseSystem(names, phases)
            found = system.place_all([p.fractions for p in asked], [p.energy_per_atom for p in asked])
            ours += time.process_time() - start
            start = time.process_time()
            diagram = PhaseDiagram(competing)
            there = [diagram.get_e_above_hull(entry, allow_negative=True) for entry in other]
            theirs += time.process_time() - start
            here = np.array([one.e_above_hull for one in found])
            worst = max(worst, float(np.abs(here - there).max()))
            compared += len(asked)
        print(
            f"hulls of {n} systems, {what:18}  {n / ours:8.0f} /s   {theirs / ours:6.1f} x pymatgen's PhaseDiagram; "
            f"{compared} energies above hull differ by at most {worst:.1e} eV/atom"
        )


def _decompose(chunk: list[tuple[str, list[Any], list[Any]]]) -> dict[str, float]:
    from scdm_flows.thermo.hull import PhaseSystem

    found = {}
    for name, own, others in chunk:
        system = PhaseSystem(name.split("-"), [*own, *others])
        for i, phase in enumerate(own):
            found[phase.name] = system.place(phase.fractions, phase.energy_per_atom, [i]).e_above_hull
    return found


def decomposition_energies(file: Path, processes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(n,) decomposition energies of a table's compositions, ours and its own, eV/atom."""
    from scdm_flows.thermo.hull import Phase

    with gzip.open(file, "rt") as handle:
        rows = list(csv.DictReader(handle))
    by_system: dict[str, list[Phase]] = defaultdict(list)
    for row in rows:
        phase = Phase.from_formula(row["formula"], row["formula"], float(row["formation_energy_ev_per_atom"]))
        by_system["-".join(sorted(phase.fractions))].append(phase)
    for element in {e for name in by_system for e in name.split("-")}:
        by_system[element] = [Phase(element, {element: 1.0}, 0.0, element)]
    work = [
        (name, own, [p for s in _subsystems(name) for p in by_system.get(s, ())])
        for name, own in by_system.items()
        if "-" in name
    ]
    chunks = [work[i : i + CHUNK] for i in range(0, len(work), CHUNK)]
    found: dict[str, float] = {}
    if processes == 1:
        for chunk in chunks:
            found |= _decompose(chunk)
    else:
        with ProcessPoolExecutor(processes) as pool:
            for part in pool.map(_decompose, chunks):
                found |= part
    ours = np.array([found[row["formula"]] for row in rows])
    return ours, np.array([float(row["decomposition_energy_ev_per_atom"]) for row in rows])


def _subsystems(name: str) -> list[str]:
    elements = name.split("-")
    return ["-".join(c) for n in range(1, len(elements)) for c in itertools.combinations(elements, n)]


def published_table(file: Path, processes: int) -> None:
    """The whole table again, and how far it agrees."""
    start = time.perf_counter()
    ours, theirs = decomposition_energies(file, processes)
    taken = time.perf_counter() - start
    off = np.abs(ours - theirs)
    print(
        f"{len(ours)} decomposition energies in {taken:.1f} s on {processes} processes; within 2 meV/atom "
        f"{100 * (off <= 0.002).mean():.2f} %, at most {1000 * off.max():.1f} meV/atom"
    )


def store(n: int) -> None:
    """One candidate more among ``n`` on the embedded server: how long until all hulls that it moves are right."""
    from scdm_flows.builders import HullBuilder, RankingBuilder
    from scdm_flows.builders.hulls import pending_token
    from scdm_flows.config.settings import ScdmSettings
    from scdm_flows.documents import CandidateDoc, StageRecord
    from scdm_flows.stores import EmbeddedServer, connect
    from scdm_flows.thermo.table import ReferenceTable

    table, rng = ReferenceTable.load(), random.Random(0)
    elements = sorted(table.elements)[:30]
    systems = [sorted(rng.sample(elements, 4)) for _ in range(400)] + [
        sorted(rng.sample(elements, 2)) for _ in range(60)
    ]

    def candidate(number: int, names: list[str], energy: float | None = None) -> dict[str, Any]:
        counts = [rng.randint(1, 4) for _ in names]
        fractions = np.array(counts) / sum(counts)
        lowest = [min(p.energy_per_atom for p in table.phases[e]) for e in names]
        document = CandidateDoc(
            candidate_id=f"bench-{number:012x}",
            campaign="bench",
            generator="files",
            formula="".join(f"{e}{c}" for e, c in zip(names, counts, strict=True)),
            chemsys="-".join(names),
            elements=names,
            nelements=len(names),
            nsites=sum(counts),
            structure={},
            state="completed",
            energy_per_atom=float(fractions @ lowest) + (rng.uniform(0.2, 1.5) if energy is None else energy),
            energy_scheme=table.scheme,
            surrogate=True,
            one_layer=True,
            thickness_angstrom=3.0,
            area_per_atom_angstrom2=4.0,
            stages={"relax": StageRecord(status="passed")},
        ).model_dump()
        return document | {"hull_pending": pending_token(document)}

    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settings = ScdmSettings(data_dir=Path(folder))
        server = EmbeddedServer(settings.data_dir)
        try:
            database = connect(settings)
            documents = [candidate(i, systems[i % len(systems)]) for i in range(n)]
            for first in range(0, n, 1000):
                database.candidates._collection.insert_many([dict(d) for d in documents[first : first + 1000]])
            first_build = _timed(HullBuilder(database).run)
            print(f"hulls of {n} candidates in {len(systems)} systems, all new: {first_build:.1f} s")
            larger = next(s for s in systems if len(s) == 4)
            for names, energy, what in (
                (larger, None, "in a system of four elements"),
                (larger[:2], -3.0, "of two elements below the hull, which moves every larger system"),
            ):
                database.upsert(database.candidates, [candidate(n + len(names), names, energy)])
                builder = HullBuilder(database)
                taken = _timed(builder.run)
                print(f"one candidate more {what}: {taken:.2f} s, {builder.written} documents written")
            print(f"ranking of {n} candidates: {_timed(RankingBuilder(database).run):.1f} s")
            database.close()
        finally:
            server.stop()


def _timed(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", type=int, default=200, help="random chemical systems compared with pymatgen")
    parser.add_argument("--elements", type=int, nargs="+", default=[2, 3, 4], help="how many a system may have")
    parser.add_argument("--table", type=Path, help="table of decomposition energies")
    parser.add_argument("--candidates", type=int, default=0, help="candidates of the store; none when 0")
    parser.add_argument("--processes", type=int, default=2, help="processes of the table")
    given = parser.parse_args()
    beside_pymatgen(given.systems, given.elements)
    if given.table is not None:
        published_table(given.table, given.processes)
    if given.candidates:
        store(given.candidates)


if __name__ == "__main__":
    main()
