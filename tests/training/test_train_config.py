"""Training configurations: what is read as a number, and what is refused with the key, the value and the rule."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from scdm_models.errors import DatasetError
from scdm_models.model.denoiser import NetworkConfig, SkeletonNetwork
from scdm_models.training.train_config import MOST_SITES, NETWORK_RULES, RULES, TrainConfig, load_train_config


def load(folder: Path, text: str) -> TrainConfig:
    (folder / "c.yaml").write_text(text)
    return load_train_config(folder / "c.yaml")


def test_every_field_has_a_rule_that_its_default_keeps() -> None:
    assert [*RULES, "network"] == [field.name for field in fields(TrainConfig)]
    assert list(NETWORK_RULES) == [field.name for field in fields(NetworkConfig)]
    for rules, defaults in ((RULES, TrainConfig()), (NETWORK_RULES, NetworkConfig())):
        for name, rule in rules.items():
            default = getattr(defaults, name)
            read = rule.read(default)
            assert (type(read), read) == (type(default), default)


def test_the_largest_number_of_sites_is_that_of_the_network() -> None:
    network = SkeletonNetwork(NetworkConfig(width=4, heads=1, skeleton_layers=1))
    assert network.count.num_embeddings == MOST_SITES + 1


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "network: {}\n"])
def test_what_is_not_named_has_its_default(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == TrainConfig()


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path: Path) -> None:
    config = load(tmp_path, "learning_rate: 1e-3\nweight_decay: 0\nbatch_size: 1e2\nseed: '9007199254740993'\n"
                            "max_sites: 40.0\nnetwork: {cutoff_angstrom: 6, dropout: 5e-2}\n")  # fmt: skip
    numbers = (config.learning_rate, config.weight_decay, config.batch_size, config.seed, config.max_sites)
    assert numbers == (0.001, 0.0, 100, 9007199254740993, 40)
    assert [type(number) for number in numbers] == [float, float, int, int, int]
    assert (config.network.cutoff_angstrom, config.network.dropout) == (6.0, 0.05)
    assert isinstance(config.network.cutoff_angstrom, float)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices(tmp_path: Path, device: str) -> None:
    assert load(tmp_path, f"device: {device}\n").device == device


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("symmetry: cubic", "symmetry='cubic' must be layer_group or p1"),
        ("symmetry: [p1]", "symmetry=['p1'] must be layer_group or p1"),
        ("skeleton_epochs: -3", "skeleton_epochs=-3 must be a whole number >= 0"),
        ("geometry_epochs: 1.5", "geometry_epochs=1.5 must be a whole number >= 0"),
        ("copies: -1", "copies=-1 must be a whole number >= 0"),
        ("cooldown: 1.1", "cooldown=1.1 must be a number from 0 to 1"),
        ("max_sites: 64", "max_sites=64 must be a whole number from 1 to 63"),
        ("batch_size: 0", "batch_size=0 must be a whole number >= 1"),
        ("batch_size: yes", "batch_size=True must be a whole number >= 1"),
        ("batch_size:", "batch_size=None must be a whole number >= 1"),
        ("batch_size: .inf", "batch_size=inf must be a whole number >= 1"),
        ("learning_rate: 0", "learning_rate=0 must be a number > 0"),
        ("learning_rate: fast", "learning_rate='fast' must be a number > 0"),
        ("learning_rate: .nan", "learning_rate=nan must be a number > 0"),
        ("learning_rate: 1e999", "learning_rate='1e999' must be a number > 0"),
        ("learning_rate: 1" + 400 * "0", "must be a number > 0"),
        ("learning_rate: [1]", "learning_rate=[1] must be a number > 0"),
        ("weight_decay: -1e-2", "weight_decay='-1e-2' must be a number >= 0"),
        ("warmup_steps: 0", "warmup_steps=0 must be a whole number >= 1"),
        ("ema: 2", "ema=2 must be a number from 0 to 1"),
        ("validation_fraction: 2", "validation_fraction=2 must be a number above 0 and below 1"),
        ("validation_fraction: 0", "validation_fraction=0 must be a number above 0 and below 1"),
        ("validate_every: 0", "validate_every=0 must be a whole number >= 1"),
        ("seed: 9223372036854775808", "must be a whole number from 0 to 9223372036854775807"),
        ("threads: 0", "threads=0 must be a whole number >= 1"),
        ("device: 0", "device=0 must be auto, cpu, cuda or one such as cuda:0"),
        ("device: gpu", "device='gpu' must be auto"),
        ("network: 3", "network=3 must be a mapping of width, skeleton_layers"),
        ("network: {width: 0}", "network.width=0 must be a whole number >= 1"),
        ("network: {skeleton_layers: 0}", "network.skeleton_layers=0 must be a whole number >= 1"),
        ("network: {geometry_layers: 0}", "network.geometry_layers=0 must be a whole number >= 1"),
        ("network: {heads: 0}", "network.heads=0 must be a whole number >= 1"),
        ("network: {radial: 1}", "network.radial=1 must be a whole number >= 2"),
        ("network: {cutoff_angstrom: 0.5}", "network.cutoff_angstrom=0.5 must be a number > 0.6"),
        ("network: {dropout: 1}", "network.dropout=1 must be a number from 0 to below 1"),
        ("network: {width: 30, heads: 4}", "network.width=30 must be a multiple of network.heads=4"),
        ("learningrate: 1", "unknown key 'learningrate' (known are symmetry, skeleton_epochs"),
        ("network: {depth: 1}", "unknown key 'network.depth' (known are width, skeleton_layers"),
        ("3: 1", "unknown key '3'"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_rule(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DatasetError) as caught:
        load(tmp_path, f"{text}\n")
    assert str(caught.value).startswith(f"training configuration {tmp_path / 'c.yaml'}: ")
    assert said in str(caught.value)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"batch_size=0 must .*; threads=0 must .*; network\.heads=0 must "):
        load(tmp_path, "batch_size: 0\nthreads: 0\nnetwork: {heads: 0}\n")


@pytest.mark.parametrize(
    ("text", "found"), [("train it well", "str"), ("[]", "list"), ("- 1\n- 2", "list"), ("0", "int"), ("no", "bool")]
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(DatasetError, match=f"must hold a mapping of keys to values, found {found}; write"):
        load(tmp_path, text)


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\xff", b"seed: 2020-99-99"])
def test_what_is_no_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(DatasetError, match=r"c\.yaml cannot be read: "):
        load_train_config(tmp_path / "c.yaml")
    with pytest.raises(DatasetError, match=r"none\.yaml cannot be read: "):
        load_train_config(tmp_path / "none.yaml")
