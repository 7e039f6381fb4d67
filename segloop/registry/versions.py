"""Keys of projects, champion.json, and which versions' models may be removed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from segloop.errors import RegistryError, UnknownProject
from segloop.project_ids import project_id
from segloop.versions import VersionInfo, describe_problem, version_number

_PROJECT = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?", re.ASCII)


@dataclass(frozen=True)
class Champion:
    """The version that a project serves. `generation` grows by one with every promotion or rollback;
    `previous` are the versions served before, the latest last."""

    version: str
    generation: int
    promoted_at: str
    reason: str
    previous: tuple[str, ...]


_CHAMPION = TypeAdapter(Champion)


def model_files(info: VersionInfo) -> list[str]:
    """The files of a version that make up its model: weights and exported engines, nearly all of its bytes."""
    return [name for name in info.files if name.endswith((".safetensors", ".xml", ".bin"))]


def model_bytes(info: VersionInfo) -> int:
    """The size of a version's model."""
    return sum(info.files[name].bytes for name in model_files(info))


def needed(champion: Champion | None) -> set[str]:
    """The versions whose models have to stay: the one that is served, and the one that a rollback would serve."""
    return set() if champion is None else {champion.version, *champion.previous[-1:]}


def prunable_versions(infos: Sequence[VersionInfo], champion: Champion | None, keep: int) -> list[VersionInfo]:
    """Those of a project's versions (oldest first) whose models may be removed: all but the newest `keep` and the needed."""
    return [info for info in infos[: max(len(infos) - keep, 0)] if info.version not in needed(champion)]


def check_project(project: str) -> str:
    """The project key itself, which is a path component.

    Raises:
        UnknownProject: it is not an id, or an id, a dot and a timestamp.
    """
    if not _PROJECT.fullmatch(project):
        raise UnknownProject(f"{project!r} is not a project; write its id, such as 29")
    return project


def project_order(project: str) -> tuple[int, int]:
    """Sort key of a project key: id, then timestamp (-1 without one)."""
    match = _PROJECT.fullmatch(project)
    if not match:
        raise UnknownProject(f"{project!r} is not a project; write its id, such as 29")
    return int(match[1]), int(match[2] or -1)


def shown_ids(projects: Collection[str]) -> dict[str, str]:
    """What people are told of each project key: its id in Label Studio; the key where the id names a newer project, too."""
    newest = {project_id(key): key for key in sorted(projects, key=project_order)}
    return {key: project_id(key) if newest[project_id(key)] == key else key for key in projects}


def parse_json(data: bytes, where: str) -> Any:
    """JSON of the store.

    Raises:
        RegistryError: it is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{where} is not JSON: {error}") from error


def dump_json(value: Any, where: str) -> bytes:
    """JSON for the store, readable and without NaN.

    Raises:
        RegistryError: it cannot be written as JSON.
    """
    try:
        return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise RegistryError(f"{where} cannot be written as JSON: {error}") from error


def rest_of_champion(data: bytes) -> list[str]:
    """The version that a damaged champion.json still names as the one that is served; none or one."""
    found = re.findall(rb'"version"\s*:\s*"([A-Za-z0-9-]{1,64})"', data)
    return [name for name in (one.decode() for one in found[:1]) if version_number(name) is not None]


def parse_champion(value: Any, where: str) -> Champion:
    """A champion.json's object, checked.

    Raises:
        RegistryError: it is not one.
    """
    try:
        champion = _CHAMPION.validate_python(value)
    except ValidationError as error:
        raise RegistryError(f"{where}: {describe_problem(error)}") from error
    for name in (champion.version, *champion.previous):
        if version_number(name) is None:
            raise RegistryError(f"{where} names {name!r}, which is not a version")
    return champion


def by_number(name: str) -> tuple[int, str]:
    """A key that sorts names of versions by their number, the oldest first."""
    return version_number(name) or 0, name
