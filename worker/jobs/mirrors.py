"""A project's mirror, where the jobs keep it, and what changed in it since a snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from segloop.dataset import Mirror, sync, sync_target
from segloop.dataset.sync_api import API, Progress
from segloop.errors import SegloopError
from segloop.labelstudio import TargetStorage
from worker.jobs.context import JobContext, project_id_of


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


def mark(mirror: Mirror, since: datetime) -> dict[str, str]:
    """What snapshot.json keeps of a snapshot that began now, for `changed`."""
    return {"since": since.isoformat(), "revision": f"{mirror.id}:{mirror.revision}"}


def changed(mirror: Mirror, state: Mapping[str, Any], kind: str = "") -> list[int]:
    """Ids of the tasks whose annotations changed since a snapshot, from its mark in snapshot.json (`kind` before each name).

    Deletions are among them where this mirror was the snapshot's. For one of another machine, the annotations' own
    times decide, by Label Studio's clock.
    """
    owner, _, revision = str(state.get(f"{kind}revision", "")).partition(":")
    if owner == mirror.id:
        return mirror.changed_after(int(revision))
    since = state.get(f"{kind}since")
    return mirror.changed_since(datetime.fromisoformat(since) if since else datetime.fromtimestamp(0, UTC))
