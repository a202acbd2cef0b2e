"""Which competing phases a table of references lacks."""

from __future__ import annotations

from scdm_flows.thermo.completeness import competing_compositions, missing_phases
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.table import ReferenceTable


def table(*formulas: str) -> ReferenceTable:
    phases: dict[str, tuple[Phase, ...]] = {}
    for formula in formulas:
        phase = Phase.from_formula(f"id-{formula}", formula, -5.0)
        system = "-".join(sorted(phase.fractions))
        phases[system] = (*phases.get(system, ()), phase)
    return ReferenceTable("vasp-pbe", False, "x", {}, phases)


def test_what_belongs_on_a_hull() -> None:
    # materialsproject.org: of Mo and S only MoS2 is stable; MoO2, which it has with +U alone, and MoO3 are, too
    assert competing_compositions(["S", "Mo"]) == ["Mo", "MoS2", "S"]
    oxides = competing_compositions(["Mo", "O"])
    assert {"Mo", "O", "MoO2", "MoO3"} <= set(oxides)
    assert set(oxides) | {"S", "MoS2"} <= set(competing_compositions(["Mo", "O", "S"]))
    # a layer that is stable in C2DB is no bulk phase
    packaged = ReferenceTable.load().entries(["Fe", "O"])
    assert "FeO2" in {p.name.partition("-")[0] for p in packaged}
    assert "FeO2" not in competing_compositions(["Fe", "O"])


def test_what_is_missing_is_told_by_composition() -> None:
    assert missing_phases(table("Mo", "S", "Mo4S8"), ["Mo", "S"]) == []  # formulas are reduced
    assert missing_phases(table("Mo", "S", "Mo2.8S5.6"), ["Mo", "S"]) == []  # an entry of any number of atoms
    assert missing_phases(table("Mo", "S"), ["Mo", "S"]) == ["MoS2"]
    assert missing_phases(table("Mo", "S", "O2"), ["Mo"]) == []
    assert {"MoO2", "MoO3", "MoS2"} <= set(missing_phases(table("Mo", "S", "O2"), ["Mo", "O", "S"]))


def test_of_an_element_outside_the_packaged_table_every_known_compound_counts() -> None:
    assert "Pu" not in ReferenceTable.load().elements
    assert {"O", "O2Pu"} <= set(competing_compositions(["Pu", "O"]))


def test_the_packaged_table_lacks_nothing() -> None:
    assert missing_phases(ReferenceTable.load(), ["Mo", "O", "S"]) == []
