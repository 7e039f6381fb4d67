"""The queue on a real Valkey where something fails: jobs of the dead, outages, a killed server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from segloop.errors import QueueUnavailable
from segloop.policy import Changes
from segloop.queue import MAX_RETRIES, RETRAIN_QUEUE, Enqueued, Jobs
from segloop.settings import Settings
from tests.queues import PROJECT, jobs, queued, settings, take, valkey
from tests.valkey import Valkey

__all__ = ["jobs", "settings", "valkey"]


def test_a_failed_retrain_does_not_block(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    SimpleWorker([RETRAIN_QUEUE], connection=jobs.connection, serializer=JSONSerializer).connection.delete("x")
    take(jobs)
    for _ in range(MAX_RETRIES):
        assert jobs.recovery.recover(lambda name: True) == [first]
        assert take(jobs) == first
    assert jobs.recovery.recover(lambda name: True) == [first]
    status = jobs.job_status(first)
    assert status["job_status"] == "failed"
    assert "died 4 times" in status["error"]
    again = jobs.enqueue_retrain(PROJECT, "pressed")
    assert not again.joined
    assert queued(jobs) == [again.job_id]


def test_a_job_whose_record_is_gone_does_not_block(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    jobs.connection.delete(f"rq:job:{first}")
    assert jobs.live_retrain(PROJECT) is None
    assert not jobs.enqueue_retrain(PROJECT, "pressed").joined


def test_a_job_lost_from_its_queue_is_queued_again_by_a_press(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    jobs.connection.delete(jobs.queue(RETRAIN_QUEUE).key)
    assert jobs.enqueue_retrain(PROJECT, "pressed") == Enqueued(first, joined=True)
    assert queued(jobs) == [first]


def test_a_started_job_is_recovered_by_death_and_only_then(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    waiting = jobs.enqueue_retrain("30", "pressed").job_id
    take(jobs)
    assert jobs.recovery.recover(lambda name: False) == []
    assert jobs.recovery.recover(lambda name: None) == []
    assert jobs.recovery.recover(lambda name: name == "host.1.abc") == [first]
    assert queued(jobs) == [first, waiting]
    assert jobs.recovery.recover(lambda name: True) == []
    assert take(jobs) == first


def test_an_overdue_heartbeat_is_death_unless_the_worker_is_known_to_live(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    registry = jobs.queue(RETRAIN_QUEUE).started_job_registry.key
    [entry] = jobs.connection.zrange(registry, 0, -1)
    jobs.connection.zadd(registry, {entry: time.time() - 1})
    assert jobs.recovery.recover(lambda name: False) == []
    assert jobs.recovery.recover(lambda name: None) == [first]


def test_a_press_revives_a_job_with_an_overdue_heartbeat(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    registry = jobs.queue(RETRAIN_QUEUE).started_job_registry.key
    [entry] = jobs.connection.zrange(registry, 0, -1)
    jobs.connection.zadd(registry, {entry: time.time() - 1})
    assert jobs.enqueue_retrain(PROJECT, "pressed") == Enqueued(first, joined=True)
    assert queued(jobs) == [first]
    assert jobs.connection.zcard(registry) == 0


def test_a_job_dropped_between_queue_and_registry_is_recovered(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    queue = jobs.queue(RETRAIN_QUEUE)
    Queue.dequeue_any([queue], None, jobs.connection, serializer=JSONSerializer)
    assert jobs.enqueue_retrain(PROJECT, "pressed") == Enqueued(first, joined=True)
    jobs.connection.sadd(f"rq:workers:{RETRAIN_QUEUE}", "rq:worker:other")
    assert jobs.recovery.recover(lambda name: False) == []
    assert jobs.recovery.recover(lambda name: True) == [first]
    assert queued(jobs) == [first]
    assert jobs.connection.llen(queue.intermediate_queue_key) == 0


def test_a_finished_job_is_never_started_again(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    jobs.connection.hset(f"rq:job:{first}", "status", "finished")
    jobs.recovery.recover(lambda name: True)
    jobs.recovery.requeue(first, jobs.queue(RETRAIN_QUEUE))
    assert queued(jobs) == []
    assert jobs.connection.zcard(jobs.queue(RETRAIN_QUEUE).started_job_registry.key) == 0


def test_a_job_that_waits_for_an_outage_to_end_is_live_and_comes_back(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    queue = jobs.queue(RETRAIN_QUEUE)
    jobs.recovery.requeue(first, queue, delay_s=60)
    assert jobs.enqueue_retrain(PROJECT, "pressed") == Enqueued(first, joined=True)
    jobs.recovery.enqueue_due()
    assert queued(jobs) == []
    jobs.connection.zadd(queue.scheduled_job_registry.key, {first: time.time() - 1})
    jobs.recovery.enqueue_due()
    jobs.recovery.enqueue_due()
    assert queued(jobs) == [first]


def test_redis_away_is_one_error_and_quick(tmp_path: Path) -> None:
    jobs = Jobs.open(Settings(redis_url=f"unix://{tmp_path}/none.sock", data_dir=tmp_path))
    started = time.monotonic()
    for call in (
        lambda: jobs.enqueue_retrain(PROJECT, "pressed"),
        lambda: jobs.record_changes(PROJECT, [1]),
        lambda: jobs.job_status("retrain-1"),
        lambda: jobs.live_retrain(PROJECT),
    ):
        with pytest.raises(QueueUnavailable, match="Redis"):
            call()
    assert time.monotonic() - started < 20, "a worker's patience is a minute, and not for these"
    jobs.close()


def test_a_killed_server_keeps_everything(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "v").start()
    try:
        jobs = Jobs.open(Settings(redis_url=server.url, data_dir=tmp_path), timeout_s=5)
        first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
        jobs.record_changes(PROJECT, [1, 2, 3])
        server.kill()
        with pytest.raises(QueueUnavailable):
            jobs.changed(PROJECT)
        server.start()
        assert jobs.changed(PROJECT) == Changes(3, 3)
        assert jobs.enqueue_retrain(PROJECT, "pressed") == Enqueued(first, joined=True)
        assert queued(jobs) == [first]
        jobs.close()
    finally:
        server.stop()
