"""The README's examples: command lines parse with the real commands, campaign files validate, Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from conftest import ROOT
from scdm_flows.cli import cli
from scdm_flows.config import parse_config

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.M | re.S)
SHELL = [
    line.split("   #")[0].strip()
    for kind, text in BLOCKS
    if kind in ("bash", "sh")
    for line in text.splitlines()
    if line.strip() and not line.startswith("#")
]
SCDM = [line for line in SHELL if line.startswith("scdm ")]


def test_there_are_examples() -> None:
    assert len(SCDM) >= 12
    assert {kind for kind, _ in BLOCKS} >= {"bash", "python", "yaml"}


@pytest.mark.parametrize("line", SCDM)
def test_command_lines_parse(line: str) -> None:
    # make_context parses and checks arguments and options, and runs nothing
    arguments = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="scdm")
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{name} is no command"
        command = found
        context = click.Context(command, info_name=name, parent=context)
    command.make_context(command.name, arguments, parent=context.parent)


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "yaml"])
def test_campaign_files_validate(text: str) -> None:
    parse_config(yaml.safe_load(text))


@pytest.mark.parametrize("path", sorted((ROOT / "launchpad" / "campaigns").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_campaigns_validate(path: Path) -> None:
    parse_config(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python" and "generate" in text])
def test_sampling_example_runs(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(text, "README.md", "exec"), {})  # noqa: S102
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_query_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scdm_flows.settings import ScdmSettings
    from scdm_flows.stores import EmbeddedServer, connect
    from scdm_flows.stores.process import free_port

    (text,) = [text for kind, text in BLOCKS if kind == "python" and "CandidateDB" in text]
    port = free_port()
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SCDM_PORT", str(port))
    connect(ScdmSettings(data_dir=tmp_path, port=port)).close()
    try:
        exec(compile(text, "README.md", "exec"), {})  # noqa: S102
    finally:
        EmbeddedServer(tmp_path, port).stop()
