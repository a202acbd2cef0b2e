"""Labels of stability: C2DB's own energy where there is one, a predicted one elsewhere, None where nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from pymatgen.core import Structure
from support.documents import REFERENCES

from scdm_flows.thermo.energy_model import PredictedEnergy
from scdm_flows.thermo.stability_labels import stability_labels
from scdm_models.datasets.records import CuratedLayer
from scdm_models.symmetry.encoding import LayerCrystal, Site

MOS2 = LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0.0, 0.0, 0.0)), Site(16, "e", (1 / 3, 2 / 3, 1.56))))


def test_labels_name_their_source() -> None:
    layer = CuratedLayer("c2db-1", "C2DB", (), MOS2, 0.1, 0.0, 78, 78, 187, properties={"e_hull": 0.07})
    unknown = replace(layer, properties={})

    def predict(structures: Sequence[Structure]) -> list[PredictedEnergy | str]:
        assert len(structures) == 3  # only those without a label
        good = PredictedEnergy(-0.9, 0.05, 0.1, False, "by-hand", 0.5)
        return [good, replace(good, extrapolated=True), "isolated atom"]

    labels, counts = stability_labels([layer, unknown, unknown, unknown], REFERENCES, predict)
    # the hull of MoS2 lies 1 eV/atom below the elements there, the prediction 0.9
    assert labels == [0.07, pytest.approx(0.1), None, None]
    assert counts == {"dft": 1, "surrogate": 1, "none": 2}
