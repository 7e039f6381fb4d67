"""What of a task's annotations decides upon the training set: its bytes, their hash, and when it changed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from segloop.accepted import was_made

_KEPT: Final = ("id", "updated_at", "was_cancelled", "ground_truth", "result")


def packed(annotations: Sequence[Mapping[str, Any]]) -> bytes:
    """What is kept of annotations, as JSON; of one that segloop made, its mark too."""
    kept = [
        {
            name: annotation[name]
            for name in (*_KEPT, *(["import_id"] if was_made(annotation) else []))
            if name in annotation
        }
        for annotation in annotations
    ]
    kept.sort(key=lambda annotation: annotation["id"])
    return orjson.dumps(kept)


def hash_of(content: bytes) -> str:
    """The hash of what `packed` gives."""
    return hashlib.sha256(content).hexdigest()


def content_of(annotations: Sequence[Mapping[str, Any]]) -> str:
    """A hash of all in a task's annotations that decides upon the training set."""
    return hash_of(packed(annotations))


def newest(annotations: Sequence[Mapping[str, Any]]) -> str:
    """The stamp of the annotation that was updated last; empty without any."""
    return max((stamp(datetime.fromisoformat(annotation["updated_at"])) for annotation in annotations), default="")


def stamp(moment: datetime) -> str:
    """A moment as text; stamps are compared as such, so with microseconds always."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
