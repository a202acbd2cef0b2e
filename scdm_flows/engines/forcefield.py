"""The force-field engine: CHGNet through atomate2's makers. Everything it gives is a surrogate for DFT.

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

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.config import CampaignConfig, ForceFieldEngineConfig
from scdm_flows.documents.candidate import StageName
from scdm_flows.documents.phonon import PhononDoc
from scdm_flows.documents.static import StaticSummary
from scdm_flows.engines.base import StageCost
from scdm_flows.errors import EngineError
from scdm_flows.thermo.table import ReferenceTable

if TYPE_CHECKING:
    from jobflow.core.job import Job
    from jobflow.core.maker import Maker
    from pymatgen.core.structure import Structure


class ForceFieldEngine:
    """CHGNet 0.3.0 on the CPU."""

    scheme = "chgnet-0.3.0"
    surrogate = True
    category = "compute"
    keeps_runs = False
    cannot: Mapping[str, str] = {StageName.BANDS.value: "a force field has no electrons"}

    def __init__(self, config: ForceFieldEngineConfig) -> None:
        self.config = config

    def check(self) -> list[str]:
        """What is missing to run."""
        if importlib.util.find_spec("chgnet") is None:
            return ["CHGNet is not installed; install it with pip install chgnet==0.4.2"]
        return []

    def check_elements(self, elements: Sequence[str]) -> list[str]:
        """Nothing: what the reference table lacks is told with the candidate, whose relaxation costs little."""
        return []

    def layer_problems(self, structure: Structure, *, as_given: bool = False) -> list[str]:
        """Nothing: the screen has oriented the layer."""
        return []

    def cost(self, structure: Structure | None, n_atoms: int = 0) -> list[StageCost]:
        """Nothing worth an estimate: seconds a candidate."""
        return []

    def input_files(self, structure: Structure) -> dict[str, dict[str, str]]:
        """None: the model is called in this process."""
        return {}

    def references(self) -> ReferenceTable:
        """The packaged table of CHGNet energies."""
        return ReferenceTable.load()

    def relax_maker(self) -> Maker:
        """``ForceFieldRelaxMaker`` with c held."""
        from scdm_flows.engines.makers import relax_maker

        return relax_maker(self.config)

    def static_maker(self) -> Maker:
        """``ForceFieldStaticMaker``."""
        from scdm_flows.engines.makers import static_maker

        return static_maker(self.config)

    def relax_ahead(self, structures: Sequence[Structure]) -> Iterator[int]:
        """All of them in common batches."""
        from scdm_flows.engines.makers import settings_of
        from scdm_flows.engines.relaxation import relax_ahead

        return relax_ahead(structures, settings_of(self.config))

    def static_summary(self, task: Any) -> StaticSummary:
        """Energy and largest force of atomate2's document."""
        forces = getattr(task.output, "forces", None)
        largest = None if forces is None else float(np.linalg.norm(np.array(forces, dtype=float), axis=1).max())
        return StaticSummary(energy_per_atom=float(task.output.energy_per_atom), max_force_ev_per_angstrom=largest)

    def band_jobs(
        self, config: CampaignConfig, candidate_id: str, structure: Structure, static: StaticSummary
    ) -> list[Job]:
        """Refused; see ``cannot``."""
        raise EngineError(f"no bands of {candidate_id}: {self.cannot['bands']}; use the vasp engine")

    def phonon_jobs(self, config: CampaignConfig, candidate_id: str, structure: Structure) -> list[Job]:
        """One job."""
        from scdm_flows.jobs import phonon

        return [phonon(config.model_dump(mode="json"), candidate_id, structure)]

    def phonons(self, candidate_id: str, campaign: str, structure: Structure) -> PhononDoc:
        """Finite displacements in an (n, m, 1) supercell, sum rules, bands and verdict in the plane."""
        from scdm_flows.engines.phonons import phonons_together

        (found,) = phonons_together([(candidate_id, structure)], self.config, campaign)
        if isinstance(found, str):
            raise EngineError(f"no phonons of {candidate_id}: {found}")
        return found
