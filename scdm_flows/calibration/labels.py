"""Energies above hull of known layers, as labels for training. DFT where a layer has it, the surrogate elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from scdm_flows.calibration.model import LayerShape, calibrate
from scdm_flows.thermo.hull import energy_above_hull
from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.datasets.records import CuratedLayer


def stability_labels(
    layers: Sequence[CuratedLayer], table: ReferenceTable
) -> tuple[list[float | None], dict[str, int]]:
    """Energy above hull of each layer in eV/atom, and how many came from where.

    C2DB's own value (DFT) where the layer has one; else the calibrated surrogate energy of the unrelaxed layer; None
    where the reference table lacks the layer or one of its elements.
    """
    known = {phase.name: phase for phases in table.layers.values() for phase in phases}
    labels: list[float | None] = []
    counts = {"dft": 0, "surrogate": 0, "none": 0}
    for layer in layers:
        value, source = layer.properties.get("e_hull"), "dft"
        phase = known.get(layer.id)
        if value is None and phase is not None:
            source = "surrogate"
            try:
                hull = energy_above_hull(phase.fractions, phase.energy_per_atom, table.entries(list(phase.fractions)))
            except ReferenceDataError:
                pass
            else:
                value = calibrate(
                    phase.fractions, hull.e_above_hull, hull.formation_energy_per_atom, LayerShape.of(layer.structure)
                ).e_above_hull
        counts[source if value is not None else "none"] += 1
        labels.append(None if value is None else float(value))
    return labels, counts
