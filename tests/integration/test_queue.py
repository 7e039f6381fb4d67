"""The queue on a real Valkey: races, joins, changes, one more run, quick and full, prelabels."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from rq.executions import Execution

from segloop.errors import JobNotFound
from segloop.policy import Changes, Live, Recipe, RetrainDecision, Thresholds, should_rerun
from segloop.queue import PRELABEL_QUEUE, RECONCILE_QUEUE, Enqueued, Jobs
from segloop.queue.names import RESULT_TTL_S
from segloop.settings import Settings
from tests.queues import PROJECT, jobs, queued, settings, take, valkey

__all__ = ["jobs", "settings", "valkey"]


def asked(changes: Changes, requested: bool, ended: Recipe = "full") -> RetrainDecision:
    return should_rerun(
        changes=changes, thresholds=Thresholds(100, 10), requested=requested, ended=ended, has_backbone=True
    )


def asked_after_quick(changes: Changes, requested: bool) -> RetrainDecision:
    return asked(changes, requested, "quick")


def test_a_second_press_joins_and_projects_do_not_mix(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed")
    second = jobs.enqueue_retrain(PROJECT, "pressed again")
    other = jobs.enqueue_retrain("30", "pressed")
    assert (first.joined, second.joined, other.joined) == (False, True, False)
    assert second.job_id == first.job_id
    assert queued(jobs) == [first.job_id, other.job_id]


def test_many_presses_at_once_queue_one_job(jobs: Jobs, settings: Settings) -> None:
    start = threading.Barrier(16)

    def press(_: int) -> Enqueued:
        mine = Jobs.open(settings, timeout_s=5)
        start.wait()
        try:
            return mine.enqueue_retrain(PROJECT, "pressed")
        finally:
            mine.close()

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(press, range(16)))
    assert sum(not result.joined for result in results) == 1
    assert len({result.job_id for result in results}) == 1
    assert len(queued(jobs)) == 1


def test_status_has_the_keys_of_label_studio_ml(jobs: Jobs) -> None:
    job_id = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    status = jobs.job_status(job_id)
    assert {"job_status", "error", "created_at", "enqueued_at", "started_at", "ended_at"} <= status.keys()
    assert (status["job"], status["job_status"], status["project"]) == (job_id, "queued", PROJECT)
    assert status["started_at"] is None
    jobs.report(job_id, {"phase": "training", "epoch": 3})
    live = jobs.live_retrain(PROJECT)
    assert live is not None
    assert live["progress"] == {"phase": "training", "epoch": 3}
    assert live["reason"] == "pressed"


@pytest.mark.parametrize("job_id", ["", "nonsense", "a:b", "../x", "ü" * 20, "x" * 500])
def test_an_unknown_job_is_an_error(jobs: Jobs, job_id: str) -> None:
    with pytest.raises(JobNotFound, match="no job"):
        jobs.job_status(job_id)


def test_changes_are_distinct_tasks(jobs: Jobs) -> None:
    assert jobs.changes.record(PROJECT, [1, 2, 2]) == Changes(2, 2)
    assert jobs.changes.record(PROJECT, [2, 3]) == Changes(3, 3)
    assert jobs.changes.record(PROJECT, []) == Changes(3, 3)
    assert jobs.changes.record("30", [1]) == Changes(1, 1)
    assert jobs.changes.count(PROJECT) == Changes(3, 3)


def test_a_quick_run_takes_the_recent_changes_and_the_full_count_goes_on(jobs: Jobs) -> None:
    jobs.changes.record(PROJECT, range(10))
    assert jobs.changes.take(PROJECT, "quick") == 10
    assert jobs.changes.count(PROJECT) == Changes(10, 0)
    assert jobs.changes.record(PROJECT, [9, 10]) == Changes(11, 2)
    assert jobs.changes.take(PROJECT, "full") == 11
    assert jobs.changes.count(PROJECT) == Changes(0, 0)


def test_changes_before_the_last_quick_run_are_told_apart(jobs: Jobs) -> None:
    assert jobs.changes.record(PROJECT, range(40), recent=[38, 39]) == Changes(40, 2)


def test_taken_changes_come_back_with_those_that_followed(jobs: Jobs) -> None:
    jobs.changes.record(PROJECT, [1, 2])
    assert jobs.changes.take(PROJECT) == 2
    assert jobs.changes.count(PROJECT) == Changes(0, 0)
    jobs.changes.record(PROJECT, [2, 3])
    assert jobs.changes.take(PROJECT) == 3
    jobs.changes.record(PROJECT, [4])
    jobs.finish_retrain(PROJECT, "job", asked, failed=True)
    assert jobs.changes.count(PROJECT) == Changes(4, 4)


def test_the_end_of_a_run_without_a_wish_frees_the_project(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    assert take(jobs) == first
    assert jobs.finish_retrain(PROJECT, first, asked) is None
    assert jobs.live_retrain(PROJECT) is None
    assert not jobs.enqueue_retrain(PROJECT, "pressed").joined


def test_a_press_during_a_run_brings_one_more_if_anything_changed(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    jobs.changes.take(PROJECT)
    assert jobs.enqueue_retrain(PROJECT, "pressed again").joined
    jobs.changes.record(PROJECT, [7])
    following = jobs.finish_retrain(PROJECT, first, asked)
    assert following is not None
    assert following.job_id != first
    assert queued(jobs) == [following.job_id]
    assert jobs.enqueue_retrain(PROJECT, "pressed").job_id == following.job_id


def test_a_press_during_a_run_brings_nothing_if_nothing_changed(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    jobs.changes.take(PROJECT)
    jobs.enqueue_retrain(PROJECT, "pressed again")
    assert jobs.finish_retrain(PROJECT, first, asked) is None


def test_the_threshold_reached_during_a_run_brings_one_more(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    jobs.changes.take(PROJECT)
    jobs.changes.record(PROJECT, range(100))
    assert jobs.finish_retrain(PROJECT, first, asked) is not None


def test_a_press_before_the_snapshot_is_covered_by_it(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    take(jobs)
    jobs.enqueue_retrain(PROJECT, "pressed again")
    jobs.changes.record(PROJECT, [7])
    jobs.changes.take(PROJECT)
    jobs.changes.record(PROJECT, [8])
    assert jobs.finish_retrain(PROJECT, first, asked) is None


# -- quick and full


def test_a_press_makes_a_waiting_quick_run_full(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "10 changed", "quick")
    assert jobs.live(PROJECT) == Live("quick", waits=True)
    assert jobs.enqueue_retrain(PROJECT, "pressed") == Enqueued(first.job_id, joined=True)
    assert jobs.live(PROJECT) == Live("full", waits=True)
    assert jobs.recipe(PROJECT) == "full"
    assert queued(jobs) == [first.job_id]
    take(jobs)
    jobs.changes.take(PROJECT, jobs.recipe(PROJECT))
    assert jobs.finish_retrain(PROJECT, first.job_id, asked) is None


def test_a_quick_run_that_joins_a_full_one_adds_nothing(jobs: Jobs) -> None:
    first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    assert jobs.enqueue_retrain(PROJECT, "10 changed", "quick").joined
    assert jobs.recipe(PROJECT) == "full"
    take(jobs)
    jobs.changes.take(PROJECT)
    jobs.enqueue_retrain(PROJECT, "10 changed", "quick")
    jobs.changes.record(PROJECT, [1])
    assert jobs.finish_retrain(PROJECT, first, asked) is None


@pytest.mark.parametrize(
    ("pressed", "changed", "follows"),
    [(False, 9, None), (False, 10, "quick"), (False, 90, "full"), (True, 0, "full")],
)
def test_what_follows_a_quick_run(jobs: Jobs, pressed: bool, changed: int, follows: Recipe | None) -> None:
    """It took 10 changes, which count on toward the full threshold of 100."""
    jobs.changes.record(PROJECT, range(10))
    first = jobs.enqueue_retrain(PROJECT, "10 changed", "quick").job_id
    take(jobs)
    jobs.changes.take(PROJECT, "quick")
    assert jobs.live(PROJECT) == Live("quick", waits=False)
    if pressed:
        jobs.enqueue_retrain(PROJECT, "pressed")
    jobs.changes.record(PROJECT, range(10, 10 + changed))
    following = jobs.finish_retrain(PROJECT, first, asked_after_quick)
    live = jobs.live(PROJECT)
    assert (live.recipe if live else None) == follows
    assert queued(jobs) == ([following.job_id] if following else [])
    assert jobs.changes.count(PROJECT) == Changes(10 + changed, changed)


def test_a_press_between_the_choice_of_a_recipe_and_the_snapshot_is_not_lost(jobs: Jobs) -> None:
    jobs.changes.record(PROJECT, range(10))
    first = jobs.enqueue_retrain(PROJECT, "10 changed", "quick").job_id
    take(jobs)
    recipe = jobs.recipe(PROJECT)
    jobs.enqueue_retrain(PROJECT, "pressed")
    jobs.changes.take(PROJECT, recipe)
    assert jobs.finish_retrain(PROJECT, first, asked_after_quick) is not None
    assert jobs.recipe(PROJECT) == "full"


def test_a_job_without_a_recipe_is_a_full_one(jobs: Jobs) -> None:
    jobs.enqueue_retrain(PROJECT, "10 changed", "quick")
    jobs.connection.delete(f"segloop:{PROJECT}:recipe")
    assert jobs.live(PROJECT) == Live("full", waits=True)


def test_no_press_is_lost_at_the_end_of_a_run(jobs: Jobs, settings: Settings) -> None:
    """Whatever the order of a press and a run's end: a fresh job, or one more run."""
    for attempt in range(40):
        jobs.connection.flushall()
        first = jobs.enqueue_retrain(PROJECT, "pressed").job_id
        take(jobs)
        jobs.changes.record(PROJECT, [attempt])
        other = Jobs.open(settings, timeout_s=5)
        start = threading.Barrier(2)

        def press(other: Jobs = other, start: threading.Barrier = start) -> Enqueued:
            start.wait()
            return other.enqueue_retrain(PROJECT, "pressed again")

        with ThreadPoolExecutor(1) as pool:
            pressed = pool.submit(press)
            start.wait()
            following = jobs.finish_retrain(PROJECT, first, asked)
        other.close()
        assert (following is not None) != (not pressed.result().joined)
        assert len(queued(jobs)) == 1


def test_the_end_of_an_old_run_leaves_the_new_one_alone(jobs: Jobs) -> None:
    jobs.changes.record(PROJECT, [1])
    job_id = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    assert jobs.finish_retrain(PROJECT, "retrain-29-old", lambda *_: RetrainDecision(True, "yes")) is None
    assert jobs.live_retrain(PROJECT) is not None
    assert queued(jobs) == [job_id]


def test_a_newer_prelabel_replaces_a_queued_one_and_follows_a_running_one(jobs: Jobs) -> None:
    old = jobs.enqueue_prelabel(PROJECT, "v1-aaaaaaaa")
    assert jobs.enqueue_prelabel(PROJECT, "v1-aaaaaaaa") == Enqueued(old.job_id, joined=True)
    new = jobs.enqueue_prelabel(PROJECT, "v2-bbbbbbbb")
    assert queued(jobs, PRELABEL_QUEUE) == [new.job_id]
    # the old one says what became of it, and does not stay in Redis for ever
    assert jobs.job_status(old.job_id)["job_status"] == "canceled"
    assert 0 < jobs.connection.ttl(f"rq:job:{old.job_id}") <= RESULT_TTL_S
    assert take(jobs, PRELABEL_QUEUE) == new.job_id
    newest = jobs.enqueue_prelabel(PROJECT, "v3-cccccccc")
    assert queued(jobs, PRELABEL_QUEUE) == [newest.job_id]
    assert jobs.job_status(new.job_id)["job_status"] == "started"


def test_a_newer_prelabel_replaces_one_that_waits_for_an_outage_to_end(jobs: Jobs) -> None:
    old = jobs.enqueue_prelabel(PROJECT, "v1-aaaaaaaa").job_id
    assert take(jobs, PRELABEL_QUEUE) == old
    queue = jobs.queue(PRELABEL_QUEUE)
    [entry] = jobs.connection.zrange(queue.started_job_registry.key, 0, -1)
    jobs.recovery.postpone(Execution.from_composite_key(entry.decode(), jobs.connection), queue, 30)
    new = jobs.enqueue_prelabel(PROJECT, "v2-bbbbbbbb").job_id
    assert queue.scheduled_job_registry.get_job_ids() == []
    jobs.hasten(old)
    assert queued(jobs, PRELABEL_QUEUE) == [new]


def test_many_presses_tell_label_studio_once(jobs: Jobs) -> None:
    jobs.enqueue_prelabel(PROJECT, "v1-aaaaaaaa")
    for _ in range(3):
        jobs.enqueue_feedback(PROJECT)
    jobs.enqueue_feedback("2.1")
    waiting = [jobs.fetch(job_id) for job_id in queued(jobs, PRELABEL_QUEUE)]
    assert [job and job.meta["kind"] for job in waiting] == ["feedback", "feedback", "prelabel"]
    # one that runs may have looked before the next press
    take(jobs, PRELABEL_QUEUE), take(jobs, PRELABEL_QUEUE)
    jobs.enqueue_feedback(PROJECT)
    assert len(queued(jobs, PRELABEL_QUEUE)) == 2


def test_each_project_is_reconciled_once_at_a_time_after_all_else(jobs: Jobs) -> None:
    first = jobs.enqueue_reconcile(PROJECT)
    assert jobs.enqueue_reconcile(PROJECT) == Enqueued(first.job_id, joined=True)
    other = jobs.enqueue_reconcile("2.1")
    assert queued(jobs, RECONCILE_QUEUE) == [first.job_id, other.job_id]
    assert jobs.enqueue_look_up() == Enqueued(jobs.enqueue_look_up().job_id, joined=False)


def test_no_pickle_in_redis(jobs: Jobs) -> None:
    job_id = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    data = jobs.connection.hgetall(f"rq:job:{job_id}")
    assert b"worker.jobs.entry_points.retrain" in __import__("zlib").decompress(data[b"data"])
