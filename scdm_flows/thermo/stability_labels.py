"""Energies above hull of known layers, as labels for training. DFT where a layer has it, the energy model elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pymatgen.core import Structure

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.energy_model import PredictedEnergy
from scdm_flows.thermo.hull import energy_above_hull
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.datasets.records import CuratedLayer

Predict = Callable[[Sequence[Structure]], Sequence[PredictedEnergy | str]]


def stability_labels(
    layers: Sequence[CuratedLayer], table: ReferenceTable, predict: Predict
) -> tuple[list[float | None], dict[str, int]]:
    """Energy above hull of each layer in eV/atom, and how many came from where.

    C2DB's own value (DFT) where the layer has one; else the predicted energy of the layer as it is, on the hull of the
    table; None where that is extrapolated or the table lacks one of its elements.

    Parameters
    ----------
    layers
        Known layers.
    table
        Competing phases on the scale of the predictions.
    predict
        Energies of layers, or why there is none.
    """
    labels: list[float | None] = [layer.properties.get("e_hull") for layer in layers]
    counts = {"dft": sum(value is not None for value in labels), "surrogate": 0, "none": 0}
    unknown = [k for k, value in enumerate(labels) if value is None]
    for k, found in zip(unknown, predict([layers[k].structure for k in unknown]), strict=True):
        structure = layers[k].structure
        fractions = {str(e): float(x) for e, x in structure.composition.fractional_composition.items()}
        if not isinstance(found, str) and not found.extrapolated:
            try:
                energy = table.total_energy(fractions, found.formation_energy_per_atom)
                labels[k] = energy_above_hull(fractions, energy, table.entries(list(fractions))).e_above_hull
            except ReferenceDataError:
                pass
        counts["none" if labels[k] is None else "surrogate"] += 1
    return [None if value is None else float(value) for value in labels], counts
