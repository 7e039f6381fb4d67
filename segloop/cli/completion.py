"""Completion of commands and options in the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_NAME = "segloop"
_VARIABLE = "_SEGLOOP_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script for completion in the shell.

    It completes segloop's commands and options with the Tab key.

    \b
    Examples:
      segloop completion bash > ~/.local/share/bash-completion/completions/segloop
      segloop completion zsh > "${fpath[1]}/_segloop"
      segloop completion fish > ~/.config/fish/completions/segloop.fish
    """
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - the choices are click's own
    click.echo(made(ctx.find_root().command, {}, _NAME, _VARIABLE).source())
