"""The gate's numbers against a hull solved by hand, and each of its reasons."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Structure
from support.documents import REFERENCES
from support.layers import mx2

from scdm_flows.analysis.gate import Relaxation, gate, rmsd
from scdm_flows.config import parse_config
from scdm_flows.documents import GateDoc, ScreenedCandidate
from scdm_flows.thermo.energy_model import PredictedEnergy
from scdm_flows.thermo.properties import PredictedProperties
from scdm_flows.thermo.table import ReferenceTable


def run(
    energy: float,
    structure: Structure | None = None,
    *,
    predicted: PredictedEnergy | None = None,
    references: ReferenceTable | str = REFERENCES,
    scheme: str | None = None,
    converged: bool = True,
    **rules: Any,
) -> GateDoc:
    config = parse_config({"name": "t", "gate": rules})
    sample = mx2("1H")
    screened = ScreenedCandidate(
        candidate_id="t-1", index=0, generator="scdm", structure=sample.as_dict(), accepted=True
    )
    relaxation = Relaxation(structure or sample, converged, 12, 0.01)
    return gate(
        config,
        screened,
        relaxation,
        energy,
        surrogate=predicted is not None,
        references=references,
        predicted=predicted,
        scheme=scheme,
    )


def test_energies_by_hand() -> None:
    doc = run(-6.9)
    assert doc.formation_energy_per_atom == pytest.approx(-0.9)  # -6.9 - (-6)
    assert doc.e_above_hull == pytest.approx(0.1)  # -6.9 - (-7)
    assert doc.decomposition == {"bulk Mo1S2": pytest.approx(1.0)}
    assert (doc.in_window, doc.phonon, doc.reason) == (True, True, None)
    assert doc.reference_sha256 == "0" * 64
    assert (doc.layer_group, doc.space_group) == (78, 187)
    assert (doc.energy_model, doc.extrapolated, doc.e_above_hull_error) == (None, None, None)


def test_a_layer_below_the_hull_has_a_negative_distance() -> None:
    assert run(-7.2).e_above_hull == pytest.approx(-0.2)


def test_a_predicted_energy_stands_in_the_place_of_the_static_one() -> None:
    properties = PredictedProperties(0.7, 0.9, 0.1, 1.6, 0.4, direct_gap_probability=0.3)
    predicted = PredictedEnergy(-0.85, 0.04, 0.2, True, "model-1", properties)
    doc = run(-123.0, predicted=predicted, scheme="some-force-field")
    # 0.85 eV/atom below the elements at -6, the bulk phase 1 eV/atom below them
    assert doc.energy_per_atom == pytest.approx(-6.85)
    assert doc.e_above_hull == pytest.approx(0.15)
    assert (doc.energy_scheme, doc.energy_model, doc.e_above_hull_error) == ("by-hand", "model-1", 0.04)
    assert (doc.stable_probability, doc.nonmetal_probability, doc.magnetic_probability) == (0.7, 0.9, 0.1)
    assert (doc.predicted_band_gap, doc.predicted_band_gap_error, doc.direct_gap_probability) == (1.6, 0.4, 0.3)
    assert doc.surrogate
    assert doc.extrapolated


def test_a_layer_whose_parent_is_named_has_an_exfoliation_energy() -> None:
    named = dataclasses.replace(REFERENCES, header={"parents": {"t-1": "bulk"}})
    doc = run(-6.95, references=named)
    # 0.05 eV/atom above the crystal; three atoms on 3.18^2 sin 60 square angstrom
    assert doc.exfoliation_mev_per_angstrom2 == pytest.approx(3 * 50 / (3.18**2 * np.sin(np.pi / 3)))
    assert doc.bulk_parent == "bulk"
    assert run(-6.95).exfoliation_mev_per_angstrom2 is None
    # the parent of another composition is named in the log, and the candidate goes on
    other = run(-6.95, references=dataclasses.replace(REFERENCES, header={"parents": {"t-1": "mo"}}))
    assert (other.exfoliation_mev_per_angstrom2, other.in_window) == (None, True)


def test_energies_of_two_schemes_never_meet() -> None:
    doc = run(-6.9, scheme="some-force-field")
    assert (doc.e_above_hull, doc.energy_scheme) == (None, "some-force-field")
    assert "schemes never mix" in (doc.reason or "")


def test_without_references_the_energy_stays_and_says_why() -> None:
    doc = run(-6.9, references="the force field X has no energy model", scheme="x-1")
    assert (doc.energy_per_atom, doc.energy_scheme, doc.e_above_hull) == (-6.9, "x-1", None)
    assert doc.reason == "no energy above hull: the force field X has no energy model"


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
    mixed = Structure.from_sites([moved[1], moved[0], moved[2]])  # S Mo S; atoms of one element in their order
    assert rmsd(first, mixed) == pytest.approx(0.3 * np.sqrt(2) / 3)
