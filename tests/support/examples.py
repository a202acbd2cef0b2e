"""Examples in documentation: code blocks, the commands in them, and whether `scdm` would take such a command."""

from __future__ import annotations

import re
import shlex
import textwrap

import click

from scdm_flows.cli import cli

END = {"&&", "||", "|", ";", ">", ">>", "2>", "<"}  # where a command of a line of shell ends


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block, and of every indented one with the language ''."""
    fenced = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^\n|\A)((?:^ {4}.*\n)+)", fenced.sub("", text), re.MULTILINE)
    return [*fenced.findall(text), *(("", textwrap.dedent(block)) for block in indented)]


def commands(text: str, program: str) -> list[list[str]]:
    """Arguments of every call of a program in the shell blocks of a text, wherever in a line it stands."""
    found = []
    for language, content in blocks(text):
        if language not in ("", "bash", "sh"):
            continue
        for line in content.replace("\\\n", " ").splitlines():
            words = _words(line)
            for k, word in enumerate(words):
                if word == program or (word.endswith(f"/{program}") and word.startswith("/")):
                    rest = words[k + 1 :]
                    found.append(rest[: next((n for n, w in enumerate(rest) if w in END), len(rest))])
                    break
    return found


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # not shell, such as a line of JavaScript
        return []


def parse(arguments: list[str]) -> None:
    """Walk to the `scdm` command and parse its arguments without running it; it must exist and take them."""
    command: click.Command = cli
    rest, context = list(arguments), click.Context(cli)
    while isinstance(command, click.Group):
        name = rest.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"scdm {' '.join(arguments)}: no command {name}"
        command = found
    command.make_context("scdm", rest)
