"""The functions that rq calls, one for each kind of job; `segloop.queue` names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rq import get_current_job

from segloop.errors import SegloopError
from segloop.settings import load_settings
from segloop.telemetry import tracing
from segloop.telemetry.notes import REQUEST_ID
from worker.jobs.accept import AcceptResult, run_accept
from worker.jobs.adopt import run_adopt
from worker.jobs.context import JobContext, make_trainer, project_id_of
from worker.jobs.feedback import tell_outcome
from worker.jobs.prelabel import PrelabelResult, run_prelabel
from worker.jobs.reconcile import run_reconcile
from worker.jobs.retrain import run_retrain
from worker.jobs.run_state import RetrainResult


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


def reconcile() -> dict[str, list[str]]:
    """The rq job that asks Label Studio what changed; see `run_reconcile`."""
    with _job("reconcile"), JobContext.open(load_settings()) as context:
        return run_reconcile(context)


@contextmanager
def _job(kind: str, project: str = "") -> Iterator[str]:
    """The job that this process runs: its id, which lines of the log carry from now on, and its span."""
    job = get_current_job()
    if job is None:
        raise SegloopError("This runs as a job of `segloop worker` only.")
    REQUEST_ID.set(job.id)
    with tracing.job_span(kind, job.id, project):
        yield job.id
