"""Choosy generation: formulas that nobody knows, and layers that a surrogate calls low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from pymatgen.core import Structure
from support.layers import mx2

from scdm_flows.config import parse_config
from scdm_flows.errors import ConfigError
from scdm_flows.generators.guide import PropertyGuide, guess
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


@pytest.mark.slow
def test_what_is_not_accepted_is_passed_over_and_a_call_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SamplerOptions(accept=Few(4))
    samples = list(generate(8, 5, options=options))
    assert {len(one.structure) for one in samples} <= {1, 2, 3, 4}
    assert not any(one.mended for one in samples)
    position, first = Position(), []
    for one in generate(8, 5, options=options, position=position):
        first.append(one)
        if position.done == 5:
            break
    rest = list(generate(8, 5, options=options, position=position))
    assert [one.draw for one in [*first, *rest]] == [one.draw for one in samples]
    assert [one.draw for one in generate(8, 5, options=options, processes=2)] == [one.draw for one in samples]
    monkeypatch.setattr(sampler, "MOST_DRAWS", 20)
    with pytest.raises(GenerationError, match="draws gave 0 samples that may be kept; ask for less"):
        list(generate(2, 5, options=SamplerOptions(accept=Few(0))))


def test_the_guide_knows_high_from_low() -> None:
    layer = mx2("1H", a=3.18)
    squeezed = layer.copy()
    squeezed.apply_strain([-0.12, -0.12, 0])
    strange = layer.copy()
    strange.replace_species({"Mo": "U"})
    low, high, none = guess([layer, squeezed, strange])
    assert low is not None
    assert abs(low.e_above_hull) < 0.1  # on the hull in C2DB
    assert high is not None
    assert high.e_above_hull > low.e_above_hull + 0.2
    assert none is None  # no layer of the fit has uranium
    assert PropertyGuide(0.1)([layer, squeezed, strange]) == [True, False, False]


def test_the_guide_knows_metals_semiconductors_and_magnets() -> None:
    # C2DB: 1H-MoS2 has a PBE gap of 1.58 eV (1.67 without spin-orbit coupling), 1H-NbS2 is a metal, neither is magnetic;
    # 1T-VCl2 is
    mos2, nbs2, vcl2 = mx2("1H", a=3.18), mx2("1H", a=3.34), mx2("1T", a=3.54)
    nbs2.replace_species({"Mo": "Nb"})
    vcl2.replace_species({"Mo": "V", "S": "Cl"})
    assert PropertyGuide(gap=(1.0, 2.2))([mos2, nbs2]) == [True, False]
    assert PropertyGuide(gap=(0.0, 0.0))([mos2, nbs2]) == [False, True]
    assert PropertyGuide(magnetic=False)([mos2, vcl2]) == [True, False]
    assert PropertyGuide(magnetic=True)([mos2, vcl2]) == [False, True]
    # conditions combine
    assert PropertyGuide(0.1, (1.0, 2.2), False)([mos2, nbs2, vcl2]) == [True, False, False]
    assert not PropertyGuide().asks


def test_conditions_that_cannot_be_are_refused_in_words() -> None:
    for gap in ([2, 1], [-1, 1], [0, 1000]):
        with pytest.raises(ConfigError, match="must be .lowest, highest. with 0 <= lowest <= highest"):
            parse_config({"name": "t", "generator": {"kind": "scdm", "gap": gap}})
    config = parse_config({"name": "t", "generator": {"kind": "scdm", "formula": "UO2", "magnetic": True}}).generator
    with pytest.raises(GenerationError, match="'UO2' has U, of which no layer was there to learn"):
        sampler_options(config)  # type: ignore[arg-type]
    unguided = parse_config({"name": "t", "generator": {"kind": "scdm", "formula": "UO2"}}).generator
    assert sampler_options(unguided).accept is None  # type: ignore[arg-type]


def test_a_campaign_asks_for_both_and_older_ones_keep_their_hash() -> None:
    plain = {"name": "t", "generator": {"kind": "scdm"}}
    asked = {"kind": "scdm", "unknown_formulas": True, "max_predicted_e_hull": 0.1}
    config = parse_config({**plain, "generator": asked})
    options = sampler_options(config.generator)  # type: ignore[arg-type]
    assert options.accept == PropertyGuide(0.1)
    wishes = parse_config({**plain, "generator": {"kind": "scdm", "gap": [1.0, 2.0], "magnetic": False}}).generator
    assert sampler_options(wishes).accept == PropertyGuide(None, (1.0, 2.0), False)  # type: ignore[arg-type]
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
