"""Where settings come from: the variables that are known, those that are misspelt, and what a person wrote where."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

from dotenv import dotenv_values
from pydantic import AliasChoices, BeforeValidator
from pydantic_settings import BaseSettings, NoDecode

PREFIX: Final = "SEGLOOP_"
#: Set for child processes, whose parent has looked for misspelt settings.
CHECKED: Final = "_SEGLOOP_SETTINGS_CHECKED"
#: How alike a name without the prefix must be to one of segloop's to be taken for a slip: other tools have names of their own.
_ALIKE: Final = 0.88
#: What Kubernetes sets for a Service that is called segloop.
_SERVICE_LINK: Final = re.compile(r"SEGLOOP(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)")


def _split(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


#: A setting with several values, commas between.
Several = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


def variables_of(settings: type[BaseSettings]) -> dict[str, tuple[str, ...]]:
    """The variables of each setting, the one that documents name first."""
    found = {}
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names = (
            [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [PREFIX + name.upper()]
        )
        found[name] = tuple(sorted(names, key=lambda variable: variable.startswith(PREFIX)))
    return found


def env_file_variables(env_file: str | Path | None) -> dict[str, str | None]:
    """The lines of an env file, by their names in capitals; none where there is no such file."""
    if env_file is None or not Path(env_file).is_file():
        return {}
    return {name.upper(): value for name, value in dotenv_values(env_file, encoding="utf-8").items()}


def written(names: tuple[str, ...], env_file: str | Path | None) -> str:
    """Which of a setting's variables a person wrote; the first where it is none of them."""
    environ = {name.upper(): value for name, value in os.environ.items()}
    for given in (environ, env_file_variables(env_file)):
        # pydantic-settings takes the prefixed name where both are given
        for name in reversed(names):
            if given.get(name):
                return name
    return names[0]


def looked_for(env_file: str | Path | None) -> str:
    """Where settings were looked for, in words."""
    if env_file is None:
        return "read from the environment"
    path = Path(env_file).absolute()
    return (
        f"read from the environment and from {path}"
        if path.is_file()
        else f"read from the environment; there is no {path}"
    )


def misspelt(settings: type[BaseSettings], env_file: str | Path | None) -> Iterator[str]:
    """One sentence for each variable, or line of the env file, that looks like a setting and is none."""
    known = {name for names in variables_of(settings).values() for name in names}
    places: tuple[tuple[Mapping[str, str | None], str], ...] = (
        ({name.upper(): value for name, value in os.environ.items()}, "The environment variable"),
        (env_file_variables(env_file), f"In {Path(env_file or '').absolute()}, the line"),
    )
    for given, place in places:
        for name in sorted(given.keys() - known):
            if _SERVICE_LINK.fullmatch(name):
                continue
            if name.startswith(PREFIX):
                near = difflib.get_close_matches(name, known, 1, 0)
                yield f"{place} {name} is no setting and is ignored. Did you mean {near[0]}?"
            elif near := difflib.get_close_matches(name, known, 1, _ALIKE):
                yield f"{place} {name} is no setting and is ignored. Did you mean {near[0]}?"
