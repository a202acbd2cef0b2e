"""The force-field engine: CHGNet through atomate2's makers. Everything it gives is a surrogate for DFT.

Relaxation and static energy are atomate2's ``ForceFieldRelaxMaker`` and ``ForceFieldStaticMaker``. Phonons are one
job with phonopy: atomate2's ``PhononMaker`` relaxes c, adds a three-dimensional path and becomes a flow of several
dynamic jobs that each load the model; here all displaced supercells go through one model in one batch, and a killed
phonon stage has nothing half-done to clean up.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Structure

from scdm_flows.analysis.stability import judge, phonon_bands, phonon_supercell
from scdm_flows.config import ForceFieldEngineConfig
from scdm_flows.documents.base import Provenance
from scdm_flows.documents.stages import PhononDoc
from scdm_flows.provenance import git_commit, versions

if TYPE_CHECKING:
    from jobflow import Maker

# strain components of the cell that may relax: xx, yy, xy; c keeps its length and direction exactly
IN_PLANE = [1, 1, 0, 0, 0, 1]
SUPERCELL_BATCH_ATOMS = 400


@cache
def _chgnet() -> Any:
    """One CHGNet in memory for each process."""
    from chgnet.model import CHGNet

    return CHGNet.load(use_device="cpu", verbose=False)


class ForceFieldEngine:
    """CHGNet 0.3.0 on the CPU."""

    scheme = "chgnet-0.3.0"
    surrogate = True

    def __init__(self, config: ForceFieldEngineConfig) -> None:
        self.config = config

    def check(self) -> list[str]:
        """What is missing to run."""
        if importlib.util.find_spec("chgnet") is None:
            return ["CHGNet is not installed; install it with pip install chgnet==0.4.2"]
        return []

    def relax_maker(self) -> Maker:
        """``ForceFieldRelaxMaker`` with c held."""
        from atomate2.forcefields.jobs import ForceFieldRelaxMaker

        return ForceFieldRelaxMaker(
            name="relax",
            force_field_name=self.config.force_field,
            relax_cell=True,
            steps=self.config.max_relax_steps,
            relax_kwargs={"fmax": self.config.fmax_ev_per_angstrom, "filter_kwargs": {"mask": IN_PLANE}},
            calculator_kwargs={"use_device": "cpu"},
            ionic_step_data=("energy",),
        )

    def static_maker(self) -> Maker:
        """``ForceFieldStaticMaker``."""
        from atomate2.forcefields.jobs import ForceFieldStaticMaker

        return ForceFieldStaticMaker(
            name="static",
            force_field_name=self.config.force_field,
            calculator_kwargs={"use_device": "cpu"},
            ionic_step_data=("energy",),
        )

    def forces(self, structures: list[Structure]) -> list[np.ndarray]:
        """(n_atoms, 3) surrogate forces of each structure, eV/angstrom, in batches of one model."""
        size = max(1, SUPERCELL_BATCH_ATOMS // max(len(s) for s in structures))
        found: list[np.ndarray] = []
        for start in range(0, len(structures), size):
            predictions = _chgnet().predict_structure(structures[start : start + size], task="ef", batch_size=size)
            if isinstance(predictions, dict):  # CHGNet unwraps a list of one
                predictions = [predictions]
            found += [np.array(p["f"], dtype=float) for p in predictions]
        return found

    def phonons(self, candidate_id: str, campaign: str, structure: Structure) -> PhononDoc:
        """Finite displacements in an (n, m, 1) supercell, sum rules, bands on the in-plane path."""
        from phonopy import Phonopy
        from pymatgen.io.phonopy import get_phonopy_structure, get_pmg_structure

        supercell = phonon_supercell(structure, self.config.phonon_min_length_angstrom)
        phonon = Phonopy(get_phonopy_structure(structure), supercell, primitive_matrix=np.eye(3), symprec=1e-3)
        phonon.generate_displacements(distance=self.config.phonon_displacement_angstrom)
        displaced = [get_pmg_structure(s) for s in phonon.supercells_with_displacements]
        # the residual force of the undisplaced supercell is no restoring force
        rest, *forces = self.forces([get_pmg_structure(phonon.supercell), *displaced])
        phonon.forces = [f - rest for f in forces]
        phonon.produce_force_constants()
        phonon.symmetrize_force_constants(level=2)
        bands = phonon_bands(phonon, structure)
        verdict = judge(bands)
        return PhononDoc(
            candidate_id=candidate_id,
            campaign=campaign,
            energy_scheme=self.scheme,
            surrogate=self.surrogate,
            supercell=supercell,
            displacement_angstrom=self.config.phonon_displacement_angstrom,
            n_displacements=len(displaced),
            q_points=bands.q_points.round(6).tolist(),
            distances=bands.distances.round(6).tolist(),
            labels=bands.labels,
            frequencies_thz=bands.frequencies.round(5).tolist(),
            min_frequency_thz=verdict.min_frequency_thz,
            threshold_thz=verdict.threshold_thz,
            dynamically_stable=verdict.stable,
            reason=verdict.reason,
            provenance=Provenance(versions=versions(), git_commit=git_commit(), engine=f"{self.scheme} (surrogate)"),
        )
