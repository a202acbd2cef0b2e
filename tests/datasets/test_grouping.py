"""Groups of equal layers are those of comparing all pairs, and no cheap rejection overrules the comparison."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from support.layers import diamond

from scdm_models.datasets import matching
from scdm_models.datasets.grouping import _BALL, _reach, _Sizes, components, widened
from scdm_models.datasets.matching import LayerMatcher
from scdm_models.datasets.pairing import Layer, near, paired

MATCHER = LayerMatcher()
SITES = [(1 / 3, 2 / 3), (2 / 3, 1 / 3), (0.0, 0.0)]


def mx2(polytype: str, elements: str = "Mo S S", a: float = 3.18) -> Structure:
    sheets = [(0, 0.0), (1, 1.565), (1 if polytype == "1H" else 2, -1.565)]
    return Structure(Lattice.hexagonal(a, 20), elements.split(), [[*SITES[k], 0.5 + z / 20] for k, z in sheets])


def square(buckling: float = 1.0) -> Structure:
    """A square MoS2 layer of two formula units, with sulphur above and below."""
    frac = [[0, 0, 0.5], [0.5, 0.5, 0.5], [0.5, 0, 0.5 + buckling / 20], [0, 0.5, 0.5 - buckling / 20]]
    frac += [[0.25, 0.25, 0.5 + 1.9 / 20], [0.75, 0.75, 0.5 - 1.9 / 20]]
    return Structure(Lattice.tetragonal(5.2, 20), ["Mo", "Mo", *["S"] * 4], frac)


SEEDS = [mx2("1H"), mx2("1T"), mx2("1H", a=3.6), square(), square(1.5), mx2("1T", "Mo S Se"), mx2("1H", "Mo S Se")]


def changed(layer: Structure, rng: np.random.Generator, noise: float, strain: float) -> Structure:
    """A copy with moved atoms, stretched cell, another origin, perhaps mirrored or enlarged."""
    cart = np.array(layer.cart_coords) + rng.normal(0, noise, (len(layer), 3))
    frac = layer.lattice.get_fractional_coords(cart)
    matrix = np.array(layer.lattice.matrix)
    matrix[:2, :2] = matrix[:2, :2] @ (np.eye(2) + rng.uniform(-strain, strain, (2, 2)))
    frac = frac * [1, 1, rng.choice([-1, 1])] + [*rng.random(2), 0.3]
    copy = Structure(Lattice(matrix), layer.species, frac)
    return copy * (int(rng.integers(1, 3)), 1, 1) if rng.random() < 0.2 else copy


def all_pairs(structures: list[Structure]) -> list[list[int]]:
    """Connected components over every pair."""
    label, layers = list(range(len(structures))), [MATCHER.layer(s) for s in structures]
    for i, j in itertools.combinations(range(len(structures)), 2):
        if label[i] != label[j] and MATCHER.same(layers[i], layers[j]):
            low, high = sorted((label[i], label[j]))
            label = [low if x == high else x for x in label]
    groups: dict[int, list[int]] = defaultdict(list)
    for i, x in enumerate(label):
        groups[x].append(i)
    return sorted(groups.values())


def cell(layer: Layer) -> Lattice:
    """Its cell, c along z."""
    return Lattice(np.block([[layer.plane, np.zeros((2, 1))], [np.zeros((1, 2)), np.array([[layer.c]])]]))


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(SEEDS),
    st.sampled_from(SEEDS),
    st.floats(0, 0.4),
    st.floats(0, 0.1),
)
def test_pairs_are_judged_as_structure_matcher_does(
    seed: int, one: Structure, two: Structure, noise: float, strain: float
) -> None:
    if one.composition.reduced_formula != two.composition.reduced_formula:
        two = one
    rng = np.random.default_rng(seed)
    layers = [MATCHER.layer(changed(s, rng, noise, strain)) for s in (one, two)]
    assume(len(layers[0].numbers) == len(layers[1].numbers))
    order = sorted((0, 1), key=lambda i: layers[i].key)  # the library's answer depends on which comes first
    allowed = MATCHER.tolerance
    plain = StructureMatcher(allowed.length, allowed.stol, allowed.angle, primitive_cell=False, scale=False)
    structures = [Structure(cell(layers[i]), layers[i].numbers, layers[i].frac) for i in order]
    expected = plain.fit(*structures, skip_structure_reduction=True)
    assert paired(*layers, MATCHER.tolerance) == paired(*layers[::-1], MATCHER.tolerance) == expected


@settings(max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(SEEDS),
    st.floats(0, 0.35),
    st.floats(0, 0.08),
    st.sampled_from([1.0, 1.08, 1.095]),
)
def test_balls_reject_nothing_that_is_equal(
    seed: int, layer: Structure, noise: float, strain: float, stretch: float
) -> None:
    """What equals a member of a ball is within reach of the ball's first, and so are the firsts of two such balls."""
    rng = np.random.default_rng(seed)
    one = MATCHER.layer(changed(layer, rng, 0, 0 if stretch > 1 else 0.02))
    larger = Structure(layer.lattice.matrix * [[stretch], [stretch], [1]], layer.species, layer.frac_coords)
    two = MATCHER.layer(changed(larger, rng, noise, 0 if stretch > 1 else strain))
    assume(np.array_equal(one.numbers, two.numbers))

    def around(member: Layer) -> Layer:
        """A first of a ball that has the member near its rim."""
        for scale in (0.05, 0.03, 0.015, 0.0):
            frac = member.frac + rng.normal(0, scale, member.frac.shape) / [*member.lengths, member.c]
            basis = np.array([[member.lengths[0], 0], [0, 0]])
            angle = np.radians(member.angle)
            basis[1] = member.lengths[1] * np.array([np.cos(angle), np.sin(angle)])
            basis *= 1 + rng.uniform(-0.009, 0.009, (2, 1)) * (scale > 0)
            first = Layer(member.numbers, frac, basis, member.c)
            if near(first, member, _BALL):
                return first
        return member

    assume(MATCHER.same(one, two))
    first, other = around(one), around(two)
    for a, b, balls in ((first, two, 1), (one, other, 1), (first, other, 2)):
        assert _reach(a, b, widened(MATCHER.tolerance, balls))
        assert _Sizes([a, b], MATCHER.tolerance).possible(0, np.array([1]), balls).tolist() == [1]


def test_a_ball_reaches_further_than_its_first() -> None:
    """Layers equal to a member but not within reach of the first without the widening: in displacement, in length."""

    def bn(shift: float = 0.0, a: float = 2.5) -> Layer:
        """Boron nitride with the nitrogen moved towards a boron."""
        step = shift / (a * np.sqrt(3))
        frac = [[0, 0, 0.5], [1 / 3 - step, 2 / 3 + step, 0.5]]
        return MATCHER.layer(Structure(Lattice.hexagonal(a, 20), ["B", "N"], frac))

    # each of the two atoms may move by 0.1 (V / 2)^(1/3), so one against the other by twice that
    rim = 2 * 0.1 * float(np.cbrt(bn().area * bn().c / 2)) - 0.01
    # the length may differ by 10 %
    for first, member, other in ((bn(rim + 0.09), bn(rim), bn()), (bn(0, 2.5 * 1.108), bn(0, 2.5 * 1.099), bn())):
        assert near(first, member, _BALL)
        assert MATCHER.same(member, other)
        assert not _reach(first, other, MATCHER.tolerance)
        assert _reach(first, other, widened(MATCHER.tolerance, 1))


@pytest.fixture(scope="module")
def crowd() -> list[Structure]:
    """Few layers of two formulas, many copies of each: nearly identical ones, and ones at the rim of the tolerance."""
    rng = np.random.default_rng(7)
    layers = [changed(seed, rng, noise, strain) for seed in SEEDS for noise, strain in [(0.01, 0.002)] * 6]
    return layers + [changed(seed, rng, noise, 0.06) for seed in SEEDS for noise in (0.1, 0.2, 0.25, 0.3)]


def test_groups_are_those_of_all_pairs(crowd: list[Structure]) -> None:
    expected = all_pairs(crowd)
    assert max(map(len, expected)) > 6  # something is equal,
    assert len(expected) > len(SEEDS)  # and not everything
    assert MATCHER.group(crowd) == expected


@settings(max_examples=3)
@given(st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order(crowd: list[Structure], random) -> None:  # type: ignore[no-untyped-def]
    order = random.sample(range(len(crowd)), len(crowd))
    groups = MATCHER.group([crowd[i] for i in order])
    assert sorted(sorted(order[k] for k in group) for group in groups) == MATCHER.group(crowd)


def test_a_chain_is_one_group() -> None:
    # 8 % longer each: neighbours are within 10 %, the ends are not
    chain = [mx2("1H", a=a) for a in (3.0, 3.24, 3.5)]
    assert not MATCHER.fit(chain[0], chain[2])
    for order in itertools.permutations(chain):
        assert MATCHER.group(list(order)) == [[0, 1, 2]]


def test_the_layer_group_is_not_asked() -> None:
    # moved by 0.01 angstrom a layer has no symmetry at a tolerance of 1e-3 and is still the same layer
    moved = mx2("1H").perturb(0.01)
    assert MATCHER.group([mx2("1H"), moved]) == [[0, 1]]


def test_processes_give_the_same_groups(crowd: list[Structure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "WORTH_PROCESSES", 0)
    assert MATCHER.group(crowd, processes=2) == MATCHER.group(crowd)


def test_copies_cost_one_comparison_each() -> None:
    """Comparisons grow with the layers, not with their pairs: 2 x 60 copies have 7,140."""
    rng = np.random.default_rng(3)
    layers = [MATCHER.layer(changed(mx2(p), rng, 0.01, 0.002)) for p in ("1H", "1T") for _ in range(60)]
    asked = []

    def same(first: Layer, second: Layer) -> bool:
        asked.append(1)
        return MATCHER.same(first, second)

    assert [len(g) for g in components(layers, MATCHER.tolerance, same)] == [60, 60]
    assert len(asked) < 2 * len(layers)


def test_a_broken_structure_stays_alone(caplog: pytest.LogCaptureFixture) -> None:
    broken = mx2("1H")
    broken._sites = [*broken._sites[:2], None]  # what no reader would give
    unreadable = mx2("1H", "Mo S X0+")  # a site without an element has no atomic number to compare
    bulk = diamond("Si", 5.43)
    nan = Structure(Lattice.hexagonal(3.18, 20), ["Mo", "S", "S"], [[0, 0, np.nan]] * 3)
    layers = [mx2("1H"), broken, nan, bulk, mx2("1H", a=3.2), bulk, unreadable]
    assert MATCHER.group(layers) == [[0, 4], [1], [2], [3], [5], [6]]
    assert "is not compared" in caplog.text
