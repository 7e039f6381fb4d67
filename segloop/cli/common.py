"""What the commands share: options, errors, the store that they open, and how they print."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from segloop.errors import SegloopError, UnknownProject
from segloop.progress import Progress
from segloop.settings import Settings

# What only some commands need is imported by them: `segloop serve` has to answer soon.
if TYPE_CHECKING:
    from rich.console import Console

    from segloop.registry import Registry


#: The commands of `segloop`, as its help lists them.
SECTIONS = {
    "Run": ("up", "serve", "worker"),
    "Connect": ("connect", "doctor"),
    "Look": ("report", "suspects"),
    "Data": ("import",),
    "Train and predict": ("train", "stop", "predict", "weights", "accept"),
    "Versions": ("versions", "reproduce", "export"),
    "AWS": ("sagemaker", "aws"),
}


class Group(click.Group):
    """A group where a mistake of the user is one line on stderr and exit status 1, not a traceback."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = sectioned(self, ctx)
        longest = max(len(command.name or "") for commands in sections.values() for command in commands)
        for title, commands in sections.items():
            with formatter.section(title):
                width = formatter.width - 6 - longest
                formatter.write_dl([(command.name or "", command.get_short_help_str(width)) for command in commands])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SegloopError as error:
            raise click.ClickException(str(error)) from error


def sectioned(group: click.Group, ctx: click.Context) -> dict[str, list[click.Command]]:
    """The commands of a group by their section."""
    known = [command for name in group.list_commands(ctx) if (command := group.get_command(ctx, name))]
    shown = {command.name: command for command in known if not command.hidden}
    found = {title: [shown.pop(name) for name in names if name in shown] for title, names in SECTIONS.items()}
    return {title: commands for title, commands in {**found, "Other": [*shown.values()]}.items() if commands}


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)
    return click.option("--project", "-p", help="Id of the project; needed only where the store has several.")(command)


def open_store(settings: Settings, project: str | None) -> tuple[Registry, str]:
    from segloop.registry import open_registry

    registry = open_registry(settings)
    if project is not None:
        return registry, registry.resolve(project)
    return registry, only([key for key in registry.projects() if registry.versions(key)], settings)


def connected_project(settings: Settings, project: str | None) -> str:
    """The key of a project that is connected, whether it has a version or not."""
    from segloop.registry import open_registry

    registry = open_registry(settings)
    known = registry.projects()
    if not known:
        raise UnknownProject("no project is connected yet; see: segloop connect --help")
    return registry.resolve(project) if project is not None else only(known, settings)


def shown_id(settings: Settings, project: str) -> str:
    """What people are told of a project; see `Registry.shown_id`."""
    from segloop.registry import open_registry

    return open_registry(settings).shown_id(project)


def only(projects: list[str], settings: Settings) -> str:
    if len(projects) == 1:
        return projects[0]
    if projects:
        from segloop.registry import shown_ids

        shown = ", ".join(shown_ids(projects).values())
        raise UnknownProject(f"the store has several projects ({shown}); name one with --project")
    raise UnknownProject(f"the store {settings.store_url} has no version yet; press Start Training in Label Studio")


def tell(progress: Progress) -> None:
    """Say how far a job is."""
    step = f" {progress['step']} of {progress['steps']}" if "step" in progress and "steps" in progress else ""
    say(str(progress.get("message") or f"{progress.get('phase', '')}{step}"))


def say(text: str) -> None:
    """A line of progress on stderr, rewritten in place on a terminal."""
    click.echo(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, err=True, nl=not sys.stderr.isatty())


def share(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, default=dataclasses.asdict))


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(highlight=False, emoji=False, stderr=stderr)
