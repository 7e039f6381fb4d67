"""Files that are written whole: a reader, another writer or a kill never sees half of one."""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

#: A temporary file that nobody wrote to for so long, in seconds, was left by a process that was killed.
_LEFTOVER_AGE_S: Final = 3600.0


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, for the block to write; it takes the place of `path` if the block ends well.

    Of two writers the last one to end wins, and its file is whole. The folder is made where it is missing. A file has
    the permissions that the umask gives a new one. What a killed process left of the same file is removed after an
    hour, which lists the folder: for many small files in one folder use `write_bytes`.

    Args:
        durable: have the disk hold the content before the name shows it: what survives a power cut is the old file or
            the new one. It costs milliseconds, for files that cannot be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        _remove_leftover(leftover)
    with _replacing(path, durable) as temporary:
        yield temporary


def write_bytes(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file, whose folder exists, as `replacing` does, but for the leftovers."""
    with _replacing(path, durable) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file as `write_bytes` does."""
    write_bytes(path, json.dumps(value, indent=1).encode())


def read_json(path: Path) -> Any:
    """What a JSON file holds; None if there is none.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


@contextmanager
def _replacing(path: Path, durable: bool) -> Iterator[Path]:
    # Hidden, so that nobody who lists the folder takes it for a file; random, so that two writers have two.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_leftover(path: Path) -> None:
    try:
        if time.time() - path.stat().st_mtime > _LEFTOVER_AGE_S:
            path.unlink()
    except FileNotFoundError:
        pass  # its writer ended just now
