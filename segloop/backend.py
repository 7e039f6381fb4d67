"""The backend: setup, predict, fit and what else the surfaces call. Imports neither torch nor the SDK."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from segloop.errors import Busy, LabelConfigError, QueueUnavailable, RegistryError
from segloop.label_config import parse_label_config
from segloop.payloads import ANNOTATION_ACTIONS, START_TRAINING, Event, Predict, Setup
from segloop.policy import Thresholds, due_recipe, should_retrain
from segloop.projects import Projects
from segloop.serving import ServedModels
from segloop.serving.predict import Predictor, label_names, without_model
from segloop.settings import Settings

if TYPE_CHECKING:
    from segloop.images import Images
    from segloop.queue import Jobs
    from segloop.queue.status import JobStatus
    from segloop.registry import Registry
    from segloop.responses import (
        EventResponse,
        IsTraining,
        PredictResponse,
        SetupResponse,
        Training,
        ValidateResponse,
        VersionsResponse,
    )

logger = logging.getLogger(__name__)

#: Threads of a server process that no predict request takes.
SPARE_THREADS = 4
#: How long after its start a server process opens its queue, unless a request needs it before, in seconds.
_QUEUE_AFTER_S = 1.0


class Backend:
    """What every surface calls. Thread-safe; one per process.

    Attributes:
        projects: the connected projects, with each one's own settings.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        models: ServedModels,
        images: Images,
        open_jobs: Callable[[], Jobs],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._models = models
        self._images = images
        self._open_jobs = open_jobs
        self._jobs: Jobs | None = None
        self._opening = threading.Lock()
        self.projects = Projects(registry, settings)
        # Some threads stay free for /setup and /webhook, for which Label Studio waits 3 s and 1 s.
        self._predict_requests = min(settings.predict_requests, max(1, settings.threads - SPARE_THREADS))
        self._predicting = threading.BoundedSemaphore(self._predict_requests)
        self._predict_s = 1.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Backend:
        """A backend over the real registry, images and queue, following promotions from now on."""
        from segloop.images import ImageSource
        from segloop.labelstudio import Credentials
        from segloop.registry import open_registry

        registry = open_registry(settings)
        credentials = Credentials(settings.label_studio_url, settings.label_studio_api_key)
        images = ImageSource(settings, credentials, settings.data_dir / "cache" / "images")
        models = ServedModels(registry, settings)

        def open_jobs() -> Jobs:
            from segloop.queue import Jobs

            return Jobs.open(settings)

        backend = cls(settings, registry, models, images, open_jobs)
        models.start()
        # rq takes most of a second to import: /health answers before that, and no event has to wait for it
        later = threading.Timer(_QUEUE_AFTER_S, backend.jobs)
        later.daemon = True
        later.start()
        return backend

    # -- requests of Label Studio

    def setup(self, request: Setup, backend_url: str | None = None) -> SetupResponse:
        """The version that answers for a project. Loads no model; a millisecond or two.

        `backend_url` is the address that Label Studio called: by it this backend is found among others of the project.

        Raises:
            LabelConfigError: the label config cannot be used. (Extra params that cannot be used are left out, with a
                warning in the log and in the answer.)
        """
        config = parse_label_config(request.label_config)
        project = self.projects.key(request.project)
        self.projects.note(
            project,
            label_config=request.label_config,
            extra_params=request.extra_params,
            **({} if backend_url is None else {"backend_url": backend_url}),
        )
        answer: SetupResponse = {"model_version": self._models.version(project, label_names(config))}
        problems = [self.projects.problem(project), self._models.problem(project)]
        if any(problems):
            answer["warning"] = " ".join(problem for problem in problems if problem)
        return answer

    def predict(self, request: Predict) -> PredictResponse:
        """Predict every task of a request with one version, or answer a smart tool.

        Raises:
            BadRequest: the label config or the smart tool's context cannot be used.
            ModelUnavailable, RegistryError: the version that the project serves cannot be loaded now.
            Busy: as many requests as can be answered in time are under way, or the network is not ready in time.
        """
        if not self._predicting.acquire(blocking=False):
            raise Busy(
                f"{self._predict_requests} predict requests are under way here; ask again in a moment.",
                retry_after_s=max(1, math.ceil(self._predict_s)),
            )
        began = time.monotonic()
        try:
            return self._predict(request)
        finally:
            # a moving average: how long until one of those under way is likely to end
            self._predict_s += 0.2 * (time.monotonic() - began - self._predict_s)
            self._predicting.release()

    def _predict(self, request: Predict) -> PredictResponse:
        deadline = time.monotonic() + self._settings.predict_deadline_s
        config = parse_label_config(request.label_config)
        project = self.projects.key(request.project)
        model = self._models.current(project, label_names(config), deadline)
        if model is None:
            nothing = without_model(len(request.tasks), interactive=request.context is not None)
            return {"results": nothing, "model_version": self._models.version(project, label_names(config))}
        predictor = Predictor(config, model, self._images, self.projects.settings(project), deadline)
        if request.context is None:
            return {"results": predictor.predict(request.tasks), "model_version": model.version}
        answers = [predictor.answer(task, request.context) for task in request.tasks]
        return {"results": [*answers], "model_version": model.version}

    def fit(self, event: Event) -> EventResponse:
        """Handle an event of Label Studio: count what changed, and queue a retrain if it is time. Milliseconds.

        Raises:
            QueueUnavailable: a training was asked for and Redis is away. (An annotation event is then deferred: a
                worker counts its change when it next asks Label Studio, if it has a key for that.)
        """
        project = self.projects.key(event.project)
        if event.label_config is not None:
            self.projects.note(project, label_config=event.label_config)
        if event.action == START_TRAINING:
            return self.start_training(project)
        if event.action in ANNOTATION_ACTIONS:
            try:
                return self._annotations_changed(project, event)
            except QueueUnavailable as error:
                logger.warning("project %s: %s deferred: %s", project, event.action, error)
                return {"status": "deferred", "message": self._deferred()}
        return {"status": "ignored", "message": f"{event.action} changes nothing here."}

    def versions(self, project: object | None) -> VersionsResponse:
        """Versions of a project, oldest first, and the one that answers now; without a project, those of all."""
        if project is None:
            return {"versions": self._registry.all_version_names()}
        key = self.projects.connected(project)
        return {
            "versions": [info.version for info in self._registry.versions(key)],
            "model_version": self.served(key),
        }

    def job_status(self, job_id: str) -> JobStatus:
        """State and progress of a job.

        Raises:
            JobNotFound: the queue does not know the job.
        """
        return self.jobs().job_status(job_id)

    def is_training(self, project: object) -> IsTraining | Training:
        """Whether a retrain of the project is queued or runs, and how far it is."""
        key = self.projects.connected(project)
        live = self.jobs().live_retrain(key)
        version = self.served(key)
        if live is None:
            return {"is_training": False, "backend": "redis", "model_version": version}
        return {"is_training": True, "backend": "redis", "model_version": version, "job_id": live["job"], **live}

    def validate(self, label_config: str) -> ValidateResponse:
        """The classes of a label config, and the control tag that each is predicted with.

        Raises:
            LabelConfigError: the config cannot be used.
        """
        config = parse_label_config(label_config)
        outputs = {
            image.name: {
                name: control.name for name, control in config.outputs(image.name, self._settings.output_tag).items()
            }
            for image in config.images
        }
        return {"status": "ok", "classes": list(config.classes), "outputs": outputs}

    # -- for operators and the status page

    @property
    def models(self) -> ServedModels:
        """The served models."""
        return self._models

    @property
    def registry(self) -> Registry:
        """The store of versions."""
        return self._registry

    def jobs(self) -> Jobs:
        """The queue; opened with the first call."""
        with self._opening:
            if self._jobs is None:
                self._jobs = self._open_jobs()
            return self._jobs

    def served(self, project: str) -> str:
        """The version that answers for a project now. Loads no model."""
        text = self.projects.notes(project).label_config
        try:
            labels = label_names(parse_label_config(text)) if text else {}
        except LabelConfigError:
            labels = {}
        return self._models.version(project, labels)

    def start_training(self, project: str) -> EventResponse:
        """Queue a full retrain, or join the one under way: what Start Training does.

        Raises:
            QueueUnavailable: Redis is away.
        """
        queued = self.jobs().enqueue_retrain(project, "someone pressed Start Training")
        if self._settings.tells_studio:
            self.jobs().enqueue_feedback(project)
        if not queued.joined:
            return {"status": "queued", "job": queued.job_id, "message": "The training is queued."}
        message = "A training of this project is under way; this joins it, and what changed since it began follows in another."
        return {"status": "joined", "job": queued.job_id, "message": message}

    def close(self) -> None:
        """Stop following promotions, and write the notes of projects that are not stored yet."""
        self._models.stop()
        self.projects.close()

    # -- events

    def _deferred(self) -> str:
        """What becomes of a change that cannot be counted now."""
        if self._settings.label_studio_api_key.get_secret_value():
            return "The queue (Redis) is away, so this is not counted now; a worker counts it when it next asks Label Studio."
        return (
            "The queue (Redis) is away, so this is not counted, and no worker can ask Label Studio for it: set "
            "LABEL_STUDIO_API_KEY, or press Start Training once Redis is back."
        )

    def _annotations_changed(self, project: str, event: Event) -> EventResponse:
        changes = self.jobs().changes.record(project, event.changed)
        settings = self.projects.settings(project)
        thresholds = Thresholds(settings.retrain_threshold, settings.adapt_threshold)
        due = due_recipe(changes, thresholds)
        decision = should_retrain(
            event="annotations",
            changes=changes,
            thresholds=thresholds,
            live=None if due is None else self.jobs().live(project),
            has_backbone=due == "quick" and self._has_backbone(project, settings),
        )
        answer: EventResponse = {
            "status": "counted",
            "changed_tasks": changes.full,
            "threshold": thresholds.full,
            "message": decision.reason,
        }
        if decision.act:
            queued = self.jobs().enqueue_retrain(project, decision.reason, decision.recipe)
            answer |= {
                "status": "joined" if queued.joined else "queued",
                "job": queued.job_id,
                "recipe": decision.recipe,
            }
        return answer

    def _has_backbone(self, project: str, settings: Settings) -> bool:
        """Whether there may be a backbone for a quick adaptation. Whether weights can be had is the worker's to find
        out, on its machine: without them it makes the adaptation a full training."""
        if settings.weights != "none":
            return True
        try:
            return self._registry.champion(project) is not None
        except RegistryError as error:
            logger.warning("project %s: its served version cannot be asked for: %s", project, error)
            return False
