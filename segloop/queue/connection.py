"""The Redis of the queue, and what rq keeps in it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from redis.retry import Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from segloop.errors import ForeignJob, QueueRefusesWrites, QueueUnavailable
from segloop.queue.own import OwnJob, OwnQueue
from segloop.settings import Settings

_P = ParamSpec("_P")
_T = TypeVar("_T")


def reaching_redis(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Raise the Redis errors of a method as QueueUnavailable."""

    @functools.wraps(method)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(*args, **kwargs)
        except RedisError as error:
            reason = str(error).rstrip(".")
            if fix := _fix_of_refusal(error):
                raise QueueRefusesWrites(f"The queue (Redis) takes no writes: {reason}", fix) from error
            raise QueueUnavailable(f"The queue (Redis) cannot be reached: {reason}. Is it running?") from error

    return guarded


#: What to do where Redis answers and takes no writes, by the code of its error.
_FIXES: Final = {
    "OOM": "Its memory is full: raise its maxmemory, or remove what else is in it",
    "READONLY": "It is a read-only replica: name its primary in REDIS_URL",
    "MISCONF": "It cannot save to its disk: see whether that is full, or may not be written",
    "NOREPLICAS": "It has fewer replicas than it was told to have (min-replicas-to-write)",
}


def _fix_of_refusal(error: RedisError) -> str:
    """What to do where Redis answers and takes no writes; empty for every other error."""
    # redis-py has classes for two of the codes, and puts the number of a pipeline's command before an error
    if isinstance(error, OutOfMemoryError):
        return _FIXES["OOM"]
    if isinstance(error, ReadOnlyError):
        return _FIXES["READONLY"]
    code = re.search(rf"(?:^|caused error: )({'|'.join(_FIXES)}) ", str(error))
    return "" if code is None else _FIXES[code[1]]


class QueueConnection:
    """One connection to the Redis of the queue, through which all parts of `Jobs` work. Thread-safe."""

    def __init__(self, redis: Redis) -> None:
        # Any: redis-py types every answer as "str or bytes, sync or async"
        self.redis: Any = redis

    @classmethod
    def open(cls, settings: Settings, *, timeout_s: float | None = None) -> QueueConnection:
        """A connection by these settings; nothing is sent yet. With a time-out, each command is tried once."""
        if timeout_s is None:
            return cls(Redis.from_url(settings.queue_url))
        retry = Retry(NoBackoff(), 0)
        return cls(
            Redis.from_url(settings.queue_url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=retry)
        )

    def queue(self, name: str) -> OwnQueue:
        """The queue of this name."""
        return OwnQueue(name, connection=self.redis, job_class=OwnJob, serializer=JSONSerializer)

    def fetch(self, job_id: str) -> Job | None:
        """The job with this id; None if Redis does not know it (any more), or it is not segloop's own."""
        try:
            return OwnJob.fetch(job_id, self.redis, JSONSerializer)
        except (NoSuchJobError, ForeignJob, ValueError):
            return None

    def transaction(self, attempt: Callable[[Any], _T], *watched: str) -> _T:
        """Run `attempt(pipe)` until nobody changes the watched keys meanwhile; its result."""
        result: _T = self.redis.transaction(attempt, *watched, value_from_callable=True)
        return result
