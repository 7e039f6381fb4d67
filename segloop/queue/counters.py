"""Queue depths and job counters: what an operator watches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final, Literal, get_args

from segloop.policy import Recipe
from segloop.queue.connection import QueueConnection, reaching_redis
from segloop.queue.names import QUEUES, RESULT_TTL_S

Outcome = Literal["promoted", "kept", "skipped", "stopped", "failed"]

_TALLIES: Final = "segloop:tallies"


@dataclass(frozen=True)
class Depth:
    """Jobs of a queue by state, and the workers that listen to it."""

    queue: str
    jobs: Mapping[str, int]
    workers: int


@dataclass
class Trainings:
    """How many trainings took at most each of the bounds asked for (and any time, last), and seconds of all together."""

    at_most: list[int]
    seconds: float = 0.0


@dataclass
class Tallies:
    """How jobs ended, since Redis was last empty; what never happened is zero: a rise from nothing is not seen as one."""

    retrains: dict[tuple[str, str], int] = field(
        default_factory=lambda: dict.fromkeys(product(get_args(Recipe), get_args(Outcome)), 0)
    )
    trainings: dict[str, Trainings] = field(default_factory=dict)
    prelabelled: dict[str, int] = field(default_factory=lambda: {"predicted": 0, "failed": 0})


def _rounded(seconds: float) -> float:
    """To two digits: all durations that there may ever be are a few hundred numbers then."""
    return float(f"{seconds:.2g}")


def _counted_key(job_id: str) -> str:
    return f"segloop:tallied:{job_id}"


class Counters:
    """Queue depths and job counters."""

    def __init__(self, connection: QueueConnection) -> None:
        self._connection = connection
        self._redis = connection.redis

    @reaching_redis
    def depths(self) -> list[Depth]:
        """Every queue's depth, in one round trip."""
        queues = [self._connection.queue(name) for name in QUEUES]
        with self._redis.pipeline(transaction=False) as pipe:
            for queue in queues:
                pipe.llen(queue.key)
                for registry in (
                    queue.started_job_registry,
                    queue.scheduled_job_registry,
                    queue.finished_job_registry,
                    queue.failed_job_registry,
                ):
                    pipe.zcard(registry.key)
                pipe.scard(f"rq:workers:{queue.name}")
            found = pipe.execute()
        states = ("queued", "started", "scheduled", "finished", "failed")
        size = len(states) + 1
        return [
            Depth(
                queue.name,
                dict(zip(states, found[place * size : place * size + len(states)], strict=True)),
                found[place * size + len(states)],
            )
            for place, queue in enumerate(queues)
        ]

    @reaching_redis
    def count_retrain(self, job_id: str, recipe: Recipe, outcome: Outcome, seconds: float | None = None) -> None:
        """Count the end of a retrain, once however often it is told; `seconds` is how long its training took."""
        counted = _counted_key(job_id)

        def attempt(pipe: Any) -> None:
            known = pipe.exists(counted)
            pipe.multi()
            if known:
                return
            pipe.set(counted, 1, ex=RESULT_TTL_S)
            pipe.hincrby(_TALLIES, f"retrain/{recipe}/{outcome}", 1)
            if seconds is not None:
                pipe.hincrby(_TALLIES, f"training/{recipe}/{_rounded(seconds):g}", 1)
                pipe.hincrbyfloat(_TALLIES, f"seconds/{recipe}", seconds)

        self._connection.transaction(attempt, counted)

    @reaching_redis
    def is_counted(self, job_id: str) -> bool:
        """Whether the end of a retrain is counted."""
        return bool(self._redis.exists(_counted_key(job_id)))

    @reaching_redis
    def count_prelabelled(self, predicted: int, failed: int) -> None:
        """Count tasks that a refresh of predictions has just predicted, and those that it could not."""
        with self._redis.pipeline() as pipe:
            pipe.hincrby(_TALLIES, "prelabelled/predicted", predicted)
            pipe.hincrby(_TALLIES, "prelabelled/failed", failed)
            pipe.execute()

    @reaching_redis
    def tallies(self, bounds_s: Sequence[float]) -> Tallies:
        """How jobs ended; trainings by these bounds of their duration, in seconds."""
        tallies = Tallies()
        bounds = (*bounds_s, float("inf"))
        for key, value in self._redis.hgetall(_TALLIES).items():
            match key.decode().split("/"):
                case ["retrain", recipe, outcome]:
                    tallies.retrains[recipe, outcome] = int(value)
                case ["prelabelled", outcome]:
                    tallies.prelabelled[outcome] = int(value)
                case ["seconds", recipe]:
                    tallies.trainings.setdefault(recipe, Trainings([0] * len(bounds))).seconds = float(value)
                case ["training", recipe, seconds]:
                    training = tallies.trainings.setdefault(recipe, Trainings([0] * len(bounds)))
                    for place, bound in enumerate(bounds):
                        training.at_most[place] += int(value) if float(seconds) <= bound else 0
        return tallies
