"""Campaign files as people write them: what is ambiguous, endless or out of range is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scdm_flows.config import CampaignConfig, load_config, parse_config
from scdm_flows.config.yaml_files import LARGEST_BYTES
from scdm_flows.errors import ConfigError


def refused(folder: Path, text: str) -> str:
    """What is said of a campaign file."""
    path = folder / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gate: {max_e_above_hull: .inf}", "gate.max_e_above_hull = inf: Value error, must be a finite number"),
        ("gate: {max_e_above_hull: .nan}", "gate.max_e_above_hull = nan"),
        ("generator: {kind: scdm, weight: .inf}", "generator.weight = inf"),
        ("generator: {kind: scdm, weight: 1.0e+30}", "generator.weight = 1e+30"),
        ("generator: {kind: scdm, stability: -.inf}", "generator.stability = -inf: Value error, must be a finite"),
        ("generator: {kind: scdm, letter_temperature: 1.0e-300}", "generator.letter_temperature = 1e-300"),
        ("generator: {kind: scdm, seed: 9223372036854775808}", "must be within 64 bits, at most 9223372036854775807"),
        (f"generator: {{kind: scdm, n: 1{'0' * 30}}}", "generator.n = 1"),
        ("screen: {max_atoms: 99999999999999999999}", "screen.max_atoms = 99999999999999999999: Value error, must be"),
        ("objective: {gap: 1, gap_ev: [0.0, .inf]}", "objective.gap_ev = [0.0, inf]: Value error, must be a finite"),
        ("engine: {kind: forcefield, force_field: 'a.b:C', force_field_options: {x: .nan}}", "must be a finite number"),
        ("engine: {kind: forcefield, force_field: 'a.b:C', force_field_options: {x: 2001-01-01}}", "is a date"),
        (f"generator: {{kind: scdm, seed: {'9' * 5000}}}", "a number or date in it cannot be read"),
        ("description: 2001-99-99", "a number or date in it cannot be read"),
        ('description: "a\\0b"', "holds a NUL"),
        (
            "generator: {kind: scmd}",
            "generator.kind = 'scmd': must be one of 'scdm', 'unscdm', 'files', 'several', 'promoted'; did",
        ),
        ("generator: {kind: scmd}", "did you mean 'scdm'?"),
        ("engine: {kind: vsap}", "did you mean 'vasp'?"),
        ("generator: {n: 3}", "generator = {'n': 3}: must name its kind, one of scdm, unscdm, files, several"),
        ("gate: {max_e_above_hull: 0.1}\ngate: {}", "key 'gate' is given twice, in lines 2 and 3; remove one"),
        ("gate:\n  bands_max_atoms: 3\n  bands_max_atoms: 4", "key 'bands_max_atoms' is given twice, in lines 3 and 4"),
        ("description: &a [*a]", "line 2: it holds itself"),
        (f"description: {'[' * 100_000}", "more than 40 levels of nesting"),
        (f"description: {'[' * 500}{']' * 500}", "more than 40 levels of nesting"),
        (f"description: {'x' * LARGEST_BYTES}", "larger than 1 MiB"),
    ],
)
def test_what_no_campaign_can_mean_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    told = refused(tmp_path, f"name: c\n{text}\n")
    assert said in told
    assert "c.yaml" in told


def test_aliases_are_counted_as_if_they_were_written_out(tmp_path: Path) -> None:
    levels = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 9)]  # 9^9 texts in 500 bytes
    told = refused(tmp_path, "name: c\n" + "\n".join(levels))
    assert "with its aliases written out" in told
    assert len(told) < 1000
    chain = ["a0: &a0 []"] + [f"a{k}: &a{k} [*a{k - 1}]" for k in range(1, 60)]  # deep only when written out
    assert "levels; write out what is meant" in refused(tmp_path, "\n".join(chain))


def test_an_alias_and_a_merge_that_people_use_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "name: c\ngenerator:\n  kind: several\n  generators:\n  - &one {kind: scdm, n: 3}\n  - *one\n"
        "  - {<<: *one, n: 5}\n"
    )
    config: Any = load_config(tmp_path / "c.yaml").generator
    assert [part.n for part in config.generators] == [3, 3, 5]


def test_a_message_is_short_whatever_the_file_holds() -> None:
    data = {
        "name": "c",
        "x" * 100_000: 1,
        "description": ["y" * 100_000] * 1000,
        "screen": {str(k): k for k in range(999)},
    }
    with pytest.raises(ConfigError) as error:
        parse_config(data)
    assert len(str(error.value)) < 20_000
    assert "and 951 more" in str(error.value)  # 1001 mistakes


def test_numbers_within_range_are_as_they_were() -> None:
    # the hash of a stored campaign decides whether it is the same: checks must not change values
    config = parse_config({"name": "c", "generator": {"kind": "scdm", "seed": 2**63 - 1}})
    assert config.generator.model_dump()["seed"] == 2**63 - 1
    assert CampaignConfig.model_validate(config.model_dump(mode="json")).config_hash == config.config_hash
