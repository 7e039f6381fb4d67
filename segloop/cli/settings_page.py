"""The page docs/settings.md."""

from __future__ import annotations

import ast
import inspect
import itertools
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from segloop.settings import PROJECT_SETTINGS, Settings
from segloop.settings.sources import variables_of


@click.command(hidden=True)
def settings() -> None:
    """Print the page docs/settings.md."""
    click.echo(settings_page(), nl=False)


def settings_page() -> str:
    """docs/settings.md: every setting with its variable, its default and its help."""
    lines = [
        "# Settings",
        "",
        "Each is an environment variable, or a line in the file `.env` of the folder segloop starts in. An empty value",
        "counts as unset. Those marked *per project* can also be given to one project: as a JSON object in the *extra params*",
        'of its ML backend in Label Studio, by the name in brackets, such as `{"retrain_threshold": 20}`.',
        "",
        "This page is printed by `segloop settings`.",
        "",
        "| Variable | Default | What it does |",
        "|---|---|---|",
    ]
    descriptions, variables = _descriptions(), variables_of(Settings)
    for name, field in Settings.model_fields.items():
        own = f"<br>*per project* (`{name}`)" if name in PROJECT_SETTINGS else ""
        text = f"{descriptions[name]}{_choices(field)}".replace("|", "\\|")
        lines.append(f"| `{variables[name][0]}`{own} | {_default(field)} | {text} |")
    return "\n".join(lines) + "\n"


def _descriptions() -> dict[str, str]:
    """What stands below each setting. pydantic's `use_attribute_docstrings` would read it at every start."""
    found = {}
    for part in Settings.__bases__:
        [definition] = ast.parse(inspect.getsource(part)).body
        for field, below in itertools.pairwise(getattr(definition, "body", ())):
            match field, below:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = " ".join(text.split())
    return found


def _choices(field: FieldInfo) -> str:
    if get_origin(field.annotation) is not Literal:
        return ""
    return f" One of {', '.join(f'`{choice}`' for choice in get_args(field.annotation))}."


def _default(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, Path):
        return "the user's data folder (on Linux `~/.local/share/segloop`)"
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "empty" if default in ("", (), None) else f"`{default}`"
