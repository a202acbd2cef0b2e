"""The gate's numbers against a hull solved by hand, and each of its reasons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import mx2
from pymatgen.core import Structure

from scdm_flows.calibration.model import LayerShape, calibrate
from scdm_flows.analysis.gate import Relaxation, gate, rmsd
from scdm_flows.thermo.hull import Phase
from scdm_flows.config import parse_config
from scdm_flows.documents import GateDoc, ScreenedCandidate
from scdm_flows.thermo.table import ReferenceTable

# Elements at -10 and -4 eV/atom: MoS2 of the elements lies at (-10 - 2 * 4) / 3 = -6 eV/atom. The bulk phase is
# 1 eV/atom below that, so it is the hull at its own composition.
REFERENCES = ReferenceTable(
    scheme="by-hand",
    surrogate=False,
    sha256="0" * 64,
    header={},
    phases={
        "Mo": (Phase.from_formula("mo", "Mo1", -10.0),),
        "S": (Phase.from_formula("s", "S1", -4.0),),
        "Mo-S": (Phase.from_formula("bulk", "Mo1S2", -7.0),),
    },
    layers={},
)


def run(
    energy: float,
    structure: Structure | None = None,
    *,
    surrogate: bool = False,
    converged: bool = True,
    **rules: Any,
) -> GateDoc:
    config = parse_config({"name": "t", "gate": rules})
    sample = mx2("1H")
    screened = ScreenedCandidate(
        candidate_id="t-1", index=0, generator="scdm", structure=sample.as_dict(), accepted=True
    )
    relaxation = Relaxation(structure or sample, converged, 12, 0.01)
    return gate(config, screened, relaxation, energy, surrogate=surrogate, references=REFERENCES)


def test_energies_by_hand() -> None:
    doc = run(-6.9)
    assert doc.formation_energy_per_atom == pytest.approx(-0.9)  # -6.9 - (-6)
    assert doc.e_above_hull_raw == doc.e_above_hull == pytest.approx(0.1)  # -6.9 - (-7)
    assert doc.decomposition == {"bulk Mo1S2": pytest.approx(1.0)}
    assert (doc.in_window, doc.phonon, doc.reason) == (True, True, None)
    assert doc.reference_sha256 == "0" * 64
    assert (doc.layer_group, doc.space_group) == (78, 187)
    assert doc.calibration_id is None


def test_a_layer_below_the_hull_has_a_negative_distance() -> None:
    assert run(-7.2).e_above_hull == pytest.approx(-0.2)


def test_the_calibrated_value_decides_for_a_surrogate() -> None:
    raw = 0.15
    expected = calibrate({"Mo": 1 / 3, "S": 2 / 3}, raw, -1.0 + raw, LayerShape.of(mx2("1H")))
    doc = run(-7.0 + raw, surrogate=True, max_e_above_hull=expected.e_above_hull + 1e-6)
    assert doc.e_above_hull == pytest.approx(expected.e_above_hull)
    assert doc.e_above_hull_raw == pytest.approx(raw)
    assert (doc.e_above_hull_error, doc.calibration_id) == (expected.error, expected.calibration_id)
    assert doc.in_window
    # CHGNet flatters layers, so the calibrated value is the larger one and a window at the raw value is shut
    assert expected.e_above_hull > raw
    assert not run(-7.0 + raw, surrogate=True, max_e_above_hull=raw).in_window


def apart() -> Structure:
    """The sulfur planes 4 angstrom from the metal: three sheets."""
    return mx2("1H", half=4.0)


@pytest.mark.parametrize(
    ("arguments", "in_window", "reason"),
    [
        ({"energy": -6.3}, False, "E_hull 0.700 eV/atom is above the window of 0.6"),
        ({"energy": -6.7}, True, "no phonons: E_hull 0.300 eV/atom is above 0.2"),
        ({"energy": -6.9, "phonon_max_atoms": 2}, True, "no phonons: 3 atoms, at most 2"),
        ({"energy": -6.9, "converged": False}, True, "did not converge (12 steps, largest force 0.010"),
        ({"energy": -6.9, "structure": apart()}, True, "fell apart"),
    ],
)
def test_reasons(arguments: dict[str, Any], in_window: bool, reason: str) -> None:
    doc = run(**arguments)
    assert (doc.in_window, doc.phonon) == (in_window, False)
    assert reason in (doc.reason or "")


def test_an_element_without_reference_gets_no_hull_and_says_so() -> None:
    selenide = mx2("1H").replace_species({"S": "Se"})
    doc = run(-6.9, selenide)
    assert (doc.e_above_hull, doc.in_window, doc.phonon) == (None, False, False)
    assert "no by-hand reference energy for Se" in (doc.reason or "")


def test_rmsd_ignores_a_rigid_shift_and_counts_a_displacement() -> None:
    first = mx2("1H")
    shifted = first.copy()
    shifted.translate_sites([0, 1, 2], [0.4, 0.8, 0.0])  # across the boundary
    assert rmsd(first, shifted) == pytest.approx(0.0, abs=1e-9)
    moved = first.copy()
    moved.translate_sites([1], [0, 0, 0.3], frac_coords=False)
    # one of three atoms moves by d: after removing the mean, sqrt((4 + 1 + 1) / 27) d = d sqrt(2) / 3
    assert rmsd(first, moved) == pytest.approx(0.3 * np.sqrt(2) / 3)
