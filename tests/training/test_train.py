"""Training: a killed one ends as an unbroken one, kept networks are kept, and nothing held out is trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.layers import random_crystal

from scdm_models.errors import CheckpointError, DatasetError
from scdm_models.model.checkpoint import Checkpoint, load_checkpoint
from scdm_models.model.corruption import Scales
from scdm_models.model.denoiser import NetworkConfig
from scdm_models.model.diffusion import Scdm
from scdm_models.sampling.sampler import SamplerOptions, generate
from scdm_models.symmetry.encoding import LayerCrystal
from scdm_models.training.data_split import held_out, split
from scdm_models.training.train import Progress, train
from scdm_models.training.train_config import TrainConfig, load_train_config
from scdm_models.training.train_state import load_state

TINY = (
    "skeleton_epochs: 2\ngeometry_epochs: 3\nbatch_size: 40\nvalidate_every: 1\n"
    "network: {width: 32, skeleton_layers: 1, geometry_layers: 1, heads: 2}\n"
)


class Killed(Exception):
    pass


def layers(n: int) -> list[LayerCrystal]:
    """Crystals of the oblique and rectangular groups, whose orbits are small, in at most 100 systems of two elements."""
    made = []
    for k in range(n):
        crystal = random_crystal(1 + k % 48, seed=k)
        pair = (3 + k % 100 // 10, 20 + k % 10)
        sites = tuple(replace(site, element=element) for site, element in zip(crystal.sites, pair, strict=True))
        made.append(replace(crystal, sites=sites))
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("symmetry", "stop"), [("layer_group", ("geometry", 2)), ("p1", ("skeleton", 1))])
def test_a_killed_training_ends_in_the_same_checkpoint(tmp_path: Path, symmetry: str, stop: tuple[str, int]) -> None:
    (tmp_path / "c.yaml").write_text(f"symmetry: {symmetry}\n{TINY}")
    config = load_train_config(tmp_path / "c.yaml")
    crystals, ids = layers(60), [f"c{k}" for k in range(60)]

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
    crystals, ids = layers(60), [f"c{k}" for k in range(60)]
    out = tmp_path / "x.safetensors"

    def kill(p: Progress) -> None:
        if p.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(crystals, ids, out, config, progress=kill, save_seconds=0)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(crystals, ids, out, replace(config, seed=1))


def test_a_training_of_another_length_goes_on_up_to_the_cooldown(tmp_path: Path) -> None:
    """After it a longer one would have another learning rate behind it, and a shorter one too many epochs."""
    (tmp_path / "c.yaml").write_text(TINY)
    config = replace(load_train_config(tmp_path / "c.yaml"), skeleton_epochs=6, geometry_epochs=1, cooldown=0.5)
    crystals, ids = layers(60), [f"c{k}" for k in range(60)]

    def stopped(epoch: int) -> Path:
        def kill(p: Progress) -> None:
            if p.epoch == epoch + 1:  # the state is that of the epoch before
                raise Killed

        out = tmp_path / f"{epoch}.safetensors"
        with pytest.raises(Killed):
            train(crystals, ids, out, config, progress=kill, save_seconds=0)
        return out

    longer = replace(config, skeleton_epochs=8)
    whole = train(crystals, ids, tmp_path / "whole.safetensors", longer)
    assert train(crystals, ids, stopped(3), longer) == whole
    out = stopped(4)
    for epochs in (3, 8):
        with pytest.raises(CheckpointError, match=rf"epoch 4 of skeleton's 6; with {epochs} epochs"):
            train(crystals, ids, out, replace(config, skeleton_epochs=epochs))
    with pytest.raises(CheckpointError, match="another configuration"):
        train(crystals, ids, out, replace(config, validate_every=2))


def untrained(config: NetworkConfig, seed: int, height: float = 1.0) -> Checkpoint:
    """A checkpoint of random weights. The model id does not tell those of different seeds apart."""
    torch.manual_seed(seed)
    model = Scdm(config, Scales(height, (3.0, 0.0, 0.0), (0.3, 0.1, 0.1)))
    card = {"training": {"validation_fraction": TrainConfig().validation_fraction}, "split": "chemical system"}
    return Checkpoint(model.eval(), torch.zeros(81, 4), "scdm-00000000", card)


def test_a_training_goes_on_only_with_the_checkpoint_that_it_started_from(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(TINY)
    both = load_train_config(tmp_path / "c.yaml")
    config = replace(both, geometry_epochs=0)
    crystals, ids = layers(60), [f"c{k}" for k in range(60)]
    out = tmp_path / "x.safetensors"
    start = untrained(config.network, seed=1)

    def kill(p: Progress) -> None:
        if p.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(crystals, ids, out, config, start=start, progress=kill, save_seconds=0)
    others = [
        (config, untrained(config.network, seed=2)),
        (config, untrained(config.network, seed=1, height=2.0)),
        (config, replace(start, model_id="scdm-11111111")),
        (both, start),  # of which nothing is kept
        (both, None),
    ]
    for settings, other in others:
        with pytest.raises(CheckpointError, match=r"another checkpoint to start from \(--start\)"):
            train(crystals, ids, out, settings, start=other)
    first: list[int] = []
    train(crystals, ids, out, config, start=untrained(config.network, seed=1), progress=lambda p: first.append(p.epoch))
    assert first == [2]  # the first epoch was done before


def test_a_state_that_says_nothing_of_its_training_is_refused(tmp_path: Path) -> None:
    save_file({"model.x": torch.zeros(1)}, tmp_path / "x.state")
    with pytest.raises(CheckpointError, match="or of another version; remove it to train anew"):
        load_state(tmp_path / "x.state", "identity")


@pytest.mark.parametrize("phase", ["skeleton", "geometry"])
def test_a_network_is_not_left_untrained(tmp_path: Path, phase: str) -> None:
    config = replace(TrainConfig(), **{f"{phase}_epochs": 0})
    with pytest.raises(DatasetError, match=f"^{phase}_epochs=0 and no checkpoint to start from: the {phase} network"):
        train(layers(60), [f"c{k}" for k in range(60)], tmp_path / "x.safetensors", config)
    assert not list(tmp_path.iterdir())


def test_training_from_the_start_to_a_sample(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(TINY)
    config = load_train_config(tmp_path / "c.yaml")
    crystals = layers(60)
    out = tmp_path / "tiny.safetensors"
    model_id = train(crystals, [f"c{k}" for k in range(60)], out, config)
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


def test_what_was_held_out_is_said_by_the_card() -> None:
    for packaged in ("scdm", "unscdm"):
        assert load_checkpoint(packaged=packaged).split == "chemical system"
    # cards older than the split by system say nothing of it: they were split by id
    new = load_checkpoint()
    old = replace(new, card={key: value for key, value in new.card.items() if key != "split"})
    assert old.split == "id"
    ids = [f"layer-{k}" for k in range(200)]
    crystals = [random_crystal(80, seed=1)] * 200
    assert not all(held_out(new, crystals, ids))  # of one system: all or none
    assert all(held_out(old, crystals, ids))


@pytest.mark.parametrize(("name", "symmetry"), [("scdm", "layer_group"), ("unscdm", "p1")])
def test_shipped_configurations_are_those_of_the_packaged_models(name: str, symmetry: str) -> None:
    config = load_train_config(Path(__file__).parents[2] / "models" / "configs" / f"{name}.yaml")
    assert config.symmetry == symmetry
    card = load_checkpoint(packaged=name).card
    trained, kept = card["training"], card["started_from"]
    assert config.network.to_dict() == trained["network"]
    for setting in ("batch_size", "learning_rate", "geometry_epochs", "copies", "cooldown", "seed"):
        assert getattr(config, setting) == trained[setting]
    # where the skeleton network was kept from an earlier training, that one's epochs count
    skeletons = trained if kept is None else kept["card"]["training"]
    assert config.skeleton_epochs == skeletons["skeleton_epochs"]
