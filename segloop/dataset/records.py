"""Records of the labelling itself, in the mirror's file: who annotated, for how long, and over which prediction.

They decide nothing of the training set, so that a change of theirs is no change of a task. An annotator is an id, never a
name.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from segloop.accepted import is_accepted

_SCHEMA: Final = """
CREATE TABLE records (
    annotation INTEGER PRIMARY KEY, task INTEGER, annotator INTEGER, lead_time_s REAL, created_at TEXT,
    draft_created_at TEXT, prediction INTEGER
);
CREATE INDEX records_task ON records (task);
CREATE TABLE predictions (id INTEGER PRIMARY KEY, task INTEGER, version TEXT, created_at TEXT, result BLOB);
CREATE INDEX predictions_task ON predictions (task);
"""
_ONLY_ACCEPTED: Final = "SELECT tasks.id FROM accepted JOIN tasks ON tasks.id = accepted.task"
_ALL: Final = " HAVING count(*) = max(tasks.submitted)"
_ACCEPTED: Final = "CREATE TABLE IF NOT EXISTS accepted (annotation INTEGER PRIMARY KEY, task INTEGER)"

Json = Mapping[str, Any]


@dataclass(frozen=True)
class LabellingRecord:
    """How an annotation came about; None for what Label Studio does not say.

    Attributes:
        annotator: the id of the user who completed it.
        lead_time_s: the time that the annotator had it open, with its drafts, in seconds.
        draft_created_at: when its first draft was saved, ISO 8601.
        prediction: the id of the prediction that the annotation began as a copy of.
    """

    annotation: int
    task: int
    annotator: int | None
    lead_time_s: float | None
    created_at: str | None
    draft_created_at: str | None
    prediction: int | None


@dataclass(frozen=True)
class SeenPrediction:
    """A prediction that an annotation began as: the version that made it, when (ISO 8601), and its result items."""

    id: int
    task: int
    version: str
    created_at: str | None
    result: list[Any]


class Records:
    """The records of a mirror. What is written is written within the mirror's transaction.

    An annotation keeps the prediction that it began as after that was deleted in Label Studio.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        if not self._is_made():
            self._make()
        db.execute(_ACCEPTED)

    def keep(self, task: Json) -> None:
        """Keep the records of a task `{"id", "annotations", "predictions"}` as they are now."""
        number = task["id"]
        self._db.execute("DELETE FROM accepted WHERE task = ?", (number,))
        accepted = [(one["id"], number) for one in task["annotations"] if is_accepted(one)]
        self._db.executemany("INSERT OR REPLACE INTO accepted VALUES (?, ?)", accepted)
        known = {one.annotation: one for one in self.of(number)}
        for annotation in task["annotations"]:
            record = _record(number, annotation, known.pop(annotation["id"], None))
            self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(record))
        self._db.executemany("DELETE FROM records WHERE annotation = ?", [(gone,) for gone in known])
        wanted = {one.prediction for one in self.of(number)}
        for prediction in task.get("predictions") or ():
            if prediction.get("id") in wanted:
                self.keep_prediction(number, prediction)
        self._db.execute(
            "DELETE FROM predictions WHERE task = ?1 AND id NOT IN "
            "(SELECT prediction FROM records WHERE task = ?1 AND prediction NOT NULL)",
            (number,),
        )

    def keep_prediction(self, task: int, prediction: Json) -> None:
        """Keep a prediction `{"id", "model_version", "created_at", "result"}` of a task."""
        result = prediction.get("result")
        packed = zlib.compress(orjson.dumps(result if isinstance(result, list) else []), 1)
        version = str(prediction.get("model_version") or "")
        row = (prediction["id"], task, version, _moment(prediction.get("created_at")), packed)
        self._db.execute("INSERT OR REPLACE INTO predictions VALUES (?, ?, ?, ?, ?)", row)

    def drop(self, task: int) -> None:
        """Forget a task."""
        self._db.execute("DELETE FROM accepted WHERE task = ?", (task,))
        self._db.execute("DELETE FROM records WHERE task = ?", (task,))
        self._db.execute("DELETE FROM predictions WHERE task = ?", (task,))

    def of(self, task: int) -> list[LabellingRecord]:
        """The records of a task's annotations, in the order of their ids."""
        rows = self._db.execute("SELECT * FROM records WHERE task = ? ORDER BY annotation", (task,))
        return [LabellingRecord(*row) for row in rows]

    def prediction(self, number: int) -> SeenPrediction | None:
        """A prediction that an annotation began as; None if it is not kept."""
        row = self._db.execute("SELECT * FROM predictions WHERE id = ?", (number,)).fetchone()
        if row is None:
            return None
        ident, task, version, created_at, result = row
        return SeenPrediction(ident, task, version, created_at, orjson.loads(zlib.decompress(result)))

    def accepted_annotations(self) -> list[int]:
        """The annotations that segloop made of its own pre-labels, as far as nobody changed them since."""
        return [number for (number,) in self._db.execute("SELECT annotation FROM accepted ORDER BY annotation")]

    def accepted(self) -> frozenset[int]:
        """The tasks whose submitted annotations are such ones alone."""
        return frozenset(number for (number,) in self._db.execute(_ONLY_ACCEPTED + " GROUP BY tasks.id" + _ALL))

    def is_accepted(self, task: int) -> bool:
        """Whether a task is one of `accepted`."""
        query = f"{_ONLY_ACCEPTED} WHERE tasks.id = ? GROUP BY tasks.id{_ALL}"
        return self._db.execute(query, (task,)).fetchone() is not None

    def missing(self) -> list[tuple[int, int]]:
        """The task and the id of each prediction that an annotation began as and that is not kept."""
        query = (
            "SELECT DISTINCT task, prediction FROM records "
            "WHERE prediction NOT NULL AND prediction NOT IN (SELECT id FROM predictions) ORDER BY 2"
        )
        return self._db.execute(query).fetchall()

    def _is_made(self) -> bool:
        return self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'records'").fetchone() is not None

    def _make(self) -> None:
        """Make the tables. What a mirror of an earlier release has was read without them: the next sync reads it again."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if not self._is_made():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute("UPDATE meta SET value = '' WHERE name = 'synced_to'")
                self._db.execute("UPDATE objects SET tag = ''")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _record(task: int, annotation: Json, known: LabellingRecord | None) -> LabellingRecord:
    if known is not None and "lead_time" not in annotation:
        return known  # the mirror's own copy of the annotation, which has no more than the training set needs
    prediction = _number(annotation.get("parent_prediction"))
    lead_time_s = annotation.get("lead_time")
    return LabellingRecord(
        annotation["id"],
        task,
        _number(annotation.get("completed_by")),
        float(lead_time_s) if isinstance(lead_time_s, int | float) and lead_time_s >= 0 else None,
        _moment(annotation.get("created_at")),
        _moment(annotation.get("draft_created_at")),
        # Label Studio forgets it where the prediction is deleted; what the annotator saw stays so.
        prediction if prediction is not None or known is None else known.prediction,
    )


def _number(value: object) -> int | None:
    """An id, from itself or from an object that has it."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _moment(value: object) -> str | None:
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC).isoformat() if value else None
    except ValueError:
        return None
