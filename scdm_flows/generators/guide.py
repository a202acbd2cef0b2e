"""Guidance by energy: which draws are worth keeping, by a surrogate's E_hull of the layer as it was drawn.

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
    from scdm_flows.thermo.table import ReferenceTable


@cache
def _guide() -> tuple[EnergyModel, ReferenceTable]:
    from scdm_flows.thermo.energy_model import load_guide
    from scdm_flows.thermo.table import ReferenceTable

    return load_guide(), ReferenceTable.load()


def predicted_e_hull(structures: Sequence[Structure]) -> list[float | None]:
    """E_hull (eV/atom) of layers as they are, by the guide; None where it cannot say."""
    from scdm_flows.engines.forcefield.energies import predict_by

    model, references = _guide()
    found: list[float | None] = []
    for structure, one in zip(structures, predict_by(model, structures), strict=True):
        fractions = {str(e): float(x) for e, x in structure.composition.fractional_composition.items()}
        if isinstance(one, str) or not references.elements >= fractions.keys():
            found.append(None)
        else:
            found.append(one.formation_energy_per_atom - references.hull_energy(fractions))
    return found


@dataclass(frozen=True)
class EnergyGuide:
    """Accepts the layers whose predicted E_hull is at most ``highest``, eV/atom."""

    highest: float

    def __call__(self, structures: Sequence[Structure]) -> list[bool]:
        """Whether each of the layers is accepted; one without a prediction is not."""
        return [e is not None and e <= self.highest for e in predicted_e_hull(structures)]
