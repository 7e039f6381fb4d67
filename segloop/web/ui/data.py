"""Facts of projects from the store, the queue and Label Studio. A part that cannot be reached becomes a sentence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache, cachedmethod

from segloop.accept import Rule, read_accept
from segloop.backend import Backend
from segloop.errors import QueueUnavailable, RegistryError
from segloop.ledger import read_ledger
from segloop.policy import Changes, Thresholds
from segloop.project_ids import project_id
from segloop.registry import Champion, VersionInfo
from segloop.registry.gallery import GALLERY
from segloop.report import (
    LEAST_LABELLED,
    Counts,
    Report,
    ReportFacts,
    Studio,
    cannot_train,
    latest_names,
    report_of,
    thresholds_of,
)
from segloop.settings import Settings
from segloop.suspects import PHOTOS, SUSPECTS, FoundSuspects, read_photo, read_suspects, version_with_suspects

if TYPE_CHECKING:
    from segloop.queue.status import JobStatus

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 4


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
        return project_id(self.key)


class ProjectLoader:
    """Reads the facts of projects. Thread-safe."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.backend = backend
        self._studio = Studio(settings)
        self._label_studio_url = settings.label_studio_public_url or settings.label_studio_url
        self._versions: LRUCache[Hashable, VersionInfo] = LRUCache(2048)
        self._galleries: LRUCache[tuple[str, str], Path] = LRUCache(256)
        self._suspects: LRUCache[tuple[str, str], FoundSuspects] = LRUCache(64)
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
        counts = self._studio.counts(project_id(key))
        live, last, changes, away = self._queue(key)
        champion = self.backend.registry.champion(key)
        errors = [*away, *([counts] if isinstance(counts, str) else [])]
        if weights := self.backend.models.problem(key):
            errors.append(f"Nothing is pre-labelled before the first training: {weights}")
        return Facts(
            key,
            self.backend.served(key),
            champion,
            None if isinstance(counts, str) else counts,
            changes,
            thresholds_of(settings, champion),
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
            return Facts(key, "unknown", errors=(f"Project {project_id(key)}: {error}.",))

    def job(self, key: str) -> Facts:
        """Facts of one project's retrain alone: what is asked for every two seconds."""
        live, last, changes, away = self._queue(key)
        counts = self._studio.counts(project_id(key))
        known = None if isinstance(counts, str) else counts
        return Facts(key, "", counts=known, live=live, last=last, changes=changes, errors=tuple(away))

    def cannot_train(self, key: str) -> str | None:
        """Why a project cannot be trained: too little is labelled. None where it can, or where that is not known."""
        counts = self._studio.counts(project_id(key))
        if isinstance(counts, str) or counts.labelled >= LEAST_LABELLED:
            return None
        return cannot_train(counts.labelled)

    def report(self, facts: Facts, versions: Sequence[VersionInfo]) -> Report:
        """Whether the project is helped, from its facts and its versions, oldest first.

        Raises:
            RegistryError: the store cannot be read.
        """
        following = self._studio.next_tasks(facts.id, facts.champion.version) if facts.champion else []
        return report_of(
            ReportFacts(
                key=facts.key,
                label_studio_url=self._label_studio_url,
                ledger=read_ledger(self.backend.registry, facts.key),
                versions=versions,
                champion=facts.champion,
                counts=facts.counts,
                changes=facts.changes,
                thresholds=facts.thresholds,
                is_training=facts.live is not None,
                next_tasks=() if isinstance(following, str) else following,
                accept=read_accept(self.backend.registry, facts.key),
                rule=Rule.of(self.backend.projects.settings(facts.key)),
            )
        )

    def versions(self, key: str, also: Collection[str | None] = ()) -> list[VersionInfo]:
        """The latest versions, oldest first, and of the older ones those in `also`; one that cannot be read is left out.

        Raises:
            RegistryError: the store cannot be read.
        """
        found = (self.version(key, name) for name in latest_names(self.backend.registry.version_names(key), also))
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

    def suspects(self, key: str) -> FoundSuspects | None:
        """The suspected labels of the newest version that has some file of them; None without one, or where it cannot
        be read, with a line in the log.

        Raises:
            RegistryError: the store cannot be read.
        """
        registry = self.backend.registry
        name = version_with_suspects(registry, key)
        if name is None:
            return None
        with self._lock:
            known = self._suspects.get((key, name))
        if known is None:
            try:
                known = FoundSuspects(name, read_suspects(registry.bundle(key, name, [SUSPECTS]) / SUSPECTS))
            except RegistryError as error:
                logger.warning("project %s: the suspected labels of %s are not shown: %s", key, name, error)
                return None
            with self._lock:
                self._suspects[key, name] = known
        return known

    def suspect_photo(self, key: str, version: str, name: str) -> bytes | None:
        """A photo of a version's suspected labels, a JPEG; None if it has none of this name.

        Raises:
            VersionNotFound: the project has no such version.
            RegistryError: the store cannot be read, or the file is not the version's.
        """
        registry = self.backend.registry
        if PHOTOS not in registry.get(key, version).files:
            return None
        return read_photo(registry.bundle(key, version, [PHOTOS]) / PHOTOS, name)

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
            return live, None if live else jobs.last_retrain(key), jobs.changes.count(key), ()
        except QueueUnavailable as error:
            return None, None, None, (str(error),)
