"""Different layers among samples, and templates that no known layer has."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure
from support.layers import mx2
from support.samples import broken, bulk, turned

from scdm_models.datasets.matching import LayerMatcher
from scdm_models.datasets.pairing import Layer
from scdm_models.errors import ScdmError
from scdm_models.metrics.intervals import share_interval
from scdm_models.metrics.uniqueness_novelty import Uniqueness, novel_templates, uniqueness
from scdm_models.symmetry.encoding import LayerCrystal, encode
from scdm_models.symmetry.lattice import orient_slab

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
        def layer(structure: Structure) -> Layer:
            if abs(structure.lattice.a - 3.3) < 1e-9:
                raise ZeroDivisionError("unforeseen")
            return LayerMatcher.layer(structure)

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


@settings(max_examples=25)
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
