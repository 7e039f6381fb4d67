"""The refresh of predictions, and the question to Label Studio what changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segloop.errors import (
    LabelStudioError,
    LabelStudioNotFound,
)
from segloop.labelstudio import Totals
from segloop.policy import Changes, Recipe
from segloop.projects import Projects
from segloop.queue import PRELABEL_QUEUE, RETRAIN_QUEUE, Parked
from segloop.registry import Registry
from segloop.settings import Settings
from segloop.trainers.base import RunStatus
from tests.aws.route_jobs import take
from tests.job_context import (
    PROJECT,
    FakeTrainer,
    Fuse,
    Killed,
    begin,
    queued,
    reconcile_all,
    retrain,
    task,
)
from tests.toys import BRUSH, toy_model
from worker.jobs.context import JobContext
from worker.jobs.prelabel import run_prelabel
from worker.jobs.reconcile import run_reconcile
from worker.jobs.retrain import run_retrain

# -- prelabel


def test_prelabel_fills_what_is_missing_and_ends_in_spite_of_failures(context: JobContext) -> None:
    version = retrain(context)["version"]
    label_studio: Any = context.label_studio
    label_studio.unlabelled_ids = list(range(21, 32))
    result = run_prelabel(context, PROJECT, version, "none")
    assert (result["predicted"], result["failed"]) == (9, [25, 30])
    assert {one["task"] for one in label_studio.stored} == set(range(21, 32)) - {25, 30}
    assert all(one["model_version"] == version and 0 <= one["score"] <= 1 for one in label_studio.stored)
    again = run_prelabel(context, PROJECT, version, "none")
    assert (again["predicted"], again["failed"]) == (0, [25, 30])


def test_a_killed_prelabel_goes_on(context: JobContext) -> None:
    version = retrain(context)["version"]
    label_studio: Any = context.label_studio
    label_studio.unlabelled_ids = [21, 22, 23, 24, 26]
    fuse = Fuse(2, after=True)
    with pytest.raises(Killed):
        run_prelabel(replace(context, label_studio=fuse.wrap(label_studio, ("create",))), PROJECT, version, "none")
    assert len(label_studio.stored) == 4
    assert run_prelabel(context, PROJECT, version, "none")["predicted"] == 1
    assert sorted(one["task"] for one in label_studio.stored) == [21, 22, 23, 24, 26]


def test_prelabel_stops_for_a_newer_champion(context: JobContext) -> None:
    first = retrain(context)["version"]
    label_studio: Any = context.label_studio
    label_studio.unlabelled_ids = [21, 22, 23, 24]

    def load(registry: Registry, project: str, version: str, settings: Settings) -> Any:
        retrain(context)
        return toy_model(version, project)

    result = run_prelabel(replace(context, load_model=load), PROJECT, first, "none")
    assert (result["superseded"], result["predicted"]) == (True, 2)
    assert run_prelabel(context, PROJECT, first, "none")["superseded"]


# -- reconcile


def test_reconcile_finds_what_no_webhook_told_of(context: JobContext) -> None:
    label_studio: Any = context.label_studio
    assert len(reconcile_all(context)["queued"]) == 1
    assert queued(context.jobs, RETRAIN_QUEUE) == [[PROJECT]]
    context.jobs.connection.flushall()
    retrain(context)
    run_prelabel(context, *queued(context.jobs, PRELABEL_QUEUE)[0], "none")
    context.jobs.connection.delete(context.jobs.queue(PRELABEL_QUEUE).key)
    assert reconcile_all(context) == {"queued": []}
    assert context.jobs.changes.count(PROJECT) == Changes(0, 0)
    label_studio.labelled += [task(number, "2026-11-22T12:30:00Z") for number in range(11, 15)]
    assert reconcile_all(context) == {"queued": []}
    assert context.jobs.changes.count(PROJECT) == Changes(4, 4)
    label_studio.labelled.append(task(15, "2026-11-22T12:31:00Z"))
    assert len(reconcile_all(context)["queued"]) == 1


def test_a_deleted_project_is_asked_about_once(context: JobContext, caplog: pytest.LogCaptureFixture) -> None:
    retrain(context)
    context.jobs.connection.flushall()
    label_studio: Any = context.label_studio
    label_studio.error = LabelStudioNotFound("Label Studio answered 404")
    asked: list[int] = []
    get = label_studio.get
    label_studio.get = lambda number: asked.append(number) or get(number)
    for _ in range(3):
        assert reconcile_all(context) == {"queued": []}
    assert len(asked) == 1
    assert caplog.text.count("Label Studio has no such project") == 1

    # it calls segloop for the project, so it is there: a database was restored, or the key is another one
    label_studio.error = None
    server = Projects(context.registry, context.settings)
    server.note(PROJECT, label_config=BRUSH)
    server.close()
    label_studio.labelled += [task(number, "2026-11-22T12:30:00Z") for number in range(11, 31)]
    assert reconcile_all(context)["queued"]


def titled(context: JobContext) -> None:
    """Retrained, and its title in Label Studio."""
    run_prelabel(context, PROJECT, retrain(context)["version"], "none")
    context.jobs.connection.flushall()


@pytest.mark.parametrize("begun", [False, True])
def test_a_refresh_of_predictions_that_redis_lost_goes_on(context: JobContext, begun: bool) -> None:
    """The title names the new version by then, so nothing else tells that tasks still have the old one's predictions."""
    version = retrain(context)["version"]
    label_studio: Any = context.label_studio
    label_studio.unlabelled_ids = [21, 22]

    def killed(*_: Any) -> Any:
        raise Killed

    if begun:
        with pytest.raises(Killed):
            run_prelabel(replace(context, load_model=killed), PROJECT, version, "lost")
    context.jobs.connection.flushall()
    for _ in range(2):
        reconcile_all(context)
        assert queued(context.jobs, PRELABEL_QUEUE) == [[PROJECT, version]]
    run_prelabel(context, PROJECT, version, "found")
    context.jobs.connection.flushall()
    reconcile_all(context)
    assert queued(context.jobs, PRELABEL_QUEUE) == []


def test_reconcile_counts_deletions(context: JobContext) -> None:
    label_studio: Any = context.label_studio
    titled(context)
    del label_studio.labelled[3]
    label_studio.labelled[0]["annotations"].clear()
    label_studio.labelled.pop(0)
    reconcile_all(context)
    assert context.jobs.changes.count(PROJECT) == Changes(2, 2)
    retrain(context)
    reconcile_all(context)
    assert context.jobs.changes.count(PROJECT) == Changes(0, 0)


def test_reconcile_on_another_machine_goes_by_label_studios_clock(context: JobContext, tmp_path: Path) -> None:
    label_studio: Any = context.label_studio
    titled(context)
    elsewhere = replace(context, settings=context.settings.model_copy(update={"data_dir": tmp_path / "elsewhere"}))
    reconcile_all(elsewhere)
    assert context.jobs.changes.count(PROJECT) == Changes(0, 0)
    label_studio.labelled[0] = task(1, "2026-11-22T12:00:00.000001Z")
    reconcile_all(elsewhere)
    assert context.jobs.changes.count(PROJECT) == Changes(1, 1)


def test_a_mirror_that_cannot_be_used_costs_no_other_project(
    context: JobContext, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    context.registry.write_json("7", "project.json", {"project": "7"})
    folder = settings.data_dir / "mirror" / "7"
    (folder / "tasks.sqlite").mkdir(parents=True)
    reconcile_all(context)
    assert queued(context.jobs, RETRAIN_QUEUE) == [[PROJECT]]
    assert f"the mirror {folder} cannot be used" in caplog.text


def test_reconcile_leaves_a_live_retrain_alone(context: JobContext) -> None:
    begin(context.jobs)
    assert reconcile_all(context) == {"queued": []}
    assert context.jobs.changes.count(PROJECT) == Changes(0, 0)


@pytest.mark.parametrize("recipe", ["full", "quick"])
def test_a_retrain_that_redis_lost_goes_on(context: JobContext, settings: Settings, recipe: Recipe) -> None:
    """Its snapshot covers ten changes, which would never count again."""
    own = settings.model_copy(update={"weights": "coco", "retrain_threshold": 50})
    world = replace(context, settings=own, trainer=FakeTrainer([RunStatus("running")], poll_later_s=1))
    context.jobs.changes.record(PROJECT, range(1, 11))
    job_id = begin(context.jobs, recipe=recipe)
    with pytest.raises(Parked):
        run_retrain(world, PROJECT, job_id)
    assert reconcile_all(world) == {"queued": []}
    context.jobs.connection.flushall()
    assert reconcile_all(world) == {"queued": [job_id]}
    assert reconcile_all(world) == {"queued": []}
    take(context.jobs, job_id)
    result = run_retrain(world, PROJECT, job_id)
    assert (result["promoted"], result["recipe"]) == (True, recipe)
    assert len(world.trainer.submitted) == 1  # type: ignore[attr-defined]
    # it has ended, and nobody takes it for lost again
    context.jobs.connection.flushall()
    run_reconcile(world, PROJECT)
    assert queued(context.jobs, RETRAIN_QUEUE) == []


def test_reconcile_tells_of_a_rollback(context: JobContext) -> None:
    first, second = retrain(context)["version"], retrain(context)["version"]
    run_prelabel(context, PROJECT, second, "none")
    context.jobs.connection.flushall()
    context.registry.rollback(PROJECT, "worse in practice")
    reconcile_all(context)
    assert queued(context.jobs, PRELABEL_QUEUE) == [[PROJECT, first]]


def test_reconcile_serves_the_others(context: JobContext) -> None:
    context.registry.write_json("7", "project.json", {"project": "7"})
    label_studio: Any = context.label_studio

    class Partly:
        def __getattr__(self, name: str) -> Any:
            return self if name == "tasks" else getattr(label_studio, name)

        def totals(self, project_id: int, *arguments: Any) -> Totals:
            if project_id == 7:
                raise LabelStudioError("no such project")
            return label_studio.totals(project_id, *arguments)  # type: ignore[no-any-return]

    reconcile_all(replace(context, label_studio=Partly()))  # type: ignore[arg-type]
    assert queued(context.jobs, RETRAIN_QUEUE) == [[PROJECT]]


def test_a_question_that_steps_aside_changes_nothing_but_the_mirror(context: JobContext) -> None:
    retrain(context)
    label_studio: Any = context.label_studio
    label_studio.labelled += [task(number, "2026-11-22T12:30:00Z") for number in range(11, 31)]
    context.jobs.connection.flushall()

    def step_aside() -> None:
        raise Parked(5)

    with pytest.raises(Parked):
        run_reconcile(context, PROJECT, step_aside)
    assert queued(context.jobs, RETRAIN_QUEUE) == []
    assert reconcile_all(context)["queued"]
    assert queued(context.jobs, RETRAIN_QUEUE) == [[PROJECT]]
