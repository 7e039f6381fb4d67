"""The page docs/cli.md."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from typing import Final

import click

from segloop.cli.common import sectioned

_INTRODUCTION: Final = """# Command line

`segloop --help` and `segloop COMMAND --help` print what is on this page; it is made from the program by
`segloop reference`. [Settings](settings.md) are environment variables, or lines of a file `.env` in the folder that
segloop starts in.

The exit status is 0 where all went well, 1 where it did not, and 2 where the command itself was wrong. A mistake is one
line on stderr. With `--json`, stdout has JSON alone.
"""

_WIDTH: Final = 118


@click.command(hidden=True)
@click.pass_context
def reference(ctx: click.Context) -> None:
    """Print the page docs/cli.md."""
    click.echo(cli_page(ctx.find_root().command), nl=False)


def cli_page(command: click.Command) -> str:
    """docs/cli.md: every command with its help, arguments and options."""
    root = click.Context(command, info_name="segloop")
    parts = [_INTRODUCTION]
    assert isinstance(command, click.Group)  # noqa: S101 - the root is one
    for title, commands in sectioned(command, root).items():
        parts.append(f"## {title}\n")
        for own in commands:
            parts += _described(own, root)
    return "\n".join(parts)


def _described(command: click.Command, parent: click.Context) -> Iterator[str]:
    ctx = click.Context(command, info_name=command.name, parent=parent)
    if isinstance(command, click.Group):
        for own in command.commands.values():
            yield from _described(own, ctx)
        return
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    text, _, examples = inspect.cleandoc(command.help or "").partition("\n\n\b\nExamples:\n")
    yield f"### {ctx.command_path}\n"
    yield f"```text\n{usage}\n```\n"
    yield "\n\n".join(textwrap.fill(paragraph, _WIDTH) for paragraph in text.split("\n\n")) + "\n"
    records = [parameter.get_help_record(ctx) for parameter in command.params]
    if options := [record for record in records if record is not None and record[1]]:
        yield "| Option | |\n|---|---|"
        yield "\n".join(f"| `{_cell(names)}` | {_cell(text)} |" for names, text in options) + "\n"
    if examples:
        yield f"```text\n{inspect.cleandoc(examples)}\n```\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
