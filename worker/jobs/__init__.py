"""The jobs: retrain, prelabel, reconcile. Each may be killed anywhere and started again, and ends the same."""

from __future__ import annotations

from typing import Any

from rq import get_current_job

from segloop.errors import SegloopError
from segloop.settings import load_settings
from worker.jobs.prelabelling import run_prelabel
from worker.jobs.reconciliation import run_reconcile
from worker.jobs.retraining import run_retrain
from worker.jobs.workshop import Workshop, make_trainer

__all__ = ["Workshop", "prelabel", "reconcile", "retrain", "run_prelabel", "run_reconcile", "run_retrain"]


def retrain(project: str) -> dict[str, Any]:
    """The rq job of a retrain; see `run_retrain`."""
    settings = load_settings()
    with Workshop.open(settings, make_trainer(settings)) as shop:
        return run_retrain(shop, project, _job_id())


def prelabel(project: str, version: str) -> dict[str, Any]:
    """The rq job that predicts the unlabelled tasks; see `run_prelabel`."""
    with Workshop.open(load_settings()) as shop:
        return run_prelabel(shop, project, version, _job_id())


def reconcile() -> dict[str, Any]:
    """The rq job that asks Label Studio what changed; see `run_reconcile`."""
    with Workshop.open(load_settings()) as shop:
        return run_reconcile(shop)


def _job_id() -> str:
    job = get_current_job()
    if job is None:
        raise SegloopError("This runs as a job of `segloop worker` only.")
    return job.id
