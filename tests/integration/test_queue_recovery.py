"""The queue on a real Valkey where something fails: jobs of the dead, outages, a killed server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from segloop.errors import QueueUnavailable
from segloop.policy import Changes
from segloop.queue import MAX_RETRIES, RETRAIN_QUEUE, Enqueued, Jobs
from segloop.queue.own import OwnQueue
from segloop.settings import Settings
from tests.queues import PROJECT, execution, jobs, queued, settings, take, valkey
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


def test_a_press_joins_a_job_with_an_overdue_heartbeat_which_the_next_worker_revives(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    registry = jobs.queue(RETRAIN_QUEUE).started_job_registry.key
    [entry] = jobs.connection.zrange(registry, 0, -1)
    jobs.connection.zadd(registry, {entry: time.time() - 1})
    assert jobs.enqueue_retrain(PROJECT, "pressed") == Enqueued(first, joined=True)
    assert jobs.recovery.recover(lambda name: None) == [first]
    assert queued(jobs) == [first]
    assert jobs.connection.zcard(registry) == 0


def test_a_job_dropped_between_queue_and_registry_is_recovered(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    queue = jobs.queue(RETRAIN_QUEUE)
    OwnQueue.dequeue_any([queue], None, jobs.connection)
    assert jobs.enqueue_retrain(PROJECT, "pressed") == Enqueued(first, joined=True)
    assert jobs.recovery.recover(lambda name: True) == []
    assert jobs.recovery.recover(lambda name: True) == [], "a worker may have taken it this moment"
    jobs.connection.set(queue.intermediate_queue.get_first_seen_key(first), time.time() - 61)
    assert jobs.recovery.recover(lambda name: False) == [first]
    assert queued(jobs) == [first]
    assert jobs.connection.llen(queue.intermediate_queue_key) == 0


# -- two workers never run one job


def test_a_recovery_that_comes_late_leaves_a_job_to_its_next_worker(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)

    def while_another_recovers_it(name: str) -> bool:
        assert jobs.recovery.recover(lambda name: True) == [first]
        assert take(jobs, worker_name="host.2.def") == first
        return True

    jobs.recovery.recover(while_another_recovers_it)
    assert queued(jobs) == []
    assert execution(jobs).job_id == first


def test_a_job_is_due_once(jobs: Jobs) -> None:
    """As when two workers find it due, or one does while somebody hastens it."""
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    queue = jobs.queue(RETRAIN_QUEUE)
    jobs.recovery.postpone(execution(jobs), queue, 60)
    jobs.hasten(first)
    assert take(jobs) == first
    jobs.recovery.release(first, queue)
    jobs.hasten(first)
    assert queued(jobs) == []


def test_a_worker_that_was_thought_dead_does_not_put_its_job_back(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    lost = execution(jobs)
    jobs.recovery.recover(lambda name: True)
    assert take(jobs, worker_name="host.2.def") == first
    for delay_s in (0, 60):
        jobs.recovery.postpone(lost, jobs.queue(RETRAIN_QUEUE), delay_s)
    assert queued(jobs) == []
    assert jobs.job_status(first)["job_status"] == "started"


def test_what_ended_a_week_ago_leaves_the_registries_and_the_dead_of_other_hosts_the_list(jobs: Jobs) -> None:
    queue = jobs.queue(RETRAIN_QUEUE)
    jobs.connection.zadd(queue.finished_job_registry.key, {"old": time.time() - 1, "new": time.time() + 60})
    jobs.connection.zadd(queue.failed_job_registry.key, {"old": time.time() - 1})
    jobs.connection.sadd(f"rq:workers:{RETRAIN_QUEUE}", "rq:worker:elsewhere.1.abc")
    jobs.recovery.recover(lambda name: None)
    depth, *_ = jobs.counters.depths()
    assert (depth.jobs["finished"], depth.jobs["failed"], depth.workers) == (1, 0, 0)


def test_a_finished_job_is_never_started_again(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    jobs.connection.hset(f"rq:job:{first}", "status", "finished")
    jobs.recovery.recover(lambda name: True)
    jobs.hasten(first)
    assert queued(jobs) == []
    assert jobs.connection.zcard(jobs.queue(RETRAIN_QUEUE).started_job_registry.key) == 0


def test_a_job_that_waits_for_an_outage_to_end_is_live_and_comes_back(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    queue = jobs.queue(RETRAIN_QUEUE)
    jobs.recovery.postpone(execution(jobs), queue, 60)
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
        lambda: jobs.changes.record(PROJECT, [1]),
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
        jobs.changes.record(PROJECT, [1, 2, 3])
        server.kill()
        with pytest.raises(QueueUnavailable):
            jobs.changes.count(PROJECT)
        server.start()
        assert jobs.changes.count(PROJECT) == Changes(3, 3)
        assert jobs.enqueue_retrain(PROJECT, "pressed") == Enqueued(first, joined=True)
        assert queued(jobs) == [first]
        jobs.close()
    finally:
        server.stop()
