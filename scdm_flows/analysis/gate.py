"""The gate: a relaxed candidate against the frozen references, and which stages follow. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.core.structure import Structure

from scdm_flows.config import CampaignConfig, GateConfig
from scdm_flows.documents.stages import GateDoc, ScreenedCandidate
from scdm_flows.documents.states import StageName
from scdm_flows.errors import ReferenceDataError, ScdmError
from scdm_flows.thermo.completeness import missing_phases
from scdm_flows.thermo.energy_model import PredictedEnergy
from scdm_flows.thermo.exfoliation import exfoliation_of
from scdm_flows.thermo.hull import energy_above_hull
from scdm_flows.thermo.scheme import refuse_other_potentials
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.symmetry.detect import detect_layer_group, detect_space_group
from scdm_models.symmetry.lattice import area_per_atom, is_one_layer, slab_thickness

logger = logging.getLogger(__name__)
RELAXED_SYMPREC = 0.05


@dataclass(frozen=True)
class Relaxation:
    """A relaxed structure (atoms as in the sample) and how the relaxation went; max_force in eV/angstrom."""

    structure: Structure
    converged: bool
    steps: int | None
    max_force: float | None

    @classmethod
    def of_task(cls, task: Any) -> Relaxation:
        """From the document of an atomate2 relaxation, whether of a force field or of VASP."""
        output = task.output
        forces = getattr(output, "forces", None)
        largest = None if forces is None else float(np.linalg.norm(np.array(forces, dtype=float), axis=1).max())
        # of atoms and cell; a force field's ``is_force_converged`` is of the atoms alone
        converged = str(getattr(task, "state", "")).rpartition(".")[2].lower() in ("successful", "success")
        steps, runs = getattr(output, "n_steps", None), getattr(task, "calcs_reversed", None)
        if steps is None and runs:  # VASP's
            steps = len(runs[0].output.ionic_steps or []) or None
        return cls(task.structure, converged, steps, largest)


def rmsd(first: Structure, second: Structure) -> float:
    """Root mean square distance of equally ordered atoms without the mean shift, angstrom; cells ignored.

    Where the elements come in another order, as VASP is given them in blocks, atoms of one element are in the same one.
    """
    if first.species != second.species:
        first, second = first.get_sorted_structure(), second.get_sorted_structure()
    delta = np.array(second.frac_coords) - np.array(first.frac_coords)
    delta -= np.round(delta)
    cart = delta @ np.array(second.lattice.matrix)
    cart -= cart.mean(axis=0)
    return float(np.sqrt((cart**2).sum(axis=1).mean()))


def gate(
    config: CampaignConfig,
    screened: ScreenedCandidate,
    relaxation: Relaxation,
    energy_per_atom: float,
    *,
    surrogate: bool,
    references: ReferenceTable | str,
    predicted: PredictedEnergy | None = None,
    scheme: str | None = None,
    potentials: Mapping[str, str] | None = None,
    cannot: Mapping[str, str] | None = None,
) -> GateDoc:
    """The gate's document; the energy above hull decides.

    Parameters
    ----------
    config, screened
        Campaign and screened candidate.
    relaxation
        Its relaxation.
    energy_per_atom
        Static energy, eV/atom, of ``scheme``.
    surrogate
        Whether a force field made it.
    references
        Frozen reference phases, or in words why there are none. A candidate with an element they lack gets no energy
        above hull, and the reason.
    predicted
        The energy on the references' scale where an energy model gives it; it stands in the place of the static one.
    scheme
        What the static energy is; the references' scheme when absent.
    potentials
        Element -> TITEL of its PAW potential, part of the scheme, where the engine has any.
    cannot
        Stage (phonon, bands) -> why the engine has no such stage.
    """
    relaxed = relaxation.structure
    table = None if isinstance(references, str) else references
    doc = GateDoc(
        candidate_id=screened.candidate_id,
        campaign=config.name,
        relaxed_structure=relaxed,
        relax_converged=relaxation.converged,
        relax_steps=relaxation.steps,
        max_force_ev_per_angstrom=relaxation.max_force,
        energy_per_atom=energy_per_atom,
        energy_scheme=scheme or (table.scheme if table is not None else "unknown"),
        surrogate=surrogate,
        reference_sha256=None if table is None else table.sha256,
        one_layer=is_one_layer(relaxed),
        thickness_angstrom=float(slab_thickness(relaxed)),
        area_per_atom_angstrom2=area_per_atom(relaxed),
        in_window=False,
        phonon=False,
    )
    if screened.structure is not None:
        doc.rmsd_to_relaxed_angstrom = rmsd(screened.structure, relaxed)
    try:
        doc.layer_group = detect_layer_group(relaxed, RELAXED_SYMPREC)
        doc.space_group = detect_space_group(relaxed, RELAXED_SYMPREC)
    except ScdmError:
        pass  # a distorted layer may have no group at this tolerance; the energies still count
    try:
        if table is None:
            raise ReferenceDataError(str(references))
        refuse_other_potentials(potentials or {}, table.titles, [str(e) for e in relaxed.composition])
        _add_energies(doc, relaxed, predicted, table)
    except ReferenceDataError as error:
        doc.reason = f"no energy above hull: {error}"
        return doc
    if predicted is None:  # an energy model's error is as large as what binds layers
        _add_exfoliation(doc, screened, relaxed, table)
    doc.reason = _judge(doc, config.gate)
    if doc.reason is None:
        doc.skipped = _skipped(doc, config.gate, len(relaxed), cannot or {})
        doc.phonon, doc.bands = StageName.PHONON not in doc.skipped, StageName.BANDS not in doc.skipped
        doc.reason = doc.skipped.get(StageName.PHONON)
    return doc


def _add_energies(
    doc: GateDoc, relaxed: Structure, predicted: PredictedEnergy | None, references: ReferenceTable
) -> None:
    fractions = {str(e): float(x) for e, x in relaxed.composition.fractional_composition.items()}
    if predicted is not None:
        doc.energy_per_atom = references.total_energy(fractions, predicted.formation_energy_per_atom)
        doc.energy_scheme, doc.energy_model = references.scheme, predicted.model
        doc.e_above_hull_error, doc.extrapolated = predicted.error, predicted.extrapolated
        doc.stable_probability = predicted.properties.stable_probability
        doc.nonmetal_probability = predicted.properties.nonmetal_probability
        doc.magnetic_probability = predicted.properties.magnetic_probability
        doc.predicted_band_gap = predicted.properties.band_gap
        doc.predicted_band_gap_error = predicted.properties.band_gap_error
        doc.direct_gap_probability = predicted.properties.direct_gap_probability
    elif doc.energy_scheme != references.scheme:
        raise ReferenceDataError(
            f"the energy is of scheme {doc.energy_scheme}, the references are of {references.scheme}; schemes never mix"
        )
    hull = energy_above_hull(fractions, doc.energy_per_atom, references.entries(list(fractions)))
    doc.formation_energy_per_atom = hull.formation_energy_per_atom
    doc.e_above_hull, doc.decomposition = hull.e_above_hull, hull.decomposition
    doc.missing_competitors = missing_phases(references, list(fractions))
    doc.e_above_hull_lower_bound = bool(doc.missing_competitors)


def _add_exfoliation(doc: GateDoc, screened: ScreenedCandidate, relaxed: Structure, references: ReferenceTable) -> None:
    known = [name for name in (screened.source_id, screened.candidate_id, *screened.known_as) if name]
    fractions = {str(e): float(x) for e, x in relaxed.composition.fractional_composition.items()}
    try:
        found = exfoliation_of(known, fractions, doc.energy_per_atom, area_per_atom(relaxed), references)
    except ReferenceDataError as error:
        logger.warning("no exfoliation energy of %s: %s", screened.candidate_id, error)
        return
    if found is not None:
        doc.exfoliation_mev_per_angstrom2, doc.bulk_parent = found.mev_per_angstrom2, found.parent


def _judge(doc: GateDoc, rules: GateConfig) -> str | None:
    """Sets ``in_window``; returns why nothing follows, None where something may."""
    if doc.e_above_hull is None:
        return "no energy above hull"
    doc.in_window = doc.e_above_hull <= rules.max_e_above_hull
    if not doc.relax_converged:
        force = (
            ""
            if doc.max_force_ev_per_angstrom is None
            else f", largest force {doc.max_force_ev_per_angstrom:.3f} eV/angstrom"
        )
        return f"the relaxation did not converge ({doc.relax_steps} steps{force}); raise max_relax_steps"
    if not doc.one_layer:
        return "fell apart: the relaxed structure is not one connected layer"
    if not doc.in_window:
        return f"E_hull {doc.e_above_hull:.3f} eV/atom is above the window of {rules.max_e_above_hull:g}"
    return None


def _skipped(doc: GateDoc, rules: GateConfig, n_atoms: int, cannot: Mapping[str, str]) -> dict[str, str]:
    """Stage -> why it does not follow; stages that follow are not in it."""
    assert doc.e_above_hull is not None
    limits = {
        StageName.PHONON: ("phonons", rules.phonon_max_e_above_hull, rules.phonon_max_atoms),
        StageName.BANDS: ("bands", rules.bands_max_e_above_hull, rules.bands_max_atoms),
    }
    skipped = {}
    for stage, (noun, energy, atoms) in limits.items():
        if stage.value in cannot:
            skipped[stage.value] = f"no {noun}: {cannot[stage.value]}"
        elif doc.e_above_hull > energy:
            skipped[stage.value] = f"no {noun}: E_hull {doc.e_above_hull:.3f} eV/atom is above {energy:g}"
        elif n_atoms > atoms:
            skipped[stage.value] = f"no {noun}: {n_atoms} atoms, at most {atoms} for {noun}"
    return skipped
