"""The status of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from rq.job import Job

from segloop.metrics.curves import CurvesByName
from segloop.policy import Recipe
from segloop.progress import Progress, read_progress


class JobStatus(TypedDict):
    """State of a job under label-studio-ml's keys, and its progress. Moments are in ISO 8601."""

    job: str
    job_status: str
    error: str | None
    created_at: str | None
    enqueued_at: str | None
    started_at: str | None
    ended_at: str | None
    kind: str | None
    project: str | None
    reason: str | None
    progress: Progress | None
    curves: CurvesByName | None
    #: Of a job that finished: what it returned.
    result: NotRequired[Mapping[str, Any] | None]
    #: Of a retrain that is queued or runs.
    recipe: NotRequired[Recipe]


def describe(job: Job) -> JobStatus:
    """The status of a job."""
    status = str(job.get_status(refresh=False).value)
    described: JobStatus = {
        "job": job.id,
        "job_status": status,
        "error": _reason(job) if status == "failed" else None,
        "created_at": _iso(job.created_at),
        "enqueued_at": _iso(job.enqueued_at),
        "started_at": _iso(job.started_at),
        "ended_at": _iso(job.ended_at),
        "kind": job.meta.get("kind"),
        "project": job.meta.get("project"),
        "reason": job.meta.get("reason"),
        "progress": read_progress(job.meta.get("progress")),
        "curves": job.meta.get("curves"),
    }
    if status == "finished":
        described["result"] = job.return_value()
    return described


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _reason(job: Job) -> str | None:
    """The sentence of a failed job's traceback: its last line, without the exception's name."""
    result = job.latest_result()
    lines = (result.exc_string or "").strip().splitlines() if result is not None else []
    return re.sub(r"^[\w.]+: ", "", lines[-1]) if lines else None
