"""``scdm help``."""

from __future__ import annotations

import click


@click.command("help")
@click.argument("command", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, command: tuple[str, ...]) -> None:
    """What COMMAND does and takes, such as `scdm help candidates show`; what commands there are without one."""
    assert ctx.parent is not None
    shown = ctx.parent
    for word in command:
        if not isinstance(shown.command, click.Group):
            raise click.UsageError(f"{shown.command_path} has no commands, so no {word!r}; its help is of all it does")
        _, found, _ = shown.command.resolve_command(shown, [word])
        assert found is not None  # an unknown one is refused
        shown = click.Context(found, info_name=word, parent=shown, **shown.command.context_settings)
    click.echo(shown.get_help())
