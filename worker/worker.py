"""The rq worker: one that can be killed anywhere, and whose jobs then go on in the next.

What rq 3.0 leaves open and this closes: the process that runs a job outlives a killed worker; the dead worker's
job stays "started" for minutes; a job that was taken off a queue but not yet registered is lost or failed;
a restart of Redis ends a worker in the middle of a job; an interrupted job counts as failed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import rq
from redis.exceptions import RedisError
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from segloop.errors import (
    QueueUnavailable,
    RegistryError,
    SegloopError,
    TrainerUnavailable,
    TrainingError,
    VersionNotFound,
)
from segloop.processes import die_with_parent
from segloop.queue import OUTAGES, Jobs, JobTimeout, Parked, WorkerLocks, route_reason, take_up
from segloop.registry import Registry, open_registry
from segloop.settings import Settings

if TYPE_CHECKING:
    from segloop.aws.training.events import Events
    from segloop.aws.training.route import RouteTraining

logger = logging.getLogger(__name__)

#: Serving stays responsive beside the jobs.
NICENESS = 10
#: How often a worker looks for jobs of dead workers and for those that are due, in seconds.
TICK_S = 5
#: How often the heartbeat of a running job is renewed, in seconds; it counts for a minute more.
HEARTBEAT_S = 10
#: When a job that met an outage is tried again, and for how long that goes on.
RETRY_LATER_S = 30.0
OUTAGE_LIMIT = timedelta(hours=24)


class Interrupted(BaseException):
    """The worker is to stop: raised in the process that runs a job, which is then queued again."""


class SafeQueue(rq.Queue):
    """An rq queue that never drops the id of a job that it hands out, however many queues a worker listens to."""

    @classmethod
    def lpop(cls, queue_keys: Sequence[str], timeout: int | None, connection: Any = None) -> tuple[str, bytes] | None:
        """Take the next id of several queues by way of the intermediate queue, as rq does for one queue."""
        deadline = time.monotonic() + (timeout or 0)
        while True:
            for key in queue_keys:
                job_id = connection.lmove(key, IntermediateQueue.get_intermediate_queue_key(key))
                if job_id is not None:
                    return key, job_id
            if timeout is None:
                return None
            if time.monotonic() > deadline:
                raise DequeueTimeout(timeout, queue_keys)
            first = queue_keys[0]
            job_id = connection.blmove(first, IntermediateQueue.get_intermediate_queue_key(first), 0.5)
            if job_id is not None:
                return first, job_id


class DeathPenalty(UnixSignalDeathPenalty):
    """As rq's; but the end of a job's time is no Exception."""

    def __init__(self, timeout: int, exception: type[BaseException], **kwargs: Any) -> None:
        super().__init__(timeout, JobTimeout if exception is JobTimeoutException else exception, **kwargs)  # type: ignore[no-untyped-call]


class Worker(rq.Worker):
    """Runs jobs, one at a time, each in a process of its own that ends with this one."""

    queue_class = SafeQueue
    death_penalty_class = DeathPenalty

    def __init__(self, settings: Settings, queues: Sequence[str], jobs: Jobs) -> None:
        self._settings = settings
        self._jobs = jobs
        self._locks = WorkerLocks(settings.data_dir.absolute() / "workers")
        # Before this worker is known, whoever else listens to its queues is another.
        self.recover()
        name, self._lock = self._locks.register()
        super().__init__(
            list(queues),
            name=name,
            connection=jobs.connection,
            serializer=JSONSerializer,
            worker_ttl=TICK_S + 15,
            maintenance_interval=TICK_S,
            job_monitoring_interval=HEARTBEAT_S,
            log_job_description=False,
        )
        self.is_stopping = False
        self._events: Events | None = None
        self._registry: Registry | None = None

    def close(self) -> None:
        """Give up this worker's lock; to be called when it does not work any more."""
        os.close(self._lock)
        self._locks.forget(self.name)

    def _set_ip_address(self, connection: Any) -> None:
        # Only for show; and redis-py 8.1 cannot parse CLIENT INFO where the socket's path has a space.
        self.ip_address = "unknown"

    # -- jobs of the dead, and those that are due

    def recover(self) -> None:
        """Queue the jobs of dead workers again, and forget the dead."""
        dead = list(self._locks.dead())
        for job_id in self._jobs.recovery.recover(self._locks.is_dead):
            logger.warning("job %s was abandoned by its worker", job_id)
        for name in dead:
            self._jobs.recovery.forget_worker(name)
            self._locks.forget(name)

    def run_maintenance_tasks(self) -> None:
        """What rq does every ten minutes, every few seconds and without its guesses about who is dead."""
        self.last_cleaned_at = datetime.now(UTC)  # type: ignore[assignment]
        try:
            self.recover()
            self._jobs.recovery.enqueue_due()
            if self._settings.label_studio_api_key.get_secret_value() and self._jobs.reconcile_is_due():
                self._jobs.enqueue_reconcile()
            self._take_events()
        except QueueUnavailable as error:
            logger.warning("worker %s: %s", self.name, error)

    def _take_events(self) -> None:
        """Run parked retrains now whose training, as a queue of AWS tells, has ended."""
        if not self._settings.sagemaker_events:
            return
        from segloop.aws.training.events import Events

        try:
            if self._events is None:
                self._events = Events(self._settings, self._settings.sagemaker_events)
            self._events.take(self._jobs.hasten, self._take_up)
        except (TrainingError, TrainerUnavailable, RegistryError) as error:
            logger.warning("worker %s: %s Polling goes on.", self.name, error)

    def _take_up(self, training: RouteTraining) -> None:
        """Have a job follow a training that the managed route started."""
        if training.route != self._settings.sagemaker_route:
            logger.info(
                "training job %s is of the route %s, not SEGLOOP_SAGEMAKER_ROUTE: ignored", training.job, training.route
            )
            return
        if self._registry is None:
            self._registry = open_registry(self._settings)
        take_up(self._jobs, self._registry, training.project, training.job, route_reason(training.generation))

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """As rq; but while Redis is away, the job goes on."""
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            logger.warning("worker %s: no heartbeat for job %s: %s", self.name, job.id, error)

    # -- the process of a job

    def main_work_horse(self, job: Job, queue: rq.Queue) -> None:
        """As rq, in a process that ends with the worker and gives way to the server."""
        assert self.pid is not None  # noqa: S101 - set for every worker that works
        die_with_parent(signal.SIGKILL, self.pid)
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        super().main_work_horse(job, queue)

    def setup_work_horse_signals(self) -> None:
        """SIGTERM interrupts the job; Ctrl-C is the worker's to handle."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _interrupt)

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """As rq; `SafeQueue` puts every job through the intermediate queue."""
        super().prepare_job_execution(job, remove_from_intermediate_queue=True)

    def _finalize_failure(self, job: Job, queue: rq.Queue, execution: Execution, exc_info: Any) -> None:
        """As rq; but an interrupted job is queued again, and one that met an outage later; no other segloop error is retried."""
        error = exc_info[1]
        if isinstance(error, Interrupted):
            logger.info("job %s: interrupted, queued again", job.id)
            self._jobs.recovery.postpone(execution, queue)
            return
        if isinstance(error, Parked):
            self._jobs.recovery.postpone(execution, queue, error.delay_s)
            return
        if isinstance(error, OUTAGES) and not isinstance(error, VersionNotFound):
            if datetime.now(UTC) - job.created_at < OUTAGE_LIMIT:
                logger.warning("job %s: %s Trying again in %d s.", job.id, error, RETRY_LATER_S)
                message = f"{error} Trying again every {RETRY_LATER_S:.0f} s."
                self._jobs.report(job.id, {"phase": "waiting", "message": message})
                self._jobs.recovery.postpone(execution, queue, RETRY_LATER_S)
                return
            self._jobs.restore_changes(str(job.meta.get("project")))
        if isinstance(error, (SegloopError, JobTimeout)):
            job.retries_left = 0
        super()._finalize_failure(job, queue, execution, exc_info)

    # -- stopping

    def request_stop(self, signum: int, frame: Any) -> None:
        """The first SIGINT or SIGTERM interrupts the job and ends the worker; the second kills both."""
        self.is_stopping = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def handle_warm_shutdown_request(self) -> None:
        """Interrupt the job instead of waiting for its end."""
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGTERM)


def _interrupt(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Interrupted
