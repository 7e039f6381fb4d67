"""The mirror: a project's annotated tasks on this machine's disk, kept by syncs that fetch only what changed.

One SQLite file in a folder of the project. It is a copy: a file that cannot be used is begun anew. Every sync has a
number, the revision, and a task carries that of the last change of its annotations, so what changed after a revision
is exact whatever the clocks say.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

import orjson
from filelock import FileLock

from segloop.accepted import by_people
from segloop.dataset.content import content_of, hash_of, newest, packed, stamp
from segloop.dataset.records import Records

_log = logging.getLogger(__name__)

_FORMAT: Final = 2
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY, data BLOB, annotations BLOB, content TEXT, submitted INTEGER, newest TEXT, revision INTEGER
);
CREATE INDEX tasks_revision ON tasks (revision);
CREATE INDEX tasks_submitted ON tasks (id, submitted) WHERE submitted > 0;
CREATE TABLE gone (task INTEGER PRIMARY KEY, revision INTEGER);
CREATE TABLE objects (key TEXT PRIMARY KEY, tag TEXT, task INTEGER, annotations TEXT, problem TEXT) WITHOUT ROWID;
CREATE INDEX objects_task ON objects (task);
CREATE TABLE images (
    task INTEGER, tag TEXT, item INTEGER, address TEXT, file TEXT, width INTEGER, height INTEGER,
    PRIMARY KEY (task, tag, item)
) WITHOUT ROWID;
CREATE TABLE drawings (task INTEGER PRIMARY KEY, key TEXT, items BLOB, skipped BLOB, notes BLOB);
"""
_PAGE: Final = 16
_LAST_ID: Final = 2**63 - 1


class StoredTask(Mapping[str, Any]):
    """A task of the mirror, `{"id", "data", "annotations", "content"}`; its annotations are read when asked for.

    `content` is a hash of the annotations.
    """

    def __init__(self, number: int, data: bytes, annotations: bytes, content: str) -> None:
        self._values: dict[str, Any] = {"id": number, "data": orjson.loads(data), "content": content}
        self._annotations = annotations

    def __getitem__(self, name: str) -> Any:
        return orjson.loads(zlib.decompress(self._annotations)) if name == "annotations" else self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._values, "annotations"))

    def __len__(self) -> int:
        return len(self._values) + 1


class Mirror:
    """The mirror in a folder. One thread uses it at a time; several processes may, each with its own.

    Args:
        folder: the project's, made if it is missing.

    Attributes:
        FILE: the name of its file in the folder.
        records: how the annotations came about.

    Raises:
        sqlite3.Error: of every method, where the disk does not do.
    """

    FILE: Final = "tasks.sqlite"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        file = folder / self.FILE
        try:
            self.db = _opened(file)
        except sqlite3.OperationalError:
            # A full disk, a lock, missing rights: the file itself may be sound.
            raise
        except sqlite3.DatabaseError as error:
            _log.warning("the mirror %s cannot be used and is begun anew: %s", file, error)
            with self._lock():
                for part in folder.glob(f"{self.FILE}*"):
                    part.unlink()
                self.db = _opened(file)
        self.records = Records(self.db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def __len__(self) -> int:
        """How many tasks have a submitted annotation."""
        return self.totals()[0]

    # -- syncs

    @contextmanager
    def sync(self, source: str) -> Iterator[int]:
        """The revision of a sync that begins, alone among processes; where the source is a new one, with an empty mirror."""
        with self._lock():
            known = self.meta("source")
            with self.writing():
                if known not in (None, source):
                    self.db.execute("INSERT OR REPLACE INTO gone SELECT id, ? FROM tasks", (self.revision + 1,))
                    for table in ("tasks", "records", "predictions", "accepted"):
                        self.db.execute(f"DELETE FROM {table}")  # noqa: S608 - the names above
                    self.db.execute("DELETE FROM objects")
                    self.set_meta("synced_to", "")
                self.set_meta("source", source)
                self.set_meta("revision", str(self.revision + 1))
            yield self.revision

    @property
    def id(self) -> str:
        """Tells this mirror from one that was begun anew, and from other machines'."""
        return str(self.meta("id"))

    @property
    def revision(self) -> int:
        """The number of the latest sync."""
        return int(self.meta("revision") or 0)

    @property
    def synced_to(self) -> datetime | None:
        """Up to when, by Label Studio's clock, changes are known; None before the first sync ended."""
        stamp = self.meta("synced_to")
        return datetime.fromisoformat(stamp) if stamp else None

    def meta(self, name: str) -> str | None:
        """A note of the mirror."""
        row = self.db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        """Keep a note."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: all of it or nothing."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # -- tasks

    def put(self, tasks: Iterable[Mapping[str, Any]], revision: int) -> int:
        """Keep tasks as they are now, in a `writing` transaction; how many of them have other annotations than before.

        Of a task whose annotations are as they were, the records alone are written. One without any annotation is dropped.
        """
        changed = 0
        for task in tasks:
            number, data = task["id"], orjson.dumps(task["data"])
            if not task["annotations"]:
                changed += self.drop([number], revision)
                continue
            self.records.keep(task)
            annotations = packed(task["annotations"])
            content = hash_of(annotations)
            known = self._find(number)
            if known is not None and known["content"] == content:
                if orjson.dumps(known["data"]) != data:
                    self.db.execute("UPDATE tasks SET data = ? WHERE id = ?", (data, number))
                continue
            people = by_people(task["annotations"])
            since = revision
            if content_of(people) == content_of(by_people(known["annotations"]) if known is not None else []):
                # what segloop itself accepted, or took back, is no change
                since = self._revision_of(number)
            else:
                changed += 1
                self.db.execute("DELETE FROM gone WHERE task = ?", (number,))
            submitted = sum(not annotation.get("was_cancelled") for annotation in task["annotations"])
            row = (number, data, zlib.compress(annotations, 1), content, submitted, newest(people), since)
            self.db.execute("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return changed

    def drop(self, tasks: Iterable[int], revision: int) -> int:
        """Forget tasks, in a `writing` transaction, but that they went; how many were there."""
        dropped = 0
        for number in tasks:
            is_accepted = self.records.is_accepted(number)
            self.records.drop(number)
            if self.db.execute("DELETE FROM tasks WHERE id = ?", (number,)).rowcount:
                if not is_accepted:
                    self.db.execute("INSERT OR REPLACE INTO gone VALUES (?, ?)", (number, revision))
                self.db.execute("DELETE FROM images WHERE task = ?", (number,))
                self.db.execute("DELETE FROM drawings WHERE task = ?", (number,))
                dropped += 1
        return dropped

    def get(self, number: int) -> StoredTask | None:
        """A task; None if the mirror has none of this id."""
        return self._find(number)

    def _find(self, number: int) -> StoredTask | None:
        row = self.db.execute("SELECT id, data, annotations, content FROM tasks WHERE id = ?", (number,)).fetchone()
        return None if row is None else StoredTask(*row)

    def tasks(self, *, accepted: bool = False) -> Iterator[StoredTask]:
        """The tasks with a submitted annotation, in the order of their ids, a few in memory at a time; with `accepted`, also
        those that segloop alone annotated."""
        last, left_out = 0, frozenset() if accepted else self.records.accepted()
        query = "SELECT id, data, annotations, content FROM tasks WHERE id > ? AND submitted > 0 ORDER BY id LIMIT ?"
        while rows := self.db.execute(query, (last, _PAGE)).fetchall():
            for row in rows:
                if row[0] not in left_out:
                    yield StoredTask(*row)
            last = rows[-1][0]

    def totals(self, after: int = 0, upto: int | None = None) -> tuple[int, int]:
        """How many tasks with a submitted annotation a range of ids holds, and how many such annotations."""
        query = "SELECT count(*), total(submitted) FROM tasks WHERE submitted > 0 AND id > ? AND id <= ?"
        tasks, annotations = self.db.execute(query, (after, _LAST_ID if upto is None else upto)).fetchone()
        return int(tasks), int(annotations)

    def ids(self, after: int = 0, upto: int | None = None) -> list[int]:
        """Ids of the tasks with a submitted annotation in a range, ascending."""
        query = "SELECT id FROM tasks WHERE submitted > 0 AND id > ? AND id <= ? ORDER BY id"
        return [row[0] for row in self.db.execute(query, (after, _LAST_ID if upto is None else upto))]

    def middle(self, after: int, upto: int | None) -> int:
        """The id that halves the tasks with a submitted annotation of a range that holds at least two."""
        query = "SELECT id FROM tasks WHERE submitted > 0 AND id > ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?"
        place = self.totals(after, upto)[0] // 2 - 1
        return int(self.db.execute(query, (after, _LAST_ID if upto is None else upto, place)).fetchone()[0])

    # -- changes

    def changed_after(self, revision: int) -> list[int]:
        """Ids of the tasks whose annotations changed, came or went in syncs after `revision`, ascending."""
        query = "SELECT id FROM tasks WHERE revision > ?1 UNION SELECT task FROM gone WHERE revision > ?1 ORDER BY 1"
        return [row[0] for row in self.db.execute(query, (revision,))]

    def changed_since(self, since: datetime) -> list[int]:
        """Ids of the tasks with an annotation (a skip too) created or updated after `since`, ascending.

        For who does not know the revision of his moment; annotations that were deleted leave no trace here.
        """
        query = "SELECT id FROM tasks WHERE newest > ? ORDER BY id"
        return [row[0] for row in self.db.execute(query, (stamp(since),))]

    def newest(self) -> datetime | None:
        """When the newest annotation was updated, by Label Studio's clock."""
        (stamp,) = self.db.execute("SELECT max(newest) FROM tasks").fetchone()
        return datetime.fromisoformat(stamp) if stamp else None

    def _revision_of(self, number: int) -> int:
        row = self.db.execute("SELECT revision FROM tasks WHERE id = ?", (number,)).fetchone()
        return 0 if row is None else int(row[0])

    def _lock(self) -> FileLock:
        # The kernel drops the lock with its process.
        return FileLock(self.folder / ".lock")


def _opened(path: Path) -> sqlite3.Connection:
    # SQLite does not wait where two switch a new file to WAL at once: it says at once that the file is locked.
    with FileLock(path.parent / ".opening"):
        return _switched(sqlite3.connect(path, isolation_level=None, timeout=60))


def _switched(db: sqlite3.Connection) -> sqlite3.Connection:
    try:
        # the managed route's comes from a bucket
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _FORMAT):
            raise sqlite3.DatabaseError(f"its format is {version}, not {_FORMAT}")
        if version == 0:
            db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('id', ?)", (uuid4().hex,))
            db.execute(f"PRAGMA user_version = {_FORMAT}")
            db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db
