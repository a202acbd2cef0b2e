"""What relaxation and hull say about one sample: energy above hull, layer group, distance moved. Pure.

Energies are a surrogate's. What is counted of many samples is in ``scdm_flows.evaluation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymatgen.core import Structure

from scdm_flows.analysis.gate import rmsd
from scdm_flows.errors import ReferenceDataError, ScdmError
from scdm_flows.thermo.energy_model import PredictedEnergy
from scdm_flows.thermo.hull import energy_above_hull
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.metrics.groups import found_by_both
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.symmetry.lattice import is_one_layer


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
class RelaxedSample:
    """One sample after relaxation.

    Parameters
    ----------
    converged, one_layer
        Whether the relaxation converged; whether what came out is one connected layer.
    rmsd_angstrom
        Root mean square distance of the atoms from where they were sampled, without the mean shift.
    layer_group_sampled, layer_group
        The layer groups of the sample and of the relaxed layer, at one tolerance; None where none is found.
    group_kept
        Whether moyopy and spglib each find the sample's layer group, or one that can contain it, in the relaxed layer.
    formation_energy, energy_error, e_above_hull
        Surrogate energies, eV/atom: relative to the elements; the half-width that holds nine in ten errors of the
        energy above hull; that energy. None where there is none.
    extrapolated
        Whether the layer lies outside what the energy model has learned from; None where nothing is predicted.
    band_gap, band_gap_error
        Surrogate of PBE's band gap without spin-orbit, eV, 0 where a metal is more likely; the half-width that holds
        nine in ten. None where it is not predicted.
    nonmetal_probability, magnetic_probability, magnetic
        That PBE gives it a gap, or magnetic moments; whether the latter is likelier than among known layers.
    reason
        Why a value is missing.
    """

    converged: bool = False
    one_layer: bool = False
    rmsd_angstrom: float | None = None
    layer_group_sampled: int | None = None
    layer_group: int | None = None
    group_kept: bool = False
    formation_energy: float | None = None
    energy_error: float | None = None
    e_above_hull: float | None = None
    extrapolated: bool | None = None
    reason: str | None = None
    band_gap: float | None = None
    band_gap_error: float | None = None
    nonmetal_probability: float | None = None
    magnetic_probability: float | None = None
    magnetic: bool | None = None


def judge_relaxed(
    sample: Structure,
    relaxed: Relaxed,
    references: ReferenceTable,
    predicted: PredictedEnergy | str,
    symprec: float,
) -> RelaxedSample:
    """A sample beside what relaxation made of it; never raises for a bad sample.

    Parameters
    ----------
    sample
        As it was drawn, c perpendicular to a and b, atoms in the order of the relaxed ones.
    relaxed
        What relaxation made of it.
    references
        The phases of the hull.
    predicted
        Its energy on the references' scale, or in words why there is none.
    symprec
        Tolerance of the layer groups, angstrom.
    """
    if relaxed.structure is None:
        return RelaxedSample(reason=relaxed.error)
    after = relaxed.structure
    try:
        one_layer, moved = is_one_layer(after), rmsd(sample, after)
        before, group = _group(sample, symprec), _group(after, symprec)
        kept = before is not None and found_by_both(after, before, symprec)
    except Exception as error:  # what came out of a relaxation can break a library in ways nobody lists
        return RelaxedSample(relaxed.converged, reason=f"{type(error).__name__}: {error}")
    geometry = (relaxed.converged, one_layer, moved, before, group, kept)
    if isinstance(predicted, str):
        return RelaxedSample(*geometry, reason=predicted)
    fractions = {str(e): float(x) for e, x in after.composition.fractional_composition.items()}
    said = predicted.properties
    properties: dict[str, Any] = {
        "band_gap": said.band_gap,
        "band_gap_error": said.band_gap_error,
        "nonmetal_probability": said.nonmetal_probability,
        "magnetic_probability": said.magnetic_probability,
        "magnetic": said.magnetic,
    }
    try:
        energy = references.total_energy(fractions, predicted.formation_energy_per_atom)
        hull = energy_above_hull(fractions, energy, references.entries(list(fractions)))
    except ReferenceDataError as error:
        return RelaxedSample(*geometry, extrapolated=predicted.extrapolated, reason=str(error), **properties)
    energies = (hull.formation_energy_per_atom, predicted.error, hull.e_above_hull, predicted.extrapolated)
    return RelaxedSample(*geometry, *energies, **properties)


def _group(structure: Structure, symprec: float) -> int | None:
    try:
        return detect_layer_group(structure, symprec)
    except ScdmError:
        return None
