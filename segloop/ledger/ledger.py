"""The ledger of a project: its mirror's annotations joined to the predictions that people saw, and the figures of both.

What is found of an annotation is kept in the mirror's file, so that each is looked at once.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict

from segloop.accepted import is_accepted
from segloop.blind import is_blind
from segloop.dataset import Mirror
from segloop.dataset.mirror import StoredTask
from segloop.dataset.records import LabellingRecord, SeenPrediction
from segloop.errors import MaskError
from segloop.formats import SUSPECT_MODEL
from segloop.label_config import LabelConfig, parse_label_config
from segloop.ledger.effort import Effort, effort_of
from segloop.ledger.figures import Entry, Kind, VersionFigures, version_figures
from segloop.ledger.time_saved import TimeSaved, time_saved
from segloop.results import region_labels

_log = logging.getLogger(__name__)

#: How an annotation is looked at; another number has all looked at anew.
_LOOK: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS efforts (annotation INTEGER PRIMARY KEY, task INTEGER, key TEXT, found BLOB);
CREATE INDEX IF NOT EXISTS efforts_task ON efforts (task);
"""


class Ledger(BaseModel):
    """What people did with a project's pre-labels.

    Attributes:
        made_at: ISO 8601.
        annotations: submitted ones that were looked at; of these, `pre_labelled` began as a copy of a prediction that can
            be compared, `scratch` of none, `blind` of one that was hidden. `unreadable` cannot be compared.
        accepted: those that segloop made of its own pre-labels and nobody changed; no figure counts them.
        pending: submitted or skipped ones that are not looked at yet: the next update goes on with them.
        labels: how many annotations have a region of each class.
        versions: in the order of their first annotation.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    made_at: str
    annotations: int
    pre_labelled: int
    scratch: int
    blind: int
    unreadable: int
    pending: int
    labels: dict[str, int]
    versions: tuple[VersionFigures, ...]
    time_saved: TimeSaved
    accepted: int = 0


@dataclass(frozen=True)
class LedgerInputs:
    """What a ledger is made from, besides the mirror.

    Attributes:
        project: its key.
        max_pixels: of the largest image on which annotations are compared.
        blind_share: the share of the tasks whose pre-labels were hidden at a moment (ISO 8601).
        limit_s: how long to look at annotations, in seconds.
    """

    project: str
    label_config: str
    max_pixels: int
    blind_share: Callable[[str | None], float]
    limit_s: float


class _Found(BaseModel):
    """What is found of an annotation. `kind` None: it was skipped, or segloop made it."""

    kind: Kind | None
    version: str = ""
    effort: Effort | None = None
    problem: str = ""
    labels: tuple[str, ...] = ()


def update_ledger(mirror: Mirror, inputs: LedgerInputs) -> Ledger:
    """Look at the annotations of a mirror that changed since, and give the figures of all.

    Raises:
        LabelConfigError: the label config cannot be used.
        sqlite3.Error: this machine's disk fails.
    """
    mirror.db.executescript(_SCHEMA)
    looker = _Looker(mirror, inputs, parse_label_config(inputs.label_config))
    pending = looker.look()
    entries, labels, unreadable = [], Counter[str](), 0
    for record, found in _found(mirror.db):
        if found.kind is None:
            continue
        labels.update(found.labels)
        unreadable += bool(found.problem)
        entries.append(
            Entry(
                record.annotation,
                record.task,
                record.annotator,
                found.kind,
                found.version,
                found.effort,
                record.lead_time_s,
            )
        )
    kinds = Counter(entry.kind for entry in entries)
    return Ledger(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        annotations=len(entries),
        pre_labelled=sum(entry.effort is not None for entry in entries),
        scratch=kinds["scratch"],
        blind=kinds["blind"],
        unreadable=unreadable,
        pending=pending,
        labels={name: labels[name] for name in looker.config.classes},
        versions=tuple(version_figures(entries)),
        time_saved=time_saved(entries),
        accepted=len(mirror.records.accepted_annotations()),
    )


@dataclass(frozen=True)
class BlindLabel:
    """The latest annotation of a task that was drawn while its pre-label was hidden.

    Attributes:
        task: `{"id", "data", "content"}`, its addresses not resolved; `content` is a hash of its annotations.
        result: the annotation's items.
        created_at: ISO 8601, in UTC; None where Label Studio does not say.
    """

    task: Mapping[str, Any]
    annotation: int
    result: list[Any]
    created_at: str | None


@dataclass(frozen=True)
class Origins:
    """How labels came about: tasks whose latest annotation was drawn while the pre-label was hidden, and those whose
    latest annotation began as the pre-label of a version that it names."""

    blind: frozenset[int] = frozenset()
    shown: Mapping[int, str] = field(default_factory=dict)


def origins(mirror: Mirror) -> Origins:
    """Of the labels that the last `update_ledger` of a mirror looked at."""
    mirror.db.executescript(_SCHEMA)
    latest = {record.task: found for record, found in _found(mirror.db) if found.kind is not None}
    blind = frozenset(task for task, found in latest.items() if found.kind == "blind")
    return Origins(blind, {task: found.version for task, found in latest.items() if found.kind == "pre-labelled"})


def blind_labels(mirror: Mirror) -> Iterator[BlindLabel]:
    """The blind labels that the last `update_ledger` of a mirror found, one for a task, in the order of their ids."""
    latest = {record.task: record for record, found in _found(mirror.db) if found.kind == "blind"}
    for record in latest.values():
        task = mirror.get(record.task)
        known = () if task is None else task["annotations"]
        annotation = next((one for one in known if one["id"] == record.annotation), None)
        if task is not None and annotation is not None:
            yield BlindLabel(task, record.annotation, annotation["result"], record.created_at)


@dataclass(frozen=True)
class _Looker:
    mirror: Mirror
    inputs: LedgerInputs
    config: LabelConfig

    def look(self) -> int:
        """Look at what is new until the time is over; how many annotations are left."""
        db, until = self.mirror.db, time.monotonic() + self.inputs.limit_s
        rules = hashlib.sha256(orjson.dumps([_LOOK, self.inputs.label_config])).hexdigest()[:16]
        db.execute("DELETE FROM efforts WHERE annotation NOT IN (SELECT annotation FROM records)")
        # a prediction that was fetched later has its annotation looked at again
        key = "?1 || tasks.content || coalesce(predictions.id, '')"
        new: list[tuple[int, str, int]] = db.execute(
            f"SELECT records.task, {key} AS wanted, records.annotation FROM records JOIN tasks ON tasks.id = records.task "  # noqa: S608
            "LEFT JOIN predictions ON predictions.id = records.prediction "
            "LEFT JOIN efforts ON efforts.annotation = records.annotation WHERE efforts.key IS NOT wanted ORDER BY 1",
            (rules,),
        ).fetchall()
        pending = len(new)
        for number, rows in groupby(new, key=itemgetter(0)):
            if time.monotonic() > until:
                break
            keys = {annotation: key for _, key, annotation in rows}
            task = self.mirror.get(number)
            if task is not None:
                self._keep(task, keys)
            pending -= len(keys)
        return pending

    def _keep(self, task: StoredTask, keys: Mapping[int, str]) -> None:
        """Look at the annotations of a task that `keys` names, and keep what is found under each one's key."""
        records = {record.annotation: record for record in self.mirror.records.of(task["id"])}
        rows = [
            (number, task["id"], keys[number], self._find(annotation, records[number]).model_dump_json())
            for annotation in task["annotations"]
            if (number := annotation["id"]) in records and number in keys
        ]
        with self.mirror.writing():
            self.mirror.db.executemany("INSERT OR REPLACE INTO efforts VALUES (?, ?, ?, ?)", rows)

    def _find(self, annotation: Any, record: LabellingRecord) -> _Found:
        if annotation.get("was_cancelled") or is_accepted(annotation):
            return _Found(kind=None)
        prediction = None if record.prediction is None else self.mirror.records.prediction(record.prediction)
        kind = self._kind(record, prediction)
        version = "" if prediction is None or kind == "scratch" else prediction.version
        try:
            labels = tuple(sorted({name for _, name in region_labels(annotation["result"], self.config)}))
            if prediction is None or kind in ("blind", "scratch"):
                problem = "its prediction is gone" if kind == "pre-labelled" else ""
                return _Found(kind=kind, version=version, labels=labels, problem=problem)
            effort = effort_of(prediction.result, annotation["result"], self.config, self.inputs.max_pixels)
            return _Found(kind=kind, version=version, labels=labels, effort=effort)
        except MaskError as error:
            problem = str(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"it is malformed: {type(error).__name__}: {error}"
        _log.info("task %s: annotation %s cannot be compared: %s", record.task, record.annotation, problem)
        return _Found(kind=kind, version=version, problem=problem)

    def _kind(self, record: LabellingRecord, prediction: SeenPrediction | None) -> Kind:
        if record.prediction is None or (prediction is not None and prediction.version == SUSPECT_MODEL):
            return "scratch"
        if prediction is None or prediction.result:
            return "pre-labelled"
        share = self.inputs.blind_share(prediction.created_at)
        return "blind" if is_blind(self.inputs.project, record.task, share) else "pre-labelled"


def _found(db: sqlite3.Connection) -> Iterator[tuple[LabellingRecord, _Found]]:
    query = "SELECT records.*, efforts.found FROM records JOIN efforts USING (annotation) ORDER BY annotation"
    for *values, found in db.execute(query):
        yield LabellingRecord(*values), _Found.model_validate_json(found)
