"""Our speed beside what a user would take instead, as ratios within one run (`make bench`); absolute numbers are noise.

Everything runs on one thread unless it says otherwise; sampling is also shown with a process on each core.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
warnings.filterwarnings("ignore")


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def sampling() -> None:
    """Samples with decoding and detection: default steps, 1,000 steps, processes, a GPU where there is one."""
    from scdm_flows.cli.common import cores
    from scdm_models.sampling.sampler import DEFAULT_STEPS, SamplerOptions, generate

    def draw(n: int, steps: int, processes: int = 1) -> float:
        options = SamplerOptions(steps=steps)
        return n / seconds(lambda: list(generate(n, 0, options=options, batch_size=128, processes=processes)))

    draw(16, 5)
    default, long = draw(256, DEFAULT_STEPS), draw(32, 1000)
    print(
        f"sampling, {DEFAULT_STEPS} steps          {default:8.1f} /s   {default / long:6.1f} x the speed of 1,000 steps"
    )
    n = cores()
    many = draw(1024 * n, DEFAULT_STEPS, n)
    print(f"sampling, {n} processes       {many:8.1f} /s   {many / default:6.2f} x one (with the processes' start)")
    if torch.cuda.is_available():
        print("a GPU is here, but the sampler runs on the CPU")


def encoding() -> None:
    """Structures to asymmetric units and back, beside spglib's own analysis of the same structures."""
    import spglib

    from scdm_models.sampling.sampler import SamplerOptions, generate
    from scdm_models.symmetry.encoding import decode, encode

    crystals = [sample.crystal for sample in generate(200, 1, options=SamplerOptions(steps=5))]
    structures = [decode(crystal) for crystal in crystals]
    cells = [(s.lattice.matrix, s.frac_coords, [site.specie.Z for site in s]) for s in structures]
    ours = len(structures) / seconds(lambda: [encode(s) for s in structures])
    back = len(structures) / seconds(lambda: [decode(c) for c in crystals])
    theirs = len(cells) / seconds(lambda: [spglib.get_symmetry_dataset(c, symprec=1e-3) for c in cells])
    print(f"encode                      {ours:8.0f} /s   {ours / theirs:6.2f} x spglib's data set of the same cell")
    print(f"decode                      {back:8.0f} /s")


def phonons(c2db: Path | None = None, n: int = 6, processes: int = 1) -> None:
    """Phonons of many layers in one batch, beside atomate2's ``PhononMaker`` one by one; the frequencies must agree.

    Layers are C2DB's where its file is given, else the packaged model's, with at most six atoms, relaxed.
    """
    from atomate2.forcefields.flows.phonons import PhononMaker
    from atomate2.forcefields.jobs import ForceFieldStaticMaker
    from jobflow import run_locally
    from phonopy import Phonopy
    from pymatgen.io.phonopy import get_phonopy_structure, get_pmg_structure
    from support.memory import memory_database

    from scdm_flows.analysis.phonons import phonon_bands
    from scdm_flows.analysis.sum_rules import enforce, pairs_of
    from scdm_flows.config import ForceFieldEngineConfig
    from scdm_flows.documents import PhononDoc
    from scdm_flows.engines.base import PHONON_SYMPREC_ANGSTROM
    from scdm_flows.engines.forcefield.phonons import phonons_together
    from scdm_flows.engines.forcefield.relaxation import RelaxSettings, relax_together
    from scdm_flows.execution.jobs import hushed
    from scdm_models.datasets.readers import read_any
    from scdm_models.datasets.records import LayerRecord
    from scdm_models.sampling.sampler import generate

    if c2db is not None:
        records = [r.structure for r in read_any(c2db) if isinstance(r, LayerRecord) and len(r.structure) <= 6]
        given = [records[i] for i in np.random.default_rng(0).permutation(len(records))[: 2 * n]]
    else:
        given = [s.structure for s in generate(4 * n, 2) if len(s.structure) <= 6]
    relaxed = relax_together(given, RelaxSettings(0.01, 300, force_field="CHGNet"), processes=processes)
    usable = [r.structure for r in relaxed if r.structure is not None and r.converged]
    layers = [(f"layer-{k}", structure) for k, structure in enumerate(usable)][:n]
    config = ForceFieldEngineConfig(force_field="CHGNet")  # which atomate2's maker knows too
    phonons_together(layers[:1], config, "bench")  # the model is loaded
    found: list[PhononDoc | str] = []
    ours = seconds(lambda: found.extend(phonons_together(layers, config, "bench")))
    many = ours
    if processes > 1:
        many = seconds(lambda: phonons_together(layers, config, "bench", processes=processes))
    theirs, largest = 0.0, []
    for (name, structure), doc in zip(layers, found, strict=True):
        if isinstance(doc, str):
            print(f"  {name} {structure.formula}: {doc}")
            continue
        static = ForceFieldStaticMaker(
            force_field_name="CHGNet",
            calculator_kwargs={"use_device": "cpu", "on_isolated_atoms": "error"},
            ionic_step_data=("energy",),
        )
        maker = PhononMaker(
            displacement=config.phonon_displacement_angstrom,
            bulk_relax_maker=None,
            static_energy_maker=None,
            born_maker=None,
            symprec=PHONON_SYMPREC_ANGSTROM,  # else a layer that is symmetric to 1e-3 gets other displacements
            phonon_displacement_maker=static,
        )
        flow = maker.make(structure, supercell_matrix=doc.supercell)
        store = memory_database().job_store
        with TemporaryDirectory() as folder, hushed():
            start = time.perf_counter()
            done = run_locally(flow, store=store, root_dir=folder, log=False, raise_immediately=True)
            theirs += time.perf_counter() - start
        # the same level: ours takes off the residual forces of the undisplaced supercell, so they go here too; at
        # phonopy's own symprec of 1e-5, images of an atom that are equally far only nearly would not share their part
        cell = get_phonopy_structure(structure)
        check = Phonopy(cell, doc.supercell, primitive_matrix=np.eye(3), symprec=PHONON_SYMPREC_ANGSTROM)
        check.generate_displacements(distance=doc.displacement_angstrom)
        with TemporaryDirectory() as folder, chdir(folder), hushed():
            rest = static.make(get_pmg_structure(check.supercell)).run(store).output.output.forces
        runs = [r[1].output for r in done.values() if hasattr(r[1].output, "forcefield_name")]
        check.forces = [np.array(run.output.forces) - np.array(rest) for run in runs]
        check.produce_force_constants()
        check.symmetrize_force_constants(level=2)
        check.force_constants = enforce(pairs_of(check)).constants
        difference = np.abs(phonon_bands(check, structure).frequencies - np.array(doc.frequencies_thz))
        # at Gamma the acoustic modes are zero up to rounding, of which the root is taken
        largest.append(float(difference[np.abs(doc.q_points).max(axis=1) > 0].max()))
    per_minute = 60 * len(layers)
    print(
        f"phonons together       {per_minute / ours:8.1f} /min {theirs / ours:6.1f} x atomate2's PhononMaker "
        f"({per_minute / theirs:.1f} /min, one by one); frequencies of {sum(x < 0.01 for x in largest)} of "
        f"{len(largest)} layers within 0.01 THz, the worst {max(largest):.4f}, the median {np.median(largest):.4f}"
    )
    if processes > 1:
        print(
            f"phonons, {processes} processes   {per_minute / many:8.1f} /min {theirs / many:6.1f} x (with their start)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parts = (sampling, encoding, phonons)
    parser.add_argument("parts", nargs="*", choices=[[], *(p.__name__ for p in parts)], help="all when absent")
    parser.add_argument("--c2db", type=Path, help="file of layers for the phonons")
    parser.add_argument("--layers", type=int, default=6, help="layers whose phonons are computed")
    parser.add_argument("--processes", type=int, default=1, help="processes of the phonons")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in parts:
        if given.parts and part.__name__ not in given.parts:
            continue
        if part is phonons:
            phonons(given.c2db, given.layers, given.processes)
        else:
            part()
