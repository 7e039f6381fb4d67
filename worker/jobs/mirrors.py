"""A project's mirror, where the jobs keep it, and what changed in it since a snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from segloop.dataset import Mirror, sync, sync_target
from segloop.dataset.sync_api import API, Progress
from segloop.errors import SegloopError
from segloop.labelstudio import TargetStorage
from segloop.registry import Registry
from worker.jobs.context import JobContext, project_id_of

_STATE_FILE: Final = "snapshot.json"


@dataclass(frozen=True)
class Mark:
    """The moment of a snapshot, for `changed`.

    Attributes:
        since: by Label Studio's clock, ISO 8601; empty: before everything.
        revision: `<id>:<number>` of the mirror that it was taken of; empty where it was none of this segloop.
    """

    since: str = ""
    revision: str = ""


@dataclass(frozen=True)
class SnapshotState:
    """snapshot.json of a project: the moments from which on changes count.

    Attributes:
        full: toward the next full retrain; only the snapshot of a full one moves it.
        quick: toward the next quick adaptation, where a quick one's snapshot came later.
        job: the retrain that took the last snapshot.
    """

    full: Mark = Mark()
    quick: Mark | None = None
    job: str = ""

    @classmethod
    def read(cls, registry: Registry, project: str) -> SnapshotState:
        """What the store has of a project."""
        kept = registry.read_json(project, _STATE_FILE) or {}
        full, quick = (Mark(kept.get(f"{name}since", ""), kept.get(f"{name}revision", "")) for name in ("", "quick_"))
        return cls(full, quick if quick.since else None, kept.get("job", ""))

    def write(self, registry: Registry, project: str) -> None:
        """Put it into the store."""
        named = {"since": self.full.since, "revision": self.full.revision, "job": self.job}
        if self.quick is not None:
            named |= {"quick_since": self.quick.since, "quick_revision": self.quick.revision}
        registry.write_json(project, _STATE_FILE, named)


@contextmanager
def open_mirror(context: JobContext, project: str) -> Iterator[Mirror]:
    """The mirror of a project's annotated tasks on this machine.

    Raises:
        SegloopError: its file cannot be used, in the block too.
    """
    folder = context.settings.data_dir.absolute() / "mirror" / project
    try:
        with Mirror(folder) as mirror:
            yield mirror
    except sqlite3.Error as error:
        raise SegloopError(
            f"the mirror {folder} cannot be used: {error}; removing the folder begins it anew"
        ) from error


def sync_mirror(context: JobContext, mirror: Mirror, project: str, progress: Progress | None = None) -> None:
    """Bring it up to date with where the settings say that annotations are.

    Raises:
        LabelStudioError: that cannot be read.
    """
    source = context.settings.annotations_from
    if source == API:
        sync(mirror, context.label_studio.tasks, project_id_of(project), progress)
    else:
        sync_target(mirror, TargetStorage(source, project_id_of(project)), progress)


def changed(mirror: Mirror, mark: Mark) -> list[int]:
    """Ids of the tasks whose annotations changed since a snapshot.

    Deletions are among them where this mirror was the snapshot's. For one of another machine, the annotations' own
    times decide, by Label Studio's clock.
    """
    owner, _, revision = mark.revision.partition(":")
    if owner == mirror.id:
        return mirror.changed_after(int(revision))
    since = datetime.fromisoformat(mark.since) if mark.since else datetime.fromtimestamp(0, UTC)
    return mirror.changed_since(since)
