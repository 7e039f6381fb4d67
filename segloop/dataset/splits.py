"""The split of a project's labelled tasks, which never moves a task between training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from segloop.dataset.manifest import Manifest, Skipped, Split
from segloop.errors import NothingToTrain
from segloop.project_ids import project_id

SPLITS: Final = "split.json"


class SplitStore(Protocol):
    """Keeps a project's split."""

    def load(self) -> dict[int, Split]:
        """Every assignment ever saved, by task id."""

    def save(self, splits: dict[int, Split]) -> None:
        """Keep `splits` in place of what was kept."""


class JsonStore(Protocol):
    """Keeps a project's small JSON files, as the registry does."""

    def read_json(self, project: str, name: str) -> Any:
        """The value of a file, None if there is none."""

    def write_json(self, project: str, name: str, value: Any) -> None:
        """Write a file, atomically."""


class ProjectSplits:
    """A project's split in its file `split.json`: `{"format": 1, "splits": {"17": "val", ...}}`."""

    def __init__(self, store: JsonStore, project: str) -> None:
        self._store = store
        self._project = project

    def load(self) -> dict[int, Split]:
        """Every assignment ever saved, by task id."""
        kept = self._store.read_json(self._project, SPLITS) or {"splits": {}}
        return {int(task): split for task, split in kept["splits"].items()}

    def save(self, splits: dict[int, Split]) -> None:
        """Keep `splits`."""
        named = {str(task): split for task, split in sorted(splits.items())}
        self._store.write_json(self._project, SPLITS, {"format": 1, "splits": named})


def assign_splits(
    project: str,
    tasks: Iterable[int],
    known: Mapping[int, Split],
    val_fraction: float,
    twins: Mapping[int, int] | None = None,
) -> dict[int, Split]:
    """Assign each of `tasks` to train or val; those in `known` never move.

    New tasks come in the order of sha256("project/task"), and go to val until it has `val_fraction` of `tasks`:
    round(val_fraction * n), but at least one once there are two tasks, and never all. Tasks with the same twin go
    together, to where one of them is known to be (val, if they are known on both sides), else in the order of that twin.

    Args:
        twins: for tasks that share an image, the smallest id among them (see `find_twins`).
    """
    twins = twins or {}
    present = set(tasks)
    splits: dict[int, Split] = {task: known[task] for task in present if task in known}
    sides: dict[int, Split] = {}
    for task, split in splits.items():
        twin = twins.get(task, task)
        sides[twin] = "val" if split == "val" else sides.get(twin, split)
    new: dict[int, list[int]] = {}
    for task in sorted(present - splits.keys()):
        new.setdefault(twins.get(task, task), []).append(task)
    for twin in sides.keys() & new.keys():
        splits.update(dict.fromkeys(new.pop(twin), sides[twin]))
    target = min(max(round(val_fraction * len(present)), 1), len(present) - 1)
    vals = sum(split == "val" for split in splits.values())
    for twin in sorted(new, key=lambda twin: hashlib.sha256(f"{project}/{twin}".encode()).digest()):
        together = new[twin]
        side: Split = "val" if vals < target and vals + len(together) < len(present) else "train"
        vals += len(together) if side == "val" else 0
        splits.update(dict.fromkeys(together, side))
    return splits


def join_splits(known: Mapping[int, Split], training_set: Manifest) -> dict[int, Split]:
    """A project's split with that of a training set which was taken elsewhere.

    A task that was trained on there is on the training side from now on; of the others, those that are known stay.
    """
    theirs = {item.task: item.split for item in training_set.items}
    trained = {task: side for task, side in theirs.items() if side == "train"}
    return {**theirs, **known, **trained}


def exclude_trained(manifest: Manifest, training_set: Manifest) -> Manifest:
    """A snapshot's manifest without the held-out tasks that, or whose images, a training set has to train on.

    Raises:
        NothingToTrain: none is left.
    """
    trained = training_set.part("train")
    tasks, images = {item.task for item in trained}, {item.image for item in trained}
    seen = {item.task for item in manifest.part("val") if item.task in tasks or item.image in images}
    if not seen:
        return manifest
    kept = tuple(item for item in manifest.items if item.task not in seen)
    if all(item.split == "train" for item in kept):
        raise NothingToTrain(
            f"project {project_id(manifest.project)}: the candidate was trained on every task that is held out, so it cannot be compared: "
            "label more"
        )
    skipped = tuple(
        Skipped(task=task, reason="the candidate was trained on it or on its image") for task in sorted(seen)
    )
    return manifest.model_copy(update={"items": kept, "skipped": (*manifest.skipped, *skipped)}).sealed()


def find_twins(images: Iterable[tuple[int, str]]) -> dict[int, int]:
    """For each task that shares an image with another, directly or through others, the smallest id of them all.

    Args:
        images: ids of tasks, each with the name of an image's content.
    """
    smallest: dict[int, int] = {}
    first: dict[str, int] = {}

    def root(task: int) -> int:
        while smallest.get(task, task) != task:
            task = smallest[task]
        return task

    for task, image in images:
        one, other = sorted((root(task), root(first.setdefault(image, task))))
        if one != other:
            smallest[other] = one
            smallest.setdefault(one, one)
    return {task: root(task) for task in smallest}
