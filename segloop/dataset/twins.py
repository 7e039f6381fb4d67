"""Which tasks belong on one side of the split: those that show the same, and those of one group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from segloop.dataset.looks import Look, Looks, near_duplicates
from segloop.dataset.manifest import Item, Manifest, Split
from segloop.dataset.splits import find_twins

#: Near duplicates that would join more than this share of the tasks tell nothing, as those of a camera that stands still.
_MOST_JOINED: Final = 0.5
_TRAIN: Final[Split] = "train"

_TOO_ALIKE: Final = (
    "most images look nearly alike, so those that do are not kept on one side of the split: set SEGLOOP_SPLIT_BY to a field of "
    "the tasks that tells which belong together"
)


@dataclass(frozen=True)
class Evidence:
    """What tells the twins among a snapshot's tasks.

    Attributes:
        folder: the snapshot's, where the image files lie.
        groups: the group of each task that has one.
        learnt: the champion's training set.
        similarity: that of near duplicates (setting `twin_similarity`); 1: there are none.
        max_pixels: limit on the pixels of an image.
    """

    folder: Path
    looks: Looks
    groups: Mapping[int, str]
    learnt: Manifest | None
    similarity: float
    max_pixels: int


@dataclass(frozen=True)
class Twins:
    """The twins among a snapshot's tasks.

    Attributes:
        tasks: for each task that has some, an id that all of them share.
        seen: the side on which the champion's training had what a task shows, for tasks that this training did not know.
        warnings: what the person is to be told.
    """

    tasks: Mapping[int, int]
    seen: Mapping[int, Split] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def twins_of(items: Sequence[Item], evidence: Evidence) -> Twins:
    """The twins among tasks, by the content of their image files, by their pixels, by near duplicates and by groups."""
    present = {item.task for item in items}
    shown = [(item.task, item.image) for item in items]
    looks = {image: evidence.looks.find(evidence.folder, image, evidence.max_pixels) for _, image in shown}
    # the tasks of the champion's training that are gone: theirs are numbers below all others
    earlier: dict[int, Split] = {}
    numbers = count(1)
    for item in () if evidence.learnt is None else evidence.learnt.items:
        if item.task not in present:
            number = -next(numbers)
            earlier[number] = item.split
            shown.append((number, item.image))
            looks.setdefault(item.image, evidence.looks.get(item.image) or Look("", b""))
    same = [*shown, *((task, looks[image].pixels) for task, image in shown if looks[image].pixels)]
    alike = _alike(shown, looks, evidence.similarity)
    warnings: tuple[str, ...] = ()
    if alike and _joins_most(present, find_twins(same), find_twins([*same, *alike])):
        alike = []
        warnings = (_TOO_ALIKE,)
    roots = find_twins([*same, *alike])
    sides: dict[int, Split] = {}
    for number, side in earlier.items():
        root = roots.get(number, number)
        sides[root] = "train" if side == "train" else sides.get(root, side)
    seen = {task: sides[roots[task]] for task in present if roots.get(task) in sides}
    grouped = [(task, f"group {group}") for task, group in evidence.groups.items() if task in present]
    return Twins(find_twins([*same, *alike, *grouped]), seen, warnings)


def settle_groups(known: Mapping[int, Split], groups: Mapping[int, str]) -> dict[int, Split]:
    """A split in which groups that came to both sides, before `split_by` was set, are on one where that can be.

    Their held-out tasks move to the training side. Only where nothing else is held out, the group with most of them stays
    as it is: its tasks on the training side are then left out of the training.
    """
    members: dict[str, list[int]] = {}
    for task in sorted(known.keys() & groups.keys()):
        members.setdefault(groups[task], []).append(task)
    mixed = [tasks for tasks in members.values() if len({known[task] for task in tasks}) > 1]
    held_out = {task: tasks for tasks in mixed for task in tasks if known[task] == "val"}
    if mixed and all(task in held_out for task, side in known.items() if side == "val"):
        mixed.remove(max(mixed, key=lambda tasks: sum(known[task] == "val" for task in tasks)))
    moved = {task: _TRAIN for tasks in mixed for task in tasks}
    return {**known, **moved}


def group_of(data: Mapping[str, Any], name: str) -> str | None:
    """The group that a task's data name in a field, or in a field of a field (`meta.patient`); None for none."""
    value: Any = data
    if name in data:
        return None if data[name] is None else str(data[name])
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else str(value)


def _alike(shown: Sequence[tuple[int, str]], looks: Mapping[str, Look], similarity: float) -> list[tuple[int, str]]:
    if similarity >= 1:
        return []
    images = list(looks)
    pairs = list(near_duplicates([looks[image].outline for image in images], similarity))
    roots = find_twins((place, f"pair {number}") for number, pair in enumerate(pairs) for place in pair)
    joined = {images[place]: f"alike {root}" for place, root in roots.items()}
    return [(task, joined[image]) for task, image in shown if image in joined]


def _joins_most(present: Iterable[int], apart: Mapping[int, int], together: Mapping[int, int]) -> bool:
    """Whether near duplicates join more than half of the tasks to one, of tasks that are not the same image anyway."""
    tasks = list(present)
    if len(tasks) < 2:
        return False
    largest, before = (max(Counter(roots.get(task, task) for task in tasks).values()) for roots in (together, apart))
    return largest > before and largest > max(_MOST_JOINED * len(tasks), 2)
