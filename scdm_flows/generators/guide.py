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


CERTAINTY = 0.7  # of the largest probability of a gap in the window that the guide could say


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
    """What the guide says of a layer. e_above_hull: eV/atom."""

    e_above_hull: float
    properties: PredictedProperties


def guess(structures: Sequence[Structure]) -> list[Guess | None]:
    """Of layers as they are, by the guide; None where it cannot say."""
    from scdm_flows.engines.forcefield.energies import predict_by

    model, references = _guide()
    found: list[Guess | None] = []
    for structure, one in zip(structures, predict_by(model, structures), strict=True):
        fractions = {str(e): float(x) for e, x in structure.composition.fractional_composition.items()}
        if isinstance(one, str) or not references.elements >= fractions.keys():
            found.append(None)
            continue
        above = one.formation_energy_per_atom - references.hull_energy(fractions)
        found.append(Guess(above, one.properties))
    return found


@dataclass(frozen=True)
class PropertyGuide:
    """Accepts layers by what is predicted of them.

    Parameters
    ----------
    highest
        Largest E_hull, eV/atom.
    gap
        Smallest and largest PBE band gap, eV, 0 for a metal. Accepted is a layer whose gap is likely enough to lie
        there (``sure_enough``): a prediction inside says little where its error is wider than the window.
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
        if self.gap is not None and not sure_enough(one.properties, *self.gap):
            return False
        return self.magnetic is None or one.properties.magnetic is self.magnetic


def sure_enough(predicted: PredictedProperties, low: float, high: float) -> bool:
    """Whether the gap lies in [low, high] with at least ``CERTAINTY`` of the probability that it could have at best.

    At best: of a layer that has a gap for sure, in the middle of the window, with the guide's median error.
    """
    from scdm_flows.thermo.properties import best_gap_probability

    likely = predicted.gap_probability(low, high)
    median = float(_guide()[0].header["band_gap"]["error_median"])
    return likely is not None and likely >= CERTAINTY * best_gap_probability(median, low, high)
