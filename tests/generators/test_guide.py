"""Choosy generation: formulas that nobody knows, and layers that a surrogate calls low."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pymatgen.core import Structure
from support.commands import commands
from support.layers import mx2

from scdm_flows.config import parse_config
from scdm_flows.errors import ConfigError
from scdm_flows.generators.guide import PropertyGuide, guess, sure_enough
from scdm_flows.generators.scdm import sampler_options
from scdm_flows.thermo.properties import PredictedProperties, best_gap_probability
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
    # C2DB: 1T-SnS2 has a PBE gap of 1.59 eV, 1H-NbS2 is a metal, neither is magnetic; 1T-VCl2 is
    sns2, nbs2, vcl2 = mx2("1T", a=3.70, half=1.47), mx2("1H", a=3.34), mx2("1T", a=3.54)
    sns2.replace_species({"Mo": "Sn"})
    nbs2.replace_species({"Mo": "Nb"})
    vcl2.replace_species({"Mo": "V", "S": "Cl"})
    assert PropertyGuide(gap=(1.0, 2.2))([sns2, nbs2]) == [True, False]
    assert PropertyGuide(gap=(0.0, 0.0))([sns2, nbs2]) == [False, True]
    assert PropertyGuide(magnetic=False)([sns2, vcl2]) == [True, False]
    assert PropertyGuide(magnetic=True)([sns2, vcl2]) == [False, True]
    # conditions combine
    assert PropertyGuide(0.1, (1.0, 2.2), False)([sns2, nbs2, vcl2]) == [True, False, False]
    assert not PropertyGuide().asks


def test_a_gap_is_asked_for_by_how_likely_it_is() -> None:
    # a layer that has a gap with 0.8, of 1.5 +- 0.5 eV nine times in ten
    one = PredictedProperties(0.5, 0.8, gap_if_nonmetal=1.5, gap_if_nonmetal_error=0.5)
    assert one.gap_probability(1.0, 2.0) == pytest.approx(0.8 * 0.9)
    assert one.gap_probability(0.0, 0.0) == pytest.approx(0.2)
    assert one.gap_probability(0.0, 100.0) == pytest.approx(1.0)
    parts = [one.gap_probability(*window) for window in ((0.0, 1.0), (1.0, 1.5), (1.5, 100.0))]
    assert sum(p for p in parts if p is not None) == pytest.approx(1.0)
    assert best_gap_probability(0.5, 1.0, 2.0) == pytest.approx(0.9)
    assert best_gap_probability(0.5, 0.0, 0.0) == 1.0
    assert PredictedProperties(0.5).gap_probability(1.0, 2.0) is None
    # the same gap and probability, one of them near known layers and one far from them
    near = replace(one, nonmetal_probability=0.95)
    far = replace(near, gap_if_nonmetal_error=3.0)
    assert [sure_enough(x, 1.0, 2.0) for x in (near, far)] == [True, False]
    # just beyond the window: 0.95 * 0.5 exp(-0.1 ln 10 / 0.5) = 0.30 of it lies inside, at best it could be 0.6
    assert not sure_enough(replace(near, gap_if_nonmetal=2.1), 1.0, 2.0)
    assert sure_enough(replace(near, gap_if_nonmetal=2.1), 1.5, 100.0)


def test_conditions_that_cannot_be_are_refused_in_words() -> None:
    with pytest.raises(
        ConfigError, match=r"must span at least 0.1 eV: no prediction is finer; \[0, 0\] asks for metals"
    ):
        parse_config({"name": "t", "generator": {"kind": "scdm", "gap": [1.5, 1.5]}})
    for gap in ([2, 1], [-1, 1], [0, 1000]):
        with pytest.raises(ConfigError, match="must be .lowest, highest. with 0 <= lowest <= highest"):
            parse_config({"name": "t", "generator": {"kind": "scdm", "gap": gap}})
    for asked, said in (({"formula": "UO2"}, "'UO2' has U"), ({"elements": "Be,S,La"}, "'Be,S,La' has Be, La")):
        config = parse_config({"name": "t", "generator": {"kind": "scdm", "magnetic": True, **asked}}).generator
        with pytest.raises(GenerationError, match=f"{said}, of which no layer was there to learn.*; leave out"):
            sampler_options(config)  # type: ignore[arg-type]
    unguided = parse_config({"name": "t", "generator": {"kind": "scdm", "formula": "UO2"}}).generator
    assert sampler_options(unguided).accept is None  # type: ignore[arg-type]


def test_conditions_combine_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scdm, out = commands(capsys), tmp_path / "s.jsonl"
    wide = ["--elements", "Hf,Zr,Sn,S,Se", "--layer-group", "72", "--n-atoms", "3"]
    properties = ["--gap", "0.5:3", "--magnetic", "no", "--max-predicted-e-hull", "0.3", "--stability", "0.05"]
    scdm("generate", "-n", "3", "--seed", "1", *wide, *properties, "-o", str(out))
    records = [json.loads(line) for line in out.read_text().splitlines()]
    structures = [Structure.from_dict(record["structure"]) for record in records]
    for record, structure in zip(records, structures, strict=True):
        assert record["layer_group_requested"] == 72
        assert len(structure) == 3
        assert {str(e) for e in structure.composition} <= {"Hf", "Zr", "Sn", "S", "Se"}
        assert record["asked"] == {
            "layer_group": 72,
            "elements": ["Hf", "S", "Se", "Sn", "Zr"],
            "n_atoms": 3,
            "max_predicted_e_hull": 0.3,
            "gap": [0.5, 3.0],
            "magnetic": False,
            "stability": 0.05,
        }
    assert all(PropertyGuide(0.3, (0.5, 3.0), False)(structures))
    refused = {
        ("--gap", "1.5"): "two energies in eV",
        ("--gap", "1:2", "--formula", "MoS2", "--n-atoms", "4"): "must be a multiple of the 3 atoms of MoS2",
        ("--gap", "1:2", "--formula", "MoS2", "--elements", "W,S"): "has elements outside elements=W,S",
        ("--gap", "1:2", "--stability", "nan"): "finite number",
        # p6/mmm has one position of a single atom, which two elements cannot share
        ("--magnetic", "no", "--layer-group", "80", "--formula", "MoS", "--n-atoms", "2"): "no combination of at most",
    }
    for asked, said in refused.items():
        assert said in scdm("generate", "-n", "1", *asked, "-o", str(tmp_path / "no.jsonl"), code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["s.jsonl"]


def test_a_campaign_asks_for_both_and_older_ones_keep_their_hash() -> None:
    plain = {"name": "t", "generator": {"kind": "scdm"}}
    asked = {"kind": "scdm", "unknown_formulas": True, "max_predicted_e_hull": 0.1}
    config = parse_config({**plain, "generator": asked})
    options = sampler_options(config.generator)  # type: ignore[arg-type]
    assert options.accept == PropertyGuide(0.1)
    wishes = parse_config({**plain, "generator": {"kind": "scdm", "gap": [1.0, 2.0], "magnetic": False}}).generator
    asked_for = sampler_options(wishes)  # type: ignore[arg-type]
    assert asked_for.accept == PropertyGuide(None, (1.0, 2.0), False)
    assert asked_for.asked == {"gap": [1.0, 2.0], "magnetic": False, "stability": 0.2}
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
