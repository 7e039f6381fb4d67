"""Syncs of a mirror with a Label Studio target storage: objects with a new ETag are read, absent ones are gone."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from segloop.dataset.content import stamp
from segloop.dataset.mirror import Mirror
from segloop.dataset.sync_api import Synced
from segloop.progress import Report

if TYPE_CHECKING:
    from segloop.labelstudio.target import Parsed, TargetStorage

_log = logging.getLogger(__name__)

_CHUNK: Final = 50


def sync_target(mirror: Mirror, target: TargetStorage, progress: Report | None = None) -> Synced:
    """Bring a mirror up to date with a target storage. Killed anywhere, it is repeated by the next.

    An object that cannot be used is logged, and its annotations are left out.

    Args:
        progress: told `{"phase": "snapshot", "step", "message"}` as objects are read.

    Raises:
        LabelStudioError: of the target storage.
    """
    with mirror.sync(target.url) as revision:
        run = _Run(mirror, target, revision, progress)
        return run.sync()


class _Run:
    def __init__(self, mirror: Mirror, target: TargetStorage, revision: int, progress: Report | None) -> None:
        self._mirror, self._target, self._revision, self._progress = mirror, target, revision, progress
        self._read = self._changed = 0

    def sync(self) -> Synced:
        db = self._mirror.db
        db.execute("CREATE TEMP TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY) WITHOUT ROWID")
        db.execute("DELETE FROM temp.seen")
        for page in self._target.pages():
            with self._mirror.writing():
                db.executemany("INSERT OR IGNORE INTO temp.seen VALUES (?)", [(key,) for key, _ in page])
            new = [(key, tag) for key, tag in page if self._known_tag(key) != tag]
            for start in range(0, len(new), _CHUNK):
                self._fetch(dict(new[start : start + _CHUNK]))
        with self._mirror.writing():
            absent = [
                row[0] for row in db.execute("SELECT key FROM objects WHERE key NOT IN (SELECT key FROM temp.seen)")
            ]
            for key in absent:
                self._remove(key)
        _log.info(
            "%s: %d objects read, %d tasks changed, %d gone", self._target.url, self._read, self._changed, len(absent)
        )
        return Synced(self._read, self._changed, len(absent))

    def _known_tag(self, key: str) -> str | None:
        row = self._mirror.db.execute("SELECT tag FROM objects WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _fetch(self, tags: Mapping[str, str]) -> None:
        for key, parsed in self._target.read(tags):
            self._read += 1
            if parsed is None:
                continue
            if parsed.problem:
                _log.warning("%s: the object %s cannot be used: %s", self._target.url, key, parsed.problem)
            with self._mirror.writing():
                self._replace(key, tags[key], parsed)
        if self._progress is not None:
            message = f"Syncing: {self._read} annotations read"
            self._progress({"phase": "snapshot", "step": self._read, "message": message})

    def _replace(self, key: str, tag: str, parsed: Parsed) -> None:
        before = self._owner(key)
        if before is not None and before[0] != parsed.task:
            self._remove(key)
            before = None
        self._apply(parsed.task, before[1] if before else set(), parsed.annotations, parsed.data)
        numbers = json.dumps([annotation["id"] for annotation in parsed.annotations])
        row = (key, tag, parsed.task, numbers, parsed.problem)
        self._mirror.db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", row)

    def _remove(self, key: str) -> None:
        before = self._owner(key)
        if before is not None:
            self._mirror.db.execute("DELETE FROM objects WHERE key = ?", (key,))
            self._apply(before[0], before[1] - self._named(before[0]), (), None)

    def _apply(
        self, number: int, gone: set[int], annotations: Sequence[Mapping[str, Any]], data: Mapping[str, Any] | None
    ) -> None:
        """Take annotations out of a task of the mirror, and put others in; of one that two objects have, the newer one."""
        known = self._mirror.get(number)
        if known is None and not annotations:
            return
        kept = {} if known is None else {one["id"]: one for one in known["annotations"] if one["id"] not in gone}
        kept.update({one["id"]: one for one in annotations if not _is_older(one, kept.get(one["id"]))})
        data = known["data"] if data is None and known is not None else data
        task = {"id": number, "data": data, "annotations": list(kept.values())}
        self._changed += self._mirror.put([task], self._revision)

    def _named(self, task: int) -> set[int]:
        """The annotations of a task that some object has: a storage whose form was changed has both, for a while."""
        rows = self._mirror.db.execute("SELECT annotations FROM objects WHERE task = ?", (task,))
        return {number for (numbers,) in rows for number in json.loads(numbers)}

    def _owner(self, key: str) -> tuple[int, set[int]] | None:
        row = self._mirror.db.execute("SELECT task, annotations FROM objects WHERE key = ?", (key,)).fetchone()
        return None if row is None else (int(row[0]), set(json.loads(row[1])))


def _is_older(annotation: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    if known is None:
        return False
    one, other = (stamp(datetime.fromisoformat(each["updated_at"])) for each in (annotation, known))
    return one < other
