"""Jobs whose worker died are queued again, or fail if that happened too often."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from rq import Queue
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure

from segloop.queue.connection import QueueConnection, reaching_redis
from segloop.queue.names import DEQUEUE_GRACE_S, MAX_RETRIES, QUEUES

logger = logging.getLogger(__name__)


class Recovery:
    """Requeues jobs whose worker died."""

    def __init__(self, connection: QueueConnection) -> None:
        self._connection = connection
        self._redis = connection.redis

    @reaching_redis
    def recover(self, is_dead: Callable[[str], bool | None]) -> list[str]:
        """Put the jobs of dead workers back at the front of their queue; at most three times each, then they fail.

        `is_dead(worker name)` is None where that cannot be known from here: then a worker is dead once its
        heartbeat is overdue. Returns the ids of the jobs that were abandoned.
        """
        abandoned = []
        for name in QUEUES:
            queue = self._connection.queue(name)
            for entry, expires in self._redis.zrange(queue.started_job_registry.key, 0, -1, withscores=True):
                execution = Execution.from_composite_key(entry.decode(), self._redis)
                worker = self._redis.hget(execution.key, "worker_name")
                dead = is_dead(worker.decode()) if worker else None
                if dead or (dead is None and expires < time.time()):
                    self._abandon(execution.job_id, queue, execution)
                    abandoned.append(execution.job_id)
            for job_id in self._dropped(queue, is_dead):
                self._abandon(job_id, queue)
                abandoned.append(job_id)
        return abandoned

    @reaching_redis
    def forget_worker(self, name: str) -> None:
        """Remove a dead worker from the list of workers."""
        key = f"rq:worker:{name}"
        with self._redis.pipeline() as pipe:
            pipe.delete(key, f"{key}:executions")
            for index in ("rq:workers", *(f"rq:workers:{queue}" for queue in QUEUES)):
                pipe.srem(index, key)
            pipe.execute()

    @reaching_redis
    def enqueue_due(self) -> None:
        """Queue the jobs whose time to be tried again has come."""
        for name in QUEUES:
            queue = self._connection.queue(name)
            for job_id in queue.scheduled_job_registry.get_jobs_to_schedule():
                self.requeue(job_id, queue)

    @reaching_redis
    def requeue(self, job_id: str, queue: Queue, *, delay_s: float = 0, execution: Execution | None = None) -> None:
        """Put a job that has not ended back at the front of its queue, or on the list of those tried again later."""

        def attempt(pipe: Any) -> None:
            job = self._connection.fetch(job_id)
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

        self._connection.transaction(attempt, Job.key_for(job_id))

    # -- inside

    def _push(self, job: Job, queue: Queue, pipe: Any) -> None:
        pipe.zrem(queue.scheduled_job_registry.key, job.id)
        pipe.lrem(queue.key, 0, job.id)
        job.started_at = job.ended_at = None
        queue.enqueue_job(job, pipeline=pipe, at_front=True)

    def live(self, pointer: str, pipe: Any) -> Job | None:
        """The job a pointer names, if it will still end by itself; called before MULTI, watches the job too."""
        job_id = pipe.get(pointer)
        if job_id is None:
            return None
        pipe.watch(Job.key_for(job_id.decode()))
        job = self._connection.fetch(job_id.decode())
        if job is None:
            return None
        queue = self._connection.queue(job.origin)
        status = job.get_status(refresh=False)
        with self._redis.pipeline() as look:
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
        execution = Execution.from_composite_key(executions[0][0], self._redis) if executions else None
        return job if self._abandon(job.id, queue, execution) else None

    def _dropped(self, queue: Queue, is_dead: Callable[[str], bool | None]) -> Iterator[str]:
        """Ids that a worker took off a queue and then died with, before it said that it runs them."""
        others_live = any(
            not is_dead(name.decode().rpartition(":")[2]) for name in self._redis.smembers(f"rq:workers:{queue.name}")
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
            job = self._connection.fetch(job_id)
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

        return self._connection.transaction(attempt, Job.key_for(job_id), queue.started_job_registry.key)

    def _forget_execution(self, job_id: str, queue: Queue, execution: Execution | None, pipe: Any) -> None:
        pipe.lrem(queue.intermediate_queue_key, 0, job_id)
        pipe.delete(queue.intermediate_queue.get_first_seen_key(job_id))
        if execution is not None:
            pipe.delete(execution.key)
            pipe.zrem(queue.started_job_registry.key, execution.composite_key)
            ExecutionRegistry(job_id, connection=self._redis).remove(execution, pipe)
