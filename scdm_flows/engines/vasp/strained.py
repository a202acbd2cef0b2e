"""Relaxations of atoms in strained cells, whose stresses give a layer's stiffness tensor: a job for each strain.

A strain that cannot be computed says why and leaves the phonons, beside which it is computed, as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from atomate2.vasp.jobs.base import BaseVaspMaker
from jobflow import job
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from pymatgen.core.structure import Structure

from scdm_flows.analysis.stiffness import stiffness_tensor, strains
from scdm_flows.engines.vasp.makers import SlabMaker, run_slab
from scdm_flows.errors import EngineError, ProgramKilled, Unfinished

N_PER_M = 0.01  # kbar times angstrom


class StrainRun(BaseModel):
    """What a run says."""

    stress_n_per_m: list[list[float]] | None = Field(
        None, description="(2, 2) in-plane stress of the cell times its height, N/m, positive under tension"
    )
    failed: str | None = Field(None, description="why there is none")


@dataclass
class SlabStrainMaker(SlabMaker):
    """A relaxation of the atoms of a strained layer, the cell held."""

    name: str = "strain"

    @job(output_schema=StrainRun)
    def make(self, structure: Structure) -> StrainRun:
        """Run VASP on the strained layer."""
        original = BaseVaspMaker.make
        try:
            response: Any = run_slab(copy(self), structure, lambda made, of: original.original(made, of, None))  # type: ignore[attr-defined]
        except (ProgramKilled, Unfinished):
            raise  # to be tried again
        except EngineError as error:
            return StrainRun(failed=str(error))
        pressure = np.array(response.output.calcs_reversed[0].output.ionic_steps[-1].stress, dtype=float)  # VASP's sign
        return StrainRun(stress_n_per_m=(-N_PER_M * structure.lattice.c * pressure[:2, :2]).round(5).tolist())


def stiffness_of(
    structure: Structure, size: float, runs: Sequence[StrainRun]
) -> tuple[NDArray[np.float64] | None, str | None]:
    """The tensor (3, 3) in N/m, or why there is none. runs: of ``strains(structure, size)``, in their order."""
    asked = strains(structure, size)
    failed = [f"strain {strain.name}: {run.failed}" for strain, run in zip(asked, runs, strict=True) if run.failed]
    if failed:
        return None, "; ".join(failed)
    return stiffness_tensor(structure, asked, [np.array(run.stress_n_per_m) for run in runs]), None
