"""Names, limits and keys of the queue."""

from __future__ import annotations

from segloop.errors import (
    DiskFull,
    ImageUnavailable,
    LabelStudioUnreachable,
    QueueUnavailable,
    RegistryError,
    TrainerUnavailable,
)

RETRAIN_QUEUE = "segloop-retrain"
PRELABEL_QUEUE = "segloop-prelabel"
#: Questions to Label Studio what changed; every worker listens to it, after its own queues.
RECONCILE_QUEUE = "segloop-reconcile"
QUEUES = (RETRAIN_QUEUE, PRELABEL_QUEUE, RECONCILE_QUEUE)

#: The functions that a job may call, which rq imports by these names, and the number of arguments of each.
RETRAIN = "worker.jobs.entry_points.retrain"
ADOPT = "worker.jobs.entry_points.adopt"
PRELABEL = "worker.jobs.entry_points.prelabel"
RECONCILE = "worker.jobs.entry_points.reconcile"
ACCEPT = "worker.jobs.entry_points.accept"
FEEDBACK = "worker.jobs.entry_points.feedback"
LOOK_UP = "worker.jobs.entry_points.look_up"
FUNCTIONS = {RETRAIN: 1, ADOPT: 2, PRELABEL: 2, RECONCILE: 1, ACCEPT: 1, FEEDBACK: 1, LOOK_UP: 0}
#: The queue of each.
QUEUE_OF = {
    RETRAIN: RETRAIN_QUEUE,
    ADOPT: RETRAIN_QUEUE,
    PRELABEL: PRELABEL_QUEUE,
    ACCEPT: PRELABEL_QUEUE,
    FEEDBACK: PRELABEL_QUEUE,
    RECONCILE: RECONCILE_QUEUE,
    LOOK_UP: RECONCILE_QUEUE,
}

#: How long a job's outcome can be asked for after its end, in seconds.
RESULT_TTL_S = 7 * 24 * 3600
#: For how long changes that were asked to be left out are, in seconds: events may come late.
IGNORED_TTL_S = 24 * 3600
#: How often a job is started again after its worker or its process died.
MAX_RETRIES = 3
#: What rq says of a job that will still run or runs.
UNFINISHED = ("queued", "started", "scheduled")

#: Errors that pass by themselves: a job that meets one is tried again later.
OUTAGES = (DiskFull, ImageUnavailable, LabelStudioUnreachable, QueueUnavailable, RegistryError, TrainerUnavailable)


class JobTimeout(BaseException):
    """A job took longer than `job_timeout_s`. No Exception: what goes on after one bad task must not go on after it."""


class Parked(BaseException):
    """A job has nothing to do for `delay_s` seconds: it is taken off its worker, and run again then."""

    def __init__(self, delay_s: float) -> None:
        super().__init__(f"to be run again in {delay_s:.0f} s")
        self.delay_s = delay_s


def key_of(project: str, name: str) -> str:
    """Redis key of something of a project."""
    return f"segloop:{project}:{name}"
