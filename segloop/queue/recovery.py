"""Jobs whose worker died are queued again, or fail if that happened too often.

Why rq's own clean-up does not run, each point with its test in tests/integration/test_queue_recovery.py: it takes a
late heartbeat for a death (Redis was away, the machine slept), two workers that clean up at once both queue the job,
and its lock on the clean-up outlives a killed worker for 15 minutes. Each of these starts a job twice, or late. Here
each step is one transaction that looks again whether the job still is where it was found.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from rq import Queue, Worker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure
from rq.worker_registration import clean_worker_registry

from segloop.queue.connection import QueueConnection, reaching_redis
from segloop.queue.names import MAX_RETRIES, QUEUES, UNFINISHED

logger = logging.getLogger(__name__)


#: An execution as rq has it in the registry of those that run; whatever else is there is no work of rq's.
_ENTRY = re.compile(rb"[A-Za-z0-9_-]+:[A-Za-z0-9]+")


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
        for queue in map(self._connection.queue, QUEUES):
            taken, started = queue.intermediate_queue, queue.started_job_registry.key
            taken_ids = _ids(self._redis.lrange(taken.key, 0, -1))
            entries = [
                found for found in self._redis.zrange(started, 0, -1, withscores=True) if _ENTRY.fullmatch(found[0])
            ]
            for entry, expires in entries:
                execution = Execution.from_composite_key(entry.decode(), self._redis)
                worker = self._redis.hget(execution.key, "worker_name")
                dead = is_dead(worker.decode()) if worker else None
                if dead or (dead is None and expires < time.time()):
                    self._abandon(execution.job_id, queue, partial(_is_member, started, entry), entry)
                    abandoned.append(execution.job_id)
            # taken off the queue by a worker that died before it said that it runs them
            for job_id in set(taken_ids) - {entry.partition(b":")[0].decode() for entry, _ in entries}:
                if not taken.set_first_seen(job_id) and taken.should_be_cleaned_up(job_id):
                    self._abandon(job_id, queue, partial(_exists, taken.get_first_seen_key(job_id)))
                    abandoned.append(job_id)
            queue.finished_job_registry.cleanup()
            queue.failed_job_registry.cleanup()
            clean_worker_registry(queue)
        return abandoned

    @reaching_redis
    def forget_worker(self, name: str) -> None:
        """Remove a dead worker from the list of workers."""
        worker = Worker.find_by_key(Worker.redis_worker_namespace_prefix + name, connection=self._redis)
        if worker is not None:
            worker.register_death()  # type: ignore[no-untyped-call]

    @reaching_redis
    def enqueue_due(self) -> None:
        """Queue the jobs whose time to run again has come.

        rq's scheduler is one more process, which outlives a killed worker, and queues a job that `release` has queued
        a second time.
        """
        for queue in map(self._connection.queue, QUEUES):
            for job_id in _ids(self._redis.zrangebyscore(queue.scheduled_job_registry.key, 0, time.time())):
                self.release(job_id, queue)

    @reaching_redis
    def release(self, job_id: str, queue: Queue) -> None:
        """Queue a job now that waits for its time to run again; any other stays as it is."""

        def attempt(pipe: Any) -> None:
            job = self._connection.fetch(job_id)
            pipe.multi()
            pipe.zrem(queue.scheduled_job_registry.key, job_id)
            if job is not None and job.get_status(refresh=False) == JobStatus.SCHEDULED:
                _push(job, queue, pipe)

        self._connection.transaction(attempt, Job.key_for(job_id))

    @reaching_redis
    def postpone(self, execution: Execution, queue: Queue, delay_s: float = 0) -> None:
        """Put a job that runs back at the front of its queue, or on the list of those that run again later.

        Nothing happens if the job has ended, or was taken from its worker, which was thought dead.
        """

        def attempt(pipe: Any) -> None:
            runs = _is_member(queue.started_job_registry.key, execution.composite_key, pipe)
            job = self._connection.fetch(execution.job_id)
            pipe.multi()
            if not runs or job is None or job.get_status(refresh=False) not in UNFINISHED:
                return
            _forget_execution(job.id, queue, execution.composite_key, pipe)
            if delay_s:
                job.set_status(JobStatus.SCHEDULED, pipeline=pipe)
                time_to_run = datetime.now(UTC) + timedelta(seconds=delay_s)
                queue.scheduled_job_registry.schedule(job, time_to_run, pipeline=pipe)
            else:
                _push(job, queue, pipe)

        self._connection.transaction(attempt, Job.key_for(execution.job_id), queue.started_job_registry.key)

    def live(self, pointer: str, pipe: Any) -> Job | None:
        """The job that a pointer names, if it has not ended; called before MULTI, watches the job too.

        One that Redis has lost from its queue (a full memory, a damaged file) is queued again.
        """
        job_id = pipe.get(pointer)
        if job_id is None:
            return None
        pipe.watch(Job.key_for(job_id.decode()))
        job = self._connection.fetch(job_id.decode())
        if job is None or job.get_status(refresh=False) not in UNFINISHED:
            return None
        queue = self._connection.queue(job.origin)
        if self._is_lost(job.id, queue) and not self._abandon(job.id, queue, lambda _: self._is_lost(job.id, queue)):
            return None
        return job

    def _is_lost(self, job_id: str, queue: Queue) -> bool:
        with self._redis.pipeline(transaction=False) as look:
            look.lpos(queue.key, job_id).lpos(queue.intermediate_queue_key, job_id)
            look.zscore(queue.scheduled_job_registry.key, job_id)
            look.zrange(queue.started_job_registry.key, 0, -1)
            *places, started = look.execute()
        return places == [None] * 3 and not any(entry.startswith(f"{job_id}:".encode()) for entry in started)

    def _abandon(
        self, job_id: str, queue: Queue, still_there: Callable[[Any], bool], execution: bytes | None = None
    ) -> bool:
        """Queue a job again, or fail it if that happened too often; true if it is queued.

        Nothing happens if `still_there(pipe)` is false by now: another worker has done it.
        """

        def attempt(pipe: Any) -> bool:
            found = still_there(pipe)
            job = self._connection.fetch(job_id)
            pipe.multi()
            if not found:
                return False
            _forget_execution(job_id, queue, execution, pipe)
            if job is None or job.get_status(refresh=False) not in UNFINISHED:
                return False
            if not job.retries_left:
                logger.error("job %s: given up, its process died %d times", job_id, MAX_RETRIES + 1)
                record_job_failure(job, f"AbandonedJob: its process died {MAX_RETRIES + 1} times.", pipe)
                return False
            job.retries_left -= 1
            logger.warning("job %s: its worker died; queued again, %d tries left", job_id, job.retries_left)
            _push(job, queue, pipe)
            return True

        places = (queue.started_job_registry.key, queue.intermediate_queue_key)
        return self._connection.transaction(attempt, Job.key_for(job_id), *places)


def _ids(found: Iterable[bytes]) -> list[str]:
    return [job_id.decode() for job_id in found if job_id.isascii()]


def _is_member(key: str, member: bytes | str, pipe: Any) -> bool:
    return pipe.zscore(key, member) is not None


def _exists(key: str, pipe: Any) -> bool:
    return bool(pipe.exists(key))


def _push(job: Job, queue: Queue, pipe: Any) -> None:
    pipe.zrem(queue.scheduled_job_registry.key, job.id)
    pipe.lrem(queue.key, 0, job.id)
    job.started_at = job.ended_at = None
    queue.enqueue_job(job, pipeline=pipe, at_front=True)


def _forget_execution(job_id: str, queue: Queue, execution: bytes | str | None, pipe: Any) -> None:
    pipe.lrem(queue.intermediate_queue_key, 0, job_id)
    pipe.delete(queue.intermediate_queue.get_first_seen_key(job_id))
    if execution is not None:
        pipe.zrem(queue.started_job_registry.key, execution)
