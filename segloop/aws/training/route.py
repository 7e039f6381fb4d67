"""Training jobs that the managed route's pipeline starts (aws/sagemaker.yaml), and segloop takes up.

They are known by the hyperparameters `segloop_route` (the pipeline's name), `segloop_project` and `segloop_generation`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from segloop.aws.clients import ATTEMPTS, Clients
from segloop.aws.training.jobs import TrainingJobs
from segloop.aws.training.pipelines import Pipeline
from segloop.aws.training.status import TrainingJob, status_of
from segloop.dataset import MANIFEST
from segloop.errors import TrainerUnavailable, TrainingError
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus

logger = logging.getLogger(__name__)

ROUTE, PROJECT, GENERATION = "segloop_route", "segloop_project", "segloop_generation"


@dataclass(frozen=True)
class RouteTraining:
    """A training job of a route: its name, the id of the project that it is for, and the count that started it."""

    job: str
    route: str
    project: int
    generation: str


def route_training(job: str, hyperparameters: Mapping[str, str]) -> RouteTraining | None:
    """The route's training that a job is, by its hyperparameters; None if it is none."""
    route, project = str(hyperparameters.get(ROUTE, "")), str(hyperparameters.get(PROJECT, ""))
    if not route or not (project.isascii() and project.isdigit()):
        return None
    return RouteTraining(job, route, int(project), str(hyperparameters.get(GENERATION, "")))


def route_trainings(settings: Settings, moment: datetime, attempts: int = ATTEMPTS) -> Iterator[RouteTraining]:
    """The trainings of the route that the setting `sagemaker_route` names, of the executions since then, oldest first.

    Raises:
        TrainingError: AWS refused.
        TrainerUnavailable: AWS cannot be reached now.
    """
    clients = Clients(settings, attempts)
    pipeline, jobs = Pipeline(clients, settings.sagemaker_route), TrainingJobs(clients)
    for execution in reversed(pipeline.since(moment)):
        for job in pipeline.jobs(execution):
            found = jobs.describe(job)
            training = route_training(job, found.get("HyperParameters", {})) if found is not None else None
            if training is not None:
                yield training


class AdoptedTraining:
    """The trainer of a training that a route has started: it is followed and its model taken, never submitted.

    Every method may raise what `Trainer` says.
    """

    def __init__(self, settings: Settings, job: str, project: int, attempts: int = ATTEMPTS) -> None:
        clients = Clients(settings, attempts)
        self._settings, self._jobs = settings, TrainingJobs(clients)
        self.job, self.project = job, project

    @property
    def poll_later_s(self) -> float | None:
        """The setting `sagemaker_poll_s`."""
        return self._settings.sagemaker_poll_s

    def fetch_snapshot(self, digest: str, folder: Path) -> bool:
        """There is none: the training takes its own, which comes with its model."""
        return False

    def submit(self, run: Run) -> None:
        """See that the training is the route's and the project's.

        Raises:
            TrainingError: it is another's.
        """
        training = route_training(self.job, self._described().get("HyperParameters", {}))
        if training is None or training.route != self._settings.sagemaker_route or training.project != self.project:
            raise TrainingError(
                f"The training job {self.job} is none of project {self.project} on the route "
                f"{self._settings.sagemaker_route} (SEGLOOP_SAGEMAKER_ROUTE)."
            )

    def poll(self, run: Run) -> RunStatus:
        """How the training is; `running`, with a line in the log, while AWS cannot be asked. One that was stopped has failed.

        Raises:
            TrainingError: there is none.
        """
        try:
            status = status_of(self._described(), self._settings.sagemaker_price_per_hour)
        except TrainerUnavailable as error:
            logger.warning("training job %s: %s", self.job, error)
            return RunStatus("running")
        # Nobody here can start it again.
        return RunStatus("failed", status.progress, status.reason) if status.state == "lost" else status

    def collect(self, run: Run) -> Path:
        """The bundle folder of the finished training, with the manifest that it learnt from, downloaded and checked once.

        Raises:
            TrainingError: what it left is no bundle.
        """
        bundle = run.folder / "model"
        if not bundle.is_dir():
            self._jobs.take_bundle(self._described(), bundle)
        if not (bundle / MANIFEST).is_file():
            raise TrainingError(
                f"The model of {self.job} has no {MANIFEST}: aws/sagemaker.yaml's code is of another time."
            )
        return bundle

    def stop(self, run: Run) -> None:
        """Stop the training, for good."""
        self._jobs.stop(self.job)

    def hyperparameters(self) -> dict[str, str]:
        """Those of the training itself, without the route's own."""
        given = self._described().get("HyperParameters", {})
        return {name: value for name, value in given.items() if not name.startswith("segloop_")}

    def _described(self) -> TrainingJob:
        job = self._jobs.describe(self.job)
        if job is None:
            raise TrainingError(f"SageMaker knows no training job {self.job}.")
        return job
