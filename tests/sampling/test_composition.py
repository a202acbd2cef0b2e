"""Which compositions a group can give, against brute force; guided choices always end where they should."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scdm_models.errors import GenerationError
from scdm_models.sampling.composition import CompositionRequest, elements_allowed, feasible, letters_allowed, refusal
from scdm_models.sampling.sampler import SamplerOptions, generate
from scdm_models.sampling.skeletons import SkeletonRules
from scdm_models.symmetry.encoding import MAX_ATOMS
from scdm_models.symmetry.tables import layer_group


def parse(formula: str | None = None, n_atoms: int | None = None, elements: str | None = None) -> CompositionRequest:
    request = CompositionRequest.parse(elements, formula, n_atoms)
    assert request is not None
    return request


def brute_force(group: int, sites: int, request: CompositionRequest) -> bool:
    """All occupations of ``sites`` positions with all assignments of the formula's elements."""
    table = layer_group(group)
    cells = 2 if table.centred else 1
    assert request.formula is not None
    formula = dict(request.formula)
    unit = sum(formula.values())
    for chosen in combinations_with_replacement(range(len(table.positions)), sites):
        counts = Counter(chosen)
        if any(n > 1 and not table.positions[i].free for i, n in counts.items()):
            continue
        sizes = [table.positions[i].multiplicity // cells for i in chosen]
        total = sum(sizes)
        if total > MAX_ATOMS or total % unit or (request.n_atoms is not None and total != request.n_atoms):
            continue
        for assigned in product(formula, repeat=sites):
            amounts = Counter[int]()
            for z, size in zip(assigned, sizes, strict=True):
                amounts[z] += size
            if all(amounts[z] == n * total // unit for z, n in formula.items()):
                return True
    return False


@settings(max_examples=60)
@given(
    group=st.sampled_from([1, 2, 6, 10, 18, 27, 37, 47, 48, 55, 61, 65, 68, 72, 78, 80]),
    sites=st.integers(1, 3),
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    n_atoms=st.none() | st.integers(1, 16),
)
def test_feasibility_is_what_brute_force_finds(group: int, sites: int, counts: list[int], n_atoms: int | None) -> None:
    formula = "".join(f"{s}{n}" for s, n in zip(("Mo", "S", "O"), counts, strict=False))
    try:
        request = parse(formula, n_atoms)
    except GenerationError:
        return  # the number of atoms is no multiple of the formula's
    assert feasible(request, group, sites) == brute_force(group, sites, request)


def test_known_prototypes_are_feasible() -> None:
    # 1H-MoS2 is p-6m2 (78) with Mo on 1a and S on the 2e pair, 1T-HfS2 p-3m1 (72) with Hf on 1a and S on 2c: MoS2 in
    # two sites; in p6/mmm (80) the smallest pair of multiplicities 1 and 2 exists too (1a and 2b or 2c)
    for group in (72, 78, 80):
        assert feasible(parse("MoS2"), group, 2)
        assert not feasible(parse("MoS2"), group, 1)
    # p1 has a single position of multiplicity 1: N atoms need N sites
    assert [n for n in range(1, 10) if feasible(parse("MoS2", 6), 1, n)] == [6]


def test_what_cannot_be_is_refused_with_the_positions() -> None:
    # p4/nbm (62): its positions have multiplicities 2, 4, 8 and 16 only, so an odd number of atoms is impossible
    assert {p.multiplicity for p in layer_group(62).positions} == {2, 4, 8, 16}
    text = refusal(parse(n_atoms=5), 62, 20)
    assert text is not None
    assert "layer group 62" in text
    assert "5 atoms" in text
    assert "2a (once)" in text
    assert refusal(parse(n_atoms=6), 62, 20) is None
    with pytest.raises(GenerationError, match="layer group 62"):
        generate(1, layer_group=62, options=SamplerOptions(skeletons=SkeletonRules(composition=parse(n_atoms=5))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formula": "Xx2"}, "cannot be read|no element"),
        ({"formula": "MoS2.5"}, "whole numbers"),
        ({"formula": ""}, "whole numbers|cannot be read"),
        ({"elements": "Mo,Qq"}, "'Qq' is no element"),
        ({"elements": " , "}, "names none"),
        ({"elements": "Mo,S,Rf"}, "Rf is beyond Lr, the last element"),
        ({"formula": "MoS2", "elements": "Mo,Se"}, "outside elements"),
        ({"formula": "MoS2", "n_atoms": 4}, "multiple of the 3 atoms"),
        ({"n_atoms": 41}, "1 to 40"),
        ({"formula": "C60H1"}, "has 61 atoms"),
    ],
)
def test_bad_conditions_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        CompositionRequest.parse(arguments.get("elements"), arguments.get("formula"), arguments.get("n_atoms"))


def test_elements_without_training_are_refused() -> None:
    with pytest.raises(GenerationError, match="Pu did not occur"):
        generate(1, options=SamplerOptions(skeletons=SkeletonRules(composition=parse("PuO2"))))


@pytest.mark.parametrize("group", range(1, 81))
def test_random_allowed_choices_always_end_in_the_formula(group: int) -> None:
    table = layer_group(group)
    cells = 2 if table.centred else 1
    rng = np.random.default_rng(group)
    for request in (parse("MoS2"), parse("Al2O3"), parse(n_atoms=8), parse("CrSiTe3", 20)):
        sites = [n for n in range(1, 13) if feasible(request, group, n)]
        for n in sites[:2] + sites[-1:]:
            chosen: list[int] = []
            for left in range(n, 0, -1):
                allowed = np.flatnonzero(letters_allowed(request, group, chosen, left))
                assert len(allowed)
                chosen.append(int(rng.choice(allowed)))
            sizes = [table.positions[i].multiplicity // cells for i in chosen]
            if request.n_atoms is not None:
                assert sum(sizes) == request.n_atoms
            assert all(table.positions[i].free or chosen.count(i) == 1 for i in chosen)
            if request.formula is None:
                continue
            elements: list[int] = []
            for _ in range(n):
                possible = elements_allowed(request, sizes, elements)
                assert possible
                elements.append(int(rng.choice(sorted(possible))))
            amounts = Counter[int]()
            for z, size in zip(elements, sizes, strict=True):
                amounts[z] += size
            units = sum(sizes) // sum(count for _, count in request.formula)
            assert amounts == {z: units * count for z, count in request.formula}


def test_samples_have_what_was_asked() -> None:
    def draw(composition: CompositionRequest, layer: int | None = None) -> list:
        options = SamplerOptions(steps=2, skeletons=SkeletonRules(composition=composition))
        return list(generate(8, seed=1, layer_group=layer, options=options))

    assert {s.structure.composition.reduced_formula for s in draw(parse("MoS2"))} == {"MoS2"}
    assert {s.structure.composition.reduced_formula for s in draw(parse("MoS2"), 78)} == {"MoS2"}
    assert {len(s.structure) for s in draw(parse(n_atoms=12))} == {12}
    assert {e.symbol for s in draw(parse(elements="Mo W Se")) for e in s.structure.composition} <= {"Mo", "W", "Se"}
