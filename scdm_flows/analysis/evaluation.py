"""What relaxation and hull say about samples: windows of E_hull, S.U.N., symmetry kept, distance moved. Pure.

Energies are a surrogate's; every count is over all samples, so that a sample that could not be relaxed counts against
the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from scdm_flows.analysis.gate import rmsd
from scdm_flows.calibration.model import PredictedEnergy
from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.hull import energy_above_hull
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.lattice import is_one_layer

WINDOWS = (0.0, 0.05, 0.1, 0.2, 0.6)  # eV/atom above hull; the paper's window ends at 0.6
SUN_WINDOW = 0.1  # eV/atom: stable in S.U.N.
KEPT_ANGSTROM = 0.1  # an operation is kept while every atom lands this near an atom of its kind
BEFORE_SYMPREC = 1e-3


@dataclass(frozen=True)
class Relaxed:
    """What became of one structure.

    Parameters
    ----------
    structure
        The relaxed structure, atoms in their order and c as it was; None where the relaxation failed.
    energy_per_atom
        Surrogate energy, eV/atom.
    converged
        Whether atoms' and cell's forces fell below the limit.
    steps
        Optimisation steps taken.
    max_force
        Largest force on an atom, eV/angstrom.
    error
        Why it failed; None where it did not.
    """

    structure: Structure | None
    energy_per_atom: float | None
    converged: bool
    steps: int
    max_force: float | None
    error: str | None = None


@dataclass(frozen=True)
class SampleEnergy:
    """One sample after relaxation.

    Parameters
    ----------
    e_above_hull
        Surrogate energy above hull, eV/atom; None where there is none.
    extrapolated
        Whether the layer lies outside what the energy model has learned from; None where there is no energy.
    converged, one_layer
        Whether the relaxation converged; whether what came out is one connected layer.
    group_kept
        Whether every operation of the sample's group still holds (it may have gained more).
    rmsd_angstrom
        Root mean square distance of the atoms from where they were, without the mean shift.
    reason
        Why a value is missing.
    """

    e_above_hull: float | None
    extrapolated: bool | None
    converged: bool
    one_layer: bool
    group_kept: bool
    rmsd_angstrom: float | None
    reason: str | None = None


def operations_kept(before: Structure, after: Structure, tolerance: float = KEPT_ANGSTROM) -> bool:
    """Whether every symmetry operation of ``before`` (at 1e-3 angstrom) still maps ``after`` onto itself.

    Both have their atoms in one order; tolerance in angstrom, for atoms and for lattice vectors.
    """
    import spglib

    numbers = np.array([site.specie.Z for site in before])
    cell = (before.lattice.matrix.tolist(), before.frac_coords.tolist(), numbers.tolist())
    symmetry = spglib.get_symmetry(cell, symprec=BEFORE_SYMPREC)
    if symmetry is None:
        return False
    matrix, frac = np.array(after.lattice.matrix), np.array(after.frac_coords)
    other_kind = numbers[:, None] != numbers[None, :]
    metric = matrix @ matrix.T
    for rotation, translation in zip(symmetry["rotations"], symmetry["translations"], strict=True):
        turned = rotation.T @ metric @ rotation
        lengths = np.sqrt(np.abs(np.diag(metric)))
        if (np.abs(turned - metric) > 2 * tolerance * np.maximum.outer(lengths, lengths)).any():
            return False
        delta = (frac @ rotation.T + translation)[:, None] - frac[None]
        delta -= np.round(delta)
        distance = np.sqrt(((delta @ matrix) ** 2).sum(-1))
        distance[other_kind] = np.inf
        if (distance.min(1) > tolerance).any():
            return False
    return True


def judge_relaxed(
    sample: Structure, relaxed: Relaxed, references: ReferenceTable, predicted: PredictedEnergy | str
) -> SampleEnergy:
    """A sample beside what relaxation made of it; never raises for a bad sample.

    predicted: its energy on the references' scale, or in words why there is none.
    """
    if relaxed.structure is None:
        return SampleEnergy(None, None, False, False, False, None, relaxed.error)
    after = relaxed.structure
    try:
        one_layer = is_one_layer(after)
        kept, moved = operations_kept(sample, after), rmsd(sample, after)
    except Exception as error:  # what came out of a relaxation can break a library in ways nobody lists
        return SampleEnergy(None, None, relaxed.converged, False, False, None, f"{type(error).__name__}: {error}")
    if isinstance(predicted, str):
        return SampleEnergy(None, None, relaxed.converged, one_layer, kept, moved, predicted)
    fractions = {str(e): float(x) for e, x in after.composition.fractional_composition.items()}
    try:
        energy = references.total_energy(fractions, predicted.formation_energy_per_atom)
        hull = energy_above_hull(fractions, energy, references.entries(list(fractions)))
    except ReferenceDataError as error:
        return SampleEnergy(None, None, relaxed.converged, one_layer, kept, moved, str(error))
    return SampleEnergy(hull.e_above_hull, predicted.extrapolated, relaxed.converged, one_layer, kept, moved)


def window_shares(energies: Sequence[SampleEnergy]) -> dict[str, NDArray[np.bool_]]:
    """Which samples are at or below each window, by name."""
    values = np.array([np.inf if e.e_above_hull is None else e.e_above_hull for e in energies])
    return {f"e_hull_{window:g}": values <= window + 1e-9 for window in WINDOWS}


def sun(
    energies: Sequence[SampleEnergy], novel: Sequence[bool | None], representative: Sequence[int | None]
) -> NDArray[np.bool_]:
    """Which samples are stable (surrogate E_hull <= ``SUN_WINDOW``, not extrapolated, one layer), unique and new.

    Of equal samples the first counts. novel, representative: as ``metrics.samples`` gives them, before relaxation.
    """
    found = np.zeros(len(energies), dtype=bool)
    seen: set[int] = set()
    for i, (energy, new, group) in enumerate(zip(energies, novel, representative, strict=True)):
        stable = energy.e_above_hull is not None and energy.e_above_hull <= SUN_WINDOW and energy.one_layer
        stable = stable and not energy.extrapolated
        if stable and new and group is not None and group not in seen:
            found[i] = True
            seen.add(group)
    return found
