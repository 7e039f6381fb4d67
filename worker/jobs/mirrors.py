"""A project's mirror, where the jobs keep it, and what changed in it since a snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from segloop.dataset import Mirror, sync, sync_target
from segloop.dataset.sync_api import API
from segloop.errors import DiskError, SegloopError
from segloop.labelstudio import TargetStorage
from segloop.progress import Report
from segloop.registry import Registry
from worker.jobs.context import JobContext, project_id_of
from worker.jobs.run_state import read_state, write_state

_STATE_FILE: Final = "snapshot.json"


@dataclass(frozen=True)
class Mark:
    """The moment of a snapshot: Label Studio's time, ISO 8601, and `<id>:<number>` of a mirror's revision, where known."""

    since: str
    revision: str = ""


@dataclass(frozen=True)
class SnapshotState:
    """snapshot.json of a project: the mark from which changes count toward the next full retrain; where a quick one's
    snapshot came later, that from which they count toward the next quick one; and the job that took the last snapshot, until
    it has ended.

    `failed_since` and `failed_revision` are the mark of a retrain that failed: its changes count again, and begin another
    one by themselves only together with some that came after it.
    """

    since: str = ""
    revision: str = ""
    quick_since: str = ""
    quick_revision: str = ""
    job: str = ""
    failed_since: str = ""
    failed_revision: str = ""

    @classmethod
    def read(cls, registry: Registry, project: str) -> SnapshotState:
        """What the store has of a project."""
        return cls(**(registry.read_json(project, _STATE_FILE) or {}))

    def write(self, registry: Registry, project: str) -> None:
        """Put it into the store."""
        registry.write_json(project, _STATE_FILE, asdict(self))

    @property
    def full(self) -> Mark | None:
        return Mark(self.since, self.revision) if self.since else None

    @property
    def quick(self) -> Mark | None:
        return Mark(self.quick_since, self.quick_revision) if self.quick_since else None

    @property
    def failed(self) -> Mark | None:
        return Mark(self.failed_since, self.failed_revision) if self.failed_since else None


def note_snapshot(registry: Registry, project: str, folder: Path, state: SnapshotState) -> None:
    """Have changes count from a retrain's snapshot on; what held before stays in the run's folder, in case it fails."""
    earlier = SnapshotState.read(registry, project)
    if earlier.job != state.job:
        write_state(folder / "earlier.json", earlier)
    state.write(registry, project)


def end_snapshot(registry: Registry, project: str, job: str) -> None:
    """Note that a retrain has ended well: Redis may forget it now."""
    state = SnapshotState.read(registry, project)
    if state.job == job:
        replace(state, job="").write(registry, project)


def forget_snapshot(registry: Registry, project: str, job: str, folder: Path) -> None:
    """Have the changes that a failed retrain's snapshot covers count again, as they did before it."""
    state = SnapshotState.read(registry, project)
    if state.job == job:
        state = replace(read_state(folder / "earlier.json", SnapshotState) or state, job="")
    mark = read_state(folder / "mark.json", Mark) or Mark(datetime.now(UTC).isoformat())
    replace(state, failed_since=mark.since, failed_revision=mark.revision).write(registry, project)


@contextmanager
def open_mirror(context: JobContext, project: str) -> Iterator[Mirror]:
    """The mirror of a project's annotated tasks on this machine.

    Raises:
        DiskError: the disk is full or fails, in the block too.
        SegloopError: its file cannot be used.
    """
    folder = context.settings.data_dir.absolute() / "mirror" / project
    try:
        with Mirror(folder) as mirror:
            yield mirror
    except OSError as error:
        raise DiskError.of(folder, error) from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise DiskError.of(folder, error) from error
        raise SegloopError(
            f"the mirror {folder} cannot be used: {error}; removing the folder begins it anew"
        ) from error


def sync_mirror(context: JobContext, mirror: Mirror, project: str, progress: Report | None = None) -> None:
    """Bring it up to date with where the settings say that annotations are.

    Raises:
        LabelStudioError: that cannot be read.
    """
    source = context.settings.annotations_from
    if source == API:
        sync(mirror, context.label_studio.tasks, project_id_of(project), progress)
    else:
        sync_target(mirror, TargetStorage(source, project_id_of(project)), progress)


def changed(mirror: Mirror, mark: Mark | None) -> list[int]:
    """Ids of the tasks whose annotations changed since a snapshot; all of them without one.

    Deletions are among them where this mirror was the snapshot's. For one of another machine, the annotations' own
    times decide, by Label Studio's clock.
    """
    if mark is None:
        return mirror.changed_since(datetime.fromtimestamp(0, UTC))
    owner, _, revision = mark.revision.partition(":")
    if owner == mirror.id:
        return mirror.changed_after(int(revision))
    return mirror.changed_since(datetime.fromisoformat(mark.since))
