"""Suspected labels in a retrain: they are a part of its version, shown in Label Studio, and never in its way."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from segloop.dataset import load_manifest
from segloop.errors import LabelStudioUnreachable, TrainingError
from segloop.formats import SUSPECT_MODEL
from segloop.settings import Settings
from segloop.suspects import SUSPECTS, found_suspects, keep_verdict
from tests.job_context import PROJECT, FakeLabelStudio, Killed, begin, retrain
from tests.suspects import a_suspect, an_image, put_into, some_suspects
from worker.jobs.context import JobContext
from worker.jobs.reconcile import run_reconcile
from worker.jobs.retrain import run_retrain
from worker.jobs.suspects import SHOWN, point_out_suspects


@dataclass
class StudioWithSuspects(FakeLabelStudio):
    """A fake Label Studio whose predictions can be removed; `tabs` counts how often the tab was kept."""

    tabs: int = 0
    removed: list[int] = field(default_factory=list)

    def remove(self, task: int, version: str) -> int:
        self._check()
        self.removed.append(task)
        kept = [one for one in self.stored if (one["task"], one["model_version"]) != (task, version)]
        gone, self.stored = len(self.stored) - len(kept), kept
        return gone

    def keep_suspects(self, project_id: int) -> dict[str, Any]:
        self.tabs += 1
        return {}


def find(bundle: Path, snapshot: Path, settings: Settings) -> None:
    assert load_manifest(snapshot).items
    put_into(bundle, some_suspects())


@pytest.fixture
def studio() -> StudioWithSuspects:
    return StudioWithSuspects()


@pytest.fixture
def looking(context: JobContext, studio: StudioWithSuspects) -> JobContext:
    return replace(context, label_studio=studio, find_suspects=find)  # type: ignore[arg-type]


def shown(studio: StudioWithSuspects) -> list[tuple[int, int]]:
    """Each task with a prediction of suspects, and how many regions it has."""
    return sorted((one["task"], len(one["result"])) for one in studio.stored if one["model_version"] == SUSPECT_MODEL)


def test_a_retrain_puts_its_suspects_into_the_version_and_label_studio_shows_them(
    looking: JobContext, studio: StudioWithSuspects
) -> None:
    version = retrain(looking)["version"]
    found = found_suspects(looking.registry, PROJECT)
    assert found is not None
    assert (found.version, found.suspects) == (version, some_suspects())
    assert shown(studio) == [(1, 2), (2, 1)]
    first, second = next(one["result"] for one in studio.stored if one["task"] == 1)
    assert first["meta"]["text"] == ["Labelled Road; the network sees Sky."]
    assert (first["value"]["brushlabels"], first["original_width"]) == (["Sky"], 160)
    assert second["value"]["brushlabels"] == ["Road"]
    assert all(one["score"] is None for one in studio.stored)
    assert studio.tabs == 1
    point_out_suspects(looking, PROJECT)
    assert (studio.tabs, studio.removed) == (1, []), "all is as it should be"


def test_what_is_called_right_is_shown_no_more(looking: JobContext, studio: StudioWithSuspects) -> None:
    retrain(looking)
    suspects = some_suspects()
    keep_verdict(looking.registry, PROJECT, suspects.images[1], suspects.suspects[1], "right")
    keep_verdict(looking.registry, PROJECT, suspects.images[0], suspects.suspects[0], "wrong")
    run_reconcile(looking, PROJECT)
    assert shown(studio) == [(1, 2)], "what is wrong stays, to be corrected"
    assert studio.removed == [2]


def test_a_worker_that_dies_while_it_shows_them_leaves_none_twice(
    looking: JobContext, studio: StudioWithSuspects
) -> None:
    retrain(looking)
    suspects = some_suspects()
    keep_verdict(looking.registry, PROJECT, suspects.images[0], suspects.suspects[2], "right")

    class Dying(StudioWithSuspects):
        def keep_suspects(self, project_id: int) -> dict[str, Any]:
            raise Killed

    dying = Dying(stored=studio.stored)
    with pytest.raises(Killed):
        point_out_suspects(replace(looking, label_studio=dying), PROJECT)  # type: ignore[arg-type]
    studio.stored = dying.stored
    point_out_suspects(looking, PROJECT)
    assert shown(studio) == [(1, 1), (2, 1)]


def test_with_the_view_off_nothing_is_shown_and_what_was_is_removed(
    looking: JobContext, studio: StudioWithSuspects
) -> None:
    retrain(looking)
    off = replace(looking, settings=looking.settings.model_copy(update={"suspect_view": False}))
    point_out_suspects(off, PROJECT)
    assert shown(studio) == []
    assert looking.registry.read_json(PROJECT, SHOWN)["tasks"] == {}


@pytest.mark.slow
def test_with_the_setting_off_and_in_quick_adaptations_nothing_is_looked_for(
    looking: JobContext, quick_context: JobContext
) -> None:
    off = replace(looking, settings=looking.settings.model_copy(update={"suspects": "off"}))
    run_retrain(off, PROJECT, begin(off.jobs))
    quick = replace(quick_context, label_studio=looking.label_studio, find_suspects=find)
    run_retrain(quick, PROJECT, begin(quick.jobs, recipe="quick"))
    assert found_suspects(looking.registry, PROJECT) is None


@pytest.mark.parametrize("error", [TrainingError("no room"), ValueError("a mistake"), OSError("no space")])
def test_a_retrain_does_not_fail_for_them(
    looking: JobContext, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise error

    version = retrain(replace(looking, find_suspects=fail))["version"]
    assert SUSPECTS not in looking.registry.get(PROJECT, version).files
    assert f"cannot be looked for: {error}" in caplog.text or str(error) in caplog.text


def test_a_retrain_that_died_of_them_goes_on_without(looking: JobContext) -> None:
    calls: list[Path] = []

    def die(bundle: Path, *_: object) -> None:
        calls.append(bundle)
        raise Killed

    job = begin(looking.jobs)
    dying = replace(looking, find_suspects=die)
    with pytest.raises(Killed):
        run_retrain(dying, PROJECT, job)
    result = run_retrain(dying, PROJECT, job)
    assert (result["promoted"], len(calls)) == (True, 1)


def test_label_studio_being_away_does_not_fail_a_retrain(
    looking: JobContext, studio: StudioWithSuspects, caplog: pytest.LogCaptureFixture
) -> None:
    retrain(looking)
    keep_verdict(looking.registry, PROJECT, an_image(1), a_suspect(0), "right")
    studio.error = LabelStudioUnreachable("Label Studio is away")
    with caplog.at_level(logging.WARNING):
        point_out_suspects(looking, PROJECT)
    assert "cannot be shown in Label Studio now: Label Studio is away" in caplog.text
