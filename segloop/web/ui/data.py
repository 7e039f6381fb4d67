"""Facts of projects from the store, the queue and Label Studio. A part that cannot be reached becomes a sentence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache, TTLCache, cachedmethod

from segloop.backend import Backend
from segloop.errors import LabelStudioError, LabelStudioUnreachable, QueueUnavailable, RegistryError
from segloop.labelstudio import LabelStudio
from segloop.policy import Changes, Thresholds
from segloop.registry import Champion, VersionInfo
from segloop.registry.gallery import GALLERY
from segloop.settings import Settings

if TYPE_CHECKING:
    from segloop.queue.status import JobStatus

logger = logging.getLogger(__name__)

#: How long Label Studio has to answer, and how long its answer, or that there is none, is shown, in seconds.
STUDIO_TIMEOUT_S: Final = 3.0
STUDIO_KEPT_S: Final = 20.0
#: Versions of one project that are shown, the latest.
MOST_VERSIONS: Final = 50
_AT_ONCE: Final = 4


@dataclass(frozen=True)
class Counts:
    """A project's title in Label Studio, how many tasks it has, and how many of them have an annotation."""

    title: str
    tasks: int
    labelled: int


@dataclass(frozen=True)
class Facts:
    """What is known of a project now. None: there is none, or (`changes`, `counts`) it is not known.

    Attributes:
        served: the version that answers in this process: while the champion loads, the one before; without a champion
            `untrained`, or published weights.
        min_val_tasks: held-out tasks below which metrics are rough.
        live: the status of the queued or running retrain; `last`, of the one that ended last.
        errors: which parts could not be reached, and why the project has no weights, a sentence each.
        removed: versions whose models were removed.
    """

    key: str
    served: str
    champion: Champion | None = None
    counts: Counts | None = None
    changes: Changes | None = None
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(1))
    min_val_tasks: int = 0
    live: JobStatus | None = None
    last: JobStatus | None = None
    errors: tuple[str, ...] = ()
    removed: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """The project's id in Label Studio."""
        return self.key.partition(".")[0]


class Studio:
    """Counts of Label Studio's projects, asked for at most every STUDIO_KEPT_S. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: TTLCache[str, Counts | str] = TTLCache(1024, STUDIO_KEPT_S)
        self._away: TTLCache[str, str] = TTLCache(1, STUDIO_KEPT_S)
        self._lock = threading.Lock()

    @cached_property
    def _label_studio(self) -> LabelStudio:
        return LabelStudio.from_settings(self._settings, STUDIO_TIMEOUT_S)

    def counts(self, project_id: str) -> Counts | str:
        """Of a project; or one sentence why there are none."""
        if not self._settings.label_studio_api_key.get_secret_value():
            return "Label Studio is not asked for titles and counts: set LABEL_STUDIO_API_KEY."
        with self._lock:
            kept = self._kept.get(project_id) or self._away.get("")
        if kept is not None:
            return kept
        try:
            found = self._ask(project_id)
        except LabelStudioUnreachable as error:
            with self._lock:  # the other projects need not wait for it in turn
                self._away[""] = f"{error}."
            return f"{error}."
        except LabelStudioError as error:
            found = f"{error}."
        with self._lock:
            self._kept[project_id] = found
        return found

    def _ask(self, project_id: str) -> Counts | str:
        project = self._label_studio.projects.get(int(project_id))
        title, tasks, labelled = (project.get(key) for key in ("title", "task_number", "num_tasks_with_annotations"))
        return Counts(str(title or ""), int(tasks or 0), int(labelled or 0))


class ProjectLoader:
    """Reads the facts of projects. Thread-safe."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.backend = backend
        self._studio = Studio(settings)
        self._versions: LRUCache[Hashable, VersionInfo] = LRUCache(2048)
        self._galleries: LRUCache[tuple[str, str], Path] = LRUCache(256)
        self._lock = threading.Lock()

    def all(self) -> list[Facts]:
        """Facts of every project, the newest first; of one whose part of the store cannot be read, the error alone.

        Raises:
            RegistryError: the store cannot be read.
        """
        keys = self.backend.registry.projects()[::-1]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="status-page") as pool:
            return list(pool.map(self._project_or_error, keys))

    def project(self, key: str) -> Facts:
        """Facts of one project.

        Raises:
            RegistryError: the store cannot be read.
        """
        settings = self.backend.projects.settings(key)
        counts = self._studio.counts(key.partition(".")[0])
        live, last, changes, away = self._queue(key)
        errors = [*away, *([counts] if isinstance(counts, str) else [])]
        if weights := self.backend.models.problem(key):
            errors.append(f"Nothing is pre-labelled before the first training: {weights}")
        return Facts(
            key,
            self.backend.served(key),
            self.backend.registry.champion(key),
            None if isinstance(counts, str) else counts,
            changes,
            Thresholds(settings.retrain_threshold, settings.adapt_threshold),
            settings.min_val_tasks,
            live,
            last,
            tuple(errors),
            frozenset(self.backend.registry.removed(key)),
        )

    def _project_or_error(self, key: str) -> Facts:
        try:
            return self.project(key)
        except RegistryError as error:
            return Facts(key, "unknown", errors=(f"Project {key.partition('.')[0]}: {error}.",))

    def job(self, key: str) -> Facts:
        """Facts of one project's retrain alone: what is asked for every two seconds."""
        live, last, changes, away = self._queue(key)
        return Facts(key, "", live=live, last=last, changes=changes, errors=tuple(away))

    def versions(self, key: str) -> list[VersionInfo]:
        """The latest versions, oldest first; one that cannot be read is left out.

        Raises:
            RegistryError: the store cannot be read.
        """
        found = (self.version(key, name) for name in self.backend.registry.version_names(key)[-MOST_VERSIONS:])
        return [info for info in found if info is not None]

    def gallery(self, key: str, version: str) -> Path | None:
        """The version's gallery file, verified when it was first asked for; None if it has none.

        Raises:
            VersionNotFound: the project has no such version.
            RegistryError: the store cannot be read, or the file is not the version's.
        """
        with self._lock:
            known = self._galleries.get((key, version))
        if known is not None and known.is_file():
            return known
        registry = self.backend.registry
        if GALLERY not in registry.get(key, version).files:
            return None
        found = registry.bundle(key, version, [GALLERY]) / GALLERY
        with self._lock:
            self._galleries[key, version] = found
        return found

    def version(self, key: str, name: str) -> VersionInfo | None:
        """What is known of a version, which never changes; None if it cannot be read."""
        try:
            return self._version(key, name)
        except RegistryError as error:  # among them VersionNotFound: it is being written
            logger.info("project %s: version %s is not shown: %s", key, name, error)
            return None

    @cachedmethod(attrgetter("_versions"), lock=attrgetter("_lock"))
    def _version(self, key: str, name: str) -> VersionInfo:
        return self.backend.registry.get(key, name)

    def _queue(self, key: str) -> tuple[JobStatus | None, JobStatus | None, Changes | None, Iterable[str]]:
        try:
            jobs = self.backend.jobs()
            live = jobs.live_retrain(key)
            return live, None if live else jobs.last_retrain(key), jobs.changed(key), ()
        except QueueUnavailable as error:
            return None, None, None, (str(error),)
