"""When each project is reconciled, on a real Valkey: spread, once, and behind predictions."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from segloop.queue import Jobs
from segloop.queue.reconciles import Reconciles
from segloop.settings import Settings
from tests.queues import PROJECT, jobs, settings, valkey

__all__ = ["jobs", "settings", "valkey"]


@pytest.fixture
def reconciles(jobs: Jobs, settings: Settings) -> Reconciles:
    return Reconciles(jobs._connection, settings.model_copy(update={"reconcile_s": 100.0}))


def test_reconciliations_are_spread_over_the_interval(reconciles: Reconciles, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    projects = {f"{number}.1" for number in range(200)}
    assert reconciles.plan(lambda: projects)
    assert not reconciles.plan(lambda: projects), "once in an interval"
    told: list[list[str]] = []
    for _ in range(100):
        now += 1
        told.append(reconciles.due())
    assert sorted(key for keys in told for key in keys) == sorted(projects)
    assert max(map(len, told)) < 10
    again = []
    for _ in range(100):
        now += 1
        again.append(reconciles.due())
    assert again == told, "the same times in the next interval"


def test_what_was_missed_is_due_once(reconciles: Reconciles, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    reconciles.plan(lambda: ["1.1", "2.1"])
    now += 1000
    assert sorted(reconciles.due()) == ["1.1", "2.1"]
    assert reconciles.due() == []


def test_two_workers_do_not_take_the_same_project(reconciles: Reconciles, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    reconciles.plan(lambda: [f"{number}.1" for number in range(15)])
    now += 101
    with ThreadPoolExecutor(8) as pool:
        told = [key for keys in pool.map(lambda _: reconciles.due(), range(8)) for key in keys]
    assert sorted(told) == sorted(f"{number}.1" for number in range(15))


def test_a_shorter_interval_holds_at_once(jobs: Jobs, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    day, minute = (
        Reconciles(jobs._connection, settings.model_copy(update={"reconcile_s": seconds}))
        for seconds in (86400.0, 60.0)
    )
    day.plan(lambda: ["1.1", "2.1"])
    now += 86400
    assert sorted(day.due()) == ["1.1", "2.1"]
    # somebody restarts the workers with another setting
    assert minute.plan(lambda: ["1.1", "2.1", "3.1"])
    assert not minute.plan(lambda: ["1.1", "2.1", "3.1"])
    now += 60
    assert sorted(minute.due()) == ["1.1", "2.1", "3.1"]


def test_projects_that_are_gone_are_forgotten(
    reconciles: Reconciles, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    reconciles.plan(lambda: ["1.1", "2.1"])
    jobs.connection.delete("segloop:reconciled")
    reconciles.plan(lambda: ["2.1", "3.1"])
    now += 1000
    assert sorted(reconciles.due()) == ["2.1", "3.1"]


def test_a_question_makes_room_for_predictions_a_few_times(reconciles: Reconciles, jobs: Jobs) -> None:
    jobs.connection.hset("rq:worker:both", "queues", "segloop-retrain,segloop-prelabel,segloop-reconcile")
    jobs.connection.hset("rq:worker:trains", "queues", "segloop-retrain,segloop-reconcile")
    assert not reconciles.is_in_the_way("both"), "nothing waits"
    jobs.enqueue_prelabel(PROJECT, "v1-aaaaaaaa")
    assert reconciles.is_in_the_way("both")
    assert not reconciles.is_in_the_way("trains")
    assert not reconciles.is_in_the_way("gone")
    assert [reconciles.step_aside(PROJECT, 2) for _ in range(4)] == [True, True, False, False]
    assert reconciles.step_aside("2.1", 2)
