"""Whatever is in Redis, only segloop's own jobs are read from it: the queue is a trust boundary.

rq imports and calls what a job names, and unpickles what it holds, so that whoever can write to Redis could run code.
A job is refused here before anything of it is imported, called or unpickled.
"""

from __future__ import annotations

import json
import logging
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from redis.exceptions import ResponseError
from rq import Queue
from rq.exceptions import DequeueTimeout, NoSuchJobError
from rq.job import Job, JobStatus

from segloop.errors import ForeignJob
from segloop.queue.names import FUNCTIONS, QUEUES, RESULT_TTL_S

logger = logging.getLogger(__name__)

#: Text without a slash that is no hidden file: it becomes the name of a folder.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
#: What a job of ours has in Redis. rq knows more: callbacks, webhooks, dependents, groups, repeats, pickled results.
_FIELDS = frozenset(
    b"status description failure_ttl result_ttl created_at enqueued_at started_at ended_at last_heartbeat data origin "
    b"timeout meta retries_left retry_intervals worker_name".split()
)
_MAX_DATA_BYTES = 64 * 1024
#: How often an idle worker looks into its queues, in seconds.
_POLL_S = 0.25


class OwnJob(Job):
    """A job of segloop: a function of `functions`, with so many plain names as arguments, and nothing else."""

    functions: ClassVar[Mapping[str, int]] = FUNCTIONS

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read a job from what Redis has.

        Raises:
            ForeignJob: it is not segloop's own.
        """
        try:
            self._check(raw_data)
            super().restore(raw_data)
        except ForeignJob:
            raise
        except Exception as error:
            raise ForeignJob(f"It cannot be read: {error!r:.200}") from error

    def _check(self, raw_data: Mapping[bytes, bytes]) -> None:
        if foreign := sorted(name for name, value in raw_data.items() if value and name not in _FIELDS):
            raise ForeignJob(f"It has {foreign!r:.200}, which no job of segloop has.")
        if raw_data[b"origin"].decode() not in QUEUES:
            raise ForeignJob(f"It is of the queue {raw_data[b'origin']!r:.200}.")
        if not isinstance(json.loads(raw_data.get(b"meta") or b"{}"), dict):
            raise ForeignJob("Its meta is no object.")
        data = zlib.decompressobj().decompress(raw_data[b"data"], _MAX_DATA_BYTES)
        function, instance, arguments, keywords = json.loads(data)
        if function not in self.functions or instance is not None or keywords:
            raise ForeignJob(f"It calls {function!r:.200}, which is no job of segloop.")
        if len(arguments) != self.functions[function] or not all(map(_PLAIN.fullmatch, arguments)):
            raise ForeignJob(f"It calls {function} with {arguments!r:.200}.")


class OwnQueue(Queue):
    """An rq queue that hands out segloop's own jobs alone, and never loses one that it hands out."""

    job_class = OwnJob

    @classmethod
    def dequeue_any(  # type: ignore[override]
        cls, queues: Sequence[OwnQueue], timeout: int | None, connection: Any, **_: Any
    ) -> tuple[Job, Queue] | None:
        """The next job of several queues, and its queue.

        Every job goes through the intermediate queue, where a recovery finds it if its worker dies before it has said
        that it runs the job: for a worker of several queues, rq takes the job's id off the queue and loses it then.

        Raises:
            DequeueTimeout: there was none for `timeout` seconds; without a time-out, the answer is None at once.
        """
        deadline = time.monotonic() + (timeout or 0)
        while True:
            for queue in queues:
                while (job_id := connection.lmove(queue.key, queue.intermediate_queue_key)) is not None:
                    if (job := queue.take(job_id)) is not None:
                        return job, queue
            if timeout is None:
                return None
            if time.monotonic() > deadline:
                raise DequeueTimeout(timeout, [queue.key for queue in queues])
            time.sleep(_POLL_S)

    def take(self, job_id: bytes) -> Job | None:
        """The job with an id that was taken off the queue; None if it is refused, or not to be run (any more)."""
        connection: Any = self.connection
        try:
            job: Job = self.job_class.fetch(job_id.decode(), connection, self.serializer)
        except NoSuchJobError:
            connection.lrem(self.intermediate_queue_key, 0, job_id)
            return None
        except (ForeignJob, ValueError, ResponseError) as error:
            if isinstance(error, ResponseError) and not str(error).startswith("WRONGTYPE"):
                raise
            self._refuse(job_id, error)
            return None
        if (status := job.get_status(refresh=False)) != JobStatus.QUEUED:
            logger.warning("job %s: it is %s already, and not run twice", job.id, status.value)
            connection.lrem(self.intermediate_queue_key, 0, job_id)
            return None
        return job

    def _refuse(self, job_id: bytes, error: Exception) -> None:
        """Remove a job as failed: what it held is gone, and the number of failed jobs counts it."""
        logger.error("queue %s: job %.100r refused: %s", self.name, job_id, error)
        pipe: Any
        with self.connection.pipeline() as pipe:
            pipe.lrem(self.intermediate_queue_key, 0, job_id)
            pipe.lrem(self.key, 0, job_id)
            pipe.delete(b"rq:job:" + job_id)
            pipe.zadd(self.failed_job_registry.key, {job_id: time.time() + RESULT_TTL_S})
            pipe.execute()
