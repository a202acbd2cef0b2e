"""Distances between the distributions of two sets of layers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure
from support.layers import mx2
from support.samples import bulk

from scdm_models.errors import ScdmError
from scdm_models.metrics.distributions import distribution_distances, population, total_variation

H1, T1 = 78, 72  # layer groups of 1H-MoS2 (p-6m2) and 1T-MoS2 (p-3m1)


def layers_of(halves: list[float], a: float = 3.18) -> list[Structure | None]:
    return [mx2("1H", a=a, half=half) for half in halves]


@settings(max_examples=20)
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
