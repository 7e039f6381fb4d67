"""The tasks whose annotations changed since the last snapshots, project by project."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from segloop.policy import Changes, Recipe
from segloop.queue.connection import QueueConnection, reaching_redis
from segloop.queue.names import IGNORED_TTL_S, key_of


def counted(counts: Sequence[Any]) -> Changes:
    """The numbers of tasks under `changes` and `recent`, as Redis answers them."""
    return Changes(int(counts[0]), int(counts[1]))


class ChangedTasks:
    """Sets of tasks in Redis.

    Raises (every method):
        QueueUnavailable: Redis cannot be reached or refused.
    """

    def __init__(self, connection: QueueConnection) -> None:
        self._redis: Any = connection.redis

    @reaching_redis
    def record(
        self, project: str, task_ids: Iterable[int | str], *, recent: Iterable[int | str] | None = None
    ) -> Changes:
        """Note tasks whose annotations changed since the last full retrain's snapshot; the numbers of distinct ones.

        `recent` are those of them that changed since the last snapshot of any recipe; all of them, if it is None.
        """
        tasks = list(task_ids)
        with self._redis.pipeline() as pipe:
            for name, ids in (("changes", tasks), ("recent", tasks if recent is None else list(recent))):
                if ids:
                    pipe.sadd(key_of(project, name), *ids)
                    pipe.sdiffstore(key_of(project, name), key_of(project, name), key_of(project, "ignored"))
            pipe.scard(key_of(project, "changes")).scard(key_of(project, "recent"))
            return counted(pipe.execute()[-2:])

    @reaching_redis
    def ignore(self, project: str, names: Iterable[int | str]) -> None:
        """Leave out changes that are about to be told of, under the names that `record` is given: segloop makes
        them itself."""
        if names := list(names):
            with self._redis.pipeline() as pipe:
                pipe.sadd(key_of(project, "ignored"), *names).expire(key_of(project, "ignored"), IGNORED_TTL_S)
                pipe.execute()

    @reaching_redis
    def count(self, project: str) -> Changes:
        """Numbers of distinct tasks changed since the last snapshots."""
        with self._redis.pipeline() as pipe:
            return counted(pipe.scard(key_of(project, "changes")).scard(key_of(project, "recent")).execute())

    @reaching_redis
    def take(self, project: str, recipe: Recipe = "full") -> int:
        """Move the changes, and a request for one more run, into the retrain that begins: its snapshot covers them.

        A quick one takes those since the last snapshot alone; they still count toward the next full one, and a request
        for that stays. Taking again adds to what is taken. Returns the number taken.
        """
        taken = key_of(project, "taken")
        full = recipe == "full"
        with self._redis.pipeline() as pipe:
            pipe.sunionstore(taken, taken, key_of(project, "changes" if full else "recent"))
            pipe.delete(key_of(project, "recent"), *(key_of(project, name) for name in ("changes", "rerun") if full))
            return int(pipe.execute()[0])
