"""Takes snapshots: the annotations of each task, drawn as class maps beside the original image files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sized
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from segloop.dataset.files import Memory, Objects
from segloop.dataset.items import Taker, Task
from segloop.dataset.manifest import MANIFEST, Item, Manifest, Skipped, Split, write_manifest
from segloop.dataset.splits import SplitStore, assign_splits, find_twins
from segloop.errors import LabelStudioError, NothingToTrain, SegloopError
from segloop.label_config import parse_label_config
from segloop.settings import Settings

if TYPE_CHECKING:
    from segloop.images import Images

_log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]
_PROGRESS_STEPS: Final = 200


def snapshot(
    project: str,
    tasks: Iterable[Task],
    label_config: str,
    *,
    images: Images,
    splits: SplitStore,
    dest: Path,
    settings: Settings,
    progress: Progress | None = None,
    memory: Memory | None = None,
    steps: int | None = None,
) -> Manifest:
    """Freeze labelled tasks as a snapshot folder `dest`; its manifest is written last.

    Each task gives the annotations that count by `settings.annotators` (see `counting_annotations`), drawn together
    as one class map for each of its images. One without regions means "all background", or nothing where
    `settings.unlabelled` is "ignore". A task whose annotations or images cannot be used is left out and reported
    under `skipped`; so is one bad annotation among several that count. Tasks with the same image are on the same side
    of the split; where they were put on both sides before, those to train on are left out.

    Args:
        project: key of the project.
        tasks: `{"id", "data", "annotations"}` each, such as `Mirror.tasks` gives.
        splits: where the project's split is kept.
        progress: told `{"phase": "snapshot", "step", "steps", "message"}` now and then.
        memory: what earlier snapshots found; with it, only what changed is fetched, decoded and drawn.
        steps: the number of tasks, where `tasks` does not tell.

    Raises:
        LabelConfigError: the label config cannot be used.
        NothingToTrain: there is no task to train on, or none to hold out.
        LabelStudioError: Label Studio cannot be reached.
    """
    # The beginning, so that whoever asks for changes since then misses none that came while tasks were read.
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    config = parse_label_config(label_config)
    folder = _Folder(dest)
    taker = Taker(config, label_config, images, settings, memory, dest)
    items: list[Item] = []
    skipped: list[Skipped] = []
    steps = len(tasks) if isinstance(tasks, Sized) else steps
    for step, task in enumerate(tasks, start=1):
        try:
            drawn, problems = taker.take(task)
        except LabelStudioError:
            raise
        except SegloopError as error:
            skipped.append(Skipped(task=task["id"], reason=str(error)))
        except Exception as error:  # noqa: BLE001 - one bad task never costs the others
            _log.exception("project %s: task %s is left out of the snapshot", project, task["id"])
            skipped.append(Skipped(task=task["id"], reason=f"{type(error).__name__}: {error}"))
        else:
            items += drawn
            skipped += problems
        if progress is not None:
            _tell(progress, step, steps)
    twins = find_twins((item.task, item.image) for item in items)
    assigned = _sticky(project, {item.task for item in items}, splits, settings.val_fraction, twins)
    leaks = _leaks(items, assigned)
    skipped += leaks
    for left_out in skipped:
        _log.warning("project %s: task %s is left out of the snapshot: %s", project, left_out.task, left_out.reason)
    for leak in leaks:
        del assigned[leak.task]
    if len(set(assigned.values())) < 2:
        raise NothingToTrain(_too_few(project, len(assigned), skipped))
    warnings = _warnings(project, assigned, settings)
    manifest = Manifest(
        project=project,
        created_at=created_at,
        label_config=label_config,
        classes=config.classes,
        unlabelled=settings.unlabelled,
        items=tuple(
            item.model_copy(update={"split": assigned[item.task]})
            for item in sorted(items, key=_order)
            if item.task in assigned
        ),
        skipped=tuple(skipped),
        warnings=warnings,
    )
    manifest = manifest.model_copy(update={"hash": manifest.digest()})
    folder.finish(manifest)
    if memory is not None:
        memory.prune()
    return manifest


def _tell(progress: Progress, step: int, steps: int | None) -> None:
    if steps is None:
        progress({"phase": "snapshot", "step": step, "message": f"Drawing: {step} tasks"})
    elif step % max(steps // _PROGRESS_STEPS, 1) == 0 or step == steps:
        progress({"phase": "snapshot", "step": step, "steps": steps, "message": f"Drawing: {step} of {steps} tasks"})


def _sticky(
    project: str, tasks: set[int], store: SplitStore, val_fraction: float, twins: Mapping[int, int]
) -> dict[int, Split]:
    known = store.load()
    assigned = assign_splits(project, tasks, known, val_fraction, twins)
    if assigned.keys() - known.keys():
        store.save({**known, **assigned})
    return assigned


def _leaks(items: Iterable[Item], assigned: Mapping[int, Split]) -> list[Skipped]:
    """Tasks to train on that have an image of a task that is held out: they were split before they shared it."""
    held_out = {item.image: item.task for item in items if assigned[item.task] == "val"}
    leaking = {
        item.task: held_out[item.image] for item in items if assigned[item.task] == "train" and item.image in held_out
    }
    return [
        Skipped(task=task, reason=f"it has an image of task {other}, which is held out for validation")
        for task, other in leaking.items()
    ]


def _warnings(project: str, assigned: Mapping[int, Split], settings: Settings) -> tuple[str, ...]:
    held_out = sum(side == "val" for side in assigned.values())
    if held_out >= settings.min_val_tasks:
        return ()
    warning = (
        f"{held_out} tasks are held out for validation, fewer than min_val_tasks={settings.min_val_tasks}: "
        "its metrics are rough until more is labelled"
    )
    _log.warning("project %s: %s", project, warning)
    return (warning,)


def _too_few(project: str, tasks: int, skipped: list[Skipped]) -> str:
    left_out = f"; {len(skipped)} more were left out (task {skipped[0].task}: {skipped[0].reason})" if skipped else ""
    return (
        f"project {project} has {tasks} tasks with usable annotations{left_out}: "
        "label more, because training needs at least one task to learn from and another one to be held out"
    )


def _order(item: Item) -> tuple[int, str, int]:
    return item.task, item.image_tag, item.item_index or 0


class _Folder:
    """A snapshot folder being written: files are named by content, the manifest comes last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._objects = Objects(path)
        # A folder counts as a snapshot by its manifest.
        (path / MANIFEST).unlink(missing_ok=True)

    def finish(self, manifest: Manifest) -> None:
        """Remove what an earlier attempt left behind, and write the manifest."""
        self._objects.prune(name for item in manifest.items for name in (item.image, item.mask))
        write_manifest(self._path, manifest)
