"""Examples of the README: commands exist with their options, files are valid, code runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from support.documents import CampaignDocuments
from support.examples import blocks, commands, parse
from support.memory import memory_database

from scdm_flows.cli import cli
from scdm_flows.cli.common import run
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.settings import ScdmSettings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = blocks(README)


def test_readme_has_examples_of_every_kind() -> None:
    assert {"bash", "sh", "python", "yaml"} <= {kind for kind, _ in BLOCKS}
    assert len(commands(README, "scdm")) >= 12


@pytest.mark.parametrize("arguments", commands(README, "scdm"), ids=" ".join)
def test_commands_exist_with_their_options(arguments: list[str]) -> None:
    parse(arguments)


@pytest.mark.parametrize("arguments", [["generate", "--sed", "1"], ["campaign", "fly"]], ids=" ".join)
def test_a_wrong_example_would_be_found(arguments: list[str]) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        parse(arguments)


@pytest.mark.parametrize("target", [t for words in commands(README, "make") for t in words])
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "yaml"])
def test_campaign_files_are_valid(text: str) -> None:
    assert isinstance(parse_config(yaml.safe_load(text), origin="README"), CampaignConfig)


def test_named_files_exist() -> None:
    for name in re.findall(r"launchpad/[\w/]+\.yaml|models/configs/[\w/]+\.yaml", README):
        assert (ROOT / name).is_file(), name


def test_table_of_variables_is_the_settings() -> None:
    named = set(re.findall(r"^\| `SCDM_(\w+)`", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))
    assert named == {name.upper() for name in ScdmSettings.model_fields}


def test_numbers_of_the_energy_model_are_the_packaged_ones() -> None:
    from scdm_flows.thermo.energy_model import load_energy_model_card

    card = load_energy_model_card()
    text = " ".join(README.split())
    assert f"{card['n']:,} layers of C2DB" in text
    assert f"mean error of E_hull is {card['e_above_hull']['mae']:.2f} eV/atom" in text


def test_sampler_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [text for kind, text in BLOCKS if kind == "python" and "scdm_models.sampling.sampler" in text]
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    # p-3m1 as asked for, or p6/mmm, the group above it that one free height at 0 leads to
    assert {line.split()[1] for line in lines} <= {"72", "80"}


def test_query_example_runs(
    campaign_documents: CampaignDocuments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = memory_database()
    campaign_documents.store(database)
    monkeypatch.setattr("scdm_flows.stores.connect", lambda settings=None, create=True: database)
    (code,) = [text for kind, text in BLOCKS if kind == "python" and "CandidateDB" in text]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["1", "MoS2", "78", "0.01"]


def test_first_campaign_begins_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    generate = next(c for c in commands(README, "scdm") if c[0] == "generate")
    assert generate == ["generate", "-n", "100", "--seed", "0", "-o", "gen.jsonl"]
    with pytest.raises(SystemExit) as stop:
        run(cli, generate)
    assert stop.value.code == 0
    records: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "gen.jsonl").read_text().splitlines()]
    assert len(records) == 100
    keys = {
        "structure",
        "layer_group_requested",
        "layer_group_detected",
        "space_group_detected",
        "seed",
        "model_id",
    }
    assert all(keys <= r.keys() for r in records)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(cli, [*next(c for c in commands(README, "scdm") if c[0] == "screen"), "--json"])
    assert stop.value.code == 0
    verdicts = json.loads(capsys.readouterr().out)
    assert len(verdicts) == 100
    assert sum(v["accepted"] for v in verdicts) >= 20
