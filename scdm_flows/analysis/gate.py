"""The gate: energies of a relaxed candidate against the frozen references, and whether phonons follow. Pure."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Structure

from scdm_flows.analysis.calibration import calibrate
from scdm_flows.analysis.hull import Phase, energy_above_hull
from scdm_flows.config import CampaignConfig
from scdm_flows.documents.stages import GateDoc, ScreenedCandidate
from scdm_flows.errors import ReferenceDataError
from scdm_models.errors import ScdmError
from scdm_models.lattice import is_one_layer
from scdm_models.symmetry.detect import detect_layer_group, detect_space_group

RELAXED_SYMPREC = 0.05


def rmsd(first: Structure, second: Structure) -> float:
    """Root mean square distance of equally ordered atoms after removing the mean shift, angstrom (cell changes excluded)."""
    delta = np.array(second.frac_coords) - np.array(first.frac_coords)
    delta -= np.round(delta)
    cart = delta @ np.array(second.lattice.matrix)
    cart -= cart.mean(axis=0)
    return float(np.sqrt((cart**2).sum(axis=1).mean()))


def gate(
    config: CampaignConfig,
    screened: ScreenedCandidate,
    relaxed: Structure,
    energy_per_atom: float,
    *,
    scheme: str,
    surrogate: bool,
    converged: bool,
    steps: int | None,
    max_force: float | None,
    phases: list[Phase],
    reference_sha256: str,
) -> GateDoc:
    """The gate's document.

    Parameters
    ----------
    config, screened
        Campaign and screened candidate.
    relaxed
        Relaxed structure, atoms in the order of the sample.
    energy_per_atom
        Static energy, eV/atom, of ``scheme``; ``surrogate`` says whether a force field made it.
    converged, steps, max_force
        Of the relaxation; force in eV/angstrom.
    phases
        Frozen reference phases of the chemical system, in the same scheme.
    reference_sha256
        Names the reference table.
    """
    doc = GateDoc(
        candidate_id=screened.candidate_id,
        campaign=config.name,
        relaxed_structure=relaxed.as_dict(),
        relax_converged=converged,
        relax_steps=steps,
        max_force_ev_per_angstrom=max_force,
        energy_per_atom=energy_per_atom,
        energy_scheme=scheme,
        surrogate=surrogate,
        reference_sha256=reference_sha256,
        in_window=False,
        phonon=False,
    )
    if screened.structure is not None:
        doc.rmsd_to_relaxed_angstrom = rmsd(Structure.from_dict(screened.structure), relaxed)
    try:
        doc.layer_group = detect_layer_group(relaxed, RELAXED_SYMPREC)
        doc.space_group = detect_space_group(relaxed, RELAXED_SYMPREC)
    except ScdmError:
        pass  # a distorted layer may have no group at this tolerance; the energies still count
    doc.one_layer = is_one_layer(relaxed)
    fractions = {str(e): float(x) for e, x in relaxed.composition.fractional_composition.items()}
    try:
        hull = energy_above_hull(fractions, energy_per_atom, phases)
    except ReferenceDataError as error:
        doc.reason = f"no hull: {error}"
        return doc
    doc.formation_energy_per_atom = hull.formation_energy_per_atom
    doc.e_above_hull_raw, doc.decomposition = hull.e_above_hull, hull.decomposition
    doc.e_above_hull = hull.e_above_hull
    if surrogate:
        calibrated = calibrate(fractions, hull.e_above_hull, hull.formation_energy_per_atom)
        doc.e_above_hull, doc.e_above_hull_error = calibrated.e_above_hull, calibrated.error
        doc.calibration_id = calibrated.calibration_id
    rules = config.gate
    doc.in_window = doc.e_above_hull <= rules.max_e_above_hull
    if not converged:
        doc.reason = f"relaxation did not converge in {steps} steps (largest force {max_force} eV/angstrom)"
    elif not doc.one_layer:
        doc.reason = "fell apart: the relaxed structure is not one connected layer"
    elif not doc.in_window:
        doc.reason = f"E_hull {doc.e_above_hull:.3f} eV/atom is above the window of {rules.max_e_above_hull:g}"
    elif doc.e_above_hull > rules.phonon_max_e_above_hull:
        doc.reason = f"no phonons: E_hull {doc.e_above_hull:.3f} eV/atom is above {rules.phonon_max_e_above_hull:g}"
    elif len(relaxed) > rules.phonon_max_atoms:
        doc.reason = f"no phonons: {len(relaxed)} atoms, at most {rules.phonon_max_atoms} for phonons"
    else:
        doc.phonon = True
    return doc
