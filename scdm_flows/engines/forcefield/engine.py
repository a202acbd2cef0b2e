"""The force-field engine: any force field through atomate2's makers. Everything it gives is a surrogate for DFT.

``forcefields`` has the force fields by name. Energies are judged on the scale of DFT where an energy model has learned
what a force field sees (``energies``), and on the force field's own where a campaign names references of it.

Relaxation and static energy are atomate2's ``ForceFieldRelaxMaker`` and ``ForceFieldStaticMaker`` with our own relaxer
(``makers``, ``relaxation``): one model in memory, and common batches where a worker has many layers. Phonons are one
job of our own (``phonons``). Measured for 1H-MoS2 in a 5 x 5 x 1 supercell on one core, atomate2's ``PhononMaker``
takes 5.9 s in seven jobs with random uuids, three quarters of it for a three-dimensional band path that a layer has no
use for; here all displaced supercells go through one model in batches and it takes 0.4 s, with the same frequencies.
One job also means that a killed phonon stage has nothing half-done to find again.

Atoms are moved by 0.05 angstrom: CHGNet takes the angle between bonds from an arc cosine, so its energy has cusps
where bonds are collinear or opposite, and force constants from 0.01 angstrom see these. In relaxed silicene the
in-plane force constant of an atom is 37.8 eV/angstrom^2 from 0.001 angstrom, 28.2 from 0.01, 15.5 from 0.05 and 13.4
from 0.08; that of 1H-MoS2 is 15.8, 15.3, 16.0 and 15.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.config import ForceFieldEngineConfig
from scdm_flows.documents.phonon import PhononDoc
from scdm_flows.documents.states import StageName
from scdm_flows.documents.static import StaticSummary
from scdm_flows.engines.base import Ahead, PackagedReferences, StageCost
from scdm_flows.engines.forcefield.potentials import missing, scheme_of
from scdm_flows.errors import EngineError, ReferenceDataError
from scdm_flows.thermo.energy_model import energy_model_for
from scdm_flows.thermo.entries import load_entries
from scdm_flows.thermo.table import SCHEME as PBE
from scdm_flows.thermo.table import ReferenceTable

if TYPE_CHECKING:
    from jobflow.core.maker import Maker
    from pymatgen.core.structure import Structure

    from scdm_flows.thermo.energy_model import EnergyModel, PredictedEnergy


class ForceFieldEngine(PackagedReferences):
    """The force field of a campaign on the CPU."""

    surrogate = True
    category = "compute"
    keeps_runs = False
    cannot: Mapping[str, str] = {StageName.BANDS.value: "a force field has no electrons"}

    def __init__(self, config: ForceFieldEngineConfig) -> None:
        self.config = config
        self.static_scheme = scheme_of(config.force_field, config.force_field_options)
        try:
            model = self.energy_model()
        except ReferenceDataError:  # said by check; nothing is judged without one, see references
            model = None
        self.scheme = self.static_scheme if model is None else PBE

    def energy_model(self) -> EnergyModel | None:
        """What predicts energies on C2DB's PBE scale; None where the force field has none, or references of its own.

        Raises
        ------
        ReferenceDataError
            If its file is missing, damaged or of another force field.
        """
        if self.config.references is not None:
            return None
        return energy_model_for(self.config.force_field, self.config.energy_model, self.config.force_field_options)

    def check(self) -> list[str]:
        """What is missing to run. Without an energy model it runs: energies stay the force field's, on no hull."""
        problems = [missing(self.config.force_field, self.config.force_field_options)]
        try:
            if self.config.references is not None or self.energy_model() is not None:
                self.references()
        except (EngineError, ReferenceDataError) as error:
            problems.append(str(error))
        return [problem for problem in problems if problem is not None]

    def check_elements(self, elements: Sequence[str]) -> list[str]:
        """Nothing: what the reference table lacks is told with the candidate, whose relaxation costs little."""
        return []

    def check_settings(self, elements: Sequence[str]) -> list[str]:
        """Nothing: no setting names elements."""
        return []

    def layer_problems(self, structure: Structure) -> list[str]:
        """Nothing: the screen has oriented the layer."""
        return []

    def time_problems(self, structure: Structure) -> list[str]:
        """Nothing that is known beforehand."""
        return []

    def cost(self, structure: Structure | None, n_atoms: int = 0) -> list[StageCost]:
        """Nothing worth an estimate: seconds a candidate."""
        return []

    def input_files(self, structure: Structure) -> dict[str, dict[str, str]]:
        """None: the model is called in this process."""
        return {}

    def no_bands_to_come(self, static: StaticSummary) -> None:
        """Nothing: no large files are left."""

    def references(self) -> ReferenceTable:
        """The packaged table where an energy model predicts, else the campaign's file of computed entries."""
        if self.config.references is not None:
            return load_entries(self.config.references, self.static_scheme)
        if self.energy_model() is None:
            name = self.config.force_field
            raise EngineError(
                f"energies of scheme {self.scheme} are on no hull's scale, as there is no energy model of {name}; "
                f"make one with `scdm refs fit --force-field {name}` and give it in engine.energy_model, or "
                "give a JSON file of phases with energies of this scheme in engine.references"
            )
        return ReferenceTable.load()

    def predicted(self, structure: Structure) -> PredictedEnergy | None:
        """By the energy model; None where the campaign has references of the force field itself."""
        if self.energy_model() is None:
            return None
        from scdm_flows.engines.forcefield.energies import predict

        (found,) = predict([structure], self.config)
        if isinstance(found, str):
            raise ReferenceDataError(found)
        return found

    def relax_maker(self) -> Maker:
        """``ForceFieldRelaxMaker`` with c held."""
        from scdm_flows.engines.forcefield.makers import relax_maker

        return relax_maker(self.config)

    def static_maker(self) -> Maker:
        """``ForceFieldStaticMaker``."""
        from scdm_flows.engines.forcefield.makers import static_maker

        return static_maker(self.config)

    def relax_ahead(self, structures: Sequence[Structure]) -> Iterator[Ahead]:
        """All of them in common batches."""
        from scdm_flows.engines.forcefield.makers import relax_maker, settings_of
        from scdm_flows.engines.forcefield.relaxation import relaxing

        for index, run in relaxing(structures, settings_of(self.config)):
            yield Ahead(index, relax_maker(self.config, ended=run), run.seconds)

    def static_summary(self, task: Any) -> StaticSummary:
        """Energy and largest force of atomate2's document."""
        forces = getattr(task.output, "forces", None)
        largest = None if forces is None else float(np.linalg.norm(np.array(forces, dtype=float), axis=1).max())
        return StaticSummary(energy_per_atom=float(task.output.energy_per_atom), max_force_ev_per_angstrom=largest)

    def phonon_maker(self) -> Maker:
        """One job."""
        from scdm_flows.engines.forcefield.makers import LayerPhononMaker

        return LayerPhononMaker()

    def bands_maker(self) -> Maker:
        """Refused; see ``cannot``."""
        raise EngineError(f"no bands: {self.cannot['bands']}; use an engine of DFT, gpaw or vasp")

    def phonons(self, candidate_id: str, campaign: str, structure: Structure) -> PhononDoc:
        """Finite displacements in an (n, m, 1) supercell, sum rules, bands and verdict in the plane."""
        from scdm_flows.engines.forcefield.phonons import phonons_together

        (found,) = phonons_together([(candidate_id, structure)], self.config, campaign)
        if isinstance(found, str):
            raise EngineError(f"no phonons of {candidate_id}: {found}")
        return found
