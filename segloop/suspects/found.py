"""The suspected labels of a project: those that its newest training found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from segloop.errors import RegistryError
from segloop.suspects.format import SUSPECTS, Suspects, read_suspects

if TYPE_CHECKING:
    from segloop.registry import Registry

#: How many versions back suspects are looked for: quick adaptations look for none.
_LOOK_BACK: Final = 50


@dataclass(frozen=True)
class FoundSuspects:
    """Suspects, and the version that they are a part of."""

    version: str
    suspects: Suspects


def found_suspects(registry: Registry, project: str) -> FoundSuspects | None:
    """The suspects of the newest version that has some file of them; None without one.

    Raises:
        RegistryError: the store cannot be read, or the file is not the version's.
    """
    version = version_with_suspects(registry, project)
    if version is None:
        return None
    return FoundSuspects(version, read_suspects(registry.bundle(project, version, [SUSPECTS]) / SUSPECTS))


def version_with_suspects(registry: Registry, project: str) -> str | None:
    """The newest version that has suspects.json, promoted or not; None without one.

    Raises:
        RegistryError: the store cannot be read.
    """
    for name in reversed(registry.version_names(project)[-_LOOK_BACK:]):
        try:
            if SUSPECTS in registry.get(project, name).files:
                return name
        except RegistryError:  # it is being written, or is damaged
            continue
    return None
