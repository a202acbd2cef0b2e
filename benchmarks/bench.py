"""Our speed beside what a user would take instead, as ratios within one run (`make bench`); absolute numbers are noise.

Everything runs on one thread unless it says otherwise; sampling is also shown with a process on each core.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import chdir
from tempfile import TemporaryDirectory

import torch

warnings.filterwarnings("ignore")


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def sampling() -> None:
    """Samples with decoding and detection: default steps, 1,000 steps, processes, a GPU where there is one."""
    from scdm_models.sampler import DEFAULT_STEPS, SamplerOptions, generate

    def draw(n: int, steps: int, processes: int = 1) -> float:
        options = SamplerOptions(steps=steps)
        return n / seconds(lambda: list(generate(n, 0, options=options, batch_size=128, processes=processes)))

    draw(16, 5)
    default, long = draw(256, DEFAULT_STEPS), draw(32, 1000)
    print(
        f"sampling, {DEFAULT_STEPS} steps          {default:8.1f} /s   {default / long:6.1f} x the speed of 1,000 steps"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    many = draw(1024 * cores, DEFAULT_STEPS, cores)
    print(f"sampling, {cores} processes       {many:8.1f} /s   {many / default:6.2f} x one (with the processes' start)")
    if torch.cuda.is_available():
        print("a GPU is here, but the sampler runs on the CPU")


def encoding() -> None:
    """Structures to asymmetric units and back, beside spglib's own analysis of the same structures."""
    import spglib

    from scdm_models.encoding import decode, encode
    from scdm_models.sampler import SamplerOptions, generate

    crystals = [sample.crystal for sample in generate(200, 1, options=SamplerOptions(steps=5))]
    structures = [decode(crystal) for crystal in crystals]
    cells = [(s.lattice.matrix, s.frac_coords, [site.specie.Z for site in s]) for s in structures]
    ours = len(structures) / seconds(lambda: [encode(s) for s in structures])
    back = len(structures) / seconds(lambda: [decode(c) for c in crystals])
    theirs = len(cells) / seconds(lambda: [spglib.get_symmetry_dataset(c, symprec=1e-3) for c in cells])
    print(f"encode                      {ours:8.0f} /s   {ours / theirs:6.2f} x spglib's data set of the same cell")
    print(f"decode                      {back:8.0f} /s")


def relaxation() -> None:
    """Relaxing together, beside atomate2's relaxer one by one."""
    from atomate2.ase.utils import AseRelaxer
    from chgnet.model.dynamics import CHGNetCalculator

    from scdm_flows.engines.forcefield import IN_PLANE, chgnet
    from scdm_flows.engines.relaxation import relax_together
    from scdm_models.sampler import generate

    structures = [s.structure for s in generate(24, 2) if len(s.structure) <= 12][:12]
    relax_together(structures[:1], fmax=0.05, max_steps=1)
    ours = seconds(lambda: relax_together(structures, fmax=0.05, max_steps=200))
    relaxer = AseRelaxer(CHGNetCalculator(chgnet(), use_device="cpu"))
    options = {"fmax": 0.05, "steps": 200, "filter_kwargs": {"mask": IN_PLANE}, "final_atoms_object_file": None}
    with TemporaryDirectory() as folder, chdir(folder):  # it writes files where it stands
        theirs = seconds(lambda: [relaxer.relax(s.copy(), **options) for s in structures])
    print(f"relaxing together         {len(structures) / ours:8.2f} /s   {theirs / ours:6.1f} x atomate2's relaxer")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in (sampling, encoding, relaxation):
        part()
