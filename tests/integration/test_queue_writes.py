"""A Redis that answers and takes no writes: full, a replica, or without a disk to save to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from segloop.doctor import Finding, machine
from segloop.errors import QueueRefusesWrites
from segloop.queue import Jobs
from segloop.settings import Settings
from tests.valkey import Valkey
from tests.waiting import until
from tests.world import World


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey").start()
    yield server
    server.stop()


def fill(redis: Any) -> None:
    redis.config_set("maxmemory", "1mb")


def follow(redis: Any) -> None:
    redis.replicaof("127.0.0.1", 9)


def lose_disk(redis: Any) -> None:
    """Saving fails: a folder is where the file should be."""
    (Path(redis.config_get("dir")["dir"]) / redis.config_get("dbfilename")["dbfilename"] / "x").mkdir(parents=True)
    redis.config_set("save", "3600 1")
    redis.set("a", "change")

    def refuses() -> bool:
        try:
            if not redis.info("persistence")["rdb_bgsave_in_progress"]:
                redis.bgsave()
            redis.set("another", "change")
        except RedisError as error:
            return "MISCONF" in str(error)
        return False

    until(refuses, "a save that fails")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "cause", "fix"),
    [
        (fill, "memory", "raise its maxmemory"),
        (follow, "replica", "name its primary in REDIS_URL"),
        (lose_disk, "MISCONF", "cannot save to its disk"),
    ],
)
def test_ready_and_doctor_say_that_redis_takes_no_writes(
    settings: Settings, broken: Valkey, break_it: Callable[[Any], None], cause: str, fix: str
) -> None:
    own = settings.model_copy(update={"redis_url": broken.url})
    world = World(own)
    try:
        assert world.client.get("/ready?part=queue").status_code == 200
        before = machine.queue(own)
        assert isinstance(before, dict)
        assert before["redis"].status == "ok"

        with Redis.from_url(broken.url) as redis:
            break_it(redis)
        with closing(Jobs.open(own)) as jobs, pytest.raises(QueueRefusesWrites, match=cause):
            jobs.enqueue_reconcile("1.1")
        until(lambda: world.client.get("/ready?part=queue").status_code == 503, "what /ready said has lapsed")
        parts = world.client.get("/ready?part=queue").json["parts"]
        assert parts["queue"] == "it takes no writes; the log says why"
        found = machine.queue(own)
        assert isinstance(found, Finding)
        assert found.status == "failure"
        assert "takes no writes" in found.text
        assert fix in found.fix
    finally:
        world.close()
