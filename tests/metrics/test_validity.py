"""Validity of one sample: compositions by SMACT, distances, one connected layer; what cannot be judged."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator

import pytest
from pymatgen.core import Lattice, Structure
from support.samples import broken, bulk, turned

from scdm_models.errors import ScdmError, StructureError
from scdm_models.metrics import validity
from scdm_models.metrics.validity import composition_valid, judge_sample, smact_provenance
from scdm_models.symmetry.lattice import orient_slab

# --- composition


@pytest.mark.parametrize(
    "formula",
    ["MoS2", "NaCl", "BN", "CrI3", "Fe3GeTe2", "C", "Na2Mg"],
    # Mo4+ S2-, Na+ Cl-, B3+ N3-, Cr3+ I-, 3 Fe2+ Ge2- 2 Te2-: known compounds; an element; an alloy of metals
)
def test_plausible_compositions(formula: str) -> None:
    assert composition_valid(formula) is True


@pytest.mark.parametrize(
    "formula",
    # Na is +1 only, so 2 Cl would be -1/2 each and one Cl -3; Li is +1 only, so 4 O would be -1/4 each; F is -1 only;
    # of He and Ar no compound with a state was reported
    ["NaCl2", "Na3Cl", "LiO4", "HeO2", "NaAr", "NaF2"],
)
def test_implausible_compositions(formula: str) -> None:
    assert composition_valid(formula) is False


def test_smact_version_and_settings_are_those_of_the_module() -> None:
    from smact.screening import ICSD24FilterConfig, smact_validity

    provenance = smact_provenance()
    assert provenance["smact"] == validity.SMACT_VERSION  # a new release must be looked at before it changes numbers
    defaults = {name: p.default for name, p in inspect.signature(smact_validity).parameters.items()}
    for name in ("use_pauling_test", "include_alloys", "check_metallicity", "mixed_valence", "oxidation_states_set"):
        assert provenance[name] == defaults[name]
    states = ICSD24FilterConfig()
    for name in ("include_zero", "consensus", "commonality"):
        assert provenance[f"icsd24_{name}"] == getattr(states, name)


def test_composition_errors() -> None:
    with pytest.raises(ScdmError, match="9 elements, SMACT judges at most 8"):
        composition_valid("HLiBeBCNOFNa")
    for formula in ("Mo(S2", ""):
        with pytest.raises(ScdmError, match="cannot be read"):
            composition_valid(formula)


@pytest.fixture
def no_smact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "smact.screening", None)
    validity._smact.cache_clear()
    yield
    validity._smact.cache_clear()


@pytest.mark.usefixtures("no_smact")
def test_without_smact_nothing_is_judged_in_silence(mos2: Structure) -> None:
    with pytest.raises(ScdmError, match=r"install it with `pip install smact=="):
        judge_sample(mos2)


# --- one sample


def test_judgement_of_mos2(mos2: Structure) -> None:
    for sample in (mos2, turned(mos2, 1), turned(mos2, 2)):
        found = judge_sample(sample)
        assert (found.formula, found.elements, found.n_atoms) == ("MoS2", ("Mo", "S"), 3)
        assert found.valid_distance
        assert found.valid_radii
        assert found.one_layer
        assert found.composition_valid is True
        assert found.reason is None
        # the fixture's sulfur planes are 2 x 1.565 angstrom apart; the cell's area is sqrt(3) / 2 a^2 for 3 atoms
        assert found.thickness_angstrom == pytest.approx(3.13)
        assert found.area_per_atom_angstrom2 == pytest.approx(math.sqrt(3) / 2 * 3.18**2 / 3)
        assert found.min_distance_angstrom == pytest.approx(math.hypot(3.18 / math.sqrt(3), 1.565))


def test_atoms_too_close_by_each_rule() -> None:
    # Mo and S 1.2 angstrom apart pass 0.5 angstrom, not 0.7 times the radii's sum (1.54 + 1.05, Cordero 2008)
    near = Structure(Lattice.hexagonal(3.2, 20), ["Mo", "S"], [[0, 0, 0.5], [0, 0, 0.56]])
    found = judge_sample(near)
    assert (found.valid_distance, found.valid_radii) == (True, False)
    assert found.reason is not None
    assert found.reason.startswith("atoms too close: atoms at 0.46 of the sum")
    overlapping = Structure(Lattice.hexagonal(3.2, 20), ["Mo", "S"], [[0, 0, 0.5], [0, 0, 0.52]])
    found = judge_sample(overlapping)
    assert (found.valid_distance, found.valid_radii) == (False, False)
    assert found.min_distance_angstrom == pytest.approx(0.4)


def test_two_sheets_are_not_one_layer(graphene: Structure) -> None:
    sheets = [*graphene.frac_coords, *(graphene.frac_coords + [0, 0, 0.17])]  # 3.4 angstrom apart
    double = Structure(graphene.lattice, ["C"] * 4, sheets)
    found = judge_sample(double)
    assert found.valid_radii
    assert not found.one_layer
    assert found.reason == "not one connected layer"
    assert found.thickness_angstrom == pytest.approx(3.4)


def test_bad_samples_get_a_reason() -> None:
    nothing = Structure(Lattice.cubic(3), [], [])
    for sample, reason in ((None, "no structure"), (nothing, "no atoms"), (broken(), "not a finite number")):
        found = judge_sample(sample)
        assert (found.valid_distance, found.valid_radii, found.one_layer) == (False, False, False)
        assert found.thickness_angstrom is None
        assert found.reason is not None
        assert reason in found.reason
    mixed = Structure(Lattice.hexagonal(3.2, 20), [{"Mo": 0.5, "W": 0.5}], [[0, 0, 0.5]])
    assert judge_sample(mixed).reason is not None
    found = judge_sample(bulk())  # its bonds are fine, but it is no layer
    assert found.valid_distance
    assert not found.one_layer
    assert found.area_per_atom_angstrom2 is None
    assert found.reason is not None
    assert "bulk crystal" in found.reason
    # a sheet of nine elements: the composition is not judged, the geometry is
    rng = range(9)
    sheet = Structure(
        Lattice.from_parameters(22.5, 2.5, 20, 90, 90, 90),
        ["H", "Li", "Be", "B", "C", "N", "O", "F", "Na"],
        [[i / 9, 0, 0.5] for i in rng],
    )
    found = judge_sample(sheet)
    assert found.composition_valid is None
    assert found.valid_distance
    assert found.n_atoms == 9


def test_bad_structures_are_what_they_are_taken_for() -> None:
    # the tests above mean something only if these raise where they are not caught
    with pytest.raises(StructureError):
        orient_slab(broken())
    with pytest.raises(StructureError, match="bulk crystal"):
        orient_slab(bulk())
