"""The jobs on a real Valkey, a real registry and real snapshots; fakes for Label Studio, images and the training.

The main test kills a retrain before and after every single thing it does to the world, starts it again, and
expects the same end.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rq.serializers import JSONSerializer

from segloop.errors import (
    ImageError,
    LabelStudioError,
    LabelStudioUnreachable,
    NothingToTrain,
    RegistryError,
    TrainingError,
)
from segloop.images import Blob
from segloop.images import Image as SourceImage
from segloop.labelstudio import Totals
from segloop.policy import Changes, Recipe
from segloop.registry import Registry, open_registry
from segloop.settings import Settings
from tests.toys import BRUSH, toy_model
from worker.jobs import Workshop, run_prelabel, run_reconcile, run_retrain
from worker.queue import PRELABEL_QUEUE, RETRAIN_QUEUE, Jobs, JobTimeout
from worker.trainers.base import Run, RunStatus

PROJECT = "29.1795383040"
NOW = "2026-11-22T12:00:00.000000Z"


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it and live on."""


class FakeImages:
    """An image of its own for every task."""

    def load(self, uri: str, task_id: int | None) -> SourceImage:
        if "bad" in uri:
            raise ImageError(f"{uri} is broken")
        pixels = np.full((8, 12, 3), (task_id or 0) % 256, dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        data = buffer.getvalue()
        return SourceImage(Blob(data, hashlib.sha256(data).hexdigest()), max_pixels=96, name=uri)


def task(number: int, updated_at: str = NOW) -> dict[str, Any]:
    return {
        "id": number,
        "data": {"image": f"/data/upload/{number}.png"},
        "annotations": [{"id": 100 + number, "updated_at": updated_at, "was_cancelled": False, "result": []}],
    }


@dataclass
class FakeLabelStudio:
    labelled: list[dict[str, Any]] = field(default_factory=lambda: [task(number) for number in range(1, 11)])
    unlabelled: list[int] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    title: str = "old"
    error: Exception | None = None

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def project(self, project_id: int) -> dict[str, Any]:
        self._check()
        return {"id": project_id, "label_config": BRUSH}

    def _between(self, after: int, upto: int | None) -> list[dict[str, Any]]:
        self._check()
        return [one for one in self.labelled if after < one["id"] and (upto is None or one["id"] <= upto)]

    def totals(self, project_id: int, after: int = 0, upto: int | None = None) -> Totals:
        tasks = self._between(after, upto)
        return Totals(len(tasks), sum(len(one["annotations"]) for one in tasks), datetime.now(UTC))

    def labelled_ids(self, project_id: int, after: int = 0, upto: int | None = None) -> list[int]:
        return [one["id"] for one in self._between(after, upto)]

    def annotated_pages(
        self, project_id: int, *, since: datetime | None = None, after: int = 0, upto: int | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        yield self._between(after, upto)

    def unlabelled_tasks(self, project_id: int, version: str) -> Iterator[dict[str, Any]]:
        known = {one["task"] for one in self.predictions if one["model_version"] == version}
        for number in self.unlabelled:
            if number not in known:
                yield {"id": number, "data": {"image": "bad" if number % 5 == 0 else f"/data/upload/{number}.png"}}

    def least_sure_tasks(self, project_id: int, limit: int, **versions: str) -> list[dict[str, Any]]:
        return []

    def create_predictions(self, project_id: int, predictions: list[dict[str, Any]]) -> int:
        self.predictions += predictions
        return len(predictions)

    def find_backend(self, project_id: int, public_url: str = "") -> dict[str, Any] | None:
        self._check()
        return {"id": 1, "url": "http://127.0.0.1:9090", "project": project_id, "title": self.title}

    def set_title(self, backend: dict[str, Any], version: str) -> None:
        self.title = version


@dataclass
class FakeTrainer:
    """Trains in no time; `states` are told before the end."""

    states: list[RunStatus] = field(default_factory=list)
    submitted: list[Run] = field(default_factory=list)
    stopped: int = 0

    def submit(self, run: Run) -> None:
        self.submitted.append(run)

    def poll(self, run: Run) -> RunStatus:
        return self.states.pop(0) if self.states else RunStatus("finished")

    def collect(self, run: Run) -> Path:
        bundle = run.folder / "base" / "model"
        bundle.mkdir(parents=True, exist_ok=True)
        weights = hashlib.sha256(run.id.encode()).digest()
        (bundle / "model.safetensors").write_bytes(weights)
        described = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
        info = {
            "format": 1,
            "created_at": NOW,
            "arch": "deeplabv3_resnet50",
            "output_stride": 16,
            "input_size": 64,
            "classes": ["Road", "Sky"],
            "parent": None,
            "snapshot": "ab" * 32,
            "metrics": {},
            "champion_metrics": None,
            "decision": None,
            "recipe": dict(run.hyperparameters),
            "files": {"model.safetensors": described},
        }
        (bundle / "version.json").write_text(json.dumps(info), encoding="utf-8")
        return bundle

    def stop(self, run: Run) -> None:
        self.stopped += 1


def scores(*values: float) -> Callable[..., dict[str, Any]]:
    """A comparison that knows the versions by the order in which it first meets them."""
    known: dict[str, float] = {}
    left = list(values)

    def evaluate(bundle: Path) -> dict[str, Any]:
        weights = hashlib.sha256((bundle / "model.safetensors").read_bytes()).hexdigest()
        if weights not in known:
            known[weights] = left.pop(0)
        return {"miou": known[weights], "pixel_accuracy": 0.5, "iou": {}, "tasks": 2, "pixels": 192}

    def compare(candidate: Path, champion: Path | None, *_: Any) -> dict[str, Any]:
        return {
            "metrics": evaluate(candidate),
            "champion_metrics": None if champion is None else evaluate(champion),
            "interval": None,
        }

    return compare


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", redis_url=redis_url, retrain_threshold=5, prelabel_batch=2)


@pytest.fixture
def jobs(settings: Settings) -> Iterator[Jobs]:
    jobs = Jobs.open(settings, timeout_s=5)
    yield jobs
    jobs.close()


@pytest.fixture
def shop(settings: Settings, jobs: Jobs) -> Workshop:
    registry = open_registry(settings)
    registry.write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": BRUSH})
    return Workshop(
        settings,
        registry,
        FakeLabelStudio(),  # type: ignore[arg-type]
        FakeImages(),  # type: ignore[arg-type]
        jobs,
        FakeTrainer(),
        scores(0.5, 0.6, 0.4, 0.7),
        fake_export,
        lambda registry, project, version, settings: toy_model(version, project),
        lambda settings: settings.weights != "none",
        poll_s=0.0,
    )


def fake_export(bundle: Path, snapshot: Path | None, out: Path, settings: Settings) -> dict[str, Any]:
    out.mkdir()
    (out / "openvino.xml").write_text("<net/>")
    (out / "openvino.bin").write_bytes(bundle.name.encode())
    return {} if snapshot is None else {"images": 1, "openvino": {"serves": True}}


def begin(jobs: Jobs, project: str = PROJECT, recipe: Recipe = "full") -> str:
    """Queue a retrain and take it off the queue, as a worker does."""
    job_id = jobs.enqueue_retrain(project, "pressed", recipe).job_id
    jobs.connection.lrem(jobs.queue(RETRAIN_QUEUE).key, 0, job_id)
    jobs.connection.hset(f"rq:job:{job_id}", "status", "started")
    jobs.connection.zadd(jobs.queue(RETRAIN_QUEUE).started_job_registry.key, {f"{job_id}:execution": 4e9})
    return job_id


def queued(jobs: Jobs, name: str) -> list[list[str]]:
    queue = jobs.queue(name)
    return [list(job.args) for job in queue.get_jobs() if job is not None]


def retrain(shop: Workshop) -> dict[str, Any]:
    return run_retrain(shop, PROJECT, begin(shop.jobs))


def test_the_first_retrain(shop: Workshop) -> None:
    shop.jobs.record_changes(PROJECT, [1, 2, 3])
    result = retrain(shop)
    champion = shop.registry.champion(PROJECT)
    assert champion is not None
    assert champion.version == result["version"]
    assert result["promoted"]
    assert result["tasks"] == 10
    info = shop.registry.get(PROJECT, champion.version)
    assert (info.metrics["miou"], info.champion_metrics, info.parent) == (0.5, None, None)
    assert info.decision == {"act": True, "reason": result["reason"], "interval": None}
    assert shop.label_studio.title == champion.version  # type: ignore[attr-defined]
    assert queued(shop.jobs, PRELABEL_QUEUE) == [[PROJECT, champion.version]]
    assert shop.jobs.changed(PROJECT) == Changes(0, 0)
    assert shop.jobs.live_retrain(PROJECT) is None


def test_a_worse_candidate_is_kept_but_not_served(shop: Workshop) -> None:
    first, second, third = retrain(shop), retrain(shop), retrain(shop)
    assert [first["promoted"], second["promoted"], third["promoted"]] == [True, True, False]
    champion = shop.registry.champion(PROJECT)
    assert champion is not None
    assert champion.version == second["version"]
    assert champion.previous == (first["version"],)
    rejected = shop.registry.get(PROJECT, third["version"])
    assert rejected.champion_metrics is not None
    assert (rejected.metrics["miou"], rejected.champion_metrics["miou"]) == (0.4, 0.6)
    assert rejected.parent == second["version"]
    # The next starts from the champion, not from the rejected one.
    assert shop.trainer.submitted[-1].champion == shop.registry.bundle(PROJECT, second["version"])  # type: ignore[attr-defined]


def test_only_the_last_run_stays_on_disk(shop: Workshop, settings: Settings) -> None:
    retrain(shop)
    job_id = begin(shop.jobs)
    run_retrain(shop, PROJECT, job_id)
    assert [path.name for path in (settings.data_dir / "runs" / PROJECT).iterdir()] == [job_id]


class Fuse:
    """Burns at the n-th thing done to the world, before or after it is done."""

    def __init__(self, burns_at: int, after: bool) -> None:
        self.left, self.after = burns_at, after

    def wrap(self, target: Any, names: tuple[str, ...]) -> Any:
        fuse = self

        class Wrapped:
            def __getattr__(self, name: str) -> Any:
                value = getattr(target, name)
                if name not in names:
                    return value

                def call(*args: Any, **kwargs: Any) -> Any:
                    fuse.left -= 1
                    if fuse.left == 0 and not fuse.after:
                        raise Killed
                    result = value(*args, **kwargs)
                    if fuse.left == 0:
                        raise Killed
                    return result

                return call

        return Wrapped()

    def fit(self, shop: Workshop) -> Workshop:
        return replace(
            shop,
            registry=self.wrap(shop.registry, ("add", "promote", "write_json", "champion")),
            label_studio=self.wrap(shop.label_studio, ("set_title", "totals", "annotated_pages")),
            jobs=self.wrap(shop.jobs, ("take_changes", "enqueue_prelabel", "finish_retrain", "report")),
            trainer=self.wrap(shop.trainer, ("submit", "collect")),
            compare=self.wrap(StepsOf(shop), ("compare",)).compare,
            export=self.wrap(StepsOf(shop), ("export",)).export,
        )


@dataclass
class StepsOf:
    shop: Workshop

    def compare(self, *args: Any) -> dict[str, Any]:
        return self.shop.compare(*args)

    def export(self, *args: Any) -> dict[str, Any]:
        return self.shop.export(*args)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_retrain_killed_anywhere_ends_the_same(settings: Settings, jobs: Jobs, shop: Workshop, after: bool) -> None:
    for burns_at in range(1, 200):
        jobs.connection.flushall()
        own = settings.model_copy(update={"data_dir": settings.data_dir / f"{after}-{burns_at}"})
        registry = open_registry(own)
        label_studio = FakeLabelStudio()
        world = replace(
            shop,
            settings=own,
            registry=registry,
            label_studio=label_studio,  # type: ignore[arg-type]
            trainer=FakeTrainer(),
            compare=scores(0.5, 0.6),
        )
        first = retrain(world)["version"]
        jobs.connection.delete(jobs.queue(PRELABEL_QUEUE).key)
        jobs.record_changes(PROJECT, [1, 2, 3])
        job_id = begin(jobs)
        fuse = Fuse(burns_at, after)
        killed = False
        try:
            run_retrain(fuse.fit(world), PROJECT, job_id)
        except Killed:
            killed = True
            result = run_retrain(world, PROJECT, job_id)
            assert result["promoted"], burns_at
        champion = registry.champion(PROJECT)
        assert champion is not None
        assert champion.version != first, burns_at
        assert champion.generation == 2, burns_at
        assert [info.version for info in registry.versions(PROJECT)] == [first, champion.version], burns_at
        info = registry.get(PROJECT, champion.version)
        assert info.champion_metrics is not None
        assert (info.metrics["miou"], info.champion_metrics["miou"], info.parent) == (0.6, 0.5, first)
        assert label_studio.title == champion.version
        assert queued(jobs, PRELABEL_QUEUE) == [[PROJECT, champion.version]], burns_at
        assert (jobs.changed(PROJECT), jobs.live_retrain(PROJECT)) == (Changes(0, 0), None), burns_at
        assert queued(jobs, RETRAIN_QUEUE) == []
        if not killed:
            break
    assert burns_at > 20, "the fuse should have burned in many places"


def test_second_snapshot_loads_no_image_and_says_what_it_does(shop: Workshop) -> None:
    shown: list[str] = []
    honest = shop.jobs.report

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return self.report if name == "report" else getattr(shop.jobs, name)

        def report(self, job_id: str, progress: dict[str, Any]) -> None:
            shown.append(progress["message"])
            honest(job_id, progress)

    class NoImages:
        def load(self, uri: str, task_id: int | None) -> SourceImage:
            raise AssertionError(uri)

    run_retrain(replace(shop, jobs=Watched()), PROJECT, begin(shop.jobs))  # type: ignore[arg-type]
    assert "Syncing: 10 of 10 tasks" in shown
    assert shown.index("Syncing: 10 of 10 tasks") < shown.index("Drawing: 10 of 10 tasks")
    assert any("fewer than min_val_tasks=10" in message for message in shown)
    assert run_retrain(replace(shop, images=NoImages()), PROJECT, begin(shop.jobs))["tasks"] == 10  # type: ignore[arg-type]


def test_changes_during_a_run_bring_one_more(shop: Workshop) -> None:
    job_id = begin(shop.jobs)
    honest = shop.compare

    def busy(*args: Any) -> dict[str, Any]:
        shop.jobs.record_changes(PROJECT, [7])
        shop.jobs.enqueue_retrain(PROJECT, "pressed again")
        return honest(*args)

    run_retrain(replace(shop, compare=busy), PROJECT, job_id)
    assert queued(shop.jobs, RETRAIN_QUEUE) == [[PROJECT]]
    assert shop.jobs.changed(PROJECT) == Changes(1, 1)


def test_a_rollback_during_the_comparison_is_compared_with(shop: Workshop) -> None:
    first, second = retrain(shop), retrain(shop)
    honest = scores(0.55, 0.6, 0.5)
    seen: list[Path] = []

    def compare(bundle: Path, *args: Any) -> dict[str, Any]:
        seen.append(bundle)
        compared = honest(bundle, *args)
        if len(seen) == 1:
            shop.registry.rollback(PROJECT, "somebody")
        return compared

    result = run_retrain(replace(shop, compare=compare), PROJECT, begin(shop.jobs))
    # 0.55 loses against the second's 0.6, but wins against the first's 0.5, which is served by then.
    assert result["promoted"]
    champion = shop.registry.champion(PROJECT)
    assert champion is not None
    assert champion.version == result["version"] not in (first["version"], second["version"])


def test_a_failing_training_is_final_and_frees_the_project(shop: Workshop) -> None:
    shop.trainer.states += [RunStatus("failed", reason="The loss is NaN.")]  # type: ignore[attr-defined]
    job_id = begin(shop.jobs)
    shop.jobs.record_changes(PROJECT, [1])
    with pytest.raises(TrainingError, match="NaN"):
        run_retrain(shop, PROJECT, job_id)
    assert shop.trainer.stopped == 1  # type: ignore[attr-defined]
    assert shop.jobs.job_status(job_id)["progress"] == {"phase": "failed", "message": "The loss is NaN."}
    assert shop.jobs.live_retrain(PROJECT) is None
    assert shop.registry.champion(PROJECT) is None


def test_a_lost_training_goes_on(shop: Workshop) -> None:
    shop.trainer.states += [RunStatus("lost", reason="Killed.")] * 3  # type: ignore[attr-defined]
    assert retrain(shop)["promoted"]
    assert len(shop.trainer.submitted) == 4  # type: ignore[attr-defined]


def test_a_training_lost_too_often_fails(shop: Workshop) -> None:
    shop.trainer.states += [RunStatus("lost", reason="Killed.")] * 4  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="killed 4 times"):
        retrain(shop)


def test_progress_of_the_training_is_published(shop: Workshop) -> None:
    job_id = begin(shop.jobs)
    shop.trainer.states += [RunStatus("running", {"epoch": 2, "loss": 0.25})]  # type: ignore[attr-defined]
    shown: list[dict[str, Any]] = []
    honest = shop.jobs.report

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return self.report if name == "report" else getattr(shop.jobs, name)

        def report(self, job_id: str, progress: dict[str, Any]) -> None:
            shown.append(progress)
            honest(job_id, progress)

    watched = Watched()
    run_retrain(replace(shop, jobs=watched), PROJECT, job_id)  # type: ignore[arg-type]
    assert {"phase": "training", "message": "Training.", "epoch": 2, "loss": 0.25} in shown
    phases = [progress["phase"] for progress in shown]
    assert list(dict.fromkeys(phases)) == ["snapshot", "training", "evaluating", "exporting", "promoting", "done"]


def test_a_time_out_is_final(shop: Workshop) -> None:
    def endless(*args: Any) -> dict[str, Any]:
        raise JobTimeout("too long")

    with pytest.raises(TrainingError, match="job_timeout_s=86400"):
        run_retrain(replace(shop, compare=endless), PROJECT, begin(shop.jobs))
    assert shop.jobs.live_retrain(PROJECT) is None


def test_an_outage_leaves_the_job_live_and_its_changes_taken(shop: Workshop) -> None:
    shop.label_studio.error = LabelStudioUnreachable("away")  # type: ignore[attr-defined]
    shop.jobs.record_changes(PROJECT, [1, 2])
    job_id = begin(shop.jobs)
    with pytest.raises(LabelStudioUnreachable):
        run_retrain(shop, PROJECT, job_id)
    assert shop.jobs.live_retrain(PROJECT) is not None
    shop.label_studio.error = None  # type: ignore[attr-defined]
    assert run_retrain(shop, PROJECT, job_id)["promoted"]


def test_a_title_that_cannot_be_set_does_not_undo_a_promotion(shop: Workshop) -> None:
    job_id = begin(shop.jobs)
    honest = shop.compare

    def then_away(*args: Any) -> dict[str, Any]:
        shop.label_studio.error = LabelStudioUnreachable("away")  # type: ignore[attr-defined]
        return honest(*args)

    assert run_retrain(replace(shop, compare=then_away), PROJECT, job_id)["promoted"]
    assert shop.label_studio.title == "old"  # type: ignore[attr-defined]
    shop.label_studio.error = None  # type: ignore[attr-defined]
    [[project, version]] = queued(shop.jobs, PRELABEL_QUEUE)
    run_prelabel(shop, project, version, "none")
    assert shop.label_studio.title == version  # type: ignore[attr-defined]


def test_nothing_to_train_is_said(shop: Workshop) -> None:
    shop.label_studio.labelled = [task(1)]  # type: ignore[attr-defined]
    with pytest.raises(NothingToTrain):
        retrain(shop)


# -- quick adaptation


@pytest.fixture
def quick_shop(shop: Workshop, settings: Settings) -> Workshop:
    """A workshop of which five changed tasks ask for a quick adaptation, and fifty for a full retrain."""
    own = settings.model_copy(update={"adapt_threshold": 5, "retrain_threshold": 50, "weights": "coco"})
    return replace(shop, settings=own)


def adapt(shop: Workshop) -> dict[str, Any]:
    return run_retrain(shop, PROJECT, begin(shop.jobs, recipe="quick"))


def test_a_quick_adaptation_is_a_retrain_of_another_recipe(quick_shop: Workshop) -> None:
    quick_shop.jobs.record_changes(PROJECT, [1, 2, 3, 4, 5])
    result = adapt(quick_shop)
    assert (result["promoted"], result["recipe"]) == (True, "quick")
    [run] = quick_shop.trainer.submitted  # type: ignore[attr-defined]
    assert (run.hyperparameters["recipe"], run.hyperparameters["adapt_minutes"]) == ("quick", "1.0")
    info = quick_shop.registry.get(PROJECT, result["version"])
    assert info.engines == {}, "the exact model alone, which needs no report"
    assert {"manifest.json", "openvino.xml"} < info.files.keys()
    assert queued(quick_shop.jobs, PRELABEL_QUEUE) == [[PROJECT, result["version"]]]
    assert quick_shop.jobs.changed(PROJECT) == Changes(5, 0)
    assert quick_shop.jobs.live(PROJECT) is None


def test_a_quick_candidate_must_win_too(quick_shop: Workshop) -> None:
    adapt(quick_shop)
    better, worse = adapt(quick_shop), adapt(quick_shop)
    assert (better["promoted"], worse["promoted"]) == (True, False)


def test_a_full_retrain_follows_a_quick_one_when_its_threshold_is_met(quick_shop: Workshop) -> None:
    quick_shop.jobs.record_changes(PROJECT, range(1, 6))
    honest = quick_shop.compare

    def busy(*args: Any) -> dict[str, Any]:
        quick_shop.jobs.record_changes(PROJECT, range(6, 51))
        return honest(*args)

    adapt(replace(quick_shop, compare=busy))
    assert quick_shop.jobs.recipe(PROJECT) == "full"
    assert queued(quick_shop.jobs, RETRAIN_QUEUE) == [[PROJECT]]


def test_a_run_keeps_the_recipe_that_it_began_with(quick_shop: Workshop) -> None:
    job_id = begin(quick_shop.jobs, recipe="quick")
    broken = replace(quick_shop, trainer=Fuse(1, after=False).wrap(quick_shop.trainer, ("submit",)))
    with pytest.raises(Killed):
        run_retrain(broken, PROJECT, job_id)
    quick_shop.jobs.enqueue_retrain(PROJECT, "pressed")
    assert run_retrain(quick_shop, PROJECT, job_id)["recipe"] == "quick"
    assert quick_shop.jobs.recipe(PROJECT) == "full", "the press is answered by a run of its own"
    assert queued(quick_shop.jobs, RETRAIN_QUEUE) == [[PROJECT]]


def test_weights_that_cannot_be_had_end_a_quick_adaptation_without_a_version(quick_shop: Workshop) -> None:
    quick_shop.jobs.record_changes(PROJECT, [1, 2, 3, 4, 5])
    result = adapt(replace(quick_shop, has_weights=lambda settings: False))
    assert (result["version"], result["promoted"]) == (None, False)
    assert "only a full retrain" in result["reason"]
    assert quick_shop.registry.versions(PROJECT) == []
    assert quick_shop.jobs.changed(PROJECT) == Changes(5, 0)
    assert queued(quick_shop.jobs, RETRAIN_QUEUE) == []


def test_counts_are_rebuilt_from_the_last_snapshots(quick_shop: Workshop) -> None:
    """What Redis lost: ten tasks of the quick run's snapshot, and three that changed since."""
    label_studio: Any = quick_shop.label_studio
    adapt(quick_shop)
    label_studio.labelled += [task(number, "2026-11-22T12:30:00Z") for number in range(11, 14)]
    quick_shop.jobs.connection.flushall()
    run_reconcile(quick_shop)
    assert quick_shop.jobs.changed(PROJECT) == Changes(13, 3)
    run_retrain(quick_shop, PROJECT, begin(quick_shop.jobs))
    label_studio.labelled += [task(14, "2026-11-22T12:31:00Z")]
    quick_shop.jobs.connection.flushall()
    run_reconcile(quick_shop)
    assert quick_shop.jobs.changed(PROJECT) == Changes(1, 1)


def test_reconcile_queues_a_quick_adaptation(quick_shop: Workshop) -> None:
    assert len(run_reconcile(quick_shop)["queued"]) == 1
    assert quick_shop.jobs.recipe(PROJECT) == "quick"
    assert adapt(quick_shop)["recipe"] == "quick"


# -- prelabel


def test_prelabel_fills_what_is_missing_and_ends_in_spite_of_failures(shop: Workshop) -> None:
    version = retrain(shop)["version"]
    label_studio: Any = shop.label_studio
    label_studio.unlabelled = list(range(21, 32))
    result = run_prelabel(shop, PROJECT, version, "none")
    assert (result["predicted"], result["failed"]) == (9, [25, 30])
    assert {one["task"] for one in label_studio.predictions} == set(range(21, 32)) - {25, 30}
    assert all(one["model_version"] == version and 0 <= one["score"] <= 1 for one in label_studio.predictions)
    again = run_prelabel(shop, PROJECT, version, "none")
    assert (again["predicted"], again["failed"]) == (0, [25, 30])


def test_a_killed_prelabel_goes_on(shop: Workshop) -> None:
    version = retrain(shop)["version"]
    label_studio: Any = shop.label_studio
    label_studio.unlabelled = [21, 22, 23, 24, 26]
    fuse = Fuse(2, after=True)
    with pytest.raises(Killed):
        run_prelabel(
            replace(shop, label_studio=fuse.wrap(label_studio, ("create_predictions",))), PROJECT, version, "none"
        )
    assert len(label_studio.predictions) == 4
    assert run_prelabel(shop, PROJECT, version, "none")["predicted"] == 1
    assert sorted(one["task"] for one in label_studio.predictions) == [21, 22, 23, 24, 26]


def test_prelabel_stops_for_a_newer_champion(shop: Workshop) -> None:
    first = retrain(shop)["version"]
    label_studio: Any = shop.label_studio
    label_studio.unlabelled = [21, 22, 23, 24]

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
            return getattr(label_studio, name)

        def totals(self, project_id: int, *arguments: Any) -> Totals:
            if project_id == 7:
                raise LabelStudioError("no such project")
            return label_studio.totals(project_id, *arguments)  # type: ignore[no-any-return]

    run_reconcile(replace(shop, label_studio=Partly()))  # type: ignore[arg-type]
    assert queued(shop.jobs, RETRAIN_QUEUE) == [[PROJECT]]


# -- the real workshop


def test_the_real_workshop_opens_without_torch(settings: Settings) -> None:
    with Workshop.open(settings) as shop:
        assert shop.registry.projects() == []
        with pytest.raises(RegistryError):
            shop.registry.bundle("29", "v1-aaaaaaaa")


def test_results_can_be_stored(shop: Workshop) -> None:
    assert JSONSerializer.loads(JSONSerializer.dumps(retrain(shop)))["promoted"] is True


@pytest.mark.slow
def test_a_real_training(shop: Workshop, settings: Settings) -> None:
    """The training's own process, its bundle, its evaluation and its export fit into the retrain."""
    from worker.jobs.workshop import compare_bundles, export_models
    from worker.trainers.local import LocalTrainer

    small = settings.model_copy(
        update={"input_size": 64, "train_epochs": 1, "train_min_steps": 2, "weights": "none", "arch": "fcn_resnet50"}
    )
    real = replace(
        shop, settings=small, trainer=LocalTrainer(), compare=compare_bundles, export=export_models, poll_s=0.1
    )
    result = run_retrain(real, PROJECT, begin(real.jobs))
    assert result["metrics"]["tasks"] == 2
    info = real.registry.get(PROJECT, result["version"])
    assert (info.arch, info.classes, info.recipe["steps"]) == ("fcn_resnet50", ("Road", "Sky"), 2)
    assert {"openvino.xml", "openvino.bin", "openvino-int8.xml", "openvino-int8.bin"} < info.files.keys()
    assert info.engines["openvino"]["serves"], info.engines
    assert info.engines["openvino"]["agreement"] > 0.999
    assert 0 <= info.engines["openvino-int8"]["agreement"] <= 1
    assert info.engines["images"] == 2
