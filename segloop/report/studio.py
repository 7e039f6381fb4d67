"""What Label Studio says of a project now, for reports and pages: its title, its counts, which tasks come next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

from cachetools import TTLCache

from segloop.errors import LabelStudioError, LabelStudioUnreachable
from segloop.labelstudio import LabelStudio
from segloop.settings import Settings

#: How long Label Studio has to answer, and how long its answer, or that there is none, is shown, in seconds.
STUDIO_TIMEOUT_S: Final = 3.0
STUDIO_KEPT_S: Final = 20.0
#: Tasks that are named as the next to label.
NEXT_TASKS: Final = 8

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Counts:
    """A project's title in Label Studio, how many tasks it has, and how many of them have an annotation: both as its Data
    Manager counts them."""

    title: str
    tasks: int
    labelled: int


@dataclass(frozen=True)
class NextTask:
    """A task to label next, and how sure the served version is of it, in [0, 1]."""

    task: int
    score: float


class Studio:
    """What Label Studio says, asked for at most every STUDIO_KEPT_S. Thread-safe.

    Each answer is the value, or one sentence why there is none.
    """

    def __init__(self, settings: Settings, timeout_s: float = STUDIO_TIMEOUT_S) -> None:
        self._settings, self._timeout_s = settings, timeout_s
        self._counts: TTLCache[str, Counts | str] = TTLCache(1024, STUDIO_KEPT_S)
        self._next: TTLCache[tuple[str, str], list[NextTask] | str] = TTLCache(1024, STUDIO_KEPT_S)
        self._away: TTLCache[str, str] = TTLCache(1, STUDIO_KEPT_S)
        self._lock = threading.Lock()

    @cached_property
    def _label_studio(self) -> LabelStudio:
        return LabelStudio.from_settings(self._settings, self._timeout_s)

    def counts(self, project_id: str) -> Counts | str:
        """Of a project."""
        if not self._settings.label_studio_api_key.get_secret_value():
            return "Label Studio is not asked for titles and counts: set LABEL_STUDIO_API_KEY."
        return self._kept(self._counts, project_id, lambda: self._ask_counts(project_id))

    def next_tasks(self, project_id: str, version: str) -> list[NextTask] | str:
        """The tasks that nobody labelled and of which a version is least sure, that one first."""
        if not self._settings.label_studio_api_key.get_secret_value():
            return "Label Studio is not asked for the tasks to label next: set LABEL_STUDIO_API_KEY."
        return self._kept(self._next, (project_id, version), lambda: self._ask_next(project_id, version))

    def _kept(self, answers: TTLCache[Key, Value | str], key: Key, ask: Callable[[], Value]) -> Value | str:
        """The answer that is kept under a key, or else a new one, kept from now on: to read it does not make it young."""
        with self._lock:
            kept = answers.get(key)
        if kept is not None:
            return kept
        found = self._asked(ask)
        with self._lock:
            answers[key] = found
        return found

    def _asked(self, ask: Callable[[], Value]) -> Value | str:
        with self._lock:
            away = self._away.get("")
        if away is not None:
            return away
        try:
            return ask()
        except LabelStudioUnreachable as error:
            with self._lock:  # the other projects need not wait for it in turn
                return self._away.setdefault("", f"{error}.")
        except LabelStudioError as error:
            return f"{error}."

    def _ask_counts(self, project_id: str) -> Counts:
        project, tasks = int(project_id), self._label_studio.tasks
        title = self._label_studio.projects.get(project).get("title")
        return Counts(str(title or ""), tasks.count(project), tasks.totals(project).tasks)

    def _ask_next(self, project_id: str, version: str) -> list[NextTask]:
        found = self._label_studio.tasks.least_sure(int(project_id), NEXT_TASKS, predicted_by=version)
        return [NextTask(int(task["id"]), float(task["score"])) for task in found]
