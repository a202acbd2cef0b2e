"""Every generator keeps the contract: counted, sharded at will, reproducible, JSON, one bad entry never fatal."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pymatgen.core import Structure

from scdm_flows.config import generators as configs
from scdm_flows.config import parse_config
from scdm_flows.errors import CheckpointError, ConfigError, DatasetError
from scdm_flows.generators import GENERATORS
from scdm_models.model.checkpoint import save_checkpoint
from scdm_models.model.corruption import Scales
from scdm_models.model.denoiser import NetworkConfig
from scdm_models.model.diffusion import Scdm

BAD_CIF = "data_nothing\n_cell_length_a 3.0\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny untrained model of two layer groups and three elements: the contract does not ask for quality."""
    torch.manual_seed(0)
    model = Scdm(
        NetworkConfig(width=32, skeleton_layers=1, geometry_layers=1, heads=2, radial=8),
        Scales(1.0, (0.0, 0.0, 0.0), (0.1, 0.1, 0.1)),
    )
    prior = torch.zeros(81, 6)
    prior[78, 2], prior[61, 3] = 3, 1
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, model.eval(), prior, {"elements": [16, 34, 42]})
    return str(path)


@pytest.fixture
def config_of(checkpoint: str, tmp_path: Path, mos2: Structure, graphene: Structure) -> Callable[[str], Any]:
    """A small configuration of each kind."""
    mos2.to(str(tmp_path / "a.cif"))
    (tmp_path / "b.cif").write_text(BAD_CIF)
    mos2.to(str(tmp_path / "c.vasp"), fmt="poscar")
    line = json.dumps({"id": "graphene", "structure": graphene.as_dict()})
    (tmp_path / "d.jsonl").write_text(f"{line}\nnot json\n")
    made = {
        "scdm": lambda: configs.ScdmGeneratorConfig(n=5, seed=3, checkpoint=checkpoint, steps=2),
        "unscdm": lambda: configs.UnscdmGeneratorConfig(n=5, seed=3, checkpoint=checkpoint, steps=2),
        "files": lambda: configs.FilesGeneratorConfig(paths=(str(tmp_path),)),
        "several": lambda: configs.SeveralGeneratorConfig(
            generators=(
                configs.ScdmGeneratorConfig(n=3, seed=3, checkpoint=checkpoint, steps=2),
                configs.UnscdmGeneratorConfig(n=2, seed=3, checkpoint=checkpoint, steps=2),
            )
        ),
    }
    return lambda kind: made[kind]()


# of a promoted campaign the records are stored when they are chosen: tests/campaigns/test_promotion.py
MAKERS = sorted(GENERATORS.keys() - {"promoted"})


def kinds_in_config() -> set[str]:
    """The kinds that a campaign file may name."""
    union = typing.get_args(typing.get_args(configs.GeneratorConfig)[0])
    return {model.model_fields["kind"].default for model in union}


def test_every_kind_of_the_configuration_has_a_generator() -> None:
    assert set(GENERATORS) == kinds_in_config()


@pytest.mark.parametrize("kind", MAKERS)
def test_shards_hold_each_index_once_and_can_be_made_again(kind: str, config_of: Callable[[str], Any]) -> None:
    config, generator = config_of(kind), GENERATORS[kind]
    n = generator.count(config)
    assert n == 5  # asked for, or in the folder
    shards = [generator.generate(config, first, min(first + 2, n)) for first in range(0, n, 2)]
    assert [record["index"] for shard in shards for record in shard] == list(range(n))
    # a job that ran twice, on whatever worker, gave the same candidates
    assert generator.generate(config, 2, 4) == shards[1]
    # and two shards are not the same draws
    assert shards[0][0]["structure"].as_dict() != shards[1][0]["structure"].as_dict()


@pytest.mark.parametrize("kind", MAKERS)
def test_records_hold_a_structure_or_say_why_not(kind: str, config_of: Callable[[str], Any]) -> None:
    config, generator = config_of(kind), GENERATORS[kind]
    made: list[int] = []
    records = generator.generate(config, 0, 5, progress=made.append)
    assert made == sorted(made)
    assert made[-1] == 5
    for record in records:
        if record["structure"] is None:
            assert record["error"]
        else:
            assert len(record["structure"]) > 0
    assert any(r["structure"] for r in records)


def test_a_bad_file_is_one_record_among_the_others(config_of: Callable[[str], Any], tmp_path: Path) -> None:
    records = GENERATORS["files"].generate(config_of("files"), 0, 5)
    assert [r["source_id"] for r in records] == ["a.cif", "b.cif", "c.vasp", "graphene", "d.jsonl:2"]
    assert [r["structure"] is None for r in records] == [False, True, False, False, True]


def test_a_changed_file_is_read_anew(config_of: Callable[[str], Any], tmp_path: Path, mos2: Structure) -> None:
    config = config_of("files")
    assert GENERATORS["files"].count(config) == 5
    (tmp_path / "d.jsonl").unlink()
    assert GENERATORS["files"].count(config) == 3


def test_a_missing_path_is_refused_by_name(tmp_path: Path) -> None:
    config = configs.FilesGeneratorConfig(paths=(str(tmp_path / "nowhere"),))
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        GENERATORS["files"].count(config)


def test_samples_say_what_made_them(config_of: Callable[[str], Any]) -> None:
    config = config_of("scdm")
    records = GENERATORS["scdm"].generate(config, 3, 5)
    assert {r["seed"] for r in records} == {3}
    assert {r["layer_group_requested"] for r in records} <= {61, 78}  # the only ones in the prior
    assert all(r["model_id"].startswith("scdm-") for r in records)


def test_several_generators_follow_each_other_and_each_record_says_whose_it_is(
    config_of: Callable[[str], Any],
) -> None:
    config, generator = config_of("several"), GENERATORS["several"]
    both = generator.generate(config, 1, 5)
    assert [(r["index"], r["generator"]) for r in both] == [(1, "scdm"), (2, "scdm"), (3, "unscdm"), (4, "unscdm")]
    # the samples are those that each would make by itself from its own start
    alone = [
        *GENERATORS["scdm"].generate(config.generators[0], 1, 3),
        *GENERATORS["unscdm"].generate(config.generators[1], 0, 2),
    ]
    assert [r["structure"] for r in both] == [r["structure"] for r in alone]
    named = configs.ScdmGeneratorConfig(n=2, elements="Mo,S")
    assert generator.elements(configs.SeveralGeneratorConfig(generators=(named, named))) == ["Mo", "S"]
    assert generator.elements(configs.SeveralGeneratorConfig(generators=(named, configs.ScdmGeneratorConfig()))) == []


def test_a_missing_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    config = configs.ScdmGeneratorConfig(n=1, checkpoint=str(tmp_path / "none.safetensors"))
    with pytest.raises(CheckpointError, match="none.safetensors does not exist"):
        GENERATORS["scdm"].generate(config, 0, 1)


@pytest.mark.parametrize(
    ("generators", "said"),
    [
        ([], "generator.generators = []: Value error, give at least one generator, such as {kind: scdm, n: 100}"),
        ([{"kind": "scdm", "n": 0}], "generator.generators.0.n = 0: Input should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_about_several_generators_is_said_once(generators: list[Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config({"name": "t", "generator": {"kind": "several", "generators": generators}})
    assert str(error.value) == f"campaign: {said}"
