"""Bundle folders: list their files, verify them against version.json, and keep local copies of those in S3."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock, Timeout

from segloop.errors import RegistryError
from segloop.formats import VERSION_FILE, WEIGHTS_FILE
from segloop.registry.store import Store
from segloop.versions import FileInfo, VersionInfo, is_file_name, version_number

# Several server processes want a new champion at once: one downloads, the others wait this long.
_LOCK_TIMEOUT_S = 900
# Bundles that are kept of each project.
_CACHED_BUNDLES = 4


def describe_files(bundle: Path) -> dict[str, FileInfo]:
    """The `files` of a bundle's version.json: its files by name; hidden files and version.json aside.

    Raises:
        RegistryError: it cannot be read, lacks its weights, or holds a folder, a link or an odd name.
    """
    files = {}
    try:
        for path in sorted(bundle.iterdir()):
            if path.name == VERSION_FILE or path.name.startswith("."):
                continue
            if path.is_symlink() or not path.is_file() or not is_file_name(path.name):
                raise RegistryError(f"{bundle}: {path.name!r} is not a plain file with a plain name")
            files[path.name] = FileInfo(sha256=_sha256(path), bytes=path.stat().st_size)
    except OSError as error:
        raise RegistryError(f"the bundle {bundle} cannot be read: {error}") from error
    if WEIGHTS_FILE not in files:
        raise RegistryError(f"the bundle {bundle} has no {WEIGHTS_FILE}")
    return files


def verify_files(folder: Path, info: VersionInfo, names: Collection[str]) -> None:
    """Check the sha256 of some files of a version.

    Raises:
        RegistryError: a file is missing or is not the one that version.json describes.
    """
    for name in names:
        expected = info.files[name]
        file = f"{name} of {info.project} {info.version}"
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise RegistryError(f"{file} cannot be read: {error}") from error
        if found != expected.sha256:
            raise RegistryError(f"{file} has the sha256 {found}, not {expected.sha256}; do not trust this version")


class BundleCache:
    """Verified local copies of a remote store's bundles: the few of each project that were used last, in `folder`."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder

    def get(self, info: VersionInfo, names: Collection[str]) -> Path:
        """The local copy of a version with these files at least, downloaded where they are missing or damaged.

        Raises:
            RegistryError: the store's own files are not the ones that version.json describes, or the disk is at fault.
        """
        project = self._folder / info.project
        copy = project / info.version
        try:
            project.mkdir(parents=True, exist_ok=True)
            with FileLock(project / ".lock", timeout=_LOCK_TIMEOUT_S):
                if not (copy / VERSION_FILE).is_file():
                    self._download(info, VERSION_FILE, copy)
                for name in names:
                    try:
                        verify_files(copy, info, [name])
                    except RegistryError:
                        self._download(info, name, copy)
                os.utime(copy)
                copies = [path for path in project.iterdir() if version_number(path.name) is not None]
                for old in sorted(copies, key=lambda path: path.stat().st_mtime)[:-_CACHED_BUNDLES]:
                    shutil.rmtree(old)
        except (OSError, Timeout) as error:
            raise RegistryError(f"the cache of versions {self._folder} cannot be used: {error}") from error
        return copy

    def _download(self, info: VersionInfo, name: str, copy: Path) -> None:
        fresh = copy.with_name(".fresh")
        shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
        fresh.mkdir()
        self._store.download(f"{info.project}/versions/{info.version}/{name}", fresh / name)
        if name != VERSION_FILE:
            verify_files(fresh, info, [name])
        copy.mkdir(exist_ok=True)
        (fresh / name).replace(copy / name)
        fresh.rmdir()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
