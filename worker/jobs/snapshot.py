"""The first step of a retrain: what has been annotated, frozen."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segloop.dataset import (
    Manifest,
    Memory,
    ProjectSplits,
    SnapshotInputs,
    exclude_trained,
    join_splits,
    load_manifest,
    snapshot,
    write_manifest,
)
from segloop.errors import TrainingError
from segloop.policy import Recipe
from segloop.settings import Settings
from worker.jobs.context import JobContext, project_id_of
from worker.jobs.mirrors import mark, open_mirror, sync_mirror

logger = logging.getLogger(__name__)


def take_snapshot(
    context: JobContext, settings: Settings, project: str, job_id: str, folder: Path, recipe: Recipe = "full"
) -> Manifest:
    """The run's snapshot: the one that is there, or a new one.

    Changes count toward the next full retrain from the `since` of snapshot.json on, which only a full run's snapshot
    moves; toward the next quick adaptation from its `quick_since` on, where a quick run's snapshot came later.
    """
    dest = folder / "snapshot"
    if dest.is_dir():
        return load_manifest(dest)
    partial = folder / "snapshot.partial"
    context.jobs.take_changes(project, recipe)
    manifest, marked = _draw(context, settings, project, job_id, partial)
    if recipe == "quick":
        known = context.registry.read_json(project, "snapshot.json") or {}
        marked = {
            **{name: known[name] for name in marked if name in known},
            **{f"quick_{name}": value for name, value in marked.items()},
        }
    context.registry.write_json(project, "snapshot.json", {**marked, "job": job_id})
    partial.replace(dest)
    return manifest


def take_comparison(
    context: JobContext, settings: Settings, project: str, job_id: str, folder: Path, learnt: Manifest
) -> Manifest:
    """A snapshot to compare a candidate on that was trained elsewhere, from the training set `learnt`.

    Tasks that the candidate was trained on are never held out: those of which segloop does not know a side yet are on
    the candidate's, and one that segloop held out moves to the training side for good. Changes count from when the
    candidate's training set was taken.

    Raises:
        TrainingError: it was trained on every task that segloop holds out.
        NothingToTrain: no task is left to compare on.
    """
    dest = folder / "snapshot"
    if dest.is_dir():
        return load_manifest(dest)
    partial = folder / "snapshot.partial"
    context.jobs.take_changes(project)
    splits = ProjectSplits(context.registry, project)
    known = splits.load()
    joined = join_splits(known, learnt)
    if "val" not in joined.values():
        raise TrainingError(
            f"The training set of {job_id} was not split as segloop's own: it holds no task out that segloop does, so nothing "
            "is left to compare on. Set SEGLOOP_STORE to the store that the trainings read (the stack's output StoreUri)."
        )
    if joined != known:
        splits.save(joined)
    moved = sorted(task for task, side in known.items() if side != joined[task])
    if moved:
        logger.warning("project %s: held out no more, as %s trained on them: tasks %s", project, job_id, moved)
    manifest, _ = _draw(context, settings, project, job_id, partial)
    manifest = exclude_trained(manifest, learnt)
    write_manifest(partial, manifest)
    context.registry.write_json(project, "snapshot.json", {"since": learnt.created_at, "job": job_id})
    partial.replace(dest)
    return manifest


def _draw(
    context: JobContext, settings: Settings, project: str, job_id: str, partial: Path
) -> tuple[Manifest, dict[str, str]]:
    """A snapshot of what is annotated now, and its mark for snapshot.json."""
    label_config = context.label_studio.projects.get(project_id_of(project))["label_config"]
    started = datetime.now(UTC)

    def report(progress: dict[str, Any]) -> None:
        context.jobs.report(job_id, progress)

    with open_mirror(context, project) as mirror:
        sync_mirror(context, mirror, project, report)
        # Label Studio's clock decides what is newer than the snapshot; ours only, where a page was read before a change.
        since = min(mirror.newest() or datetime.fromtimestamp(0, UTC), started)
        marked = mark(mirror, since)
        manifest = snapshot(
            SnapshotInputs(
                project,
                label_config,
                context.images,
                ProjectSplits(context.registry, project),
                settings,
                Memory(mirror),
            ),
            mirror.tasks(),
            partial,
            progress=report,
            steps=len(mirror),
        )
    for warning in manifest.warnings:
        report({"phase": "snapshot", "message": warning})
    return manifest, marked
