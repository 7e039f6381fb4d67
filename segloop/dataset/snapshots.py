"""Takes snapshots: the annotations of each task, drawn as class maps beside the original image files."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from segloop.blind import is_blind
from segloop.dataset.files import Objects
from segloop.dataset.items import ItemBuilder, SnapshotInputs, Task
from segloop.dataset.manifest import MANIFEST, Item, Manifest, Skipped, Split, write_manifest
from segloop.dataset.notes import Note, warnings_of
from segloop.dataset.splits import assign_splits
from segloop.dataset.twins import Evidence, Twins, group_of, settle_groups, twins_of
from segloop.errors import ImageError, LabelStudioError, NothingToTrain, SegloopError
from segloop.progress import Report
from segloop.project_ids import project_id
from segloop.settings import Settings

_log = logging.getLogger(__name__)

_PROGRESS_STEPS: Final = 200


def snapshot(
    inputs: SnapshotInputs,
    tasks: Iterable[Task],
    dest: Path,
    *,
    progress: Report | None = None,
    steps: int | None = None,
) -> Manifest:
    """Freeze labelled tasks as a snapshot folder `dest`; its manifest is written last.

    Each task gives the annotations that count by `settings.annotators` (see `counting_annotations`), drawn together
    as one class map for each of its images. One without regions means "all background", or nothing where
    `settings.unlabelled` is "ignore". A task whose annotations or images cannot be used is left out and reported
    under `skipped`; so is one bad annotation among several that count. Regions that do not count as they were meant, as
    those of a label that the config does not have, cost nothing else, and are warned of. Tasks that
    show the same, or are of one group (`settings.split_by`), are on the same side of the split (see `twins_of`); where they
    were put on both sides before, those to train on are left out.

    An image that cannot be had now, as its host is away or overloaded, is no fault of its task: all others are built, and
    kept in the memory, and then the snapshot ends; it is to be called again later (see `ImageWaits`).

    Args:
        tasks: `{"id", "data", "annotations"}` each, such as `Mirror.tasks` gives.
        progress: told `{"phase": "snapshot", "step", "steps", "message"}` now and then.
        steps: the number of tasks, where `tasks` does not tell.

    Raises:
        LabelConfigError: the label config cannot be used.
        NothingToTrain: there is no task to train on, or none to hold out.
        LabelStudioError: Label Studio cannot be reached.
        ImageUnavailable: images cannot be had now; the text names their hosts.
        OSError, sqlite3.Error: this machine's disk is full or fails.
    """
    # The beginning, so that whoever asks for changes since then misses none that came while tasks were read.
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    project, settings = inputs.project, inputs.settings
    builder = ItemBuilder(inputs, dest)
    folder = Objects(dest)
    # A folder counts as a snapshot by its manifest.
    (dest / MANIFEST).unlink(missing_ok=True)
    items: list[Item] = []
    skipped: list[Skipped] = []
    notes: list[Note] = []
    groups: dict[int, str] = {}
    steps = len(tasks) if isinstance(tasks, Sized) else steps
    for step, task in enumerate(tasks, start=1):
        if settings.split_by and (group := group_of(task["data"], settings.split_by)) is not None:
            groups[task["id"]] = group
        try:
            built = builder.build(task)
        except (LabelStudioError, OSError, sqlite3.Error):
            raise  # of Label Studio, and of this machine's disk, not of the task
        except SegloopError as error:
            skipped.append(Skipped(task=task["id"], reason=str(error)))
        except Exception as error:  # noqa: BLE001 - one bad task never costs the others
            _log.exception("project %s: task %s is left out of the snapshot", project, task["id"])
            skipped.append(Skipped(task=task["id"], reason=f"{type(error).__name__}: {error}"))
        else:
            items += built.items
            skipped += built.skipped
            notes += built.notes
        if progress is not None:
            _report(progress, step, steps)
    missing = builder.waits.settle()
    evidence = Evidence(dest, builder.looks, groups, inputs.learnt, settings.twin_similarity, settings.image_max_pixels)
    found = twins_of(items, evidence)
    twins = found.tasks
    assigned = _assign(inputs, {item.task for item in items}, found, groups)
    leaks = _leaks(items, assigned, twins)
    skipped += leaks
    for left_out in skipped:
        _log.warning("project %s: task %s is left out of the snapshot: %s", project, left_out.task, left_out.reason)
    for leak in leaks:
        del assigned[leak.task]
    if len(set(assigned.values())) < 2:
        raise NothingToTrain(_too_few(project, assigned, twins, skipped))
    warnings = (
        *missing,
        *found.warnings,
        *_ungrouped(assigned, groups, settings),
        *_few_held_out(assigned, settings),
        *warnings_of(notes),
    )
    for warning in warnings:
        _log.warning("project %s: %s", project, warning)
    unannotated = _unannotated(inputs.unannotated, builder, {item.image for item in items})
    manifest = Manifest(
        project=project,
        created_at=created_at,
        label_config=inputs.label_config,
        classes=builder.config.classes,
        unlabelled=settings.unlabelled,
        items=tuple(
            item.model_copy(update={"split": assigned[item.task]})
            for item in sorted(items, key=_order)
            if item.task in assigned
        ),
        unannotated=unannotated or None,
        skipped=tuple(skipped),
        warnings=warnings,
    ).sealed()
    # An earlier attempt may have left files.
    folder.prune(name for item in manifest.all_items() for name in (item.image, item.mask))
    write_manifest(dest, manifest)
    if inputs.memory is not None:
        inputs.memory.prune()
    return manifest


def _unannotated(tasks: Iterable[Task], builder: ItemBuilder, annotated: set[str]) -> tuple[Item, ...]:
    """The items of tasks without annotations, but for images that are annotated elsewhere, and those that cannot be had:
    training can do without."""
    items: list[Item] = []
    for task in tasks:
        try:
            items += [item for item in builder.unannotated(task) if item.image not in annotated]
        except ImageError as error:
            _log.info("task %s, which has no annotation, is not learnt from: %s", task["id"], error)
    return tuple(items)


def _report(progress: Report, step: int, steps: int | None) -> None:
    if steps is None:
        progress({"phase": "snapshot", "step": step, "message": f"Drawing: {step} tasks"})
    elif step % max(steps // _PROGRESS_STEPS, 1) == 0 or step == steps:
        progress({"phase": "snapshot", "step": step, "steps": steps, "message": f"Drawing: {step} of {steps} tasks"})


def _assign(inputs: SnapshotInputs, tasks: set[int], twins: Twins, groups: Mapping[int, str]) -> dict[int, Split]:
    known = inputs.splits.load()
    present = settle_groups({task: side for task, side in known.items() if task in tasks}, groups)
    for task, side in twins.seen.items():
        # what the champion was trained on cannot judge it; what it was judged by goes on doing so
        if side == "train" or task not in present:
            present[task] = side
    accepted = tasks & inputs.accepted
    people = tasks - accepted
    sides: dict[int, Split] = {task: side for task, side in present.items() if task in people}
    held_out = {twins.tasks.get(task, task) for task, side in sides.items() if side == "val"}
    trained = {twins.tasks.get(task, task) for task in accepted if present.get(task) == "train"} - held_out
    sides |= {task: "train" for task in people - sides.keys() if twins.tasks.get(task, task) in trained}
    _hold_out_blind(inputs, people, sides, twins.tasks)
    assigned = assign_splits(inputs.project, people, sides, inputs.settings.val_fraction, twins.tasks)
    # what segloop accepted is never held out, not even where people's own label once was
    assigned |= {task: "train" for task in accepted if present.get(task) != "val"}
    moved = sorted(task for task in known.keys() & assigned.keys() if known[task] != assigned[task])
    if moved:
        _log.warning(
            "project %s: tasks %s are held out no more: their group, or the served version, is trained on what they show",
            *(inputs.project, moved),
        )
    if assigned.items() - known.items():
        inputs.splits.save({**known, **assigned})
    return assigned


def _hold_out_blind(inputs: SnapshotInputs, tasks: set[int], sides: dict[int, Split], twins: Mapping[int, int]) -> None:
    """Hold out the new blind tasks, but for those that show what is trained on, and for the last task to train on."""
    share = inputs.settings.hidden_share
    new = [task for task in sorted(tasks - sides.keys()) if is_blind(inputs.project, task, share)]
    if not new:
        return
    together = Counter(twins.get(task, task) for task in tasks)
    trained = {twins.get(task, task) for task, side in sides.items() if side == "train"}
    groups = {twins.get(task, task) for task, side in sides.items() if side == "val"}
    for task in new:
        group = twins.get(task, task)
        if group not in trained and sum(together[held] for held in groups | {group}) < len(tasks):
            groups.add(group)
            sides[task] = "val"


def _leaks(items: Iterable[Item], assigned: Mapping[int, Split], twins: Mapping[int, int]) -> list[Skipped]:
    """Tasks to train on whose twin is held out: they were split before they were twins."""
    held_out = {twins[task]: task for task, side in assigned.items() if side == "val" and task in twins}
    files: dict[int, set[str]] = {}
    for item in items:
        files.setdefault(item.task, set()).add(item.image)
    leaks = []
    for task, side in assigned.items():
        other = held_out.get(twins.get(task, task)) if side == "train" else None
        if other is not None:
            reason = (
                "it has an image of" if files[task] & files[other] else "it shows the same, or is of the same group, as"
            )
            leaks.append(Skipped(task=task, reason=f"{reason} task {other}, which is held out for validation"))
    return leaks


def _ungrouped(assigned: Mapping[int, Split], groups: Mapping[int, str], settings: Settings) -> tuple[str, ...]:
    lacking = sorted(assigned.keys() - groups.keys()) if settings.split_by else []
    if not lacking:
        return ()
    named = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
    return (
        f"{len(lacking)} tasks have no {settings.split_by!r} (split_by) in their data: each is a group of its own ({named})",
    )


def _few_held_out(assigned: Mapping[int, Split], settings: Settings) -> tuple[str, ...]:
    held_out = sum(side == "val" for side in assigned.values())
    if held_out >= settings.min_val_tasks:
        return ()
    fewer = f"fewer than min_val_tasks={settings.min_val_tasks}: its metrics are rough until more is labelled"
    return (f"{held_out} tasks are held out for validation, {fewer}",)


def _too_few(project: str, assigned: Mapping[int, Split], twins: Mapping[int, int], skipped: Sequence[Skipped]) -> str:
    """Why there is nothing to train on or nothing to hold out, and what to do."""
    left_out = f"; {len(skipped)} more were left out (task {skipped[0].task}: {skipped[0].reason})" if skipped else ""
    found = f"project {project_id(project)} has {len(assigned)} tasks with usable annotations{left_out}"
    if len(assigned) < 2:
        return f"{found}: label more, because training needs at least one task to learn from and another one to be held out"
    if len({twins.get(task, task) for task in assigned}) == 1:
        return (
            f"{found}, and all of them show the same images: label a task with another image, because what is held out must not "
            "be an image that is trained on"
        )
    if set(assigned.values()) == {"train"}:
        return (
            f"{found}, and none of those that were held out for validation is left (they were deleted, or lost their "
            "annotations): label more, and some of the new ones are held out"
        )
    return (
        f"{found}, and all of them are held out for validation, because those to train on were left out, deleted, or lost "
        "their annotations: label more, and most of the new ones are trained on"
    )


def _order(item: Item) -> tuple[int, str, int]:
    return item.task, item.image_tag, item.item_index or 0
