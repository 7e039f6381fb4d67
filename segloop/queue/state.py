"""What the queue looks like from outside: who listens, what waits, whether it keeps what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from redis.exceptions import ResponseError
from rq import Worker

from segloop.queue.connection import reaching_redis
from segloop.queue.jobs import Jobs
from segloop.queue.names import QUEUES


@dataclass(frozen=True)
class QueueState:
    """The live workers and the number of waiting jobs of each queue.

    `evicts` names the policy by which Redis drops keys when its memory is full; empty where it never does or
    does not say.
    """

    workers: Mapping[str, tuple[str, ...]]
    waiting: Mapping[str, int]
    evicts: str = ""


@reaching_redis
def queue_state(jobs: Jobs) -> QueueState:
    """The state of the queues now. A worker that was killed counts for up to half a minute more.

    Raises:
        QueueUnavailable: Redis cannot be reached, or takes no writes.
    """
    jobs.check_writable()
    listening: dict[str, list[str]] = {name: [] for name in QUEUES}
    for worker in Worker.all(connection=jobs.connection):
        for name in worker.queue_names():
            listening.setdefault(name, []).append(worker.name)
    return QueueState(
        {name: tuple(workers) for name, workers in listening.items()},
        {name: len(jobs.queue(name)) for name in QUEUES},
        _eviction(jobs),
    )


def _eviction(jobs: Jobs) -> str:
    try:
        policy = jobs.connection.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except ResponseError:
        return ""  # hosted ones keep CONFIG to themselves
    return "" if policy == "noeviction" else str(policy)
