"""What is told of a job."""

from __future__ import annotations

import re
from typing import Any

from rq.job import Job


def describe(job: Job) -> dict[str, Any]:
    """State of a job under label-studio-ml's keys, and its progress."""
    status = str(job.get_status(refresh=False).value)
    described: dict[str, Any] = {
        "job": job.id,
        "job_status": status,
        "error": _reason(job) if status == "failed" else None,
        **{
            name: moment.isoformat() if (moment := getattr(job, name)) is not None else None
            for name in ("created_at", "enqueued_at", "started_at", "ended_at")
        },
        **{name: job.meta.get(name) for name in ("kind", "project", "reason", "progress", "curves")},
    }
    if status == "finished":
        described["result"] = job.return_value()
    return described


def _reason(job: Job) -> str | None:
    """The sentence of a failed job's traceback: its last line, without the exception's name."""
    result = job.latest_result()
    lines = (result.exc_string or "").strip().splitlines() if result is not None else []
    return re.sub(r"^[\w.]+: ", "", lines[-1]) if lines else None
