"""Relaxation jobs by the engine beside atomate2's ``ForceFieldRelaxMaker`` one by one: the same results, sooner.

    python benchmarks/relaxations.py -n 200
    python benchmarks/relaxations.py -n 200 --structures c2db.jsonl.gz

Both run jobs of jobflow and store a document for each. The engine spreads them over a process on each core and relaxes
many together; the maker runs one after the other, with all cores for its threads. Its optimiser and cell filter are set
to the engine's (BFGS, ``UnitCellFilter``); ``--default`` adds the maker as it comes (FIRE, ``FrechetCellFilter``).

Structures are those of a file, else samples of both packaged models that were relaxed and then moved by 0.05 angstrom
an atom; ``--raw`` takes samples as they are drawn. Rounding alone decides which minimum a structure between two of them
reaches, so the maker is also set beside itself, from atoms moved by 1e-5 angstrom. Exits with 1 where the engine agrees
with the maker within 2 meV/atom and 0.01 angstrom less often than the maker does with itself, by more than two standard
deviations of such counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from scdm_flows.analysis.gate import Relaxation, rmsd
from scdm_flows.cli.common import cores
from scdm_flows.config import ForceFieldEngineConfig
from scdm_flows.engines.forcefield.engine import ForceFieldEngine
from scdm_flows.engines.forcefield.relaxation import IN_PLANE, SYMPREC_ANGSTROM
from scdm_flows.execution.jobs import hushed, quiet
from scdm_flows.execution.local.processes import Work, work_off
from scdm_flows.execution.local.work import TOGETHER
from scdm_models.model.checkpoint import load_checkpoint
from scdm_models.sampling.sampler import generate

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.memory import memory_database

ENERGY_MEV, LENGTH = 2.0, 0.01  # per atom; angstrom
Found = tuple[Structure, float, bool] | str


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
            for ahead in engine.relax_ahead(structures):
                yield ahead.index, run(ahead.maker, structures[ahead.index], store)

    return work


def by_engine(structures: list[Structure], config: ForceFieldEngineConfig) -> tuple[float, list[Found]]:
    """Seconds, with the start of the processes, and the results in order."""
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
        fix_symmetry=config.fix_symmetry,
        symprec=SYMPREC_ANGSTROM,
        relax_kwargs={"fmax": config.fmax_ev_per_angstrom, "filter_kwargs": {"mask": IN_PLANE}, **alike},
        optimizer_kwargs={} if default else {"optimizer": "BFGS"},
        calculator_kwargs={"use_device": "cpu", "on_isolated_atoms": "error"},
        ionic_step_data=("energy",),
    )
    store = memory_database().job_store
    torch.set_num_threads(cores())
    with TemporaryDirectory() as folder, chdir(folder):
        begun = time.perf_counter()
        found = [run(maker, structure, store) for structure in structures]
        return time.perf_counter() - begun, found


def minima(n: int, seed: int) -> list[Structure]:
    """Samples of both models that were relaxed, each atom moved by 0.05 angstrom in a direction of its own."""
    from scdm_flows.engines.forcefield.relaxation import RelaxSettings, relax_together

    relaxed = relax_together(
        samples(n + n // 4, seed), RelaxSettings(0.02, 500, force_field="CHGNet"), processes=cores()
    )
    kept = [r.structure for r in relaxed if r.structure is not None and r.converged][:n]
    return [moved(structure, 0.05, seed + place) for place, structure in enumerate(kept)]


def samples(n: int, seed: int) -> list[Structure]:
    """As they are drawn, half of them from each packaged model."""
    return [
        sample.structure
        for model, half in (("scdm", n - n // 2), ("unscdm", n // 2))
        for sample in generate(half, seed, checkpoint=load_checkpoint(packaged=model))
    ]


def moved(structure: Structure, distance: float, seed: int) -> Structure:
    """Each atom moved by a distance (angstrom) in a random direction."""
    directions = np.random.default_rng(seed).normal(size=(len(structure), 3))
    directions *= distance / np.linalg.norm(directions, axis=1)[:, None]
    xyz = np.asarray(structure.cart_coords) + directions
    return Structure(structure.lattice, structure.species, xyz, coords_are_cartesian=True)


def layers_of(path: Path, n: int, seed: int) -> list[Structure]:
    """Layers of a file, chosen at random, with at most 20 atoms."""
    from scdm_models.datasets.readers import read_any
    from scdm_models.datasets.records import LayerRecord
    from scdm_models.symmetry.lattice import orient_slab

    read = [r.structure for r in read_any(path) if isinstance(r, LayerRecord) and len(r.structure) <= 20]
    chosen = np.random.default_rng(seed).permutation(len(read))[:n]
    return [orient_slab(read[k]) for k in chosen]


def compare(ours: list[Found], theirs: list[Found]) -> list[tuple[int, float, float, float]]:
    """(place, meV/atom, rms distance of atoms, largest difference of a and b in angstrom) of what both relaxed."""
    rows = []
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if isinstance(one, str) or isinstance(other, str):
            continue
        lengths = np.abs(np.subtract(one[0].lattice.abc, other[0].lattice.abc)).max()
        rows.append((place, 1000 * (one[1] - other[1]), rmsd(other[0], one[0]), float(lengths)))
    return rows


def judge(name: str, ours: list[Found], theirs: list[Found], times: tuple[float, float]) -> int:
    """Print the factor and the agreement; returns how many agree."""
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
    return len(rows) - len(off) + failed


def main() -> None:
    """Relax both ways, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=200, help="structures")
    parser.add_argument("--structures", type=Path, help="file of layers")
    parser.add_argument("--raw", action="store_true", help="samples as they are drawn")
    parser.add_argument("--fmax", type=float, default=0.002, help="eV/angstrom")
    parser.add_argument("--fix-symmetry", action="store_true", help="both keep the symmetry of what they are given")
    parser.add_argument("--default", action="store_true", help="also the maker with its own optimiser")
    given = parser.parse_args()
    config = ForceFieldEngineConfig(
        force_field="CHGNet",  # which atomate2's maker knows too
        fmax_ev_per_angstrom=given.fmax,
        max_relax_steps=500,
        fix_symmetry=given.fix_symmetry,
    )
    if given.structures is not None:
        structures = layers_of(given.structures, given.n, 0)
    else:
        structures = samples(given.n, 1) if given.raw else minima(given.n, 1)
    quiet()
    seconds, ours = by_engine(structures, config)
    times, theirs = by_atomate2(structures, config, default=False)
    agree = judge("ForceFieldRelaxMaker of the same settings", ours, theirs, (seconds, times))
    near = [moved(structure, 1e-5, place) for place, structure in enumerate(structures)]
    again_seconds, again = by_atomate2(near, config, default=False)
    control = judge("the maker itself, from 1e-5 angstrom away", again, theirs, (again_seconds, times))
    if given.default:
        default_seconds, default = by_atomate2(structures, config, default=True)
        judge("ForceFieldRelaxMaker as it comes", ours, default, (seconds, default_seconds))
    n, own = len(structures), control / len(structures)
    sys.exit(agree < control - 2 * max(1.0, float(np.sqrt(2 * n * own * (1 - own)))))


if __name__ == "__main__":
    main()
