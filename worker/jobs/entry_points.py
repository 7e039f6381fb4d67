"""The functions that rq calls, one for each kind of job; `segloop.queue` names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rq import get_current_job

from segloop.errors import SegloopError
from segloop.queue import Parked
from segloop.settings import load_settings
from segloop.telemetry import tracing
from segloop.telemetry.notes import REQUEST_ID
from worker.jobs.accept import AcceptResult, run_accept
from worker.jobs.adopt import run_adopt, take_up_missed
from worker.jobs.context import JobContext, make_trainer, project_id_of
from worker.jobs.feedback import tell_outcome
from worker.jobs.prelabel import PrelabelResult, run_prelabel
from worker.jobs.reconcile import run_reconcile
from worker.jobs.retrain import run_retrain
from worker.jobs.run_state import RetrainResult

#: How often in an interval a project's question makes room for predictions, and for how long, in seconds.
MOST_PUT_OFF: Final = 3
PUT_OFF_S: Final = 5.0


def retrain(project: str) -> RetrainResult:
    """The rq job of a retrain; see `run_retrain`."""
    settings = load_settings()
    with _job("retrain", project) as job_id, JobContext.open(settings, make_trainer(settings)) as context:
        return run_retrain(context, project, job_id)


def adopt(project: str, training: str) -> RetrainResult:
    """The rq job that follows a training of the managed route; see `run_adopt`."""
    from segloop.aws.training.route import AdoptedTraining

    settings = load_settings()
    with _job("adopt", project) as job_id, JobContext.open(settings) as context:
        return run_adopt(context, project, AdoptedTraining(settings, training, project_id_of(project)), job_id)


def prelabel(project: str, version: str) -> PrelabelResult:
    """The rq job that predicts the unlabelled tasks; see `run_prelabel`."""
    with _job("prelabel", project) as job_id, JobContext.open(load_settings()) as context:
        return run_prelabel(context, project, version, job_id)


def accept(project: str) -> AcceptResult:
    """The rq job that accepts pre-labels; see `run_accept`."""
    with _job("accept", project) as job_id, JobContext.open(load_settings()) as context:
        return run_accept(context, project, job_id)


def feedback(project: str) -> None:
    """The rq job that has Label Studio say how far a training is; see `tell_outcome`."""
    with _job("feedback", project), JobContext.open(load_settings()) as context:
        tell_outcome(context, project)


def reconcile(project: str) -> dict[str, list[str]]:
    """The rq job that asks Label Studio what changed in a project; see `run_reconcile`.

    Raises:
        Parked: its worker has predictions to make first.
    """
    with _job("reconcile", project) as job_id, JobContext.open(load_settings()) as context:
        job = context.jobs.fetch(job_id)
        worker = "" if job is None else str(job.worker_name)

        def step_aside() -> None:
            reconciles = context.jobs.reconciles
            if reconciles.is_in_the_way(worker) and reconciles.step_aside(project, MOST_PUT_OFF):
                raise Parked(PUT_OFF_S)

        return run_reconcile(context, project, step_aside)


def look_up() -> dict[str, list[str]]:
    """The rq job that finds trainings of the managed route that no event told of; see `take_up_missed`."""
    with _job("look-up"), JobContext.open(load_settings()) as context:
        return {"queued": take_up_missed(context)}


@contextmanager
def _job(kind: str, project: str = "") -> Iterator[str]:
    """The job that this process runs: its id, which lines of the log carry from now on, and its span."""
    job = get_current_job()
    if job is None:
        raise SegloopError("This runs as a job of `segloop worker` only.")
    REQUEST_ID.set(job.id)
    with tracing.job_span(kind, job.id, project):
        yield job.id
