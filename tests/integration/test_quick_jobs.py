"""Quick adaptation as a job: its recipe, its counts, and what follows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from segloop.errors import WeightsError
from segloop.policy import Changes
from segloop.queue import PRELABEL_QUEUE, RETRAIN_QUEUE
from segloop.settings import Settings
from segloop.versions import EngineReport
from tests.job_context import (
    PROJECT,
    Fuse,
    Killed,
    begin,
    queued,
    reconcile_all,
    task,
)
from worker.jobs.context import JobContext
from worker.jobs.retrain import run_retrain


def adapt(context: JobContext) -> dict[str, Any]:
    return run_retrain(context, PROJECT, begin(context.jobs, recipe="quick"))


def test_a_quick_adaptation_is_a_retrain_of_another_recipe(quick_context: JobContext) -> None:
    quick_context.jobs.changes.record(PROJECT, [1, 2, 3, 4, 5])
    result = adapt(quick_context)
    assert (result["promoted"], result["recipe"]) == (True, "quick")
    [run] = quick_context.trainer.submitted  # type: ignore[attr-defined]
    assert (run.hyperparameters["recipe"], run.hyperparameters["adapt_minutes"]) == ("quick", "1.0")
    info = quick_context.registry.get(PROJECT, result["version"])
    assert info.engines == EngineReport(), "the exact model alone, which needs no report"
    assert {"manifest.json", "openvino.xml"} < info.files.keys()
    assert queued(quick_context.jobs, PRELABEL_QUEUE) == [[PROJECT, result["version"]]]
    assert quick_context.jobs.changes.count(PROJECT) == Changes(5, 0)
    assert quick_context.jobs.live(PROJECT) is None


def test_a_quick_candidate_must_win_too(quick_context: JobContext) -> None:
    adapt(quick_context)
    better, worse = adapt(quick_context), adapt(quick_context)
    assert (better["promoted"], worse["promoted"]) == (True, False)


def test_a_full_retrain_follows_a_quick_one_when_its_threshold_is_met(quick_context: JobContext) -> None:
    quick_context.jobs.changes.record(PROJECT, range(1, 6))
    honest = quick_context.compare

    def busy(*args: Any) -> dict[str, Any]:
        quick_context.jobs.changes.record(PROJECT, range(6, 51))
        return honest(*args)

    adapt(replace(quick_context, compare=busy))
    assert quick_context.jobs.recipe(PROJECT) == "full"
    assert queued(quick_context.jobs, RETRAIN_QUEUE) == [[PROJECT]]


def test_a_run_keeps_the_recipe_that_it_began_with(quick_context: JobContext) -> None:
    job_id = begin(quick_context.jobs, recipe="quick")
    broken = replace(quick_context, trainer=Fuse(1, after=False).wrap(quick_context.trainer, ("submit",)))
    with pytest.raises(Killed):
        run_retrain(broken, PROJECT, job_id)
    quick_context.jobs.enqueue_retrain(PROJECT, "pressed")
    assert run_retrain(quick_context, PROJECT, job_id)["recipe"] == "quick"
    assert quick_context.jobs.recipe(PROJECT) == "full", "the press is answered by a run of its own"
    assert queued(quick_context.jobs, RETRAIN_QUEUE) == [[PROJECT]]


def test_without_weights_a_quick_adaptation_becomes_a_full_training_of_the_same_tasks(
    quick_context: JobContext,
) -> None:
    quick_context.jobs.changes.record(PROJECT, [1, 2, 3, 4, 5])
    result = adapt(replace(quick_context, has_weights=lambda settings: False))
    assert (result["promoted"], result["recipe"]) == (True, "full")
    [run] = quick_context.trainer.submitted  # type: ignore[attr-defined]
    assert run.hyperparameters["recipe"] == "full"
    assert quick_context.jobs.changes.count(PROJECT) == Changes(0, 0)
    assert queued(quick_context.jobs, RETRAIN_QUEUE) == []


def test_weights_that_cannot_be_used_are_told_of_by_the_training(quick_context: JobContext) -> None:
    def unusable(settings: Settings) -> bool:
        raise WeightsError("weights mine.pth: no ResNet-50 in it", "use another file")

    assert adapt(replace(quick_context, has_weights=unusable))["recipe"] == "quick"


def test_counts_are_rebuilt_from_the_last_snapshots(quick_context: JobContext) -> None:
    """What Redis lost: ten tasks of the quick run's snapshot, and three that changed since."""
    label_studio: Any = quick_context.label_studio
    adapt(quick_context)
    label_studio.labelled += [task(number, "2026-11-22T12:30:00Z") for number in range(11, 14)]
    quick_context.jobs.connection.flushall()
    reconcile_all(quick_context)
    assert quick_context.jobs.changes.count(PROJECT) == Changes(13, 3)
    run_retrain(quick_context, PROJECT, begin(quick_context.jobs))
    label_studio.labelled += [task(14, "2026-11-22T12:31:00Z")]
    quick_context.jobs.connection.flushall()
    reconcile_all(quick_context)
    assert quick_context.jobs.changes.count(PROJECT) == Changes(1, 1)


def test_reconcile_queues_a_quick_adaptation(quick_context: JobContext) -> None:
    assert len(reconcile_all(quick_context)["queued"]) == 1
    assert quick_context.jobs.recipe(PROJECT) == "quick"
    assert adapt(quick_context)["recipe"] == "quick"
