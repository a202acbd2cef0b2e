"""The ``scdm`` command. Each command loads what it needs when it runs, so that ``scdm --help`` is immediate.

Owns how people and scripts talk to the project: tables for people, ``--json`` for programs, exit codes.
What the
commands do lives elsewhere.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import click

from scdm_flows import __version__

# command -> (module, attribute, one line for --help)
COMMANDS = {
    "doctor": ("doctor", "doctor", "What is there, what is missing, and how to get it."),
    "quickstart": ("quickstart", "quickstart", "100 samples to a ranked table and a report on this machine."),
    "data": ("data", "data", "Curate data sets and look at them."),
    "train": ("model", "train", "Train the diffusion model on a curated set."),
    "generate": ("model", "generate", "Draw crystals from a trained model."),
    "evaluate": ("evaluate", "evaluate", "Judge files of samples: validity, symmetry, novelty, energies."),
    "reconstruct": (
        "reconstruct",
        "reconstruct",
        "Noise held-out layers and denoise them: the six distances of Fig. 4.",
    ),
    "assemble": ("assemble", "assemble", "Give models held-out skeletons alone: how many layers come out."),
    "cards": ("cards", "cards", "Measure the packaged models and the force field, for models/cards."),
    "screen": ("screen", "screen", "Check structures: validity, one layer, duplicates, novelty."),
    "campaign": ("campaign", "campaign", "Run, submit and report discovery campaigns."),
    "worker": ("worker", "worker", "Run jobs of submitted campaigns on this machine."),
    "build": ("campaign", "build", "Rebuild candidates, novelty, hulls and ranking from job outputs."),
    "candidates": ("candidates", "candidates", "List, show, compare and export candidates; follow soft modes."),
    "serve": ("serve", "serve", "Serve the candidates: web pages, and OPTIMADE at /optimade."),
    "refs": ("refs", "refs", "Competing phases and the energy model of surrogate energies."),
    "db": ("db", "db", "Start, stop and look at the embedded database."),
    "help": ("help", "help_", "What a command does and takes."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, its module imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"scdm_flows.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands' lines, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """click's, with the nearest name for an unknown one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no such command {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scdm")
@click.option("-v", "--verbose", is_flag=True, help="Also say what the library logs.")
def cli(verbose: bool) -> None:
    """Discover two-dimensional materials: generate, screen, relax, rank.

    Exit codes: 0 done, 1 failed while running, 2 something to mend first, 130 interrupted.
    """
    from scdm_flows.cli.common import set_up_logging

    set_up_logging(verbose)


def main() -> None:
    """Entry point: runs the command and turns every error into one message and an exit code."""
    from scdm_flows.cli.common import run

    run(cli)
