"""Conditions on properties: which draws are worth keeping, by a surrogate's word on the layer as it was drawn.

The guide is an energy model of its own (``thermo/data/guide.npz``, ``docs/energies.md``): features of CHGNet alone,
fitted on half of the chemical systems, so that samples which it chose can be judged by a model that shares neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from scdm_flows.thermo.energy_model import EnergyModel
    from scdm_flows.thermo.properties import PredictedProperties
    from scdm_flows.thermo.table import ReferenceTable


@cache
def _guide() -> tuple[EnergyModel, ReferenceTable]:
    from scdm_flows.thermo.energy_model import load_guide
    from scdm_flows.thermo.table import ReferenceTable

    return load_guide(), ReferenceTable.load()


def guided_elements() -> frozenset[str]:
    """Symbols of the elements of which the guide can say something."""
    model, references = _guide()
    return frozenset(model.scaling.elements) & references.elements


@dataclass(frozen=True)
class Guess:
    """What the guide says of a layer. e_above_hull: eV/atom; magnetic: whether it is likelier than of most layers."""

    e_above_hull: float
    magnetic: bool
    properties: PredictedProperties


def guess(structures: Sequence[Structure]) -> list[Guess | None]:
    """Of layers as they are, by the guide; None where it cannot say."""
    from scdm_flows.engines.forcefield.energies import predict_by

    model, references = _guide()
    share = model.properties.magnetic.share if model.properties.magnetic is not None else 0.5
    found: list[Guess | None] = []
    for structure, one in zip(structures, predict_by(model, structures), strict=True):
        fractions = {str(e): float(x) for e, x in structure.composition.fractional_composition.items()}
        if isinstance(one, str) or not references.elements >= fractions.keys():
            found.append(None)
            continue
        above = one.formation_energy_per_atom - references.hull_energy(fractions)
        found.append(Guess(above, (one.properties.magnetic_probability or 0.0) > share, one.properties))
    return found


@dataclass(frozen=True)
class PropertyGuide:
    """Accepts layers by what is predicted of them.

    Parameters
    ----------
    highest
        Largest E_hull, eV/atom.
    gap
        Smallest and largest PBE band gap, eV, 0 for a metal.
    magnetic
        Whether they are magnetic.
    """

    highest: float | None = None
    gap: tuple[float, float] | None = None
    magnetic: bool | None = None

    @property
    def asks(self) -> bool:
        """Whether it asks for anything."""
        return any(wish is not None for wish in (self.highest, self.gap, self.magnetic))

    def __call__(self, structures: Sequence[Structure]) -> list[bool]:
        """Whether each of the layers is accepted; one without a prediction is not."""
        return [one is not None and self._fits(one) for one in guess(structures)]

    def _fits(self, one: Guess) -> bool:
        if self.highest is not None and one.e_above_hull > self.highest:
            return False
        if self.gap is not None:
            gap = one.properties.band_gap
            if gap is None or not self.gap[0] <= gap <= self.gap[1]:
                return False
        return self.magnetic is None or one.magnetic is self.magnetic
