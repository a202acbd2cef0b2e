"""Who a campaign is: its science, not how and where it is executed; and campaigns that are older than that."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from support.places import ROOT

from scdm_flows.config import (
    CampaignConfig,
    as_registered,
    check_contents,
    engine_now,
    executed,
    executing,
    parse_config,
    stored_config,
)
from scdm_flows.errors import ConfigError

OLD = ROOT / "tests" / "data" / "old" / "database.jsonl.gz"


@pytest.fixture
def references(tmp_path: Path) -> Path:
    path = tmp_path / "references.json"
    path.write_text("[1]")
    return path


def campaign(references: Path, **engine: Any) -> CampaignConfig:
    return parse_config({"name": "v", "engine": {"kind": "vasp", "references": str(references), **engine}})


@pytest.mark.parametrize(
    ("kind", "setting", "value", "science"),
    [
        ("vasp", "walltime_s", 3600, False),
        ("vasp", "vasp_version", "6.5.0", False),
        ("vasp", "max_custodian_errors", 9, False),
        ("vasp", "encut_ev", 400, True),
        ("vasp", "max_relax_steps", 7, True),  # where a relaxation ends
        ("gpaw", "walltime_s", 3600, False),
        ("gpaw", "smearing_ev", 0.1, True),
    ],
)
def test_how_something_is_executed_is_no_part_of_the_hash(kind: str, setting: str, value: Any, science: bool) -> None:
    plain, other = (parse_config({"name": "c", "engine": {"kind": kind, **more}}) for more in ({}, {setting: value}))
    assert (plain.config_hash != other.config_hash) is science


def test_of_a_file_its_content_counts(references: Path, tmp_path: Path) -> None:
    before = campaign(references).config_hash
    moved = references.rename(tmp_path / "moved.json")
    assert campaign(moved).config_hash == before
    moved.write_text("[2]")
    assert campaign(moved).config_hash != before


def test_a_registered_campaign_stays_who_it_is_and_sees_that_a_file_has_changed(references: Path) -> None:
    config = campaign(references)
    name = config.config_hash
    known = as_registered(config)
    assert (known.config_hash, known.engine) == (name, config.engine)
    dump = known.model_dump(mode="json")
    check_contents(stored_config(dump))
    references.write_text("[2]")
    assert stored_config(dump).config_hash == name
    with pytest.raises(ConfigError, match=r"engine\.references: .* has another content .* put the file back"):
        check_contents(stored_config(dump))
    with pytest.raises(ConfigError, match="'registered' is what a registration has fixed; leave it out"):
        parse_config(dump)


def test_campaigns_and_jobs_from_before_keep_their_hash() -> None:
    """As the program wrote it that made them, with paths and wall time in it."""
    found: dict[str, str] = {}
    jobs: list[CampaignConfig] = []
    with gzip.open(OLD, "rt") as file:
        for document in map(json_util.loads, file):
            inside = document["document"]
            if document["collection"] == "campaigns":
                found[inside["name"]] = inside["config_hash"]
                assert stored_config(inside["config"]).config_hash == inside["config_hash"]
            elif document["collection"] == "fireworks":
                jobs += [stored_config(c) for c in configurations(inside["spec"]["_tasks"])]
    assert {config.name for config in jobs} == set(found) == {"old-forcefield", "old-vasp"}
    assert all(config.config_hash == found[config.name] for config in jobs)


def configurations(value: Any) -> list[dict[str, Any]]:
    """Those in the arguments of a queued job."""
    if isinstance(value, dict):
        mine = [value] if {"generator", "engine", "gate"} <= value.keys() else []
        return [*mine, *(c for part in value.values() for c in configurations(part))]
    return [c for part in value for c in configurations(part)] if isinstance(value, list) else []


def test_a_job_is_executed_as_its_campaign_is_now(references: Path, tmp_path: Path) -> None:
    queued = as_registered(campaign(references, walltime_s=60, encut_ev=400))
    moved = references.rename(tmp_path / "moved.json")
    now = as_registered(campaign(moved, walltime_s=7200, encut_ev=400), queued)
    other = as_registered(campaign(moved, walltime_s=1, encut_ev=300))
    assert engine_now("vasp") is None
    dump = queued.model_dump(mode="json")
    with executing(now):
        assert stored_config(dump) == now
        assert executed(queued.engine) == now.engine
        assert engine_now("gpaw") is None
    with executing(other):  # another campaign of the name
        assert stored_config(dump) == queued
    assert stored_config(dump) == queued
