"""The refresh of predictions, and the question to Label Studio what changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segloop.errors import (
    LabelStudioError,
)
from segloop.labelstudio import Totals
from segloop.policy import Changes
from segloop.queue import PRELABEL_QUEUE, RETRAIN_QUEUE
from segloop.registry import Registry
from segloop.settings import Settings
from tests.toys import toy_model
from tests.workshop import (
    PROJECT,
    Fuse,
    Killed,
    begin,
    queued,
    retrain,
    task,
)
from worker.jobs.context import Workshop
from worker.jobs.prelabel import run_prelabel
from worker.jobs.reconcile import run_reconcile

# -- prelabel


def test_prelabel_fills_what_is_missing_and_ends_in_spite_of_failures(shop: Workshop) -> None:
    version = retrain(shop)["version"]
    label_studio: Any = shop.label_studio
    label_studio.unlabelled_ids = list(range(21, 32))
    result = run_prelabel(shop, PROJECT, version, "none")
    assert (result["predicted"], result["failed"]) == (9, [25, 30])
    assert {one["task"] for one in label_studio.stored} == set(range(21, 32)) - {25, 30}
    assert all(one["model_version"] == version and 0 <= one["score"] <= 1 for one in label_studio.stored)
    again = run_prelabel(shop, PROJECT, version, "none")
    assert (again["predicted"], again["failed"]) == (0, [25, 30])


def test_a_killed_prelabel_goes_on(shop: Workshop) -> None:
    version = retrain(shop)["version"]
    label_studio: Any = shop.label_studio
    label_studio.unlabelled_ids = [21, 22, 23, 24, 26]
    fuse = Fuse(2, after=True)
    with pytest.raises(Killed):
        run_prelabel(replace(shop, label_studio=fuse.wrap(label_studio, ("create",))), PROJECT, version, "none")
    assert len(label_studio.stored) == 4
    assert run_prelabel(shop, PROJECT, version, "none")["predicted"] == 1
    assert sorted(one["task"] for one in label_studio.stored) == [21, 22, 23, 24, 26]


def test_prelabel_stops_for_a_newer_champion(shop: Workshop) -> None:
    first = retrain(shop)["version"]
    label_studio: Any = shop.label_studio
    label_studio.unlabelled_ids = [21, 22, 23, 24]

    def load(registry: Registry, project: str, version: str, settings: Settings) -> Any:
        retrain(shop)
        return toy_model(version, project)

    result = run_prelabel(replace(shop, load_model=load), PROJECT, first, "none")
    assert (result["superseded"], result["predicted"]) == (True, 2)
    assert run_prelabel(shop, PROJECT, first, "none")["superseded"]


# -- reconcile


def test_reconcile_finds_what_no_webhook_told_of(shop: Workshop) -> None:
    label_studio: Any = shop.label_studio
    assert len(run_reconcile(shop)["queued"]) == 1
    assert queued(shop.jobs, RETRAIN_QUEUE) == [[PROJECT]]
    shop.jobs.connection.flushall()
    retrain(shop)
    run_prelabel(shop, *queued(shop.jobs, PRELABEL_QUEUE)[0], "none")
    shop.jobs.connection.delete(shop.jobs.queue(PRELABEL_QUEUE).key)
    assert run_reconcile(shop) == {"queued": []}
    assert shop.jobs.changed(PROJECT) == Changes(0, 0)
    label_studio.labelled += [task(number, "2026-11-22T12:30:00Z") for number in range(11, 15)]
    assert run_reconcile(shop) == {"queued": []}
    assert shop.jobs.changed(PROJECT) == Changes(4, 4)
    label_studio.labelled.append(task(15, "2026-11-22T12:31:00Z"))
    assert len(run_reconcile(shop)["queued"]) == 1


def told(shop: Workshop) -> None:
    """Retrained, and nothing left to tell Label Studio."""
    run_prelabel(shop, PROJECT, retrain(shop)["version"], "none")
    shop.jobs.connection.flushall()


def test_reconcile_counts_deletions(shop: Workshop) -> None:
    label_studio: Any = shop.label_studio
    told(shop)
    del label_studio.labelled[3]
    label_studio.labelled[0]["annotations"].clear()
    label_studio.labelled.pop(0)
    run_reconcile(shop)
    assert shop.jobs.changed(PROJECT) == Changes(2, 2)
    retrain(shop)
    run_reconcile(shop)
    assert shop.jobs.changed(PROJECT) == Changes(0, 0)


def test_reconcile_on_another_machine_goes_by_label_studios_clock(shop: Workshop, tmp_path: Path) -> None:
    label_studio: Any = shop.label_studio
    told(shop)
    elsewhere = replace(shop, settings=shop.settings.model_copy(update={"data_dir": tmp_path / "elsewhere"}))
    run_reconcile(elsewhere)
    assert shop.jobs.changed(PROJECT) == Changes(0, 0)
    label_studio.labelled[0] = task(1, "2026-11-22T12:00:00.000001Z")
    run_reconcile(elsewhere)
    assert shop.jobs.changed(PROJECT) == Changes(1, 1)


def test_a_mirror_that_cannot_be_used_costs_no_other_project(
    shop: Workshop, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    shop.registry.write_json("7", "project.json", {"project": "7"})
    folder = settings.data_dir / "mirror" / "7"
    (folder / "tasks.sqlite").mkdir(parents=True)
    run_reconcile(shop)
    assert queued(shop.jobs, RETRAIN_QUEUE) == [[PROJECT]]
    assert f"the mirror {folder} cannot be used" in caplog.text


def test_reconcile_leaves_a_live_retrain_alone(shop: Workshop) -> None:
    begin(shop.jobs)
    assert run_reconcile(shop) == {"queued": []}
    assert shop.jobs.changed(PROJECT) == Changes(0, 0)


def test_reconcile_tells_of_a_rollback(shop: Workshop) -> None:
    first, second = retrain(shop)["version"], retrain(shop)["version"]
    run_prelabel(shop, PROJECT, second, "none")
    shop.jobs.connection.flushall()
    shop.registry.rollback(PROJECT, "worse in practice")
    run_reconcile(shop)
    assert queued(shop.jobs, PRELABEL_QUEUE) == [[PROJECT, first]]


def test_reconcile_serves_the_others(shop: Workshop) -> None:
    shop.registry.write_json("7", "project.json", {"project": "7"})
    label_studio: Any = shop.label_studio

    class Partly:
        def __getattr__(self, name: str) -> Any:
            return self if name == "tasks" else getattr(label_studio, name)

        def totals(self, project_id: int, *arguments: Any) -> Totals:
            if project_id == 7:
                raise LabelStudioError("no such project")
            return label_studio.totals(project_id, *arguments)  # type: ignore[no-any-return]

    run_reconcile(replace(shop, label_studio=Partly()))  # type: ignore[arg-type]
    assert queued(shop.jobs, RETRAIN_QUEUE) == [[PROJECT]]
