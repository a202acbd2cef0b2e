"""What the packaged model draws: groups, sizes, streams of draws, requests that are refused."""

from __future__ import annotations

import json

import pytest

from scdm_models.errors import GenerationError
from scdm_models.metrics.groups import found_by_both
from scdm_models.model.batch import to_batch
from scdm_models.model.checkpoint import load_checkpoint
from scdm_models.sampling.cohesion import bonded_layers
from scdm_models.sampling.composition import CompositionRequest
from scdm_models.sampling.sampler import SamplerOptions, generate
from scdm_models.sampling.skeletons import SkeletonRules
from scdm_models.symmetry.encoding import MAX_ATOMS


@pytest.fixture(scope="module")
def samples() -> list:
    """Forty samples of the packaged model."""
    return list(generate(40, seed=3, options=SamplerOptions(steps=5)))


def test_every_sample_has_its_group_or_a_supergroup_by_two_tools(samples: list) -> None:
    assert all(found_by_both(sample.structure, sample.layer_group_requested) for sample in samples)
    # and the test can fail: a sample of low symmetry is not found in a group of higher order that it lacks
    low = next(s for s in samples if s.layer_group_detected == s.layer_group_requested <= 48)
    assert not found_by_both(low.structure, 80)


def test_samples_are_crystals_of_allowed_size(samples: list) -> None:
    trained_on = set(load_checkpoint().card["elements"])
    for sample in samples:
        assert 1 <= len(sample.structure) <= MAX_ATOMS
        assert {s.specie.Z for s in sample.structure} <= trained_on


@pytest.mark.slow
def test_same_seed_same_samples_whatever_the_batches(samples: list) -> None:
    options = SamplerOptions(steps=5)
    again = list(generate(20, seed=3, options=options))
    assert [s.draw for s in again] == [s.draw for s in samples[:20]]
    assert [s.to_dict() for s in again] == [s.to_dict() for s in generate(20, seed=3, options=options)]
    # fewer of them in smaller batches: the same draws, whose coordinates differ by the rounding of other batches
    part = list(generate(10, seed=3, options=options, batch_size=4))
    assert [p.structure.composition for p in part] == [s.structure.composition for s in samples[:10]]
    assert [p.draw for p in part] == [s.draw for s in samples[:10]]
    # another start is another stream
    other = list(generate(4, seed=3, options=options, start=20))
    assert [o.index for o in other] == list(range(20, 24))
    assert [o.structure.composition for o in other] != [s.structure.composition for s in samples[:4]]


def test_draws_that_are_no_bonded_layer_or_repeat_a_skeleton_are_passed_over(samples: list) -> None:
    draws = [sample.draw for sample in samples]
    assert draws == sorted(set(draws))
    assert draws[-1] >= len(samples)  # some were passed over
    everything = list(generate(draws[-1] + 1, seed=3, options=SamplerOptions(steps=5, guidance=False)))
    assert [s.draw for s in everything] == list(range(draws[-1] + 1))
    assert bonded_layers(to_batch([s.crystal for s in samples])).all()
    bonded = bonded_layers(to_batch([s.crystal for s in everything])).tolist()  # at the first attempt
    assert not all(bonded)
    skeletons: set[tuple] = set()
    for sample, good in zip(everything, bonded, strict=True):
        sites = sorted((site.letter, site.element) for site in sample.crystal.sites)
        if sample.draw in draws:
            assert (sample.layer_group_requested, *sites) not in skeletons
            skeletons.add((sample.layer_group_requested, *sites))
        elif good:  # then it repeats one, perhaps under other letters of the same group
            elements = sorted(site.element for site in sample.crystal.sites)
            assert any(
                name[0] == sample.layer_group_requested and sorted(e for _, e in name[1:]) == elements
                for name in skeletons
            )


def test_a_narrow_condition_gets_all_it_asked_for() -> None:
    # one atom of graphene's element in group 80 leaves few skeletons: repetitions are taken instead of none at all
    narrow = SkeletonRules(composition=CompositionRequest.parse("C", None, 2))
    found = list(generate(12, seed=0, layer_group=80, options=SamplerOptions(steps=4, skeletons=narrow)))
    assert [s.index for s in found] == list(range(12))
    assert {s.structure.composition.formula for s in found} == {"C2"}


def test_requested_group_and_record(samples: list) -> None:
    (record,) = generate(1, seed=0, layer_group=72, options=SamplerOptions(steps=5))
    data = json.loads(json.dumps(record.to_dict()))
    assert data["layer_group_requested"] == 72
    assert {"structure", "layer_group_detected", "space_group_detected", "seed", "model_id"} <= data.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0 must be >= 1"),
        ({"n": 1, "seed": -1}, "seed=-1"),
        ({"n": 1, "options": SamplerOptions(steps=0)}, "steps=0"),
        ({"n": 1, "layer_group": 81}, "must be 1 to 80"),
    ],
)
def test_bad_requests_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        generate(**arguments)


def test_the_control_has_no_symmetry_to_start_from() -> None:
    for sample in generate(10, seed=1, options=SamplerOptions(steps=5), checkpoint=load_checkpoint(packaged="unscdm")):
        assert sample.layer_group_requested == 1
        assert {site.letter for site in sample.crystal.sites} == {"a"}
        assert sample.model_id.startswith("unscdm-")
