"""The VASP engine: atomate2's VASP makers with settings for slabs. Runs need VASP 6.4 or newer.

PBE (the paper's functional) with PAW, the cell relaxed in the plane only (``LATTICE_CONSTRAINTS``; c must lie
along z, as our layers do), explicit Gamma-centred (n, m, 1) k-points, phonons in a diagonal (n, m, 1)
supercell without Born charges (their three-dimensional correction is wrong for a slab). What it does not do
is said by ``check``.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from atomate2.vasp.sets.core import RelaxSetGenerator, StaticSetGenerator
from pymatgen.io.vasp.inputs import Kpoints

from scdm_flows.analysis.stability import phonon_supercell
from scdm_flows.config import CampaignConfig, VaspEngineConfig
from scdm_flows.errors import EngineError
from scdm_flows.references.table import ReferenceTable
from scdm_flows.settings import get_settings

if TYPE_CHECKING:
    from jobflow.core.job import Job
    from jobflow.core.maker import Maker
    from pymatgen.core.structure import Structure

SLAB_INCAR = {"GGA": "PE", "ENCUT": 520, "EDIFF": 1e-6, "LREAL": False, "LCHARG": False}
RELAX_INCAR = {
    **SLAB_INCAR,
    "ISIF": 3,
    "IBRION": 2,
    "EDIFFG": -0.01,
    "LATTICE_CONSTRAINTS": ".TRUE. .TRUE. .FALSE.",
}
STATIC_INCAR = {
    **SLAB_INCAR,
    "ISMEAR": 0,
    "SIGMA": 0.05,
}  # the tetrahedra of ISMEAR = -5 need k-points along c
PHONON_INCAR = {**STATIC_INCAR, "EDIFF": 1e-8, "LWAVE": False}
KPOINT_SPACING_PER_ANGSTROM = 0.2  # 2 pi included: 10 x 10 for 1H-MoS2
PHONON_MIN_LENGTH_ANGSTROM = 12.0
PHONON_DISPLACEMENT_ANGSTROM = 0.01


def slab_kpoints(structure: Structure | None) -> Kpoints:
    """Gamma-centred (n, m, 1) k-points at most 0.2 1/angstrom apart in the plane."""
    if structure is None:
        raise EngineError("k-points of a layer depend on its structure; give the input set one")
    lengths = np.array(structure.lattice.reciprocal_lattice.abc[:2])
    n, m = (max(1, int(np.ceil(length / KPOINT_SPACING_PER_ANGSTROM))) for length in lengths)
    return Kpoints.gamma_automatic((n, m, 1))


@dataclass
class SlabRelaxSetGenerator(RelaxSetGenerator):
    """Relaxation of a layer with c held."""

    @property
    def kpoints_updates(self) -> Any:
        """No k-points along c."""
        return slab_kpoints(self.structure)


@dataclass
class SlabStaticSetGenerator(StaticSetGenerator):
    """Single point of a layer."""

    @property
    def kpoints_updates(self) -> Any:
        """No k-points along c."""
        return slab_kpoints(self.structure)


class VaspEngine:
    """VASP through atomate2."""

    scheme = "vasp-pbe"
    surrogate = False

    def __init__(self, config: VaspEngineConfig) -> None:
        self.config = config

    def check(self) -> list[str]:
        """What is missing to run."""
        missing = []
        command = get_settings().vasp_cmd
        if not command:
            missing.append("SCDM_VASP_CMD is not set; set it to the command that runs VASP, such as 'srun vasp_std'")
        elif shutil.which(command.split()[0]) is None:
            missing.append(f"SCDM_VASP_CMD={command!r}: {command.split()[0]} is not on the PATH; give the full path")
        try:
            self.references()
        except EngineError as error:
            missing.append(str(error))
        return missing

    def references(self) -> ReferenceTable:
        """Refused: there is no table of VASP energies, and schemes never mix."""
        table = ReferenceTable.load()
        if table.scheme != self.scheme:
            raise EngineError(
                f"energies of scheme {self.scheme} need reference phases of it, the packaged table is "
                f"{table.scheme}; use the forcefield engine"
            )
        return table

    def _vasp(self) -> dict[str, Any]:
        command = get_settings().vasp_cmd
        return {"vasp_cmd": command} if command else {}  # else atomate2's own setting on the worker

    def relax_maker(self) -> Maker:
        """``RelaxMaker`` with slab settings."""
        from atomate2.vasp.jobs.core import RelaxMaker

        return RelaxMaker(
            name="relax",
            input_set_generator=SlabRelaxSetGenerator(user_incar_settings=RELAX_INCAR),
            run_vasp_kwargs=self._vasp(),
        )

    def static_maker(self) -> Maker:
        """``StaticMaker`` with slab settings."""
        from atomate2.vasp.jobs.core import StaticMaker

        return StaticMaker(
            name="static",
            input_set_generator=SlabStaticSetGenerator(user_incar_settings=STATIC_INCAR),
            run_vasp_kwargs=self._vasp(),
        )

    def phonon_jobs(self, config: CampaignConfig, candidate_id: str, structure: Structure) -> list[Job]:
        """atomate2's ``PhononMaker`` jobs, then the summary on the in-plane path."""
        from atomate2.vasp.flows.phonons import PhononMaker
        from atomate2.vasp.jobs.phonons import PhononDisplacementMaker

        from scdm_flows.jobs import phonon_summary

        maker = PhononMaker(
            displacement=PHONON_DISPLACEMENT_ANGSTROM,
            bulk_relax_maker=None,
            static_energy_maker=None,
            born_maker=None,
            store_force_constants=True,
            phonon_displacement_maker=PhononDisplacementMaker(
                input_set_generator=SlabStaticSetGenerator(user_incar_settings=PHONON_INCAR),
                run_vasp_kwargs=self._vasp(),
            ),
        )
        supercell: Any = phonon_supercell(structure, PHONON_MIN_LENGTH_ANGSTROM)
        flow = maker.make(structure, supercell_matrix=supercell)
        dump = config.model_dump(mode="json")
        summary = phonon_summary(dump, candidate_id, structure, flow.output, PHONON_DISPLACEMENT_ANGSTROM)
        jobs: list[Any] = [*flow.jobs, summary]
        return jobs
