"""The packaged checkpoint and what is drawn from it; checkpoints that are not ours are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.layers import random_crystal

from scdm_models.errors import CheckpointError, DatasetError, GenerationError
from scdm_models.metrics.groups import found_by_both
from scdm_models.model.batch import to_batch
from scdm_models.model.checkpoint import load_checkpoint, save_checkpoint
from scdm_models.model.cohesion import bonded_layers
from scdm_models.model.composition import CompositionRequest
from scdm_models.model.denoiser import stability_class
from scdm_models.model.skeletons import SkeletonRules
from scdm_models.sampling.sampler import SamplerOptions, generate
from scdm_models.symmetry.encoding import MAX_ATOMS, LayerCrystal
from scdm_models.training.train import Progress, TrainConfig, held_out, load_train_config, split, train


@pytest.fixture(scope="module")
def samples() -> list:
    """Sixty samples of the packaged model."""
    return list(generate(60, seed=3, options=SamplerOptions(steps=20)))


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


def test_same_seed_same_samples_whatever_the_batches(samples: list) -> None:
    again = list(generate(60, seed=3, options=SamplerOptions(steps=20)))
    assert [s.to_dict() for s in again] == [s.to_dict() for s in samples]
    # fewer of them in smaller batches: the same draws, whose coordinates differ by the rounding of other batches
    part = list(generate(10, seed=3, options=SamplerOptions(steps=20), batch_size=4))
    assert [p.structure.composition for p in part] == [s.structure.composition for s in samples[:10]]
    assert [p.draw for p in part] == [s.draw for s in samples[:10]]
    # another start is another stream
    other = list(generate(4, seed=3, options=SamplerOptions(steps=20), start=20))
    assert [o.index for o in other] == list(range(20, 24))
    assert [o.structure.composition for o in other] != [s.structure.composition for s in samples[:4]]


def test_draws_that_are_no_bonded_layer_or_repeat_a_skeleton_are_passed_over(samples: list) -> None:
    draws = [sample.draw for sample in samples]
    assert draws == sorted(set(draws))
    assert draws[-1] >= len(samples)  # some were passed over
    everything = list(generate(draws[-1] + 1, seed=3, options=SamplerOptions(steps=20, guidance=False)))
    assert [s.draw for s in everything] == list(range(draws[-1] + 1))
    bonded = bonded_layers(to_batch([s.crystal for s in everything])).tolist()
    skeletons: set[tuple] = set()
    for sample, good in zip(everything, bonded, strict=True):
        sites = sorted((site.letter, site.element) for site in sample.crystal.sites)
        if sample.draw in draws:
            assert good
            assert (sample.layer_group_requested, *sites) not in skeletons
            skeletons.add((sample.layer_group_requested, *sites))
        elif good:  # then it repeats one, perhaps under other letters of the same group
            elements = sorted(site.element for site in sample.crystal.sites)
            assert any(
                name[0] == sample.layer_group_requested and sorted(e for _, e in name[1:]) == elements
                for name in skeletons
            )


def test_a_narrow_wish_gets_all_it_asked_for() -> None:
    # one atom of graphene's element in group 80 leaves few skeletons: repetitions are taken instead of none at all
    wish = SkeletonRules(composition=CompositionRequest.parse("C", None, 2))
    found = list(generate(12, seed=0, layer_group=80, options=SamplerOptions(steps=4, skeletons=wish)))
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


@pytest.mark.parametrize(("packaged", "name"), [("scdm", "SCDM"), ("unscdm", "UnSCDM")])
def test_packaged_checkpoints_are_small_and_documented(packaged: str, name: str) -> None:
    from importlib.resources import files

    resource = files("scdm_models").joinpath("data", f"{packaged}.safetensors")
    assert len(resource.read_bytes()) <= 16 * 2**20
    card = load_checkpoint(packaged=packaged).card
    assert card["name"] == name
    assert card["licence"] == "BSD-3-Clause"
    assert card["n_training"] > 5000
    assert {"skeleton_nats", "plane_mse", "height_mse", "lattice_mse"} <= card["metrics"].keys()


def test_the_control_has_no_symmetry_to_start_from() -> None:
    for sample in generate(10, seed=1, options=SamplerOptions(steps=5), checkpoint=load_checkpoint(packaged="unscdm")):
        assert sample.layer_group_requested == 1
        assert {site.letter for site in sample.crystal.sites} == {"a"}
        assert sample.model_id.startswith("unscdm-")


def test_foreign_and_changed_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.safetensors")
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(garbage)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(2)}, foreign)
    with pytest.raises(CheckpointError, match="expected 'scdm-checkpoint/3'"):
        load_checkpoint(foreign)
    packaged = load_checkpoint()
    changed = tmp_path / "changed.safetensors"
    assert save_checkpoint(changed, packaged.model, packaged.prior, packaged.card) == packaged.model_id
    raw = bytearray(changed.read_bytes())
    raw[-5] ^= 1
    changed.write_bytes(raw)
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        load_checkpoint(changed)


TINY = (
    "skeleton_epochs: 2\ngeometry_epochs: 3\nbatch_size: 40\nvalidate_every: 1\n"
    "network: {width: 32, skeleton_layers: 1, geometry_layers: 1, heads: 2}\n"
)


class Killed(Exception):
    pass


def layers(n: int) -> list[LayerCrystal]:
    """Crystals of all groups in at most 100 chemical systems of two elements."""
    made = []
    for k in range(n):
        crystal = random_crystal(1 + k % 80, seed=k)
        pair = (3 + k % 100 // 10, 20 + k % 10)
        sites = tuple(replace(site, element=element) for site, element in zip(crystal.sites, pair, strict=True))
        made.append(replace(crystal, sites=sites))
    return made


@pytest.mark.parametrize("symmetry", ["layer_group", "p1"])
@pytest.mark.parametrize("stop", [("skeleton", 1), ("geometry", 2)])
def test_a_killed_training_ends_in_the_same_checkpoint(tmp_path: Path, symmetry: str, stop: tuple[str, int]) -> None:
    (tmp_path / "c.yaml").write_text(f"symmetry: {symmetry}\n{TINY}")
    config = load_train_config(tmp_path / "c.yaml")
    crystals, ids = layers(80), [f"c{k}" for k in range(80)]

    whole = train(crystals, ids, tmp_path / "whole.safetensors", config)
    seen: list[tuple[str, int]] = []

    def kill(p: Progress) -> None:
        seen.append((p.phase, p.epoch))
        if seen[-1] == stop:
            raise Killed

    out = tmp_path / "killed.safetensors"
    with pytest.raises(Killed):
        train(crystals, ids, out, config, progress=kill, save_seconds=0)
    again = train(crystals, ids, out, config, save_seconds=0)
    assert again == whole  # the id is a hash of every weight
    assert not Path(f"{out}.state").exists()
    assert load_checkpoint(out).card["name"] == {"layer_group": "SCDM", "p1": "UnSCDM"}[symmetry]


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(TINY)
    config = load_train_config(tmp_path / "c.yaml")
    crystals, ids = layers(80), [f"c{k}" for k in range(80)]
    out = tmp_path / "x.safetensors"

    def kill(p: Progress) -> None:
        if p.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(crystals, ids, out, config, progress=kill, save_seconds=0)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(crystals, ids, out, replace(config, seed=1))


def test_training_from_the_start_to_a_sample(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(TINY)
    config = load_train_config(tmp_path / "c.yaml")
    crystals = layers(80)
    out = tmp_path / "tiny.safetensors"
    model_id = train(crystals, [f"c{k}" for k in range(80)], out, config)
    assert (
        (tmp_path / "tiny.safetensors.csv").read_text().startswith("phase,epoch,seconds,learning_rate,loss,validation")
    )
    (sample,) = generate(1, checkpoint=str(out), options=SamplerOptions(steps=3))
    assert sample.model_id == model_id
    with pytest.raises(DatasetError, match="at least 50"):
        train(crystals[:3], ["a", "b", "c"], out, TrainConfig())
    one_system = [random_crystal(1 + k % 80, seed=k) for k in range(60)]
    with pytest.raises(DatasetError, match="of 60 crystals in 1 chemical systems (60|0) are held out"):
        train(one_system, [f"c{k}" for k in range(60)], out, config)
    (tmp_path / "bad.yaml").write_text("learningrate: 1\n")
    with pytest.raises(DatasetError, match="learningrate"):
        load_train_config(tmp_path / "bad.yaml")


def test_a_kept_network_is_the_one_it_started_from(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(TINY)
    (tmp_path / "again.yaml").write_text(TINY.replace("geometry_epochs: 3", "geometry_epochs: 0"))
    crystals, ids = layers(60), [f"c{k}" for k in range(60)]
    stability = [None if k % 3 == 0 else 0.01 * k for k in range(60)]
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train(crystals, ids, first, load_train_config(tmp_path / "c.yaml"))
    start = load_checkpoint(first)
    train(crystals, ids, second, load_train_config(tmp_path / "again.yaml"), e_above_hull=stability, start=start)
    ours = load_checkpoint(second)
    for name, weights in start.model.geometry.state_dict().items():
        assert torch.equal(weights, ours.model.geometry.state_dict()[name])
    assert not torch.equal(start.model.skeleton.wish.weight, ours.model.skeleton.wish.weight)
    assert ours.card["started_from"]["kept"] == ["geometry"]
    assert ours.card["started_from"]["model_id"] == start.model_id
    assert (
        ours.card["metrics"]["plane_mse"] == start.card["metrics"]["plane_mse"]
    )  # measured again, on the same crystals
    with pytest.raises(DatasetError, match="other networks"):
        train(crystals, ids, tmp_path / "no.safetensors", TrainConfig(geometry_epochs=0), start=start)
    # a kept network has seen what it was trained on: nothing of that may be held out now
    again = load_train_config(tmp_path / "again.yaml")
    by_id = replace(start, card={k: v for k, v in start.card.items() if k != "split"})
    train(crystals, ids, second, again, start=by_id)
    assert load_checkpoint(second).split == "id"
    assert held_out(load_checkpoint(second), crystals, ids) == held_out(by_id, crystals, ids)
    with pytest.raises(DatasetError, match="validation_fraction=0.3 is not that of scdm-"):
        train(crystals, ids, second, replace(again, validation_fraction=0.3), start=start)


def test_no_chemical_system_is_trained_on_and_held_out(tmp_path: Path) -> None:
    def systems(chosen: list[int], step: int = 1) -> set[frozenset[int]]:
        return {frozenset(site.element for site in crystals[::step][i].sites) for i in chosen}

    # 400 layers of 100 systems, four of each
    crystals = layers(400)
    ids = [f"c{k}" for k in range(400)]
    training, held = split(crystals, ids, 0.2)
    assert sorted(training + held) == list(range(400))
    assert not systems(training) & systems(held)
    assert len(systems(training) | systems(held)) == 100
    assert 8 <= len(systems(held)) <= 36  # 20 expected of 100, four standard deviations of a binomial either way
    # in another order and a part of the data a system stays where it was
    assert systems(split(crystals[::-3], ids[::-3], 0.2)[1], -3) == systems(held)
    # by id, as it was, systems are on both sides: 4 layers of a system are all in one part in 41 % of cases
    training, held = split(crystals, ids, 0.2, "id")
    assert systems(training) & systems(held)

    (tmp_path / "c.yaml").write_text(TINY)
    train(crystals[:80], ids[:80], tmp_path / "x.safetensors", load_train_config(tmp_path / "c.yaml"))
    checkpoint = load_checkpoint(tmp_path / "x.safetensors")
    assert (checkpoint.split, checkpoint.card["split"]) == ("chemical system",) * 2
    own = held_out(checkpoint, crystals[:80], ids[:80])
    assert own == split(crystals[:80], ids[:80], checkpoint.card["training"]["validation_fraction"])
    assert (len(own[0]), len(own[1])) == (checkpoint.card["n_training"], checkpoint.card["n_validation"])


def test_the_packaged_checkpoints_were_split_by_id() -> None:
    # their cards are older than the split by system and say nothing of it
    for packaged in ("scdm", "unscdm"):
        checkpoint = load_checkpoint(packaged=packaged)
        assert "split" not in checkpoint.card
        assert checkpoint.split == "id"
        ids = [f"layer-{k}" for k in range(200)]
        crystals = [random_crystal(80, seed=1)] * 200
        training, held = held_out(checkpoint, crystals, ids)
        assert held  # 8 % of 200 ids of one system: by system all or none would be held out
        assert training


def test_stability_classes_have_their_edges_where_they_say() -> None:
    # eV/atom above hull; an edge belongs to the more stable class, as "at most 0.2" does
    assert [stability_class(e) for e in (-0.1, 0.0, 0.05, 0.051, 0.2, 0.4, 0.41, 9.0, None)] == [
        0,
        0,
        0,
        1,
        2,
        3,
        4,
        4,
        -1,
    ]


@pytest.mark.parametrize(("name", "symmetry"), [("scdm", "layer_group"), ("unscdm", "p1")])
def test_shipped_configurations_are_those_of_the_packaged_models(name: str, symmetry: str) -> None:
    config = load_train_config(Path(__file__).parents[2] / "models" / "configs" / f"{name}.yaml")
    assert config.symmetry == symmetry
    trained = load_checkpoint(packaged=name).card["training"]
    assert config.network.to_dict() == trained["network"]
    assert (config.skeleton_epochs, config.batch_size, config.learning_rate) == (
        trained["skeleton_epochs"],
        trained["batch_size"],
        trained["learning_rate"],
    )
