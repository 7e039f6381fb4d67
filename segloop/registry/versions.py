"""What the store holds, parsed: names, version.json and champion.json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from segloop.errors import RegistryError, UnknownProject
from segloop.formats import WEIGHTS_FILE

_PROJECT = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?", re.ASCII)
_VERSION = re.compile(r"v([1-9][0-9]{0,8})-[0-9a-f]{8}", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)

_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True)
class FileInfo:
    """A file of a version: sha256 in hex, and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class VersionInfo:
    """A version's version.json. What has a default here came later, and may be missing there."""

    format: Literal[1]
    version: str
    project: str
    created_at: str
    arch: str
    output_stride: int
    input_size: int
    classes: tuple[str, ...]
    parent: str | None
    snapshot: str
    metrics: dict[str, Any]
    champion_metrics: dict[str, Any] | None
    decision: dict[str, Any] | None
    recipe: dict[str, Any]
    files: dict[str, FileInfo]
    long_side: int = 0
    temperature: float = 1.0
    engines: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Champion:
    """The version that a project serves. `generation` grows by one with every promotion or rollback;
    `previous` are the versions served before, the latest last."""

    version: str
    generation: int
    promoted_at: str
    reason: str
    previous: tuple[str, ...]


_VERSION_INFO = TypeAdapter(VersionInfo)
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
    """Those of a project's versions (oldest first) whose models may go: all but the newest `keep` and those needed."""
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


def version_number(name: str) -> int | None:
    """The n of a version called v{n}-{hash}; None for what is no version's name."""
    match = _VERSION.fullmatch(name)
    return int(match[1]) if match else None


def is_file_name(name: str) -> bool:
    """Whether a name may be a file of the store: one harmless path component."""
    return _FILE.fullmatch(name) is not None


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


def parse_version(value: Any, where: str) -> VersionInfo:
    """A version.json's object, checked: the right kinds of values, and names without a way out of the folder.

    Raises:
        RegistryError: it is not one.
    """
    info = _parse(_VERSION_INFO, value, where)
    hostile = [name for name in info.files if not is_file_name(name)]
    if hostile or version_number(info.version) is None:
        raise RegistryError(f"{where} has the name {(hostile or [info.version])[0]!r}, which is not safe to use")
    if WEIGHTS_FILE not in info.files:
        raise RegistryError(f"{where} lists no {WEIGHTS_FILE}")
    return info


def parse_champion(value: Any, where: str) -> Champion:
    """A champion.json's object, checked.

    Raises:
        RegistryError: it is not one.
    """
    champion = _parse(_CHAMPION, value, where)
    for name in (champion.version, *champion.previous):
        if version_number(name) is None:
            raise RegistryError(f"{where} names {name!r}, which is not a version")
    return champion


def _parse(adapter: TypeAdapter[_Parsed], value: Any, where: str) -> _Parsed:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise RegistryError(f"{where}: {name}: {problem['msg']}") from error
