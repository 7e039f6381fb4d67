"""The annotations of a project, frozen; and its split, made to agree with that of a training set from elsewhere."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from segloop.dataset import (
    MANIFEST,
    Manifest,
    Memory,
    ProjectSplits,
    SnapshotInputs,
    join_splits,
    read_manifest,
    snapshot,
)
from segloop.errors import ModelRemoved, TrainingError
from segloop.progress import Report
from segloop.settings import Settings
from worker.jobs.context import JobContext, project_id_of
from worker.jobs.mirrors import Mark, open_mirror, sync_mirror
from worker.jobs.run_state import write_state

logger = logging.getLogger(__name__)


def freeze_annotations(
    context: JobContext, project: str, settings: Settings, folder: Path, progress: Report
) -> tuple[Manifest, Mark]:
    """A snapshot folder of what is annotated now, by the project's settings, and its moment, which mark.json beside it
    holds before anything is drawn."""
    project_id = project_id_of(project)
    label_config = context.label_studio.projects.get(project_id)["label_config"]
    # with none to learn from, Label Studio is not asked
    unannotated = islice(context.label_studio.tasks.unlabelled(project_id), settings.consistency_images)
    started = datetime.now(UTC)
    with open_mirror(context, project) as mirror:
        sync_mirror(context, mirror, project, progress)
        # Label Studio's clock decides what is newer than the snapshot; ours only, where a page was read before a change.
        since = min(mirror.newest() or datetime.fromtimestamp(0, UTC), started)
        mark = Mark(since.isoformat(), f"{mirror.id}:{mirror.revision}")
        write_state(folder.parent / "mark.json", mark)
        splits = ProjectSplits(context.registry, project)
        accepted = mirror.records.accepted()
        inputs = SnapshotInputs(
            *(project, label_config, context.images, splits, settings, Memory(mirror)),
            learnt=_learnt(context, project),
            accepted=accepted if settings.accept_train else frozenset(),
            unannotated=unannotated,
        )
        steps = len(mirror) - (0 if settings.accept_train else len(accepted))
        tasks = mirror.tasks(accepted=settings.accept_train)
        manifest = snapshot(inputs, tasks, folder, progress=progress, steps=steps)
    for warning in manifest.warnings:
        progress({"phase": "snapshot", "message": warning})
    return manifest, mark


def _learnt(context: JobContext, project: str) -> Manifest | None:
    """The training set of the served version, as far as it is kept."""
    champion = context.registry.champion(project)
    if champion is None or MANIFEST not in context.registry.get(project, champion.version).files:
        return None
    try:
        return read_manifest(context.registry.bundle(project, champion.version, [MANIFEST]) / MANIFEST)
    except (ModelRemoved, TrainingError) as error:
        logger.warning("project %s: the training set of %s cannot be read: %s", project, champion.version, error)
        return None


def hold_out_nothing_of(learnt: Manifest, splits: ProjectSplits) -> None:
    """Have a project's split agree with a training set that was taken elsewhere.

    Tasks of which segloop does not know a side yet get the training set's, and one that segloop held out, but the
    training set did not, moves to the training side for good.

    Raises:
        TrainingError: the candidate was trained on every task that segloop holds out.
    """
    known = splits.load()
    joined = join_splits(known, learnt)
    if "val" not in joined.values():
        raise TrainingError(
            "The training set was not split as segloop's own: it holds no task out that segloop does, so nothing is left to "
            "compare on. Set SEGLOOP_STORE to the store that the trainings read (the stack's output StoreUri)."
        )
    if joined != known:
        splits.save(joined)
    moved = sorted(task for task, side in known.items() if side != joined[task])
    if moved:
        logger.warning("project %s: tasks %s are held out no more: a training learnt from them", learnt.project, moved)
