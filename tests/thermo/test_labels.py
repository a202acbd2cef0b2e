"""Labels of stability: C2DB's own energy where there is one, a predicted one elsewhere, None where nobody knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pymatgen.core import Structure
from support.documents import REFERENCES

from scdm_flows.thermo.energy_model import PredictedEnergy
from scdm_flows.thermo.properties import PredictedProperties
from scdm_flows.thermo.stability_labels import stability_labels
from scdm_models.datasets.records import CuratedLayer
from scdm_models.symmetry.encoding import LayerCrystal, Site

MOS2 = LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0.0, 0.0, 0.0)), Site(16, "e", (1 / 3, 2 / 3, 1.56))))


LAYER = CuratedLayer("c2db-1", "C2DB", (), MOS2, 0.1, 0.0, 78, 78, 187, properties={"e_hull": 0.07})
UNKNOWN = [replace(LAYER, id=f"2dm-{k}", properties={}) for k in range(3)]
GOOD = PredictedEnergy(-0.9, 0.05, 0.1, False, "by-hand", PredictedProperties(0.5))


def test_labels_name_their_source(tmp_path: Path) -> None:
    def predict(structures: Sequence[Structure]) -> list[PredictedEnergy | str]:
        assert len(structures) == 3  # only those without a label
        return [GOOD, replace(GOOD, extrapolated=True), "isolated atom"]

    labels, counts = stability_labels([LAYER, *UNKNOWN], REFERENCES, predict, tmp_path / "labels", "m")
    # the hull of MoS2 lies 1 eV/atom below the elements there, the prediction 0.9
    assert labels == [0.07, pytest.approx(0.1), None, None]
    assert counts == {"dft": 1, "surrogate": 1, "none": 2}


def test_what_was_predicted_before_a_kill_is_not_predicted_again(tmp_path: Path) -> None:
    kept, asked = tmp_path / "labels", []

    def killed(structures: Sequence[Structure]) -> Iterator[PredictedEnergy | str]:
        asked.append(len(structures))
        yield from (GOOD, "isolated atom")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stability_labels([LAYER, *UNKNOWN], REFERENCES, killed, kept, "m")
    kept.write_text(kept.read_text() + '{"id": "2dm-2", "ta')  # and in the middle of a line

    def rest(structures: Sequence[Structure]) -> list[PredictedEnergy | str]:
        asked.append(len(structures))
        return [replace(GOOD, formation_energy_per_atom=-0.8)]

    labels, counts = stability_labels([LAYER, *UNKNOWN], REFERENCES, rest, kept, "m")
    assert labels == [0.07, pytest.approx(0.1), None, pytest.approx(0.2)]
    assert counts == {"dft": 1, "surrogate": 2, "none": 1}
    # a third time nothing is left, and on another hull everything is
    assert stability_labels([LAYER, *UNKNOWN], REFERENCES, lambda none: [], kept, "m")[0] == labels
    assert asked == [3, 1]
    other = replace(REFERENCES, sha256="another")
    assert stability_labels([LAYER, *UNKNOWN], other, lambda some: [GOOD] * len(some), kept, "m")[1]["surrogate"] == 3


def test_what_another_model_said_or_of_another_crystal_is_asked_again(tmp_path: Path) -> None:
    kept, asked = tmp_path / "labels", []

    def predict(structures: Sequence[Structure]) -> list[PredictedEnergy | str]:
        asked.append(len(structures))
        return [replace(GOOD, formation_energy_per_atom=-0.8)] * len(structures)

    stability_labels(UNKNOWN, REFERENCES, lambda some: [GOOD] * len(some), kept, "before an upgrade")
    assert stability_labels(UNKNOWN, REFERENCES, predict, kept, "m")[0] == [pytest.approx(0.2)] * 3
    wider = replace(MOS2, lattice=(MOS2.lattice[0] * 1.1, MOS2.lattice[1] * 1.1, MOS2.lattice[2]))
    stability_labels([replace(UNKNOWN[0], crystal=wider), *UNKNOWN[1:]], REFERENCES, predict, kept, "m")
    assert asked == [3, 1]
