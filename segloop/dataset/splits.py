"""The split of a project's labelled tasks, which never moves a task between training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from segloop.dataset.manifest import Split

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
    project: str, tasks: Iterable[int], known: Mapping[int, Split], val_fraction: float
) -> dict[int, Split]:
    """Assign each of `tasks` to train or val; those in `known` never move.

    New tasks come in the order of sha256("project/task"), and go to val until it has `val_fraction` of `tasks`:
    round(val_fraction * n), but at least one once there are two tasks, and never all.
    """
    present = set(tasks)
    splits: dict[int, Split] = {task: known[task] for task in present if task in known}
    new = sorted(present - splits.keys(), key=lambda task: hashlib.sha256(f"{project}/{task}".encode()).digest())
    target = min(max(round(val_fraction * len(present)), 1), len(present) - 1)
    missing = max(target - sum(split == "val" for split in splits.values()), 0)
    splits.update({task: "val" if place < missing else "train" for place, task in enumerate(new)})
    return splits
