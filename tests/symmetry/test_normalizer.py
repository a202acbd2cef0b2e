"""Letters under the normalizer: against the literature, and against crystals that were moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.layers import random_crystal

from scdm_models.datasets.matching import LayerMatcher
from scdm_models.symmetry.encoding import LayerCrystal, decode
from scdm_models.symmetry.normalizer import canonical, letter_permutations
from scdm_models.symmetry.tables import layer_group


def named(number: int) -> set[str]:
    letters = [p.letter for p in layer_group(number).positions]
    return {"".join(letters[i] for i in names) for names in letter_permutations(number)}


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        # p-3m1: the Euclidean normalizer of the space group P-3m1 (164) without its shift along c has no more in-plane
        # translations than the lattice (ITA, table 3.5.2.5), so letters mean what they say
        (72, {"abcdefg"}),
        # p3: shifts by (2/3, 1/3) and inversion permute the three axes a, b, c in every way
        (65, {"abcd", "acbd", "bacd", "bcad", "cabd", "cbad"}),
        # p4/mmm: the shift by (1/2, 1/2) trades a for b, and with them what surrounds them
        (61, {"abcdefghijklmn", "bacedfgihjkmln"}),
    ],
)
def test_permutations_of_the_literature(number: int, expected: set[str]) -> None:
    assert named(number) == expected


@pytest.mark.parametrize("number", range(1, 81))
def test_permutations_are_a_group_and_keep_multiplicity_and_freedom(number: int) -> None:
    found = letter_permutations(number)
    positions = layer_group(number).positions
    assert tuple(range(len(positions))) in found
    for one in found:
        assert sorted(one) == list(range(len(positions)))
        assert all(
            (positions[i].multiplicity, len(positions[i].free)) == (positions[j].multiplicity, len(positions[j].free))
            for i, j in enumerate(one)
        )
        assert all(tuple(one[i] for i in other) in found for other in found)


def test_the_same_layer_from_another_origin_has_the_same_template() -> None:
    # 1H-MoS2 with Mo on a and S above b, c or on the other hollow is one crystal: the three axes of p-6m2 are alike
    crystals = [
        LayerCrystal.from_dict(
            {
                "layer_group": 78,
                "lattice": [3.18, 3.18, 120.0],
                "sites": [[42, metal, *where[metal], 0.0], [16, above, *where[axis], 1.56]],
            }
        )
        for where in [{"a": (0.0, 0.0), "b": (1 / 3, 2 / 3), "c": (2 / 3, 1 / 3)}]
        for metal, axis, above in (("a", "b", "e"), ("b", "c", "f"), ("c", "a", "d"), ("a", "c", "f"), ("b", "a", "d"))
    ]
    first = decode(crystals[0])
    assert all(LayerMatcher().fit(first, decode(c)) for c in crystals)
    assert {c.template for c in crystals} == {"78:a-e"}


@settings(max_examples=60)
@given(st.integers(1, 80), st.integers(0, 10**6), st.data())
def test_canonical_names_do_not_depend_on_the_names(number: int, seed: int, data: st.DataObject) -> None:
    crystal = random_crystal(number, seed=seed)
    sites = [(crystal.group.index(s.letter), s.element) for s in crystal.sites]
    names = data.draw(st.sampled_from(sorted(letter_permutations(number))))
    assert canonical(number, sites) == canonical(number, [(names[i], e) for i, e in sites])
    # what occupies them is told apart
    other = replace(crystal.sites[0], element=crystal.sites[0].element % 80 + 1)
    changed = [(crystal.group.index(other.letter), other.element), *sites[1:]]
    assert canonical(number, sites) != canonical(number, changed)
    assert np.shape(canonical(number, sites)) == (len(sites), 2)
