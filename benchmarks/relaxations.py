"""Relaxation jobs by the engine beside atomate2's ``ForceFieldRelaxMaker`` one by one: the same results, sooner.

    python benchmarks/relaxations.py -n 200

Both run jobs of jobflow and store a document for each. The engine spreads them over a process on each core and relaxes
many together; the maker runs one after the other, with all cores for its threads. Its optimiser and cell filter are set
to the engine's (BFGS, ``UnitCellFilter``), as two optimisers often end in different minima of a generated structure;
``--default`` adds the maker as it comes (FIRE, ``FrechetCellFilter``). Exits with 1 where results differ by more than
2 meV/atom or 0.01 angstrom.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from scdm_flows.analysis.gate import Relaxation, rmsd
from scdm_flows.config import ForceFieldEngineConfig
from scdm_flows.engines.chgnet import CALCULATOR, IN_PLANE
from scdm_flows.engines.forcefield import ForceFieldEngine
from scdm_flows.execution import hushed
from scdm_flows.runner import TOGETHER, quiet
from scdm_flows.stores import memory_database
from scdm_flows.workers import Work, work_off
from scdm_models.checkpoint import load_checkpoint
from scdm_models.sampler import generate

ENERGY_MEV, LENGTH = 2.0, 0.01  # per atom; angstrom
Found = tuple[Structure, float, bool] | str


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(maker: Any, structure: Structure, store: Any) -> Found:
    """One job: structure, energy (eV/atom), whether it converged; or why it failed."""
    try:
        with hushed():
            task = maker.make(structure).run(store).output
    except Exception as error:  # an isolated atom
        return f"{type(error).__name__}: {error}"
    return task.structure, float(task.output.energy_per_atom), Relaxation.of_task(task).converged


def engine_worker(config: ForceFieldEngineConfig) -> Work[Structure, Found]:
    """What a process of the engine does with the structures that it is given."""
    torch.set_num_threads(1)
    quiet()
    engine, store = ForceFieldEngine(config), memory_database().job_store

    def work(structures: Sequence[Structure]) -> Iterator[tuple[int, Found]]:
        with TemporaryDirectory() as folder, chdir(folder):
            for place in engine.relax_ahead(structures):
                yield place, run(engine.relax_maker(), structures[place], store)

    return work


def by_engine(structures: list[Structure], config: ForceFieldEngineConfig) -> tuple[float, list[Found]]:
    """Seconds without the start of the processes' imports, and the results in order."""
    begun = time.perf_counter()
    keys = {id(s): k for k, s in enumerate(structures)}
    found: dict[int, Found] = {}
    for structure, result in work_off(structures, partial(engine_worker, config), cores(), TOGETHER):
        found[keys[id(structure)]] = result  # type: ignore[assignment]
    return time.perf_counter() - begun, [found[k] for k in range(len(structures))]


def by_atomate2(
    structures: list[Structure], config: ForceFieldEngineConfig, *, default: bool
) -> tuple[float, list[Found]]:
    """Seconds and results of the maker, one by one."""
    from ase.filters import UnitCellFilter
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker

    alike = {} if default else {"cell_filter": UnitCellFilter, "maxstep": 0.15}
    maker = ForceFieldRelaxMaker(
        force_field_name="CHGNet",
        relax_cell=True,
        steps=config.max_relax_steps,
        relax_kwargs={"fmax": config.fmax_ev_per_angstrom, "filter_kwargs": {"mask": IN_PLANE}, **alike},
        optimizer_kwargs={} if default else {"optimizer": "BFGS"},
        calculator_kwargs=CALCULATOR,
        ionic_step_data=("energy",),
    )
    store = memory_database().job_store
    torch.set_num_threads(cores())
    with TemporaryDirectory() as folder, chdir(folder):
        begun = time.perf_counter()
        found = [run(maker, structure, store) for structure in structures]
        return time.perf_counter() - begun, found


def compare(ours: list[Found], theirs: list[Found]) -> list[tuple[int, float, float, float]]:
    """(place, meV/atom, rms distance of atoms, largest difference of a and b in angstrom) of what both relaxed."""
    rows = []
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if isinstance(one, str) or isinstance(other, str):
            continue
        lengths = np.abs(np.subtract(one[0].lattice.abc, other[0].lattice.abc)).max()
        rows.append((place, 1000 * (one[1] - other[1]), rmsd(other[0], one[0]), float(lengths)))
    return rows


def judge(name: str, ours: list[Found], theirs: list[Found], times: tuple[float, float]) -> bool:
    """Print the factor and the agreement; returns whether all agree."""
    rows = compare(ours, theirs)
    failed = sum(isinstance(a, str) and isinstance(b, str) for a, b in zip(ours, theirs, strict=True))
    off = [r for r in rows if abs(r[1]) > ENERGY_MEV or max(r[2], r[3]) > LENGTH]
    steps = f"{len(ours) / times[0]:.2f} /s beside {len(ours) / times[1]:.2f} /s"
    print(f"relaxation jobs, {cores()} cores   {steps}: {times[1] / times[0]:.1f} x {name}")
    print(
        f"  {len(rows) - len(off)} of {len(ours)} equal within {ENERGY_MEV:g} meV/atom and {LENGTH:g} angstrom, "
        f"{failed} failed in both; largest difference {max(abs(r[1]) for r in rows):.2f} meV/atom, "
        f"{max(max(r[2:]) for r in rows):.4f} angstrom; lower by more than {ENERGY_MEV:g} meV: "
        f"{sum(r[1] < -ENERGY_MEV for r in rows)} here, {sum(r[1] > ENERGY_MEV for r in rows)} there"
    )
    for place, energy, distance, length in off[:10]:
        one, other = ours[place], theirs[place]
        print(
            f"  {place}: {energy:+.2f} meV/atom, {distance:.4f}, {length:.4f} angstrom, converged {one[2]}, {other[2]}"
        )
    return len(rows) - len(off) + failed == len(ours)


def main() -> None:
    """Generate, relax both ways, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=200, help="structures, half of them from each packaged model")
    parser.add_argument("--default", action="store_true", help="also the maker with its own optimiser")
    given = parser.parse_args()
    config = ForceFieldEngineConfig()
    structures = [
        sample.structure
        for model, n in (("scdm", given.n - given.n // 2), ("unscdm", given.n // 2))
        for sample in generate(n, 1, checkpoint=load_checkpoint(packaged=model))
    ]
    quiet()
    seconds, ours = by_engine(structures, config)
    same = True
    for default in (False, True)[: 1 + given.default]:
        theirs_seconds, theirs = by_atomate2(structures, config, default=default)
        name = "ForceFieldRelaxMaker" + (
            " as it comes (FIRE, FrechetCellFilter)" if default else " of the same settings"
        )
        agree = judge(name, ours, theirs, (seconds, theirs_seconds))
        same &= agree or default
    sys.exit(not same)


if __name__ == "__main__":
    main()
