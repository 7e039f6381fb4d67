"""A project's mirror in the route's artifacts bucket, between its trainings: each reads what is new, and packs of the rest.

Below the prefix lie `state.json`, which is written last and names the other two kinds, the mirror's file, and packs: tar files of
its images and masks. Names tell the content. A pack joins those that are smaller than it, so that there are few of them
however many trainings there were.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from segloop.dataset import Mirror
from segloop.dataset.files import FOLDERS
from segloop.errors import RegistryError
from segloop.registry.store import Store

log = logging.getLogger(__name__)

_STATE: Final = "state.json"
#: Bytes of a pack from which it joins no other, and at which the next one is begun.
FULL_BYTES: Final = 512 * 2**20
_READERS: Final = 4
_MEMBER: Final = re.compile(r"(images|masks)/[0-9a-f]{64}\.[a-z0-9]{1,8}")
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS packed (file TEXT PRIMARY KEY, pack TEXT, bytes INTEGER) WITHOUT ROWID"

_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Pack(BaseModel):
    """A pack by the sha256 of its tar file, and the bytes of what was put into it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Digest
    bytes: int = Field(ge=0)

    @property
    def key(self) -> str:
        return f"packs/{self.name}.tar"


class _State(BaseModel):
    """state.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    file: _Digest
    packs: tuple[_Pack, ...]

    @property
    def file_key(self) -> str:
        return f"tasks-{self.file}.sqlite"

    def keys(self) -> set[str]:
        """What the state needs."""
        return {self.file_key, *(pack.key for pack in self.packs)}


class KeptMirror:
    """The mirror below a prefix of a store.

    It is a copy of what the other buckets have: where it is missing, damaged or forbidden, a warning says so, and the training reads
    everything.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._state: _State | None = None
        self._tag: str | None = None

    def restore(self, folder: Path) -> None:
        """Put the mirror into a folder that does not exist yet, if there is one."""
        try:
            blob = self._store.read(self._key(_STATE))
            if blob is None:
                return
            self._tag = blob.tag
            state = _State.model_validate_json(blob.data)
            for name in FOLDERS:
                (folder / name).mkdir(parents=True)
            file = folder / Mirror.FILE
            self._take(state.file_key, state.file, file)
            with ThreadPoolExecutor(_READERS) as pool:
                # to list the results raises the first error
                list(pool.map(lambda pack: self._unpack(pack, folder), state.packs))
            self._state = state
        except (RegistryError, OSError, ValidationError, tarfile.TarError, ValueError) as error:
            log.warning("%s: the mirror of earlier trainings cannot be used: %s", self._prefix, error)
            shutil.rmtree(folder, ignore_errors=True)

    def save(self, mirror: Mirror) -> None:
        """Keep the mirror for the next training, unless another training has kept its own meanwhile."""
        try:
            with tempfile.TemporaryDirectory(dir=mirror.folder.parent) as scratch:
                self._save(mirror, Path(scratch))
        except (RegistryError, OSError, sqlite3.Error) as error:
            log.warning("%s: the mirror is not kept for the next training: %s", self._prefix, error)

    def _save(self, mirror: Mirror, scratch: Path) -> None:
        before = set() if self._state is None else self._state.keys()
        packs = tuple(self._pack(mirror, scratch))
        file = scratch / Mirror.FILE
        with closing(sqlite3.connect(file)) as copy:
            mirror.db.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
        state = _State(file=_digest(file), packs=packs)
        self._store.upload(file, self._key(state.file_key))
        if self._store.write_if(self._key(_STATE), state.model_dump_json().encode(), self._tag):
            gone = before - state.keys()
        else:
            log.info("%s: another training has kept its mirror meanwhile", self._prefix)
            gone = state.keys() - before - self._wanted()
        for key in gone:
            self._store.delete(self._key(key))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _wanted(self) -> set[str]:
        blob = self._store.read(self._key(_STATE))
        return set() if blob is None else _State.model_validate_json(blob.data).keys()

    def _take(self, key: str, digest: str, file: Path) -> None:
        self._store.download(self._key(key), file)
        if _digest(file) != digest:
            raise ValueError(f"{key} is damaged")

    def _unpack(self, pack: _Pack, folder: Path) -> None:
        file = folder / f"{pack.name}.tar"
        self._take(pack.key, pack.name, file)
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if not member.isreg() or not _MEMBER.fullmatch(member.name) or member.size > pack.bytes:
                    raise ValueError(f"{pack.key} holds {member.name!r}, which is no file of a mirror")
                tar.extract(member, folder, filter="data")
        file.unlink()

    def _pack(self, mirror: Mirror, scratch: Path) -> Iterator[_Pack]:
        """The packs of the mirror's files: those that stay, and new ones, uploaded and noted in the mirror."""
        db = mirror.db
        db.execute(_SCHEMA)
        sizes = {
            f"{part.name}/{path.name}": path.stat().st_size
            for part in (mirror.folder / name for name in FOLDERS)
            for path in part.iterdir()
        }
        packed = dict(db.execute("SELECT file, pack FROM packed"))
        known = () if self._state is None else self._state.packs
        names = {pack.name for pack in known}
        new = {name for name in sizes if packed.get(name) not in names}
        for pack in sorted(known, key=lambda one: one.bytes):
            live = {name for name, place in packed.items() if place == pack.name and name in sizes}
            total = sum(sizes[name] for name in new)
            is_small = pack.bytes <= total and pack.bytes < FULL_BYTES
            if is_small or 2 * sum(sizes[name] for name in live) < pack.bytes:
                new |= live
            else:
                yield pack
        db.execute("DELETE FROM packed WHERE file NOT IN (SELECT value FROM json_each(?))", (json.dumps([*sizes]),))
        for number, chunk in enumerate(_chunks(sorted(new), sizes)):
            file = scratch / f"{number}.tar"
            with tarfile.open(file, "w") as tar:
                for name in chunk:
                    tar.add(mirror.folder / name, name, filter=_anonymous)
            made = _Pack(name=_digest(file), bytes=sum(sizes[name] for name in chunk))
            self._store.upload(file, self._key(made.key))
            file.unlink()
            rows = [(name, made.name, sizes[name]) for name in chunk]
            with mirror.writing():
                db.executemany("INSERT OR REPLACE INTO packed VALUES (?, ?, ?)", rows)
            yield made


def _chunks(names: Iterable[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The names in groups of FULL_BYTES, and what is left."""
    chunk: list[str] = []
    total = 0
    for name in names:
        chunk.append(name)
        total += sizes[name]
        if total >= FULL_BYTES:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member without what changes from machine to machine: the tar file of the same files is the same."""
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
