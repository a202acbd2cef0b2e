"""One layer from its relaxation to its bands, as a Maker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobflow.core.flow import Flow
from jobflow.core.maker import Maker
from pymatgen.core.structure import Structure

from scdm_flows.analysis.screening import id_of_layer
from scdm_flows.config import CampaignConfig
from scdm_flows.documents import ScreenedCandidate, StageName
from scdm_flows.engines import engine_of
from scdm_flows.errors import StructureError
from scdm_flows.flows.gate import gate
from scdm_flows.flows.identity import identified, stage_of_jobs
from scdm_flows.stores.library_faults import remember_schemas

remember_schemas()


@dataclass
class LayerMaker(Maker):
    """relax -> static -> gate of one layer; the gate adds phonons and bands where it opens them.

    The jobs have deterministic uuids, so the same layer of the same campaign run again updates its outputs.

    Parameters
    ----------
    config
        The campaign whose settings hold: engine, gate, budget.
    name
        Of the flow.
    relax_maker, static_maker, phonon_maker, bands_maker
        Instead of the engine's. The first two make atomate2's documents of a relaxation and a single point of a
        structure; ``phonon_maker.make(structure, config, candidate_id)`` ends in a ``PhononDoc``,
        ``bands_maker.make(structure, config, candidate_id, static)`` in a ``BandsDoc``.
    """

    config: CampaignConfig
    name: str = field(default="candidate", kw_only=True)
    relax_maker: Maker | None = None
    static_maker: Maker | None = None
    phonon_maker: Maker | None = None
    bands_maker: Maker | None = None

    def make(self, structure: Structure, screened: ScreenedCandidate | None = None) -> Flow:
        """The flow of a layer.

        Parameters
        ----------
        structure
            The layer, c along z.
        screened
            What the screen said of it; without, it counts as accepted, and its id follows from the structure.
        """
        if screened is None:
            screened = ScreenedCandidate(
                candidate_id=id_of_layer(self.config, structure),
                index=0,
                generator="given",
                structure=structure,
                formula=structure.composition.reduced_formula,
                accepted=True,
            )
        config, engine, candidate = self.config, engine_of(self.config.engine), screened.candidate_id
        relax: Any = self.relax_maker or engine.relax_maker()
        relaxations = stage_of_jobs(relax.make(structure), config, StageName.RELAX, candidate)
        relaxed = relaxations[-1].output
        single: Any = self.static_maker or engine.static_maker()
        statics = stage_of_jobs(single.make(relaxed.structure), config, StageName.STATIC, candidate)
        others = {"phonon_maker": self.phonon_maker, "bands_maker": self.bands_maker}
        last = gate(
            config.model_dump(mode="json"),
            screened.model_dump(mode="json", exclude={"structure"}),
            structure,
            relaxed,
            statics[-1].output,
            **{name: maker for name, maker in others.items() if maker is not None},
        )
        closing = identified(last, config, StageName.GATE, candidate_id=candidate)
        return Flow([*relaxations, *statics, closing], name=f"{self.name} {candidate}")


def candidate_flow(config: CampaignConfig, screened: ScreenedCandidate, relax_maker: Maker | None = None) -> Flow:
    """The flow of a candidate of a campaign. relax_maker: one that has its result already (``Engine.relax_ahead``).

    Raises
    ------
    StructureError
        If the candidate has no structure.
    """
    if screened.structure is None:
        raise StructureError(f"candidate {screened.candidate_id} has no structure ({screened.reason}); screen it out")
    return LayerMaker(config, relax_maker=relax_maker).make(screened.structure, screened)
