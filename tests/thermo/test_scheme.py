"""Names of VASP's schemes, and which settings of two differ."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Composition

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.entries import load_entries
from scdm_flows.thermo.scheme import Scheme, refuse_other_potentials
from scdm_flows.thermo.table import ReferenceTable

# TITELs of the releases PBE and PBE_54 of VASP's potentials
OLD, NEW = "PAW_PBE Mo_pv 08Apr2002", "PAW_PBE Mo_pv 04Feb2005"


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        (Scheme(), "vasp-pbe"),
        (Scheme(symbols={"Mo": "Mo_pv"}), "vasp-pbe"),  # the Materials Project's own choice
        (Scheme(dispersion="d3"), "vasp-pbe-d3"),  # as stored before schemes said more
        (
            Scheme(release="PBE_54", encut_ev=700.0, symbols={"Mo": "Mo_sv", "H": "H1.25"}, plus_u={"Fe": 4.5}),
            "vasp-pbe-PBE_54-700eV-H1.25-Mo_sv-U4.5Fe",
        ),
        (Scheme(symbols={"U": "U_s"}, plus_u={"U": 4.0}), "vasp-pbe-U_s-U4U"),
        (Scheme(dispersion="d3bj", mp_u=True, corrections="mp2020"), "vasp-pbe-d3bj-mp2020-mpu"),
    ],
)
def test_a_name_says_all_that_differs_from_the_materials_project(scheme: Scheme, name: str) -> None:
    assert scheme.name == name
    again = Scheme.parse(name)
    assert again.name == name
    assert again.differences(scheme) == []
    assert again.plus_u == scheme.plus_u


@pytest.mark.parametrize("name", ["c2db-pbe", "vasp-", "vasp-pbe-700", "vasp-PBE", "vasp-pbe-?"])
def test_other_names_are_refused_with_an_example(name: str) -> None:
    with pytest.raises(ReferenceDataError, match="write it like vasp-pbe"):
        Scheme.parse(name)


def test_the_settings_that_differ_are_named() -> None:
    told = Scheme().differences(Scheme(release="PBE_64", encut_ev=300, dispersion="d3"))
    assert told == [
        "release of the potentials PBE there, PBE_64 here (engine.potcar_functional)",
        "cut-off 520 eV there, 300 eV here (engine.encut_ev)",
        "dispersion correction none there, d3 here (engine.vdw)",
    ]


def test_u_of_the_materials_project_is_that_of_oxides_and_fluorides() -> None:
    # docs.materialsproject.org, "Hubbard U values": Fe 5.3, Mo 4.38 eV
    assert Scheme(mp_u=True).plus_u_of(["Fe", "O"]) == {"Fe": 5.3}
    assert Scheme(mp_u=True).plus_u_of(["Mo", "F"]) == {"Mo": 4.38}
    assert Scheme(mp_u=True).plus_u_of(["Mo", "S"]) == Scheme(mp_u=True).plus_u_of(["Fe"]) == {}
    assert Scheme(plus_u={"Fe": 4.0}).plus_u_of(["Fe"]) == {"Fe": 4.0}


def entry(formula: str, energy: float, titles: tuple[str, ...] = (), **parameters: Any) -> dict[str, Any]:
    spec = {"potcar_spec": [{"titel": title} for title in titles]} if titles else {}
    return {
        "entry_id": f"id-{formula}",
        "composition": Composition(formula).as_dict(),
        "energy": energy,
        "parameters": {"run_type": "GGA", **spec, **parameters},
    }


def table(
    path: Path, entries: list[dict[str, Any]], scheme: str = "vasp-pbe", said: str | None = None
) -> ReferenceTable:
    path.write_text(json.dumps({"entries": entries, **({} if said is None else {"scheme": said})}))
    return load_entries(path, scheme)


MO_S = [entry("Mo", -10.9), entry("S", -4.1), entry("MoS2", -21.8)]


@pytest.mark.parametrize(
    ("scheme", "said", "words"),
    [
        ("vasp-pbe-PBE_54", None, "release of the potentials PBE there, PBE_54 here"),
        ("vasp-pbe-700eV", None, "cut-off 520 eV there, 700 eV here"),
        ("vasp-pbe", "vasp-pbe-300eV", "cut-off 300 eV there, 520 eV here"),
        ("vasp-pbe-d3", "vasp-pbe", "dispersion correction none there, d3 here"),
        ("vasp-pbe", "vasp-pbe-mp2020", "corrections mp2020 there, none here"),
        ("vasp-pbe", "chgnet-0.3.0", "of scheme chgnet-0.3.0, those of vasp-pbe are needed"),
    ],
)
def test_a_file_of_another_scheme_is_refused_and_says_what_differs(
    tmp_path: Path, scheme: str, said: str | None, words: str
) -> None:
    with pytest.raises(ReferenceDataError) as error:
        table(tmp_path / "r.json", MO_S, scheme, said)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("parameters", "scheme", "words"),
    [
        ({"run_type": "GGA+U", "hubbards": {"Mo": 4.38}}, "vasp-pbe", "+U: Mo 4.38 eV where ours is none"),
        ({}, "vasp-pbe-U4Mo", "+U: none where ours is Mo 4 eV"),
        ({"run_type": "PBE+U", "hubbards": {"Mo": 3.0}}, "vasp-pbe-U4Mo", "+U: Mo 3 eV where ours is Mo 4 eV"),
        ({"encut": 300}, "vasp-pbe", "cut-off 300 eV where ours is 520 (engine.encut_ev): id-MoS2"),
        ({"incar": {"ENCUT": 520}}, "vasp-pbe-700eV", "cut-off 520 eV where ours is 700"),
    ],
)
def test_an_entry_of_another_scheme_refuses_its_file(
    tmp_path: Path, parameters: dict[str, Any], scheme: str, words: str
) -> None:
    with pytest.raises(ReferenceDataError, match="mixes schemes") as error:
        table(tmp_path / "r.json", [*MO_S[:2], entry("MoS2", -21.8, **parameters)], scheme, scheme.replace("-U4Mo", ""))
    assert words in str(error.value)


def test_entries_with_another_potential_are_left_out_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sulfur = "PAW_PBE S 17Jan2003"
    entries = [
        entry("Mo", -10.9, (OLD,)),
        entry("Mo2", -21.0, (OLD,)),
        entry("S", -4.1, (sulfur,)),
        entry("MoS2", -21.8, (OLD, sulfur)),
        entry("Mo2S3", -30.0, (NEW, sulfur)),
        entry("MoS3", -26.0, ("PAW_PBE Mo_sv 02Feb2006", sulfur)),
        entry("Mo3S4", -50.0, potcar_symbols=["PBE Mo_sv", "PBE S"]),
    ]
    with caplog.at_level(logging.WARNING):
        found = table(tmp_path / "r.json", entries)
    assert {p.name for p in found.entries(["Mo", "S"])} == {"id-Mo", "id-Mo2", "id-S", "id-MoS2"}
    assert found.titles == {"Mo": OLD, "S": sulfur}
    told = found.header["left_out"]
    assert told["id-Mo2S3 (Mo2S3)"] == f"potential {NEW!r} where most entries have {OLD!r}"
    for name in ("id-MoS3 (MoS3)", "id-Mo3S4 (Mo3S4)"):
        assert told[name] == "potential Mo_sv where ours is Mo_pv (engine.potcar_symbols)"
    assert len(caplog.records) == 3
    ours = table(tmp_path / "r.json", entries, "vasp-pbe-Mo_sv")
    assert set(ours.phases) == {"S", "Mo-S"}
    with pytest.raises(ReferenceDataError, match=r"no vasp-pbe-Mo_sv reference energy for Mo.*left out: id-Mo \(Mo\)"):
        ours.entries(["Mo", "S"])


def test_a_run_with_another_date_of_a_potential_is_of_another_scheme() -> None:
    refuse_other_potentials({"Mo": OLD, "W": "x"}, {"Mo": OLD, "S": "y"}, ["Mo", "W"])
    with pytest.raises(ReferenceDataError, match="potential of Mo: 'PAW_PBE Mo_pv 04Feb2005' here"):
        refuse_other_potentials({"Mo": NEW}, {"Mo": OLD}, ["Mo", "S"])


def test_phases_of_very_many_elements_are_found_without_their_subsets() -> None:
    packaged = ReferenceTable.load()
    elements = sorted(packaged.elements)
    assert len(elements) == 65
    everything = packaged.entries(elements)  # 2^65 subsets
    assert len(everything) == sum(map(len, packaged.phases.values()))
    few = packaged.entries(["Mo", "O", "S"])
    assert few == [p for p in everything if {"Mo", "O", "S"}.issuperset(p.fractions)]
