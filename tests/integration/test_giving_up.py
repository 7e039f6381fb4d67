"""Retrains that fail for good outside of what they see to themselves: a process that dies, settings that broke meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rq.executions import Execution

from segloop.errors import ModelRemoved, SettingsError
from segloop.policy import Changes
from segloop.queue import RETRAIN_QUEUE, Jobs, Parked
from segloop.settings import Settings
from segloop.trainers.base import RunStatus
from tests.job_context import PROJECT, FakeTrainer, begin, queued, reconcile_all, retrain
from worker.jobs.context import JobContext
from worker.jobs.retrain import run_retrain
from worker.worker import Worker


@pytest.fixture
def worker(settings: Settings, jobs: Jobs) -> Iterator[Worker]:
    worker = Worker(settings, [RETRAIN_QUEUE], jobs)
    yield worker
    worker.close()


@pytest.fixture
def parked(context: JobContext) -> str:
    """A retrain whose training goes on elsewhere; it has taken ten changes."""
    context.jobs.changes.record(PROJECT, range(1, 11))
    job_id = begin(context.jobs)
    with pytest.raises(Parked):
        run_retrain(replace(context, trainer=FakeTrainer([RunStatus("running")], poll_later_s=1)), PROJECT, job_id)
    assert context.jobs.changes.count(PROJECT) == Changes(0, 0)
    return job_id


def check_that_it_failed(context: JobContext, job_id: str, reason: str) -> None:
    jobs = context.jobs
    assert jobs.changes.count(PROJECT) == Changes(10, 10)
    assert jobs.live_retrain(PROJECT) is None
    last = jobs.last_retrain(PROJECT)
    assert last is not None
    assert last["progress"] is not None
    assert (last["job"], last["progress"]["phase"]) == (job_id, "failed")
    assert reason in last["progress"]["message"]
    assert jobs.counters.tallies([]).retrains["full", "failed"] == 1
    # they begin nothing by themselves, also after Redis was lost
    reconcile_all(context)
    assert queued(jobs, RETRAIN_QUEUE) == []


@pytest.mark.parametrize("error", [SettingsError("setting sagemaker_role: it is empty"), ValueError("It broke.")])
def test_a_job_that_fails_before_its_retrain_goes_on(
    context: JobContext, worker: Worker, parked: str, error: Exception
) -> None:
    """Its settings are read again with each look at its training; somebody may have changed them for the worse."""
    job = context.jobs.fetch(parked)
    assert job is not None
    job.retries_left = 0
    worker.handle_exception(job, type(error), error, None)
    worker.handle_job_failure(job, context.jobs.queue(RETRAIN_QUEUE))
    check_that_it_failed(context, parked, str(error))


@pytest.mark.parametrize("on_this_host", [True, False])
def test_a_job_whose_process_died_too_often(
    context: JobContext, worker: Worker, parked: str, settings: Settings, on_this_host: bool
) -> None:
    if not on_this_host:
        shutil.rmtree(settings.data_dir / "runs")
    redis = context.jobs.connection
    redis.hset(f"rq:job:{parked}", "retries_left", 0)
    redis.zadd(context.jobs.queue(RETRAIN_QUEUE).started_job_registry.key, {f"{parked}:execution": 1})
    worker.recover()
    check_that_it_failed(context, parked, "died 4 times")


def test_a_retrain_that_saw_to_its_own_end_is_left_alone(context: JobContext, worker: Worker, parked: str) -> None:
    failing = FakeTrainer([RunStatus("failed", reason="The loss is NaN.")], poll_later_s=1)
    job = context.jobs.fetch(parked)
    assert job is not None
    with pytest.raises(Exception, match="NaN") as caught:
        run_retrain(replace(context, trainer=failing), PROJECT, parked)
    after = begin(context.jobs)
    worker.handle_exception(job, caught.type, caught.value, caught.tb)
    worker.handle_job_failure(job, context.jobs.queue(RETRAIN_QUEUE))
    live = context.jobs.live_retrain(PROJECT)
    assert live is not None
    assert live["job"] == after
    assert context.jobs.counters.tallies([]).retrains["full", "failed"] == 1


def test_a_retrain_whose_beginning_was_pruned_waits_for_nothing(
    context: JobContext, worker: Worker, tmp_path: Path
) -> None:
    """Its parent's model was removed for good while its training was parked: that is no outage."""
    parent = retrain(context)["version"]
    context.jobs.changes.record(PROJECT, range(1, 11))
    job_id = begin(context.jobs)
    elsewhere = replace(context, trainer=FakeTrainer([RunStatus("running")], poll_later_s=1))
    with pytest.raises(Parked):
        run_retrain(elsewhere, PROJECT, job_id)
    registry = context.registry
    for name in ("one", "another"):
        bundle = tmp_path / name
        bundle.mkdir()
        (bundle / "model.safetensors").write_bytes(name.encode())
        info = registry.get(PROJECT, parent).model_copy(update={"files": {}})
        registry.promote(PROJECT, registry.add(PROJECT, bundle, info), "by hand")
    registry.remove(PROJECT, parent)
    job = context.jobs.fetch(job_id)
    assert job is not None
    with pytest.raises(ModelRemoved) as caught:
        run_retrain(elsewhere, PROJECT, job_id)
    assert context.jobs.changes.count(PROJECT) == Changes(10, 10)
    worker.handle_exception(job, caught.type, caught.value, caught.tb)
    execution = Execution.from_composite_key(f"{job_id}:execution", context.jobs.connection)
    execution.created_at = datetime.now(UTC)
    worker.handle_job_failure(job, context.jobs.queue(RETRAIN_QUEUE), execution=execution)
    assert context.jobs.job_status(job_id)["job_status"] == "failed"
    assert context.jobs.live_retrain(PROJECT) is None
