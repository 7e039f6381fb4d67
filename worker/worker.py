"""The rq worker: one that can be killed anywhere, and whose jobs then go on in the next.

Each method that overrides one of rq 3.0 says which fault it closes, and tests/integration/test_worker.py has the fault.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rq
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from segloop.errors import (
    ImageUnavailable,
    ModelRemoved,
    QueueUnavailable,
    RegistryError,
    SegloopError,
    TrainerUnavailable,
    TrainingError,
    VersionNotFound,
)
from segloop.policy import RetrainDecision
from segloop.processes import die_with_parent
from segloop.queue import (
    OUTAGES,
    RECONCILE_QUEUE,
    Jobs,
    JobTimeout,
    Parked,
    WorkerLocks,
    route_reason,
    take_up,
)
from segloop.queue.names import ADOPT, MAX_RETRIES, RETRAIN
from segloop.queue.own import OwnJob, OwnQueue
from segloop.registry import Registry, open_registry
from segloop.settings import Settings
from worker.jobs.mirrors import forget_snapshot
from worker.jobs.run_state import run_folder

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
LONGEST_RETRY_S = 600.0
OUTAGE_LIMIT = timedelta(hours=24)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The worker is to stop: raised in the process that runs a job, which is then queued again."""


class DeathPenalty(UnixSignalDeathPenalty):
    """As rq's; but the end of a job's time is no Exception."""

    def __init__(self, timeout: int, exception: type[BaseException], **kwargs: Any) -> None:
        super().__init__(timeout, JobTimeout if exception is JobTimeoutException else exception, **kwargs)  # type: ignore[no-untyped-call]


def heartbeat_file(settings: Settings, queues: Sequence[str]) -> Path:
    """The file that a worker of these queues touches every few seconds, such as heartbeats/retrain in the data folder."""
    return settings.data_dir.absolute() / "heartbeats" / "-".join(name.removeprefix("segloop-") for name in queues)


class Worker(rq.Worker):
    """Runs jobs, one at a time, each in a process of its own that ends with this one."""

    job_class = OwnJob
    queue_class = OwnQueue
    death_penalty_class = DeathPenalty

    def __init__(self, settings: Settings, queues: Sequence[str], jobs: Jobs) -> None:
        self._settings = settings
        self._jobs = jobs
        #: In the process of a job: what it raised, and in how many seconds it runs again for that.
        self._error: BaseException | None = None
        self._runs_again_in_s: float | None = None
        self._pulse = heartbeat_file(settings, queues)
        self._pulse.parent.mkdir(parents=True, exist_ok=True)
        self._locks = WorkerLocks(settings.data_dir.absolute() / "workers")
        self.recover()
        name, self._lock = self._locks.register()
        super().__init__(
            [*queues, RECONCILE_QUEUE],
            name=name,
            connection=jobs.connection,
            serializer=JSONSerializer,
            worker_ttl=TICK_S + 15,
            maintenance_interval=TICK_S,
            job_monitoring_interval=HEARTBEAT_S,
            log_job_description=False,
            # else rq asks Redis for this worker's address, which redis-py 8.1 cannot parse if a socket's path has a space
            prepare_for_work=False,
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self.is_stopping = False
        self._events: Events | None = None
        self._registry: Registry | None = None

    def close(self) -> None:
        """Give up this worker's lock; to be called when it does not work any more."""
        os.close(self._lock)

    def teardown(self) -> None:
        """As rq; but a worker that lost Redis, or left a job behind with it, stays for others to be found dead."""
        super().teardown()  # type: ignore[no-untyped-call]
        if not self.executions:
            self._locks.forget(self.name)

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """As rq; a file's time tells it to probes too, which then need neither Redis nor Python.

        The file comes first: a worker whose job goes on while Redis is away is alive.
        """
        with contextlib.suppress(OSError):
            self._pulse.touch()
        super().heartbeat(*args, **kwargs)

    def subscribe(self) -> None:
        """Take no commands from Redis: rq would have whoever can write there end this worker or kill its job."""

    # -- jobs of the dead, and those that are due

    def recover(self) -> None:
        """Queue the jobs of dead workers again, and forget the dead."""
        dead = list(self._locks.dead())
        for job_id in self._jobs.recovery.recover(self._locks.is_dead):
            logger.warning("job %s was abandoned by its worker", job_id)
            job = self._jobs.fetch(job_id)
            if job is not None and job.func_name in (RETRAIN, ADOPT) and job.get_status() == JobStatus.FAILED:
                self._give_up(job)
        for name in dead:
            self._jobs.recovery.forget_worker(name)
            self._locks.forget(name)

    def run_maintenance_tasks(self) -> None:
        """What rq does every ten minutes, every few seconds and without its guesses about who is dead."""
        self.last_cleaned_at = datetime.now(UTC)  # type: ignore[assignment]
        try:
            self.recover()
            self._jobs.recovery.enqueue_due()
            self._reconcile()
            self._take_events()
        except QueueUnavailable as error:
            logger.warning("worker %s: %s", self.name, error)

    def _reconcile(self) -> None:
        """Queue the questions to Label Studio that are due."""
        if not self._settings.label_studio_api_key.get_secret_value():
            return
        reconciles = self._jobs.reconciles
        try:
            if reconciles.plan(self._own_registry().projects) and self._settings.sagemaker_route:
                self._jobs.enqueue_look_up()
        except RegistryError as error:
            logger.warning("worker %s: new projects are not looked for now: %s", self.name, error)
        for project in reconciles.due():
            self._jobs.enqueue_reconcile(project)

    def _own_registry(self) -> Registry:
        if self._registry is None:
            self._registry = open_registry(self._settings)
        return self._registry

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
        take_up(self._jobs, self._own_registry(), training.project, training.job, route_reason(training.generation))

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """As rq; but while Redis is away, the job goes on."""
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            logger.warning("worker %s: no heartbeat for job %s: %s", self.name, job.id, error)

    # -- the process of a job

    def execute_job(self, job: Job, queue: Queue) -> None:
        """As rq; but if Redis goes away meanwhile, the worker says so in a line and begins anew."""
        try:
            super().execute_job(job, queue)
        except RedisError as error:
            logger.warning("worker %s: Redis went away with job %s: %s", self.name, job.id, error)
            raise StopRequested from error

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """As rq; but no signal arrives before each of the two processes can handle it.

        Else the new one takes it for the worker's and ends as the worker does, and the worker does not interrupt a
        process that it does not know yet.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().fork_work_horse(job, queue)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
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
        """As rq; but also a worker of several queues takes the job off the intermediate queue, through which all go."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        super().prepare_job_execution(job, remove_from_intermediate_queue=True)
        taken = self._jobs.queue(job.origin).intermediate_queue
        # else its next stay there, after a retry, counts from this one on
        self.connection.delete(taken.get_first_seen_key(job.id))

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """As rq, which logs the error; but a job that is to run again has not failed."""
        self._error = exc_info[1]
        self._runs_again_in_s = self._delay_s(job, self._error)
        if self._runs_again_in_s is None:
            super().handle_exception(job, *exc_info)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """As rq; but an interrupted or parked job and one that met an outage run again, at no cost; segloop's errors are final."""
        if execution is not None and self._runs_again_in_s is not None:
            self._jobs.recovery.postpone(execution, queue, self._runs_again_in_s)
            return
        if isinstance(self._error, (SegloopError, JobTimeout)):
            job.retries_left = 0
        if job.func_name in (RETRAIN, ADOPT) and not job.retries_left:
            self._give_up(job)
        super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)

    def _give_up(self, job: Job) -> None:
        """End a retrain that has failed for good and could not see to that itself: it died, or it could not even begin.

        Its changes count again, and it is counted and told of as any that failed.
        """
        project = str(job.meta.get("project"))
        if not self._jobs.is_retrain(project, job.id):
            return
        # of one that ran on another host, this one has no folder
        folder = run_folder(self._settings, project, job.id)
        try:
            forget_snapshot(open_registry(self._settings), project, job.id, folder)
        except (RegistryError, OSError) as error:
            logger.warning("job %s: %s", job.id, error)
        self._jobs.report(job.id, {"phase": "failed", "message": _why(self._error)})
        self._jobs.counters.count_retrain(job.id, self._jobs.recipe(project), "failed")
        self._jobs.finish_retrain(project, job.id, lambda *_: RetrainDecision(False, "It failed."), failed=True)
        if self._settings.tells_studio:
            self._jobs.enqueue_feedback(project)

    def _delay_s(self, job: Job, error: BaseException | None) -> float | None:
        """In how many seconds a job that raised this runs again; None if it has failed."""
        if isinstance(error, Interrupted):
            logger.info("job %s: interrupted, queued again", job.id)
            return 0
        if isinstance(error, Parked):
            return error.delay_s
        if not isinstance(error, OUTAGES) or isinstance(error, (ModelRemoved, VersionNotFound)):
            return None
        age = datetime.now(UTC) - job.created_at
        delay_s = RETRY_LATER_S
        if isinstance(error, ImageUnavailable):
            # for how long images are waited for is the snapshot's to say; each try looks at every task
            delay_s = min(max(delay_s, age.total_seconds() / 10), LONGEST_RETRY_S)
        elif age > OUTAGE_LIMIT and job.func_name not in (RETRAIN, ADOPT):  # these know for how long it has lasted
            return None
        logger.warning("job %s: %s Trying again in %d s.", job.id, error, delay_s)
        self._jobs.report(job.id, {"phase": "waiting", "message": f"{error} Trying again every {delay_s:.0f} s."})
        return delay_s

    # -- stopping

    def request_stop(self, signum: int, frame: Any) -> None:
        """The first SIGINT or SIGTERM interrupts the job and ends the worker; the second kills both."""
        self.is_stopping = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def set_shutdown_requested_date(self) -> None:
        """Leave out what is only for show: Redis may be away, and this is called while a signal is handled."""

    def handle_warm_shutdown_request(self) -> None:
        """Interrupt the job instead of waiting for its end."""
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGTERM)


def _why(error: BaseException | None) -> str:
    """Why a retrain is given up: what it raised, or that it died."""
    if error is None:
        return f"Its process died {MAX_RETRIES + 1} times."
    return str(error) if isinstance(error, SegloopError) else f"{type(error).__name__}: {error}"


def _interrupt(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Interrupted
