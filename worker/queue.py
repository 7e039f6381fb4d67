"""The queue: what may be enqueued, how far it is, and what becomes of the jobs of dead workers. Imports no torch.

Redis holds, besides rq's own keys, per project: the live job of each kind (`segloop:{project}:retrain`,
`:prelabel`), the tasks changed since the last snapshot (`:changes`), those a running retrain has taken
(`:taken`), and whether someone asked for one more run (`:rerun`). Every decision upon them is one transaction, so
that a press and the end of a run never miss each other. Needs Redis 6.2 or any Valkey.
"""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as RedisRetry
from rq import Queue, Retry
from rq.exceptions import NoSuchJobError
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure
from rq.serializers import JSONSerializer

from segloop.errors import JobNotFound, LabelStudioUnreachable, QueueUnavailable, RegistryError
from segloop.policy import Decision
from segloop.settings import Settings

logger = logging.getLogger(__name__)

RETRAIN_QUEUE = "segloop-retrain"
PRELABEL_QUEUE = "segloop-prelabel"
QUEUES = (RETRAIN_QUEUE, PRELABEL_QUEUE)

#: How long a job's outcome can be asked for after its end, in seconds.
RESULT_TTL_S = 7 * 24 * 3600
#: How often a job is started again after its worker or its process died.
MAX_RETRIES = 3
#: A job is looked for in the intermediate queue this long before it counts as dropped by a dead worker, in seconds.
DEQUEUE_GRACE_S = 60.0

#: Errors that pass by themselves: a job that meets one is tried again later.
OUTAGES = (LabelStudioUnreachable, QueueUnavailable, RegistryError)

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Enqueued:
    """The job that does what was asked; `joined` if it was there already."""

    job_id: str
    joined: bool


def _reaching_redis(method: Callable[Concatenate[Jobs, _P], _T]) -> Callable[Concatenate[Jobs, _P], _T]:
    @functools.wraps(method)
    def guarded(self: Jobs, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except RedisError as error:
            raise QueueUnavailable(f"The queue (Redis) cannot be reached: {error}. Is it running?") from error

    return guarded  # type: ignore[return-value]


def connect(settings: Settings, *, timeout_s: float | None = None) -> Redis:
    """A client of the queue's Redis; nothing is sent yet. With a time-out, one try per command."""
    if timeout_s is None:
        return Redis.from_url(settings.queue_url)
    return Redis.from_url(
        settings.queue_url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=RedisRetry(NoBackoff(), 0),
    )


class Jobs:
    """Every job of segloop: enqueued, joined, followed, recovered. Thread-safe.

    Raises (every method):
        QueueUnavailable: Redis cannot be reached or refused.
    """

    def __init__(self, connection: Redis, settings: Settings) -> None:
        # Any: redis-py types every answer as "str or bytes, sync or async"
        self.connection: Any = connection
        self._settings = settings

    @classmethod
    def open(cls, settings: Settings, *, timeout_s: float | None = 0.5) -> Jobs:
        """The queue of these settings; a command that takes longer than `timeout_s` fails."""
        return cls(connect(settings, timeout_s=timeout_s), settings)

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    # -- enqueue

    @_reaching_redis
    def enqueue_retrain(self, project: str, reason: str) -> Enqueued:
        """Queue a retrain, or join the project's live one.

        Joining one that already runs asks for one more run after it, if anything changed since its snapshot.
        A live one whose worker is gone is put back into the queue.
        """
        fresh = self._job(RETRAIN_QUEUE, "worker.jobs.retrain", (project,), project, reason)

        def attempt(pipe: Any) -> Enqueued:
            live = self._live(_key(project, "retrain"), pipe)
            pipe.multi()
            if live is not None:
                pipe.set(_key(project, "rerun"), reason)
                return Enqueued(live.id, joined=True)
            pipe.delete(_key(project, "rerun"))
            return self._enqueue(fresh, _key(project, "retrain"), pipe)

        return self._transaction(attempt, _key(project, "retrain"))

    @_reaching_redis
    def enqueue_prelabel(self, project: str, version: str) -> Enqueued:
        """Queue the prediction of a project's unlabelled tasks with a version, or join the live job that does it.

        Replaces a queued job of another version; one that runs ends by itself when it sees the new champion.
        """
        fresh = self._job(PRELABEL_QUEUE, "worker.jobs.prelabel", (project, version), project, version)

        def attempt(pipe: Any) -> Enqueued:
            live = self._live(_key(project, "prelabel"), pipe)
            pipe.multi()
            if live is not None:
                if list(live.args) == [project, version]:
                    return Enqueued(live.id, joined=True)
                pipe.lrem(self.queue(PRELABEL_QUEUE).key, 0, live.id)
            return self._enqueue(fresh, _key(project, "prelabel"), pipe)

        return self._transaction(attempt, _key(project, "prelabel"))

    @_reaching_redis
    def enqueue_reconcile(self) -> Enqueued:
        """Queue the question to Label Studio what changed, before other work, unless it is queued or asked already."""
        fresh = self._job(PRELABEL_QUEUE, "worker.jobs.reconcile", (), "", "reconcile")

        def attempt(pipe: Any) -> Enqueued:
            live = self._live("segloop:reconcile", pipe)
            pipe.multi()
            if live is not None:
                return Enqueued(live.id, joined=True)
            return self._enqueue(fresh, "segloop:reconcile", pipe, at_front=True)

        return self._transaction(attempt, "segloop:reconcile")

    @_reaching_redis
    def reconcile_is_due(self) -> bool:
        """Whether `reconcile_s` passed since this last answered yes, to whichever worker."""
        interval_ms = max(1, int(self._settings.reconcile_s * 1000))
        return bool(self.connection.set("segloop:reconciled", 1, nx=True, px=interval_ms))

    # -- changes

    @_reaching_redis
    def record_changes(self, project: str, task_ids: Iterable[int | str]) -> int:
        """Note tasks whose annotations changed; the number of distinct ones since the last snapshot."""
        tasks = list(task_ids)
        with self.connection.pipeline() as pipe:
            if tasks:
                pipe.sadd(_key(project, "changes"), *tasks)
            pipe.scard(_key(project, "changes"))
            return int(pipe.execute()[-1])

    @_reaching_redis
    def changed(self, project: str) -> int:
        """Number of distinct tasks changed since the last snapshot."""
        return int(self.connection.scard(_key(project, "changes")))

    @_reaching_redis
    def take_changes(self, project: str) -> int:
        """Move the changes, and a request for one more run, into the retrain that begins: its snapshot covers them.

        Taking again adds to what is taken. Returns the number taken.
        """
        with self.connection.pipeline() as pipe:
            pipe.sunionstore(_key(project, "taken"), _key(project, "taken"), _key(project, "changes"))
            pipe.delete(_key(project, "changes"), _key(project, "rerun"))
            return int(pipe.execute()[0])

    @_reaching_redis
    def restore_changes(self, project: str) -> None:
        """Put the changes that a retrain took, but could not use, back."""
        with self.connection.pipeline() as pipe:
            pipe.sunionstore(_key(project, "changes"), _key(project, "taken"), _key(project, "changes"))
            pipe.delete(_key(project, "taken"))
            pipe.execute()

    @_reaching_redis
    def request_rerun(self, project: str) -> None:
        """Ask for one more run after the live one, if anything changes since its snapshot."""
        self.connection.set(_key(project, "rerun"), "asked for")

    @_reaching_redis
    def finish_retrain(self, project: str, job_id: str, decide: Callable[[int, bool], Decision]) -> Enqueued | None:
        """End a project's live retrain and, if `decide(changed tasks, requested)` says so, queue the next, at once.

        A press or a change either is seen by `decide`, or finds no live retrain any more.
        """

        def attempt(pipe: Any) -> Enqueued | None:
            live = pipe.get(_key(project, "retrain"))
            decision = decide(int(pipe.scard(_key(project, "changes"))), bool(pipe.exists(_key(project, "rerun"))))
            pipe.multi()
            if live is not None and live.decode() != job_id:
                return None
            pipe.delete(*(_key(project, name) for name in ("taken", "rerun", "retrain")))
            if not decision.act:
                return None
            logger.info("project %s: one more retrain after job %s: %s", project, job_id, decision.reason)
            following = self._job(RETRAIN_QUEUE, "worker.jobs.retrain", (project,), project, decision.reason)
            return self._enqueue(following, _key(project, "retrain"), pipe)

        return self._transaction(attempt, *(_key(project, name) for name in ("retrain", "changes", "rerun")))

    # -- follow

    @_reaching_redis
    def live_retrain(self, project: str) -> dict[str, Any] | None:
        """Status of the project's queued or running retrain."""
        job_id = self.connection.get(_key(project, "retrain"))
        job = self._fetch(job_id.decode()) if job_id is not None else None
        if job is None or job.get_status(refresh=False) not in ("queued", "started", "scheduled"):
            return None
        return _describe(job)

    @_reaching_redis
    def job_status(self, job_id: str) -> dict[str, Any]:
        """State of a job under label-studio-ml's keys, and its progress.

        Raises:
            JobNotFound: no such job, or it ended more than a week ago.
        """
        job = self._fetch(job_id) if re.fullmatch(r"[A-Za-z0-9_-]{1,200}", job_id) else None
        if job is None:
            raise JobNotFound(f"There is no job {job_id[:80]!r} (any more).")
        return _describe(job)

    @_reaching_redis
    def report(self, job_id: str, progress: dict[str, Any]) -> None:
        """Publish a job's progress in its meta."""
        job = self._fetch(job_id)
        if job is not None:
            job.meta["progress"] = progress
            job.save_meta()  # type: ignore[no-untyped-call]

    # -- recover

    @_reaching_redis
    def recover(self, is_dead: Callable[[str], bool | None]) -> list[str]:
        """Put the jobs of dead workers back at the front of their queue; at most three times each, then they fail.

        `is_dead(worker name)` is None where that cannot be known from here: then a worker is dead once its
        heartbeat is overdue. Returns the ids of the jobs that were abandoned.
        """
        abandoned = []
        for name in QUEUES:
            queue = self.queue(name)
            for entry, expires in self.connection.zrange(queue.started_job_registry.key, 0, -1, withscores=True):
                execution = Execution.from_composite_key(entry.decode(), self.connection)
                worker = self.connection.hget(execution.key, "worker_name")
                dead = is_dead(worker.decode()) if worker else None
                if dead or (dead is None and expires < time.time()):
                    self._abandon(execution.job_id, queue, execution)
                    abandoned.append(execution.job_id)
            for job_id in self._dropped(queue, is_dead):
                self._abandon(job_id, queue)
                abandoned.append(job_id)
        return abandoned

    @_reaching_redis
    def forget_worker(self, name: str) -> None:
        """Remove a dead worker from the list of workers."""
        key = f"rq:worker:{name}"
        with self.connection.pipeline() as pipe:
            pipe.delete(key, f"{key}:executions")
            for index in ("rq:workers", *(f"rq:workers:{queue}" for queue in QUEUES)):
                pipe.srem(index, key)
            pipe.execute()

    @_reaching_redis
    def enqueue_due(self) -> None:
        """Queue the jobs whose time to be tried again has come."""
        for name in QUEUES:
            queue = self.queue(name)
            for job_id in queue.scheduled_job_registry.get_jobs_to_schedule():
                self.requeue(job_id, queue)

    @_reaching_redis
    def requeue(self, job_id: str, queue: Queue, *, delay_s: float = 0, execution: Execution | None = None) -> None:
        """Put a job that has not ended back at the front of its queue, or on the list of those tried again later."""

        def attempt(pipe: Any) -> None:
            job = self._fetch(job_id)
            pipe.multi()
            if job is None or job.get_status(refresh=False) not in ("queued", "started", "scheduled"):
                pipe.zrem(queue.scheduled_job_registry.key, job_id)
                return
            self._forget_execution(job_id, queue, execution, pipe)
            if delay_s:
                job.set_status(JobStatus.SCHEDULED, pipeline=pipe)
                queue.scheduled_job_registry.schedule(
                    job, datetime.now(UTC) + timedelta(seconds=delay_s), pipeline=pipe
                )
            else:
                self._push(job, queue, pipe)

        self._transaction(attempt, Job.key_for(job_id))

    # -- inside

    def queue(self, name: str) -> Queue:
        """The rq queue of this name."""
        return Queue(name, connection=self.connection, serializer=JSONSerializer)

    def _job(self, queue: str, func: str, args: tuple[str, ...], project: str, reason: str) -> Job:
        kind = func.rpartition(".")[2]
        name = re.sub(r"[^A-Za-z0-9]+", "-", project)
        return self.queue(queue).create_job(
            func,
            args=args,
            job_id="-".join(part for part in (kind, name, uuid4().hex[:8]) if part),
            timeout=self._settings.job_timeout_s,
            result_ttl=RESULT_TTL_S,
            failure_ttl=RESULT_TTL_S,
            description=f"{kind} {' '.join(args)}".strip(),
            meta={"kind": kind, "project": project, "reason": reason},
            retry=Retry(max=MAX_RETRIES),
        )

    def _enqueue(self, job: Job, pointer: str, pipe: Any, *, at_front: bool = False) -> Enqueued:
        pipe.set(pointer, job.id)
        self.queue(job.origin).enqueue_job(job, pipeline=pipe, at_front=at_front)
        return Enqueued(job.id, joined=False)

    def _push(self, job: Job, queue: Queue, pipe: Any) -> None:
        pipe.zrem(queue.scheduled_job_registry.key, job.id)
        pipe.lrem(queue.key, 0, job.id)
        job.started_at = job.ended_at = None
        queue.enqueue_job(job, pipeline=pipe, at_front=True)

    def _fetch(self, job_id: str) -> Job | None:
        try:
            return Job.fetch(job_id, connection=self.connection, serializer=JSONSerializer)
        except NoSuchJobError:
            return None

    def _transaction(self, attempt: Callable[[Any], _T], *watched: str) -> _T:
        result: _T = self.connection.transaction(attempt, *watched, value_from_callable=True)
        return result

    def _live(self, pointer: str, pipe: Any) -> Job | None:
        """The job a pointer names, if it will still end by itself; called before MULTI, watches the job too."""
        job_id = pipe.get(pointer)
        if job_id is None:
            return None
        pipe.watch(Job.key_for(job_id.decode()))
        job = self._fetch(job_id.decode())
        if job is None:
            return None
        queue = self.queue(job.origin)
        status = job.get_status(refresh=False)
        with self.connection.pipeline() as look:
            look.lpos(queue.key, job.id)
            look.lpos(queue.intermediate_queue_key, job.id)
            look.zscore(queue.scheduled_job_registry.key, job.id)
            look.zrange(queue.started_job_registry.key, 0, -1, withscores=True)
            queued, taken, scheduled, started = look.execute()
        executions = [(entry.decode(), expires) for entry, expires in started if entry.startswith(job_id + b":")]
        running = any(expires > time.time() for _, expires in executions)
        if status == "queued" and (queued is not None or taken is not None or running):
            return job
        if (status == "started" and running) or (status == "scheduled" and scheduled is not None):
            return job
        if status not in ("queued", "started", "scheduled"):
            return None
        logger.warning("job %s: its worker is gone", job.id)
        execution = Execution.from_composite_key(executions[0][0], self.connection) if executions else None
        return job if self._abandon(job.id, queue, execution) else None

    def _dropped(self, queue: Queue, is_dead: Callable[[str], bool | None]) -> Iterator[str]:
        """Ids that a worker took off a queue and then died with, before it said that it runs them."""
        others_live = any(
            not is_dead(name.decode().rpartition(":")[2])
            for name in self.connection.smembers(f"rq:workers:{queue.name}")
        )
        intermediate = queue.intermediate_queue
        for job_id in intermediate.get_job_ids():
            if job_id in queue.started_job_registry:
                continue
            intermediate.set_first_seen(job_id)
            first_seen = intermediate.get_first_seen(job_id)
            if not others_live or (first_seen and time.time() - first_seen.timestamp() > DEQUEUE_GRACE_S):
                yield job_id

    def _abandon(self, job_id: str, queue: Queue, execution: Execution | None = None) -> bool:
        """Take a job from a dead worker: into the queue again, or failed if that happened too often. True if queued."""

        def attempt(pipe: Any) -> bool:
            job = self._fetch(job_id)
            status = job.get_status(refresh=False) if job is not None else None
            pipe.multi()
            self._forget_execution(job_id, queue, execution, pipe)
            if job is None or status not in ("queued", "started"):
                return False
            if not job.retries_left:
                logger.error("job %s: given up, its process died %d times", job_id, MAX_RETRIES + 1)
                record_job_failure(job, f"AbandonedJob: its process died {MAX_RETRIES + 1} times.", pipe)
                return False
            job.retries_left -= 1
            logger.warning("job %s: its worker died; queued again, %d tries left", job_id, job.retries_left)
            self._push(job, queue, pipe)
            return True

        return self._transaction(attempt, Job.key_for(job_id), queue.started_job_registry.key)

    def _forget_execution(self, job_id: str, queue: Queue, execution: Execution | None, pipe: Any) -> None:
        pipe.lrem(queue.intermediate_queue_key, 0, job_id)
        pipe.delete(queue.intermediate_queue.get_first_seen_key(job_id))
        if execution is not None:
            pipe.delete(execution.key)
            pipe.zrem(queue.started_job_registry.key, execution.composite_key)
            ExecutionRegistry(job_id, connection=self.connection).remove(execution, pipe)


def _key(project: str, name: str) -> str:
    return f"segloop:{project}:{name}"


def _describe(job: Job) -> dict[str, Any]:
    status = str(job.get_status(refresh=False).value)
    described: dict[str, Any] = {
        "job": job.id,
        "job_status": status,
        "error": _reason(job) if status == "failed" else None,
        **{
            name: moment.isoformat() if (moment := getattr(job, name)) is not None else None
            for name in ("created_at", "enqueued_at", "started_at", "ended_at")
        },
        **{name: job.meta.get(name) for name in ("kind", "project", "reason", "progress")},
    }
    if status == "finished":
        described["result"] = job.return_value()
    return described


def _reason(job: Job) -> str | None:
    """The sentence of a failed job's traceback: its last line, without the exception's name."""
    result = job.latest_result()
    lines = (result.exc_string or "").strip().splitlines() if result is not None else []
    return re.sub(r"^[\w.]+: ", "", lines[-1]) if lines else None
