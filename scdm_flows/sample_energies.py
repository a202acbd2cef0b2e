"""Energies, stability and phonons of generated samples, for ``scdm evaluate``: relaxed together, then judged.

Everything is the surrogate's. What a sample is judged by is in ``analysis.evaluation``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.analysis.evaluation import Relaxed, SampleEnergy, judge_relaxed, sun, window_shares
from scdm_flows.config import ForceFieldEngineConfig
from scdm_models.metrics.samples import Interval, mean_interval, share_interval

if TYPE_CHECKING:
    from pymatgen.core import Structure

RELAX_FMAX, RELAX_STEPS = 0.05, 200  # eV/angstrom, steps
WINDOW = 0.6  # eV/atom
PHONON_ATOMS = 12  # of larger cells no phonons are computed
Report = Callable[[str, int, int], None]


def plain(interval: Interval) -> dict[str, Any]:
    """The interval for JSON."""
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


def move_atoms(structures: Sequence[Structure | None], distance: float, seed: int) -> list[Structure | None]:
    """The structures with every atom moved by ``distance`` angstrom in a random direction."""
    rng = np.random.default_rng(seed)
    moved: list[Structure | None] = []
    for structure in structures:
        if structure is not None:
            steps = rng.normal(size=(len(structure), 3))
            steps *= distance / np.linalg.norm(steps, axis=1, keepdims=True)
            structure = structure.copy()
            for i, step in enumerate(steps):
                structure.translate_sites([i], step, frac_coords=False, to_unit_cell=False)
        moved.append(structure)
    return moved


def energies_of(
    samples: Sequence[Structure | None],
    novel: Any,
    representative: Any,
    *,
    displaced: float | None = None,
    seed: int = 0,
    phonons: int | None = None,
    processes: int = 1,
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """Energies above hull of one file's samples, and the shares that follow; shares are over all samples.

    Parameters
    ----------
    samples
        Structures; None where there is none.
    novel, representative
        As ``metrics.samples`` gives them.
    displaced, seed
        How far every atom is moved before relaxing, angstrom, and the seed of the directions.
    phonons
        Of how many layers of lowest E_hull phonons are computed; of none when absent.
    processes
        Worker processes.
    report
        Called with what is done, how many of it and of how many.
    """
    from scdm_flows.engines.energies import predict_together
    from scdm_flows.engines.relaxation import RelaxSettings, relax_together
    from scdm_flows.thermo.table import ReferenceTable

    references = ReferenceTable.load()
    begin = samples if displaced is None else move_atoms(samples, displaced, seed)
    present = [i for i, structure in enumerate(samples) if structure is not None]
    structures = [structure for structure in samples if structure is not None]
    relaxed = relax_together(
        [structure for structure in begin if structure is not None],
        RelaxSettings(RELAX_FMAX, RELAX_STEPS),
        processes=processes,
        progress=lambda done: report("relax", done, len(structures)),
    )
    predicted = predict_together(
        [one.structure for one in relaxed],
        ForceFieldEngineConfig(),
        processes=processes,
        progress=lambda done: report("energies", done, len(structures)),
    )
    found = [
        judge_relaxed(sample, one, references, energy)
        for sample, one, energy in zip(structures, relaxed, predicted, strict=True)
    ]
    n = len(samples)
    shares = {name: int(flags.sum()) for name, flags in window_shares(found).items()}
    one_layer = [e.one_layer for e in found]
    in_window = [e.e_above_hull is not None and e.e_above_hull <= WINDOW for e in found]
    shares["e_hull_0.6_one_layer"] = sum(a and b for a, b in zip(in_window, one_layer, strict=True))
    shares["sun"] = int(sun(found, [novel[i] for i in present], [representative[i] for i in present]).sum())
    shares["relax_converged"] = sum(e.converged for e in found)
    shares["one_layer_relaxed"] = sum(one_layer)
    shares["group_kept"] = sum(e.group_kept for e in found)
    measures = {name: plain(share_interval(count, n)) for name, count in shares.items()}
    moved = [e.rmsd_angstrom for e in found if e.rmsd_angstrom is not None]
    if moved:
        measures["rmsd_angstrom"] = plain(mean_interval(moved))
    if phonons is not None:
        stable = _phonon_stable(found, relaxed, phonons, processes, report)
        if stable:
            measures["phonon_stable"] = plain(share_interval(sum(stable), len(stable)))
    return {
        "measures": measures,
        "e_above_hull": [e.e_above_hull for e in found],
        "extrapolated": [e.extrapolated for e in found],
        "not_judged": {str(i): e.reason for i, e in zip(present, found, strict=True) if e.reason is not None},
    }


def _phonon_stable(
    found: Sequence[SampleEnergy], relaxed: Sequence[Relaxed], count: int, processes: int, report: Report
) -> list[bool]:
    """Whether the ``count`` layers of lowest energy above hull are phonon-stable; without phonons they are not."""
    from scdm_flows.engines.phonons import phonons_together

    layers = [
        (e.e_above_hull, i, r.structure)
        for i, (e, r) in enumerate(zip(found, relaxed, strict=True))
        if e.e_above_hull is not None and e.converged and e.one_layer and r.structure is not None
        if len(r.structure) <= PHONON_ATOMS
    ]
    chosen = [(str(i), structure) for _, i, structure in sorted(layers, key=lambda x: x[:2])[:count]]
    documents = phonons_together(
        chosen,
        ForceFieldEngineConfig(),
        "evaluate",
        processes=processes,
        progress=lambda done: report("phonons", done, len(chosen)),
    )
    return [not isinstance(d, str) and d.dynamically_stable for d in documents]
