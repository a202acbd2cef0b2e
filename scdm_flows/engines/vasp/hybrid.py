"""The HSE06 gap of a layer at PBE's band edges: one run on PBE's k-points, with the edges among them at weight zero."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

from atomate2.vasp.jobs.base import BaseVaspMaker
from jobflow import job
from pydantic import BaseModel, Field
from pymatgen.core.structure import Structure

from scdm_flows.documents.bands import BandsDoc
from scdm_flows.engines.vasp.makers import SlabMaker, run_slab
from scdm_flows.errors import EngineError, ProgramKilled, Unfinished


class HseGap(BaseModel):
    """What the run says."""

    gap_ev: float | None = Field(None, description="between the highest occupied and the lowest empty state, eV")
    note: str | None = Field(None, description="why there is none")


@dataclass
class SlabHseMaker(SlabMaker):
    """One HSE06 run at PBE's geometry."""

    name: str = "hse"

    @job(output_schema=HseGap)
    def make(self, structure: Structure, bands: BandsDoc) -> HseGap:
        """Run VASP unless PBE has no gap; a run that fails says why and leaves PBE's bands as they are."""
        if bands.vbm is None or bands.cbm is None:
            return HseGap(note="PBE has no gap, so there are no band edges to compute")
        maker, original = copy(self), BaseVaspMaker.make
        maker.input_set_generator = copy(self.input_set_generator)
        maker.input_set_generator.extra_points = [bands.vbm.k_point, bands.cbm.k_point]
        try:
            response: Any = run_slab(maker, structure, lambda made, of: original.original(made, of, None))  # type: ignore[attr-defined]
        except (ProgramKilled, Unfinished):
            raise  # to be tried again
        except EngineError as error:
            return HseGap(note=str(error))
        return HseGap(gap_ev=float(response.output.calcs_reversed[0].output.bandgap))


@job(output_schema=BandsDoc)
def with_hybrid_gap(bands: BandsDoc, hybrid: HseGap) -> BandsDoc:
    """The bands with the gap of HSE06 beside PBE's."""
    return bands.model_copy(update={"hse_gap_ev": hybrid.gap_ev, "hse_note": hybrid.note})
