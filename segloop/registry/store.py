"""What the registry needs of a store (the protocol Store), and the store that is a folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from segloop.errors import RegistryError
from segloop.files import replacing

_LOCK_TIMEOUT_S = 30
#: Attempts at a conditional write, with a pause between, in seconds; each loss means that somebody else went ahead.
ATTEMPTS = 20
PAUSE_S = 0.05


@dataclass(frozen=True)
class Blob:
    """What a key holds, and a tag that changes when that does."""

    data: bytes
    tag: str


class Store(Protocol):
    """Named byte strings. A key is slash-separated components that the registry has validated.

    Every write is atomic: a reader sees the old value, the new one, or none. Every failure is a RegistryError.
    """

    def read(self, key: str) -> Blob | None:
        """What the key holds, or None."""

    def reread(self, key: str, known: Blob) -> Blob | None:
        """What the key holds now, or None; `known` itself where that has not changed."""

    def size(self, key: str) -> int | None:
        """How many bytes the key holds; None if there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Set the key."""

    def write_if(self, key: str, data: bytes, tag: str | None) -> bool:
        """Set the key if it still has this tag (None: if it does not exist); whether it now holds `data`."""

    def folders(self, prefix: str) -> list[str]:
        """Names directly below the prefix ("" or ending in a slash) that have keys below them."""

    def upload(self, path: Path, key: str) -> None:
        """Copy a file into the store."""

    def download(self, key: str, path: Path) -> None:
        """Copy a key out of the store."""

    def delete(self, key: str) -> None:
        """Delete a key, if it is there."""

    def local(self, prefix: str) -> Path | None:
        """The folder that is this prefix, where the store is on this machine's disk."""


class FolderStore:
    """A store in a folder, safe with several processes of one machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> Blob | None:
        with self._errors():
            try:
                data = (self._root / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Blob(data, hashlib.sha256(data).hexdigest())

    def reread(self, key: str, known: Blob) -> Blob | None:
        blob = self.read(key)
        return known if blob == known else blob

    def size(self, key: str) -> int | None:
        with self._errors():
            try:
                return (self._root / key).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, key: str, data: bytes) -> None:
        with self._errors(), replacing(self._root / key, durable=True) as temporary:
            temporary.write_bytes(data)

    def write_if(self, key: str, data: bytes, tag: str | None) -> bool:
        path = self._root / key
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            # The kernel drops the lock with its process, so a killed promoter blocks nobody.
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_TIMEOUT_S):
                current = self.read(key)
                if (current.tag if current else None) != tag:
                    return current is not None and current.data == data
                self.write(key, data)
                return True

    def folders(self, prefix: str) -> list[str]:
        with self._errors():
            try:
                return sorted(entry.name for entry in (self._root / prefix).iterdir() if entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def upload(self, path: Path, key: str) -> None:
        # A copy, never a link: the bundle's folder may be written again by a later run.
        with self._errors(), replacing(self._root / key, durable=True) as temporary:
            shutil.copyfile(path, temporary)

    def download(self, key: str, path: Path) -> None:
        with self._errors():
            shutil.copyfile(self._root / key, path)

    def delete(self, key: str) -> None:
        with self._errors():
            (self._root / key).unlink(missing_ok=True)

    def local(self, prefix: str) -> Path | None:
        return self._root / prefix

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, Timeout) as error:
            raise RegistryError(f"the store {self._root} cannot be used: {error}") from error
