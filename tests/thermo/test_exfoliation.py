"""Exfoliation energies, and how a file of references says which crystal a layer comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.entries import load_entries
from scdm_flows.thermo.exfoliation import exfoliation_energy, exfoliation_of
from scdm_flows.thermo.table import ReferenceTable

MOS2 = {"Mo": 1 / 3, "S": 2 / 3}


def table(path: Path, parent_of: Any) -> ReferenceTable:
    """References of Mo and S, of which MoS2 says what its layers are; energies by hand, -7 eV/atom for MoS2."""
    energies = {"Mo": -10.0, "S": -4.0, "MoS2": -21.0}
    entries = [
        {
            "entry_id": f"mp-{number}",
            "composition": {"Mo": 1, "S": 2} if formula == "MoS2" else {formula: 1},
            "energy": energy,
            "parameters": {"run_type": "GGA"},
            "data": {"parent_of": parent_of} if formula == "MoS2" else {},
        }
        for number, (formula, energy) in enumerate(energies.items())
    ]
    path.write_text(json.dumps(entries))
    return load_entries(path)


def test_energies_over_the_area() -> None:
    # graphene: two atoms on a^2 sin 60 with a = 2.46 angstrom; bound by 52 meV/atom in graphite
    # (Zacharia, Ulbricht and Hertel, Phys. Rev. B 69, 155406 (2004)), which is 0.052 / 2.62 eV/angstrom^2
    area = 2.46**2 * np.sin(np.pi / 3) / 2
    assert exfoliation_energy(-9.0, -9.052, area) == pytest.approx(19.85, abs=0.01)


def test_the_file_says_whose_layer_it_is(tmp_path: Path) -> None:
    references = table(tmp_path / "r.json", ["MoS2-b3b4685fb6e1", "our-layer"])
    for names in (["our-layer"], ["nobody", "MoS2-b3b4685fb6e1"]):
        found = exfoliation_of(names, MOS2, -6.95, 2.9, references)
        assert found is not None
        assert found.parent == "mp-2"
        assert found.mev_per_angstrom2 == pytest.approx(50 / 2.9)
    # a crystal of the same composition is no parent by that
    assert exfoliation_of(["another"], MOS2, -6.95, 2.9, references) is None
    assert exfoliation_of(["our-layer"], MOS2, -6.95, 2.9, table(tmp_path / "s.json", [])) is None


def test_what_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    references = table(tmp_path / "r.json", ["our-layer"])
    with pytest.raises(ReferenceDataError, match="mp-2 .* of another composition; correct its parent_of"):
        exfoliation_of(["our-layer"], {"Mo": 0.5, "S": 0.5}, -6.9, 2.9, references)
    with pytest.raises(ReferenceDataError, match="parent_of = 'our-layer' of mp-2 must be a list of names"):
        table(tmp_path / "s.json", "our-layer")
