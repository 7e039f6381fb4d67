"""The order of the pool after a promotion: a real registry, queue and network's arithmetic; a fake Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest

from segloop.errors import ImageError, LabelStudioError
from segloop.metrics.uncertainty import ORDER_LIMIT, ORDER_STEP
from segloop.queue import Jobs
from segloop.registry import Registry, open_registry
from segloop.settings import Settings
from tests.job_context import OneForAll
from tests.toys import BRUSH, ToyImage, toy_bundle, toy_model
from worker.jobs.context import JobContext
from worker.jobs.label_order import CANDIDATES, Embeddings
from worker.jobs.prelabel import run_prelabel

PROJECT = "29.1795383040"
BATCH = 3
#: Tasks of three kinds, the first less sure than the second and that than the third, and some that are sure.
RED, SPLIT, BLUE, SURE = (range(begin, begin + 5) for begin in (1, 11, 21, 31))
BAD = 99
#: Neutral values of the network's red and blue.
GREY = (124, 116, 104)


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it and live on."""


@dataclass
class Album:
    """A picture for each task, as strong in colour as the task's kind and number say."""

    loaded: list[int] = field(default_factory=list)

    def load(self, uri: str, task_id: int | None) -> ToyImage:
        number = task_id or 0
        self.loaded.append(number)
        if number == BAD:
            raise ImageError(f"{uri} is broken")
        pixels = np.full((16, 16, 3), GREY, dtype=np.uint8)
        strength = 90 + number if number in SURE else 10 + number
        blue_from = 0 if number in BLUE else 8 if number in SPLIT else 16
        pixels[:blue_from, :, 0] += strength
        pixels[blue_from:, :, 2] += strength
        return ToyImage(pixels)


@dataclass
class PoolStudio(OneForAll):
    """A Label Studio of unlabelled tasks: scores are of the version that the backend's title names."""

    pool: list[int]
    title: str = "old"
    stored: list[dict[str, Any]] = field(default_factory=list)
    created: list[list[int]] = field(default_factory=list)
    view_error: LabelStudioError | None = None
    views_kept: int = 0

    def get(self, project_id: int) -> dict[str, Any]:
        return {"id": project_id, "label_config": BRUSH, "model_version": self.title}

    def find(self, project_id: int, public_url: str = "") -> dict[str, Any]:
        return {"id": 1, "url": "http://127.0.0.1:9090", "project": project_id, "title": self.title}

    def set_title(self, backend: dict[str, Any], version: str) -> None:
        self.title = version

    def scores(self, version: str) -> dict[int, float]:
        return {row["task"]: row["score"] for row in self.stored if row["model_version"] == version}

    def unlabelled(self, project_id: int, version: str) -> Iterator[dict[str, Any]]:
        return (self._task(task) for task in list(self.pool) if task not in self.scores(version))

    def least_sure(
        self, project_id: int, limit: int, *, predicted_by: str | None = None, not_predicted_by: str | None = None
    ) -> list[dict[str, Any]]:
        scores = self.scores(self.title)
        wanted = sorted((task for task in scores if scores[task] is not None), key=lambda task: scores[task])
        if predicted_by is not None:
            wanted = [task for task in wanted if task in self.scores(predicted_by)]
        if not_predicted_by is not None:
            wanted = [task for task in wanted if task not in self.scores(not_predicted_by)]
        return [{**self._task(task), "score": scores[task]} for task in wanted[:limit]]

    def without_score(self, project_id: int, version: str) -> Iterator[dict[str, Any]]:
        return (self._task(task) for task, score in self.scores(version).items() if score is None)

    def create(self, project_id: int, predictions: list[dict[str, Any]]) -> int:
        self.stored += predictions
        self.created.append([one["task"] for one in predictions])
        return len(predictions)

    def fill(self, prediction: dict[str, Any]) -> int:
        empty = [row for row in self.stored if row["task"] == prediction["task"] and row["score"] is None]
        for row in empty:
            row.update(prediction)
        return len(empty)

    def set_score(self, task_id: int, version: str, score: float) -> None:
        for row in self.stored:
            if (row["task"], row["model_version"]) == (task_id, version):
                row["score"] = score

    def keep_ordered(self, project_id: int) -> None:
        self.views_kept += 1
        if self.view_error is not None:
            raise self.view_error

    @staticmethod
    def _task(number: int) -> dict[str, Any]:
        return {"id": number, "data": {"image": f"/data/upload/{number}.png"}}


@dataclass
class Fuse:
    """A Label Studio that dies at the n-th thing that is stored in it, before or after it is."""

    studio: PoolStudio
    left: int
    after: bool

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.studio, name)
        if name not in ("create", "set_score"):
            return self if value is self.studio else value

        def store(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            result = value(*arguments)
            if self.left == 0:
                raise Killed
            return result

        return store


@pytest.fixture
def jobs(redis_url: str, tmp_path) -> Iterator[Jobs]:
    jobs = Jobs.open(Settings(data_dir=tmp_path / "data", redis_url=redis_url), timeout_s=5)
    yield jobs
    jobs.close()


@pytest.fixture
def registry(tmp_path) -> Registry:
    registry = open_registry(Settings(data_dir=tmp_path / "data"))
    registry.write_json(PROJECT, "project.json", {"project": PROJECT})
    return registry


@pytest.fixture
def version(registry: Registry, tmp_path) -> str:
    return promote(registry, tmp_path, 0)


def promote(registry: Registry, tmp_path, seed: int) -> str:
    version = registry.add(PROJECT, *toy_bundle(tmp_path / f"bundle-{seed}", seed))
    registry.promote(PROJECT, version, "test")
    return version


@pytest.fixture
def context(registry: Registry, jobs: Jobs, tmp_path) -> JobContext:
    given = {
        "settings": Settings(data_dir=tmp_path / "data", acquisition_batch=BATCH, prelabel_batch=4),
        "registry": registry,
        "label_studio": PoolStudio([*RED, *SPLIT, *BLUE, *SURE]),
        "images": Album(),
        "jobs": jobs,
        "load_model": lambda registry, project, version, settings: toy_model(version, project),
    }
    return JobContext(**{one.name: None for one in fields(JobContext) if one.name not in given}, **given)  # type: ignore[arg-type]


def with_settings(context: JobContext, **changes: Any) -> JobContext:
    return replace(context, settings=context.settings.model_copy(update=changes))


def in_order(context: JobContext, version: str) -> list[int]:
    """Tasks as uncertainty sampling serves them."""
    return [task["id"] for task in context.label_studio.tasks.least_sure(29, 100, predicted_by=version)]


def test_entropy_alone_serves_like_ones_together(context: JobContext, version: str) -> None:
    result = run_prelabel(with_settings(context, acquisition="entropy"), PROJECT, version, "none")
    assert (result["predicted"], result["ordered"]) == (20, 0)
    assert in_order(context, version) == [*RED, *SPLIT, *BLUE, *SURE]


def test_diversity_serves_one_of_each_kind_first(context: JobContext, version: str) -> None:
    result = run_prelabel(context, PROJECT, version, "none")
    assert (result["predicted"], result["ordered"]) == (20, BATCH)
    first, second, third, *rest = in_order(context, version)
    assert first == RED[0], "the least sure one"
    assert {second, third} & set(SPLIT)
    assert {second, third} & set(BLUE)
    scores: dict[int, float] = context.label_studio.scores(version)  # type: ignore[attr-defined]
    assert [scores[task] for task in (first, second, third)] == [place * ORDER_STEP for place in (1, 2, 3)]
    assert all(scores[task] >= ORDER_LIMIT for task in rest)
    assert rest == [task for task in (*RED, *SPLIT, *BLUE, *SURE) if task not in (first, second, third)]


def test_a_second_call_changes_nothing_and_looks_at_no_image(context: JobContext, version: str) -> None:
    run_prelabel(context, PROJECT, version, "none")
    before = [dict(row) for row in context.label_studio.stored]  # type: ignore[attr-defined]
    album = Album()
    result = run_prelabel(replace(context, images=album), PROJECT, version, "none")  # type: ignore[arg-type]
    assert (result["predicted"], result["ordered"]) == (0, 0)
    assert context.label_studio.stored == before  # type: ignore[attr-defined]
    assert album.loaded == []


def test_the_rest_of_an_order_looks_at_the_least_sure_images_alone(context: JobContext, version: str) -> None:
    with pytest.raises(Killed):
        run_prelabel(
            replace(context, label_studio=Fuse(context.label_studio, 20 // 4 + 1, True)), PROJECT, version, "none"
        )  # type: ignore[arg-type]
    album = Album()
    assert run_prelabel(replace(context, images=album), PROJECT, version, "none")["ordered"] == BATCH - 1  # type: ignore[arg-type]
    assert sorted(album.loaded) == [*RED, *SPLIT, *BLUE]


def test_what_was_labelled_of_an_order_makes_room_behind_the_last_place(context: JobContext, version: str) -> None:
    run_prelabel(context, PROJECT, version, "none")
    studio: Any = context.label_studio
    labelled = in_order(context, version)[0]
    studio.stored = [row for row in studio.stored if row["task"] != labelled]
    studio.pool.remove(labelled)
    assert run_prelabel(context, PROJECT, version, "none")["ordered"] == 1
    scores = sorted(studio.scores(version).values())
    assert scores[:BATCH] == pytest.approx([place * ORDER_STEP for place in (2, 3, 4)])
    assert scores[BATCH] >= ORDER_LIMIT


def test_empty_predictions_of_the_version_are_predicted_again(context: JobContext, version: str) -> None:
    studio: PoolStudio = context.label_studio  # type: ignore[assignment]
    for task in (RED[0], BLUE[0], BAD):
        studio.stored.append({"task": task, "result": [], "score": None, "model_version": version})
    result = run_prelabel(context, PROJECT, version, "none")
    assert (result["predicted"], result["failed"]) == (20, [BAD])
    assert [task for task, score in studio.scores(version).items() if score is None] == [BAD]
    assert not {RED[0], BLUE[0]} & {task for tasks in studio.created for task in tasks}, "filled, not added once more"


def test_a_title_that_is_undone_meanwhile_is_set_again(context: JobContext, version: str) -> None:
    class Opened(PoolStudio):
        """One whose backend's page is opened during the job."""

        def create(self, project_id: int, predictions: list[dict[str, Any]]) -> int:
            self.title = "old"
            return super().create(project_id, predictions)

    studio = Opened(context.label_studio.pool)  # type: ignore[attr-defined]
    assert run_prelabel(replace(context, label_studio=studio), PROJECT, version, "none")["ordered"] == BATCH  # type: ignore[arg-type]
    assert studio.title == version


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_call_killed_anywhere_ends_the_same(context: JobContext, version: str, after: bool) -> None:
    run_prelabel(context, PROJECT, version, "none")
    expected = context.label_studio.scores(version)  # type: ignore[attr-defined]
    tasks = context.label_studio.pool  # type: ignore[attr-defined]
    for burns_at in range(1, 100):
        studio = PoolStudio(tasks)
        fuse = Fuse(studio, burns_at, after)
        try:
            run_prelabel(replace(context, label_studio=fuse), PROJECT, version, "none")  # type: ignore[arg-type]
        except Killed:
            run_prelabel(replace(context, label_studio=studio), PROJECT, version, "none")  # type: ignore[arg-type]
        assert studio.scores(version) == pytest.approx(expected), burns_at
        assert len(studio.stored) == len(tasks), "no task has two predictions"
        if fuse.left > 0:
            break
    assert burns_at == 20 // 4 + BATCH + 1


def test_the_order_ends_for_a_newer_champion(context: JobContext, version: str, tmp_path) -> None:
    studio: Any = context.label_studio

    class Overtaken(PoolStudio):
        def set_score(self, task_id: int, version: str, score: float) -> None:
            super().set_score(task_id, version, score)
            promote(context.registry, tmp_path, 1)

    overtaken = Overtaken(studio.pool)
    assert run_prelabel(replace(context, label_studio=overtaken), PROJECT, version, "none")["ordered"] == 1  # type: ignore[arg-type]
    assert run_prelabel(context, PROJECT, version, "none")["superseded"]


def test_what_the_version_before_was_least_sure_of_comes_first_and_once(context: JobContext, version: str) -> None:
    studio: Any = context.label_studio
    studio.pool.append(BAD)
    old = [(SURE[3], 0.3), (BAD, 0.35), (BLUE[1], 0.4), (RED[2], 0.5)]
    studio.stored = [{"task": task, "score": score, "model_version": "old"} for task, score in old]
    result = run_prelabel(with_settings(context, acquisition="confidence"), PROJECT, version, "none")
    assert studio.created[0] == [SURE[3], BLUE[1], RED[2]]
    assert sorted(task for batch in studio.created for task in batch) == [*RED, *SPLIT, *BLUE, *SURE]
    assert (result["predicted"], result["failed"]) == (20, [BAD])


def test_a_view_that_cannot_be_kept_is_only_logged(
    context: JobContext, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    studio: Any = context.label_studio
    studio.view_error = LabelStudioError("no views here")
    run_prelabel(context, PROJECT, version, "none")
    assert studio.views_kept == 0
    assert not run_prelabel(with_settings(context, ordered_view=True), PROJECT, version, "none")["superseded"]
    assert studio.views_kept == 1
    assert "no views here" in caplog.text


def test_embeddings_of_the_least_sure_are_kept() -> None:
    embeddings = Embeddings(3)
    for task in range(100):
        segmentation = toy_model().segment(ToyImage(np.full((8, 8, 3), task, np.uint8)))
        embeddings.watch({"id": task}, segmentation)
        embeddings.keep({task: 1 - task / 100})
        kept = [one for one in range(100) if embeddings.get(one) is not None]
        assert len(kept) <= 2 * 3
        assert set(range(max(0, task - 2), task + 1)) <= set(kept)


def test_the_pool_is_larger_than_what_a_batch_is_picked_from() -> None:
    assert len([*RED, *SPLIT, *BLUE]) == CANDIDATES * BATCH
