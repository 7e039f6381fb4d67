"""When each project is reconciled: once in `reconcile_s`, each at a time of its own, so that many make no storm."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from segloop.queue.connection import QueueConnection, reaching_redis
from segloop.queue.names import PRELABEL_QUEUE, key_of
from segloop.settings import Settings

#: When each project is due next, in seconds since 1970.
_DUE: Final = "segloop:reconcile-due"
#: Set while the list of projects need not be asked for.
_PLANNED: Final = "segloop:reconciled"
#: Projects that are taken at a time: others are due in the next second.
_AT_ONCE: Final = 20


class Reconciles:
    """The plan, which all workers share.

    Raises (every method):
        QueueUnavailable: Redis cannot be reached or refused.
    """

    def __init__(self, connection: QueueConnection, settings: Settings) -> None:
        self._redis: Any = connection.redis
        self._queue = connection.queue
        self._interval_s = settings.reconcile_s

    @reaching_redis
    def plan(self, projects: Callable[[], Iterable[str]]) -> bool:
        """Once in `reconcile_s`, by whichever worker: give each new project its time, and forget those that are gone; whether
        it was this one. Where `reconcile_s` was longer before, what it put off for longer than now is due sooner.

        Args:
            projects: asks for the keys of all projects.
        """
        interval_ms = max(1, int(self._interval_s * 1000))
        if not self._redis.set(_PLANNED, 1, nx=True, px=interval_ms):
            if self._redis.pttl(_PLANNED) <= interval_ms:
                return False
            self._redis.set(_PLANNED, 1, px=interval_ms)
        now = time.time()
        known = {key.decode(): at for key, at in self._redis.zrange(_DUE, 0, -1, withscores=True)}
        wanted = set(projects())
        with self._redis.pipeline(transaction=False) as pipe:
            if new := {key: now + self._offset_s(key) for key in wanted - known.keys()}:
                pipe.zadd(_DUE, new, nx=True)
            # by two intervals: clocks of hosts differ
            if late := {key: now + self._offset_s(key) for key, at in known.items() if at > now + 2 * self._interval_s}:
                pipe.zadd(_DUE, late, lt=True, xx=True)
            if gone := known.keys() - wanted:
                pipe.zrem(_DUE, *gone)
            pipe.execute()
        return True

    @reaching_redis
    def due(self) -> list[str]:
        """The keys of projects whose time has come, each told to one worker; the next time of each is an interval later."""
        now = time.time()
        found = self._redis.zrangebyscore(_DUE, 0, now, start=0, num=_AT_ONCE, withscores=True)
        if not found:
            return []
        with self._redis.pipeline(transaction=False) as pipe:
            for key, at in found:
                # the same number from whoever claims it: the second one changes nothing
                missed = int((now - at) / self._interval_s) + 1
                pipe.zadd(_DUE, {key: at + missed * self._interval_s}, gt=True, ch=True)
            return [key.decode() for (key, _), claimed in zip(found, pipe.execute(), strict=True) if claimed]

    @reaching_redis
    def is_in_the_way(self, worker: str) -> bool:
        """Whether a worker that predicts too has predictions waiting for it."""
        if not self._redis.llen(self._queue(PRELABEL_QUEUE).key):
            return False
        queues = self._redis.hget(f"rq:worker:{worker}", "queues") or b""
        return PRELABEL_QUEUE in queues.decode().split(",")

    @reaching_redis
    def step_aside(self, project: str, most: int) -> bool:
        """Whether a project's question may be put off once more, of `most` times in an interval."""
        key = key_of(project, "put-off")
        with self._redis.pipeline() as pipe:
            pipe.set(key, 0, nx=True, ex=max(1, int(self._interval_s))).incr(key)
            return bool(pipe.execute()[1] <= most)

    def _offset_s(self, project: str) -> float:
        share = int.from_bytes(hashlib.sha256(project.encode()).digest()[:4]) / 2**32
        return share * self._interval_s
