"""Which version answers for each project, and its replacement while requests run."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from segloop.errors import Busy, EngineError, ModelUnavailable, SegloopError
from segloop.project_ids import project_id
from segloop.serving.cache import PredictionCache
from segloop.serving.loading import SingleFlight
from segloop.serving.model import ServedModel, load_served_model
from segloop.serving.pretrained import PretrainedModels
from segloop.telemetry.notes import note

if TYPE_CHECKING:
    from segloop.registry import Generations, Registry
    from segloop.settings import Settings

logger = logging.getLogger(__name__)

#: The version that answers where nothing is trained and no pretrained weights apply: it predicts nothing.
UNTRAINED = "untrained"

#: How long a version that could not be loaded is left alone before the next try, in seconds.
RETRY_S = 30.0

#: How often a process that is not ready tries to load what it lacks, in seconds.
PRELOAD_AGAIN_S = 5.0

#: How often each pointer is read for itself, in seconds: whoever moved it may have died before the index of all said so.
RECHECK_S = 30.0

#: How long a request waits for the store, in seconds: Label Studio gives /setup 3 s.
STORE_PATIENCE_S = 1.0

_POINTER = "the store has not answered yet; what is served"

Loader = Callable[["Registry", str, str, "Settings"], ServedModel]


class ServedModels:
    """The served model of each project, in one server process.

    A request takes its model once, through `current`, and keeps that reference to its end. `refresh` follows
    the champion pointers, with one call of the store while none moves: it loads and warms up a new champion beside the
    old one and then replaces one reference; the old network is freed with its last request.
    """

    def __init__(self, registry: Registry, settings: Settings, load: Loader = load_served_model) -> None:
        self._registry = registry
        self._settings = settings
        self._load = load
        self._cache = PredictionCache(settings.prediction_cache_bytes)
        self._loading = SingleFlight()
        self._reading = SingleFlight()
        # projects whose pointer could not be read the last time
        self._unread: set[str] = set()
        self._pretrained = PretrainedModels(settings, self._cache, self._loading)
        self._models: OrderedDict[str, ServedModel] = OrderedDict()
        self._champions: dict[str, tuple[float, str | None]] = {}
        # the generations of all pointers as they were last, and of each loaded project the one whose pointer was read, and when
        self._generations: Generations | None = None
        self._followed: dict[str, tuple[float, int | None]] = {}
        # when a version could not be loaded and, if that was for want of an export, why
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}
        self._state = threading.Lock()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self._readiness = "promoted versions are being loaded"

    def version(self, project: str, labels: Mapping[str, Sequence[str]]) -> str:
        """The version that `/predict` would answer with. Loads no model and takes milliseconds."""
        with self._state:
            loaded = self._models.get(project)
        if loaded is not None:
            return loaded.version
        champion = self._champion(project)
        if champion is not None:
            return champion
        return self._pretrained.version if self._pretrained.answers(labels) else UNTRAINED

    def problem(self, project: str) -> str:
        """Why the weights that a project without a version begins with cannot be had, and what to do; "" otherwise.

        Of what is known: loads no model and takes milliseconds.
        """
        with self._state:
            loaded = self._models.get(project)
        if loaded is not None or self._champion(project) is not None:
            return ""
        self._pretrained.want()
        return self._pretrained.state.sentence

    def current(
        self, project: str, labels: Mapping[str, Sequence[str]], deadline: float | None = None
    ) -> ServedModel | None:
        """The served model of a project, loaded if need be; None where there is nothing to predict with.

        Raises:
            RegistryError: the champion is not known, as the store cannot be read.
            ModelUnavailable: the champion cannot be loaded.
            Busy: it was not loaded before `deadline`, of `time.monotonic`; the loading goes on.
        """
        with self._state:
            loaded = self._models.get(project)
            if loaded is not None:
                self._models.move_to_end(project)
                return loaded
        champion = self._champion(project)
        if champion is None:
            return self._pretrained.model(project, labels, deadline)
        what = f"project {project_id(project)}: {champion}"
        try:
            return self._loading.get((project, champion), lambda: self._first(project, champion), what, deadline)
        except Busy:
            raise
        except SegloopError as error:
            raise ModelUnavailable(f"{what}, which it serves, cannot be loaded: {error}") from error
        except Exception as error:
            logger.exception("%s cannot be loaded", what)
            raise ModelUnavailable(f"{what}, which it serves, cannot be loaded; the log says why.") from error

    def _first(self, project: str, version: str) -> ServedModel:
        """The first served model of a project: this version, unless one was loaded meanwhile."""
        with self._state:
            loaded = self._models.get(project)
        if loaded is not None:
            return loaded
        _, no_export = self._failed.get((project, version), (0.0, ""))
        if no_export and self._failed_lately(project, version):
            # another try takes long and fails too: requests must not queue up for it
            raise EngineError(no_export)
        for counter in ("swap", "swap_failure"):
            note(counter, (project,), 0)  # a series that begins with its first event hides it from queries
        return self._replace(project, version)

    def refresh(self) -> None:
        """Follow the champion pointers of the loaded projects, once. Never raises: what cannot be loaded is
        logged and tried again later, and the old version goes on answering."""
        with self._state:
            projects = {project: model.version for project, model in self._models.items()}
        self._look_at_moved(projects)
        for project, version in projects.items():
            try:
                champion = self._champions.get(project, (0.0, None))[1]
                if champion is None or champion == version or self._failed_lately(project, champion):
                    continue
                self._swap(project, champion)
                note("swap", (project,))
                logger.info("project %s: now serving %s instead of %s", project, champion, version)
            except SegloopError as error:
                note("swap_failure", (project,))
                logger.error("project %s: still serving %s: %s", project, version, error)
            except Exception:
                note("swap_failure", (project,))
                logger.exception("project %s: still serving %s", project, version)

    def _look_at_moved(self, projects: Iterable[str]) -> None:
        """Read the pointers of those projects that moved, by the index of all, and of those not looked at for long."""
        try:
            self._generations = self._registry.generations(self._generations)
        except SegloopError:
            self._generations = None  # each pointer then says what is wrong
        now = time.monotonic()
        for project in projects:
            read_at, followed = self._followed.get(project, (-1e9, None))
            if self._generations is not None:
                generation = self._generations.of.get(project)
                if generation == followed and now - read_at < RECHECK_S:
                    continue
                self._followed[project] = (now, generation)
            try:
                self._champion(project, fresh=True)
            except Exception:
                logger.exception("project %s: its champion pointer cannot be read", project)
                self._followed.pop(project, None)
            if project in self._unread:
                self._followed.pop(project, None)

    def _swap(self, project: str, version: str) -> None:
        self._loading.get((project, version, "swap"), lambda: self._replace(project, version), version)

    def served(self) -> dict[str, str]:
        """The loaded version of each project that has one loaded."""
        with self._state:
            return {project: model.version for project, model in self._models.items()}

    @property
    def cache_nbytes(self) -> int:
        """Bytes of memory that the prediction cache holds."""
        return self._cache.nbytes

    def readiness(self) -> str:
        """ "ready" once a request need not wait for a promoted version to be loaded, else why not.

        A version that cannot be loaded holds up its own project alone, so long as others could be.
        """
        return self._readiness

    def preload(self) -> None:
        """Load the champions of the projects in the registry, as many as are kept."""
        try:
            projects = self._registry.projects()
        except SegloopError as error:
            logger.error("cannot list projects: %s", error)
            self._readiness = "the store's projects cannot be listed"
            return
        if not projects:
            self._pretrained.want()
        failed = []
        for project in projects[-self._settings.served_models :]:
            try:
                if self._champion(project) is not None:
                    self.current(project, {})
                else:
                    self._pretrained.want()
                continue
            except SegloopError as error:
                logger.error("project %s: %s", project, error)
            except Exception:
                logger.exception("project %s: its champion cannot be loaded", project)
            failed.append(project)
        self._readiness = "no promoted version could be loaded" if failed and not self.served() else "ready"

    def start(self) -> None:
        """Watch the champion pointers in a thread, until `stop`."""
        self._watcher = threading.Thread(target=self._watch, name="swap-watcher", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """End the watcher."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join(timeout=10)

    def _watch(self) -> None:
        self.preload()
        self._pretrained.look_if_due()
        tried_at = time.monotonic()
        while not self._stop.wait(self._settings.swap_poll_s):
            try:
                if self._readiness != "ready" and time.monotonic() - tried_at > PRELOAD_AGAIN_S:
                    self.preload()
                    tried_at = time.monotonic()
                self.refresh()
                self._pretrained.look_if_due()
            except Exception:
                logger.exception("the swap watcher failed; it goes on")

    def _replace(self, project: str, version: str) -> ServedModel:
        try:
            model = self._load(self._registry, project, version, self._settings)
            model = replace(model, cache=self._cache)
            model.warm_up()
        except Exception as error:
            self._failed[project, version] = (time.monotonic(), str(error) if isinstance(error, EngineError) else "")
            raise
        with self._state:
            self._models[project] = model
            self._models.move_to_end(project)
            while len(self._models) > self._settings.served_models:
                self._models.popitem(last=False)
        return model

    def _failed_lately(self, project: str, version: str) -> bool:
        failed_at, _ = self._failed.get((project, version), (-RETRY_S, ""))
        return time.monotonic() - failed_at < RETRY_S

    def _champion(self, project: str, *, fresh: bool = False) -> str | None:
        """The champion's version, at most one poll old; while the store is away, the last one known."""
        now = time.monotonic()
        read_at, version = self._champions.get(project, (-1e9, None))
        if not fresh and now - read_at < self._settings.swap_poll_s:
            return version
        deadline = None if fresh else now + STORE_PATIENCE_S
        try:
            # in a thread of its own: a request must not wait for a store that hangs
            champion = self._reading.get(project, lambda: self._registry.champion(project), _POINTER, deadline)
        except SegloopError as error:
            if read_at < 0:
                raise
            if project not in self._unread:
                logger.warning(
                    "project %s: the champion pointer cannot be read; taking %s: %s", project, version, error
                )
            self._unread.add(project)
        else:
            version = champion.version if champion is not None else None
            self._unread.discard(project)
        self._champions[project] = (now, version)
        return version
