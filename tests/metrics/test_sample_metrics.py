"""Judging generated samples: intervals, validity, uniqueness, templates, distributions."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from scipy import stats
from scipy.stats import ortho_group
from support.layers import mx2

from scdm_models.datasets.matching import LayerMatcher
from scdm_models.errors import ScdmError, StructureError
from scdm_models.metrics import samples
from scdm_models.metrics.samples import (
    Interval,
    Uniqueness,
    composition_valid,
    distribution_distances,
    judge_sample,
    mean_interval,
    novel_templates,
    population,
    share_interval,
    smact_provenance,
    total_variation,
    uniqueness,
)
from scdm_models.symmetry.encoding import LayerCrystal, encode
from scdm_models.symmetry.lattice import orient_slab

H1, T1 = 78, 72  # layer groups of 1H-MoS2 (p-6m2) and 1T-MoS2 (p-3m1)


def bulk() -> Structure:
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])


def broken() -> Structure:
    """A structure with a coordinate that is not a number, as a diverged sample has."""
    return Structure(Lattice.hexagonal(3.18, 20.0), ["Mo", "S"], [[0, 0, 0.5], [1 / 3, 2 / 3, math.nan]])


def turned(structure: Structure, seed: int) -> Structure:
    """Rotated or mirrored as a whole, moved along the lattice vectors, sites in another order."""
    rng = np.random.default_rng(seed)
    matrix = structure.lattice.matrix @ ortho_group.rvs(3, random_state=seed)
    order = rng.permutation(len(structure))
    frac = (structure.frac_coords + rng.random(3))[order]
    return Structure(Lattice(matrix), [structure.species[i] for i in order], frac)


# --- intervals


# Newcombe, Stat. Med. 17, 857 (1998), Table I, method 3 (score without continuity correction)
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_the_literature(successes: int, n: int, low: float, high: float) -> None:
    found = share_interval(successes, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert (found.value, found.n) == (successes / n, n)


@given(st.data())
def test_wilson_interval_solves_its_equation(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 20_000))
    successes = data.draw(st.integers(0, n))
    found = share_interval(successes, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    # both ends are the shares p for which the observed one is 1.96 standard errors of p away (Wilson's definition)
    z = 1.959963984540054
    for end in (found.low, found.high):
        assert (found.value - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-9)
    # what is counted the other way round is mirrored
    other = share_interval(n - successes, n)
    assert other.low == pytest.approx(1 - found.high)


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(1).exponential(2.0, 300)
    found = mean_interval(values.tolist(), 3)
    assert found == mean_interval(values.tolist(), 3)
    assert found != mean_interval(values.tolist(), 4)
    assert found.low < found.value < found.high
    # for 300 values the central limit theorem brings it to Student's interval within a tenth of the width; the bootstrap
    # knows that an exponential is skewed to the right and reaches further there
    half = stats.t.ppf(0.975, 299) * stats.sem(values)
    assert found.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert found.high - found.value > found.value - found.low


def test_bootstrap_interval_holds_its_level() -> None:
    # of 200 normal samples of thirty 95 % should cover the mean; binomial standard error 1.5 %, and the bootstrap of
    # thirty values is known to cover about 1 % less (Efron and Tibshirani, An Introduction to the Bootstrap, ch. 14)
    draws = np.random.default_rng(0).normal(5.0, 2.0, size=(200, 30))
    covered = [found.low <= 5.0 <= found.high for found in map(mean_interval, draws.tolist())]
    assert np.mean(covered) == pytest.approx(0.94, abs=0.045)


def test_equal_values_have_no_width() -> None:
    assert mean_interval([0.25, 0.25, 0.25]) == Interval(0.25, 0.25, 0.25, 3)


def test_interval_errors() -> None:
    with pytest.raises(ScdmError, match="n=0 must be >= 1"):
        share_interval(0, 0)
    with pytest.raises(ScdmError, match="successes=3 must be 0 to n=2"):
        share_interval(3, 2)
    with pytest.raises(ScdmError, match="n >= 2"):
        mean_interval([1.0])
    with pytest.raises(ScdmError, match=r"values\[1\]=nan must be a finite number"):
        mean_interval([1.0, math.nan])


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
    assert provenance["smact"] == samples.SMACT_VERSION  # a new release must be looked at before it changes numbers
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
    samples._smact.cache_clear()
    yield
    samples._smact.cache_clear()


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


# --- uniqueness


def test_the_same_layer_is_counted_once() -> None:
    layers = [mx2("1H"), turned(mx2("1H"), 1), mx2("1H", c=30, shift=0.1), turned(mx2("1H"), 2), mx2("1H", a=3.2)]
    found = uniqueness(layers)
    assert (found.n, found.n_groups, found.share) == (5, 1, 0.2)
    assert found.representative == (0,) * 5
    assert found.failures == {}


def test_polytypes_differ_and_a_slight_distortion_does_not() -> None:
    bent = mx2("1H")
    bent.translate_sites([1], [0.05, 0.02, 0.04], frac_coords=False)  # no symmetry is left; half an angstrom is allowed
    assert uniqueness([mx2("1H"), mx2("1T"), turned(mx2("1T"), 3), bent]).representative == (0, 1, 1, 0)


def test_samples_that_cannot_be_compared_are_not_unique() -> None:
    found = uniqueness([None, mx2("1H"), broken(), bulk(), mx2("1H")])
    assert (found.n, found.n_groups, found.share) == (2, 1, 0.5)
    assert found.representative == (None, 1, None, None, 1)
    assert set(found.failures) == {0, 2, 3}
    assert "bulk crystal" in found.failures[3]


def test_a_structure_that_breaks_the_matcher_is_named() -> None:
    class Fragile(LayerMatcher):
        """Falls over the 1T layer as a library falls over what nobody foresaw."""

        @staticmethod
        def prepare(structure: Structure) -> Structure:
            if abs(structure.lattice.a - 3.3) < 1e-9:
                raise ZeroDivisionError("unforeseen")
            return LayerMatcher.prepare(structure)

    layers = [mx2("1H"), mx2("1T", a=3.3), mx2("1H")]
    found = uniqueness(layers, matcher=Fragile())
    assert found.representative == (0, None, 0)
    assert found.failures == {1: "ZeroDivisionError: unforeseen"}


# a chain: neighbours are within the matcher's 10 % of the lattice lengths, its ends are 16 % apart
CHAIN = [mx2("1H", a=a) for a in (3.0, 3.24, 3.5)]
POOL = [*CHAIN, mx2("1T"), turned(mx2("1T"), 5), mx2("1H"), turned(CHAIN[1], 6), None, bulk()]


def groups_of(found: Uniqueness, names: list[int]) -> set[frozenset[int]]:
    """The groups as sets of ``names``, the name of each sample in order."""
    members: dict[int, set[int]] = {}
    for name, first in zip(names, found.representative, strict=True):
        if first is not None:
            members.setdefault(first, set()).add(name)
    return {frozenset(group) for group in members.values()}


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(len(POOL))))
def test_uniqueness_does_not_depend_on_the_order(order: list[int]) -> None:
    plain = uniqueness(POOL)
    found = uniqueness([POOL[i] for i in order])
    assert (found.n, found.n_groups, found.share) == (plain.n, plain.n_groups, plain.share)
    assert found.n == 7
    # sets of positions in POOL, so that the two answers can be compared
    assert groups_of(found, order) == groups_of(plain, list(range(len(POOL))))
    assert all(r is None or r <= i for i, r in enumerate(found.representative))


def test_uniqueness_errors() -> None:
    with pytest.raises(ScdmError, match="none of 1 samples can be compared"):
        uniqueness([None])


# --- new templates


def crystal(structure: Structure) -> LayerCrystal:
    return encode(orient_slab(structure))


def test_novel_templates(graphene: Structure) -> None:
    h, t, sheet = crystal(mx2("1H")), crystal(mx2("1T")), crystal(graphene)
    found = novel_templates([h, t, t, sheet], [h.template, ""])
    assert found.novel == (False, True, True, True)
    assert found.share == share_interval(3, 4)
    assert found.templates == {t.template: 2, sheet.template: 1}
    # elements are no part of a template
    other = mx2("1H")
    other.replace_species({"Mo": "W", "S": "Te"})
    assert novel_templates([crystal(other)], {h.template}).share.value == 0
    with pytest.raises(ScdmError, match="every one would be new"):
        novel_templates([h], [""])


# --- distributions


def layers_of(halves: list[float], a: float = 3.18) -> list[Structure | None]:
    return [mx2("1H", a=a, half=half) for half in halves]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1.0, 2.0), min_size=1, max_size=6), st.floats(0.0, 1.0))
def test_wasserstein_distance_of_shifted_sets_is_the_shift(halves: list[float], shift: float) -> None:
    # moving all mass by d costs d in one dimension, and nothing cheaper exists
    first = population(layers_of(halves), [H1] * len(halves))
    second = population(layers_of([h + shift / 2 for h in halves]), [H1] * len(halves))
    for found in (distribution_distances(first, second), distribution_distances(second, first)):
        assert found.thickness_wasserstein_angstrom == pytest.approx(shift, abs=1e-9)
        assert found.area_per_atom_wasserstein_angstrom2 == pytest.approx(0, abs=1e-9)
        assert found.elements_total_variation == found.layer_groups_total_variation == found.n_atoms_wasserstein == 0


def test_a_set_is_at_no_distance_from_itself(graphene: Structure) -> None:
    own = population([mx2("1H"), mx2("1T"), graphene], [H1, T1, 80])
    found = distribution_distances(own, own)
    values = [v for name, v in vars(found).items() if not name.startswith("n_samples") and name != "n_held_out"]
    assert values == pytest.approx([0.0] * 6, abs=1e-12)
    assert (found.n_samples, found.n_held_out) == (3, 3)


def test_distances_of_known_sets(graphene: Structure) -> None:
    first = population([mx2("1H"), mx2("1H")], [H1, H1])
    second = population([mx2("1H", a=3.18 * math.sqrt(1.1)), graphene], [H1, 80])
    found = distribution_distances(first, second)
    # Mo 1/3, S 2/3 against half of that and C 1/2: half of |1/6| + |1/3| + |1/2|
    assert found.elements_total_variation == pytest.approx(0.5)
    # mixture (1/4 Mo, 1/2 S, 1/4 C): 1/2 KL(p|m) + 1/2 KL(q|m) = 1/2 log2(4/3) + 1/2 (1/2 log2(2/3) + 1/2) bits
    divergence = 0.5 * math.log2(4 / 3) + 0.5 * (0.5 * math.log2(2 / 3) + 0.5 * math.log2(2))
    assert found.elements_jensen_shannon == pytest.approx(math.sqrt(divergence))
    assert found.layer_groups_total_variation == pytest.approx(0.5)
    # 3, 3 atoms against 2, 3: half the mass moves by one
    assert found.n_atoms_wasserstein == pytest.approx(0.5)
    mos2_area, sheet_area = math.sqrt(3) / 2 * 3.18**2 / 3, math.sqrt(3) / 2 * 2.46**2 / 2
    assert found.area_per_atom_wasserstein_angstrom2 == pytest.approx(
        (0.1 * mos2_area + abs(mos2_area - sheet_area)) / 2
    )
    assert found.thickness_wasserstein_angstrom == pytest.approx(3.13 / 2)


def test_sets_without_a_common_element_are_farthest(graphene: Structure) -> None:
    found = distribution_distances(population([mx2("1H")], [H1]), population([graphene], [80]))
    assert found.elements_total_variation == pytest.approx(1)
    assert found.elements_jensen_shannon == pytest.approx(1)
    assert found.layer_groups_total_variation == 1


_shares = st.dictionaries(st.integers(0, 80), st.integers(1, 50), min_size=1, max_size=6).map(
    lambda counts: {k: v / sum(counts.values()) for k, v in counts.items()}
)


@given(_shares, _shares, _shares)
def test_total_variation_is_a_metric(p: dict[int, float], q: dict[int, float], r: dict[int, float]) -> None:
    assert total_variation(p, p) == 0
    assert 0 <= total_variation(p, q) <= 1 + 1e-12
    assert total_variation(p, q) == total_variation(q, p)
    assert total_variation(p, r) <= total_variation(p, q) + total_variation(q, r) + 1e-12


def test_population(graphene: Structure) -> None:
    found = population([mx2("1H"), None, graphene * (2, 1, 1), bulk()], [None, 1, 80, 5])
    assert len(found) == 2
    # every layer weighs the same, whatever its size
    assert found.elements == pytest.approx({"C": 0.5, "Mo": 1 / 6, "S": 1 / 3})
    assert found.layer_groups == {0: 0.5, 80: 0.5}
    assert found.n_atoms.tolist() == [3, 4]
    assert found.thickness == pytest.approx([3.13, 0.0])
    assert set(found.failures) == {1, 3}
    with pytest.raises(ScdmError, match="3 layer groups for 1 structures"):
        population([graphene], [1, 2, 3])
    with pytest.raises(ScdmError, match="none of 1 structures is a layer"):
        population([None], [None])


def test_bad_structures_are_what_they_are_taken_for() -> None:
    # the tests above mean something only if these raise where they are not caught
    with pytest.raises(StructureError):
        orient_slab(broken())
    with pytest.raises(StructureError, match="bulk crystal"):
        orient_slab(bulk())
