"""Whatever a campaign file holds, it is refused in words or registered: no other end, and none that a dry run misses."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.campaigns.registration import refusals, register
from scdm_flows.config import CampaignConfig, load_config, stored_config
from scdm_flows.errors import ConfigError
from scdm_models.model import checkpoint

FILES = int(os.environ.get("SCDM_TEST_MUTATIONS", "40"))
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 1000, 2**31, 2**63 - 1, 2**63, 10**30, -0.0, 1e-300, 0.5, 1e300, float("inf"),
    float("nan"), "", " ", "0", "1e999", "scdm", "vasp", "forcefield", "files", "several", "MoS2", "Xx2Qq", "Mo,Zz",
    "Mo" * 500, "(" * 500, "a\0b", "\ud800", "ü", "..", "/", "x" * 5000, "no.such:Thing", "SevenNet-0", "2001-01-01",
    [], [[]], [1, 2], [0.5, 0.1], ["Mo", "S"], {}, {"kind": "scdm"}, {"a": {"b": [1]}}, {"$set": 1}, {"x.y": 2},
)  # fmt: skip


@pytest.fixture
def originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Campaigns of every kind; relative paths are taken from the folder with the structures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        checkpoint, "load_checkpoint", lru_cache(checkpoint.load_checkpoint)
    )  # it is read again and again
    mx2("1H").to(filename=str(tmp_path / "a.cif"))
    sampled = {"kind": "scdm", "n": 20, "seed": 1, "elements": "Mo,S", "formula": "MoS2", "n_atoms": 3, "weight": 0.5}
    files = {"kind": "files", "paths": ["a.cif"], "shard_size": 10}
    science = {
        "screen": {"min_distance_angstrom": 0.5, "max_atoms": 20},
        "gate": {"max_e_above_hull": 0.6},
        "objective": {"gap": 0.1, "gap_ev": [1.0, 2.0]},
        "budget": {"max_candidates": 5, "node_hours": 2.5, "phonons": {"best": 2}, "jobs": {"compute": 1}},
    }
    options = {
        "kind": "forcefield",
        "force_field": "ase.calculators.emt:EMT",
        "force_field_options": {"asap_cutoff": True},
    }
    return [
        {"name": "m", "description": "text", "generator": sampled, "engine": {"kind": "forcefield"}, **science},
        {"name": "m", "generator": files, "engine": options, **science},
        {"name": "m", "generator": {"kind": "several", "generators": [sampled, files]}, **science},
        {"name": "m", "generator": files, "engine": {"kind": "vasp", "references": "none.json", "encut_ev": 520}},
    ]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside another."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


def near(value: Any, rng: random.Random) -> Any:
    """Another value of the same type, such as people try."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.randint(1, 60)
    if isinstance(value, float):
        return round(value * rng.uniform(0.1, 5), 3)
    if isinstance(value, str):
        return rng.choice(["Mo", "Zz", "Mo,S,W", "MoS2", "PuO2", "a.cif", "none.cif", "name", "scdm", "files"])
    return value


def mutated(data: dict[str, Any], rng: random.Random) -> str:
    """The campaign as YAML after one or two changes of values or keys, sometimes of the text itself."""
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 2)):
        *way, last = rng.choice(list(places(data)))
        holder: Any = data
        for key in way:
            holder = holder[key]
        how = rng.random()
        if how < 0.6:
            holder[last] = near(holder[last], rng)
        elif how < 0.85:
            holder[last] = copy.deepcopy(rng.choice(ODD))
        elif how < 0.95 or isinstance(holder, list):
            del holder[last]
        else:
            holder[rng.choice([f"{last}s", 3, "kind", "__class__", "x" * 300])] = holder.pop(last)
    text = yaml.safe_dump(data, allow_unicode=False)
    if rng.random() < 0.1:
        at = rng.randrange(len(text))
        text = (
            text[:at] + rng.choice(["&a ", "*a", "{", "[" * 60, "\t", "!!python/object:os.system ", "\n"]) + text[at:]
        )
    return text


def read(path: Path) -> CampaignConfig | str:
    """The campaign, or why it is none."""
    try:
        return load_config(path)
    except ConfigError as error:
        return str(error)


@pytest.mark.slow
def test_whatever_a_file_holds_it_is_refused_in_words_or_registered(
    originals: list[dict[str, Any]], tmp_path: Path
) -> None:
    rng, path, counts = random.Random(7), tmp_path / "m.yaml", {"wrong": 0, "refused": 0, "registered": 0}
    for number in range(FILES):
        path.write_text(mutated(originals[number % len(originals)], rng))
        config = read(path)
        if isinstance(config, str):
            assert len(config) < 20_000
            counts["wrong"] += 1
            continue
        database = memory_database()
        told = refusals(config, database)
        assert not any("Error: " in problem for problem in told), (told, path.read_text())  # a class, not words
        if told:
            counts["refused"] += 1
            continue
        assert register(config, database), path.read_text()
        document = database.campaign(config.name)
        assert document is not None
        assert stored_config(document.config).config_hash == config.config_hash
        counts["registered"] += 1
    assert all(count >= FILES // 10 for count in counts.values()), counts  # each end is seen often
