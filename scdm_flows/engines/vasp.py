"""The VASP engine: atomate2's VASP makers with settings for slabs. Relaxation and static energies; no phonons yet.

PBE (the paper's functional), the cell relaxed in the plane only (``LATTICE_CONSTRAINTS``, VASP 6.4 or newer), no
k-points along c. Its energies need references of the same scheme; the packaged ones are CHGNet's and are refused.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pymatgen.core import Structure

from scdm_flows.config import VaspEngineConfig
from scdm_flows.errors import EngineError
from scdm_flows.settings import get_settings

if TYPE_CHECKING:
    from jobflow import Maker

    from scdm_flows.documents.stages import PhononDoc

SLAB_INCAR = {"GGA": "PE", "ENCUT": 520, "LREAL": False}
RELAX_INCAR = {**SLAB_INCAR, "ISIF": 3, "IBRION": 2, "LATTICE_CONSTRAINTS": ".TRUE. .TRUE. .FALSE."}
KPOINT_SPACING_PER_ANGSTROM = 0.22


class VaspEngine:
    """VASP 6.4 or newer."""

    scheme = "vasp-pbe"
    surrogate = False

    def __init__(self, config: VaspEngineConfig) -> None:
        self.config = config

    def check(self) -> list[str]:
        """What is missing to run."""
        command = get_settings().vasp_cmd
        if not command:
            return ["SCDM_VASP_CMD is not set; set it to the command that runs VASP, such as 'srun vasp_std'"]
        if shutil.which(command.split()[0]) is None:
            return [f"SCDM_VASP_CMD={command!r}: {command.split()[0]} is not on the PATH; give the full path"]
        return ["energies of VASP need reference phases of the scheme vasp-pbe; this version packages CHGNet's only"]

    def relax_maker(self) -> Maker:
        """``RelaxMaker`` with slab settings."""
        from atomate2.vasp.jobs.core import RelaxMaker
        from atomate2.vasp.sets.core import RelaxSetGenerator

        return RelaxMaker(input_set_generator=RelaxSetGenerator(user_incar_settings=RELAX_INCAR))

    def static_maker(self) -> Maker:
        """``StaticMaker`` with slab settings."""
        from atomate2.vasp.jobs.core import StaticMaker
        from atomate2.vasp.sets.core import StaticSetGenerator

        return StaticMaker(input_set_generator=StaticSetGenerator(user_incar_settings=SLAB_INCAR))

    def phonons(self, candidate_id: str, campaign: str, structure: Structure) -> PhononDoc:
        """Refused: this engine has no phonon stage yet."""
        raise EngineError(
            f"phonons of {candidate_id} in campaign {campaign}: the vasp engine has no phonon stage in this version; "
            "use the forcefield engine for phonons"
        )
