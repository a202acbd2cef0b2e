"""Labels of stability: C2DB's own energy where there is one, the calibrated surrogate's elsewhere, None without either."""

from __future__ import annotations

from dataclasses import replace

from scdm_flows.calibration.model import LayerShape, calibrate
from scdm_flows.thermo.hull import energy_above_hull
from scdm_flows.calibration.labels import stability_labels
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.datasets.records import CuratedLayer
from scdm_models.encoding import LayerCrystal, Site

MOS2 = LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0.0, 0.0, 0.0)), Site(16, "e", (1 / 3, 2 / 3, 1.56))))


def test_labels_name_their_source() -> None:
    table = ReferenceTable.load()
    phase = next(phase for phase in table.layers["Mo-S"] if phase.name.startswith("2dmp-"))
    layer = CuratedLayer("c2db-1", "C2DB", (), MOS2, 0.1, 0.0, 78, 78, 187, properties={"e_hull": 0.07})
    labels, counts = stability_labels(
        [layer, replace(layer, id=phase.name, properties={}), replace(layer, properties={})], table
    )
    hull = energy_above_hull(phase.fractions, phase.energy_per_atom, table.entries(["Mo", "S"]))
    surrogate = calibrate(
        phase.fractions, hull.e_above_hull, hull.formation_energy_per_atom, LayerShape.of(layer.structure)
    ).e_above_hull
    assert labels == [0.07, surrogate, None]
    assert counts == {"dft": 1, "surrogate": 1, "none": 1}
