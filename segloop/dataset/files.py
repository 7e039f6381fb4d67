"""Image and mask files named by what they hold, and what is known of a mirror's tasks, so that nothing is done twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson

from segloop.dataset.manifest import Item, Skipped
from segloop.dataset.mirror import Mirror
from segloop.dataset.notes import Note
from segloop.files import write_bytes

FOLDERS: Final = ("images", "masks")


class Objects:
    """Files `images/<sha256>.<suffix>` and `masks/<sha256>.png` in a folder; what is there never changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        """Whether a file is there; one that a crash left empty is not."""
        try:
            return (self._folder / name).stat().st_size > 0
        except FileNotFoundError:
            return False

    def put(self, name: str, data: bytes) -> None:
        """Write a file, unless it is there."""
        if not self.has(name):
            write_bytes(self._folder / name, data)

    def link(self, name: str, dest: Path) -> None:
        """Put a file into another folder under its name: the same file, or a copy where the disks differ."""
        target = dest / name
        if target.exists():
            return
        temporary = target.with_name(f".{uuid4().hex}")
        try:
            os.link(self._folder / name, temporary)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(self._folder / name, temporary)
        temporary.replace(target)

    def prune(self, wanted: Iterable[str]) -> None:
        """Remove all files but the wanted ones."""
        kept = set(wanted)
        for name in FOLDERS:
            with os.scandir(self._folder / name) as entries:
                for entry in entries:
                    if f"{name}/{entry.name}" not in kept:
                        Path(entry.path).unlink()


@dataclass(frozen=True)
class KnownImage:
    """The file of an image, by its name in the objects, and its size in upright pixels."""

    file: str
    width: int
    height: int


@dataclass(frozen=True)
class Built:
    """What drawing a task gave: its items, what of it was left out, and what of its regions is to be told."""

    items: list[Item]
    skipped: list[Skipped]
    notes: list[Note]


class Memory:
    """What earlier snapshots of a mirror's tasks found: the files of their images, and the items of their drawings.

    An image is known by its address in its task: a file that changed behind the same address is not seen, the first
    one stays. The objects lie in the mirror's folder, and are those that its tasks need (`prune`).
    """

    def __init__(self, mirror: Mirror) -> None:
        self.db = self._db = mirror.db
        self.objects = Objects(mirror.folder)

    def image(self, task: int, tag: str, index: int | None, address: str) -> KnownImage | None:
        """The file of an image, if it is there."""
        query = "SELECT file, width, height FROM images WHERE task = ? AND tag = ? AND item = ? AND address = ?"
        row = self._db.execute(query, (task, tag, -1 if index is None else index, address)).fetchone()
        return KnownImage(*row) if row is not None and self.objects.has(row[0]) else None

    def keep_image(self, task: int, tag: str, index: int | None, address: str, image: KnownImage) -> None:
        """Note the file of an image."""
        row = (task, tag, -1 if index is None else index, address, image.file, image.width, image.height)
        self._db.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def drawn(self, task: int, key: str) -> Built | None:
        """What drawing a task gave under this key, if all of its files are there."""
        query = "SELECT items, skipped, notes FROM drawings WHERE task = ? AND key = ?"
        row = self._db.execute(query, (task, key)).fetchone()
        if row is None:
            return None
        items, skipped, notes = (orjson.loads(part) for part in row)
        built = Built(
            [Item.model_validate(item) for item in items],
            [Skipped.model_validate(one) for one in skipped],
            [Note.model_validate(note) for note in notes],
        )
        return (
            built if all(self.objects.has(name) for item in built.items for name in (item.image, item.mask)) else None
        )

    def keep_drawn(self, task: int, key: str, built: Built) -> None:
        """Note what drawing a task gave."""
        row = (task, key, _dumped(built.items), _dumped(built.skipped), _dumped(built.notes))
        self._db.execute("INSERT OR REPLACE INTO drawings VALUES (?, ?, ?, ?, ?)", row)

    def forget_drawn(self, task: int) -> None:
        """Note that a task cannot be drawn."""
        self._db.execute("DELETE FROM drawings WHERE task = ?", (task,))

    def prune(self) -> None:
        """Remove the files that no task of the mirror needs. A snapshot that was taken keeps its own."""
        self._db.execute("DELETE FROM waits WHERE task NOT IN (SELECT id FROM tasks WHERE submitted > 0)")
        self._db.execute("DELETE FROM images WHERE task NOT IN (SELECT id FROM tasks WHERE submitted > 0)")
        self._db.execute("DELETE FROM drawings WHERE task NOT IN (SELECT id FROM tasks WHERE submitted > 0)")
        wanted = {row[0] for row in self._db.execute("SELECT file FROM images")}
        for (items,) in self._db.execute("SELECT items FROM drawings"):
            wanted.update(name for item in orjson.loads(items) for name in (item["image"], item["mask"]))
        self.objects.prune(wanted)


def _dumped(models: Sequence[Any]) -> bytes:
    return orjson.dumps([model.model_dump(mode="json", exclude_none=True) for model in models])
