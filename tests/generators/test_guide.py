"""Choosy generation: formulas that nobody knows, and layers that a surrogate calls low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from pymatgen.core import Structure
from support.layers import mx2

from scdm_flows.config import parse_config
from scdm_flows.generators.guide import EnergyGuide, predicted_e_hull
from scdm_flows.generators.scdm import sampler_options
from scdm_models.datasets.known import KnownLayers
from scdm_models.errors import GenerationError
from scdm_models.sampling import sampler
from scdm_models.sampling.sampler import Position, SamplerOptions, generate


@dataclass(frozen=True)
class Few:
    """Accepts layers of at most so many atoms."""

    most: int

    def __call__(self, structures: Sequence[Structure]) -> list[bool]:
        return [len(structure) <= self.most for structure in structures]


def test_only_formulas_that_no_known_layer_has() -> None:
    known = KnownLayers.load().formulas
    plain = list(generate(20, 5))
    assert any(one.structure.composition.reduced_formula in known for one in plain)  # or the test says nothing
    samples = list(generate(20, 5, options=SamplerOptions(known_formulas=known)))
    assert not any(one.structure.composition.reduced_formula in known for one in samples)
    # the same stream, in which more is passed over
    assert samples[-1].draw > plain[-1].draw
    shared = {one.draw: one for one in plain}
    for one in samples:
        if one.draw in shared:
            assert one.structure.composition == shared[one.draw].structure.composition


def test_what_is_not_accepted_is_passed_over_and_a_call_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SamplerOptions(accept=Few(4))
    samples = list(generate(12, 5, options=options))
    assert {len(one.structure) for one in samples} <= {1, 2, 3, 4}
    assert not any(one.mended for one in samples)
    position, first = Position(), []
    for one in generate(12, 5, options=options, position=position):
        first.append(one)
        if position.done == 5:
            break
    rest = list(generate(12, 5, options=options, position=position))
    assert [one.draw for one in [*first, *rest]] == [one.draw for one in samples]
    assert [one.draw for one in generate(12, 5, options=options, processes=2)] == [one.draw for one in samples]
    monkeypatch.setattr(sampler, "MOST_DRAWS", 20)
    with pytest.raises(GenerationError, match="draws gave 0 samples that may be kept; ask for less"):
        list(generate(2, 5, options=SamplerOptions(accept=Few(0))))


def test_the_guide_knows_high_from_low() -> None:
    layer = mx2("1H", a=3.18)
    squeezed = layer.copy()
    squeezed.apply_strain([-0.12, -0.12, 0])
    strange = layer.copy()
    strange.replace_species({"Mo": "U"})
    low, high, none = predicted_e_hull([layer, squeezed, strange])
    assert low is not None
    assert abs(low) < 0.1  # on the hull in C2DB
    assert high is not None
    assert high > low + 0.2
    assert none is None  # no layer of the fit has uranium
    assert EnergyGuide(0.1)([layer, squeezed, strange]) == [True, False, False]


def test_a_campaign_asks_for_both_and_older_ones_keep_their_hash() -> None:
    plain = {"name": "t", "generator": {"kind": "scdm"}}
    asked = {"kind": "scdm", "unknown_formulas": True, "max_predicted_e_hull": 0.1}
    config = parse_config({**plain, "generator": asked})
    options = sampler_options(config.generator)  # type: ignore[arg-type]
    assert options.accept == EnergyGuide(0.1)
    assert "MoS2" in options.known_formulas
    assert options.choosy
    assert not sampler_options(parse_config(plain).generator).choosy  # type: ignore[arg-type]
    contradiction = parse_config({**plain, "generator": {**asked, "formula": "MoS2"}}).generator
    with pytest.raises(GenerationError, match="'MoS2' is that of a known layer"):
        sampler_options(contradiction)  # type: ignore[arg-type]
    # the hashes of these two before the fields were there
    own = {"kind": "scdm", "weight": 1.5, "letter_temperature": 1.0}
    several = {"kind": "several", "generators": [own, {**own, "kind": "unscdm"}]}
    for generator, before in ((own, "e2261e37482d0f76"), (several, "d8ccbcb0af9a606b")):
        assert parse_config({**plain, "generator": generator}).config_hash.startswith(before)
    assert config.config_hash != parse_config(plain).config_hash
