"""Examples of the pages in docs/ and of the compose file: commands exist with their options, files are valid."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml
from support.examples import blocks, commands, parse

from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.settings import CONFIG_FILE_VARIABLE, PREFIX, ScdmSettings

ROOT = Path(__file__).resolve().parents[1]
PAGES = {page.name: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}
# the compose file's head and entrypoint, as one block of shell
COMPOSE = re.findall(r"^#   (.*)$", (ROOT / "docker" / "compose.yaml").read_text(), re.MULTILINE)
PAGES["compose.yaml"] = "```sh\n" + "\n".join(COMPOSE) + "\n```\n"
EXAMPLES = [(page, arguments) for page, text in PAGES.items() for arguments in commands(text, "scdm")]
# read by shells and containers, not by ScdmSettings
OTHER_VARIABLES = {CONFIG_FILE_VARIABLE} | {PREFIX + name for name in ("LAUNCHPAD_DIR", "MONGO_URI_FILE", "COMPLETE")}


def test_every_page_has_commands() -> None:
    assert {page for page, _ in EXAMPLES} >= {"cluster.md", "database.md", "compose.yaml"}
    assert len(commands(PAGES["cluster.md"], "scdm")) >= 25


@pytest.mark.parametrize(
    ("page", "arguments"), EXAMPLES, ids=[f"{page}: scdm {' '.join(arguments)}" for page, arguments in EXAMPLES]
)
def test_commands_exist_with_their_options(page: str, arguments: list[str]) -> None:
    # a word that stands for the reader's own is a value like any other
    parse(arguments)


@pytest.mark.parametrize("text", ["```sh\nx && scdm campaign fly\n```", "    scdm db backup --sed\n"])
def test_a_wrong_example_would_be_found(text: str) -> None:
    (arguments,) = commands(text, "scdm")
    with pytest.raises((click.UsageError, AssertionError)):
        parse(arguments)


def test_commands_are_found_wherever_they_stand_in_a_line() -> None:
    lines = ["docker compose run --rm shell scdm campaign list", "*/5 * * * * A=b /x/bin/scdm campaign list && true"]
    for line in lines:
        assert commands(f"```sh\n{line}\n```\n", "scdm") == [["campaign", "list"]]


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".md")])
def test_named_files_targets_and_variables_exist(page: str) -> None:
    text = PAGES[page]
    for name in re.findall(
        r"(?<![\w/])(?:launchpad|docker|benchmarks|docs|scdm_flows)/[\w/]+\.(?:yaml|py|md|sh)", text
    ):
        assert (ROOT / name).is_file(), name
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    known = {PREFIX + name.upper() for name in ScdmSettings.model_fields} | OTHER_VARIABLES
    assert set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]\b(?!_)", text)) <= known


def test_yaml_of_the_pages_is_valid() -> None:
    found = [yaml.safe_load(content) for text in PAGES.values() for kind, content in blocks(text) if kind == "yaml"]
    assert len(found) >= 2
    for values in found:
        if "name" in values:
            assert isinstance(parse_config(values, origin="docs"), CampaignConfig)
        elif "rocket_launch" not in values:  # what FireWorks reads of a queue adapter
            assert values.keys() <= ScdmSettings.model_fields.keys()
