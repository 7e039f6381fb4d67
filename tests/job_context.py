"""A context for jobs: a real Valkey, a real registry and real snapshots; fakes for Label Studio, images and training."""

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

from segloop.dataset import load_manifest
from segloop.errors import ImageError
from segloop.images import Blob
from segloop.images import Image as SourceImage
from segloop.labelstudio import Totals
from segloop.policy import Compared, Recipe
from segloop.queue import RETRAIN_QUEUE, Jobs
from segloop.registry import open_registry
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus, Trainer
from segloop.versions import EngineFigures, EngineReport, Metrics
from tests.toys import BRUSH, toy_model
from worker.jobs.adopt import take_up_missed
from worker.jobs.context import JobContext
from worker.jobs.reconcile import run_reconcile
from worker.jobs.retrain import run_retrain

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


class OneForAll:
    """A fake Label Studio that is each of its own parts: `studio.tasks` is the fake itself."""

    projects = tasks = predictions = views = backends = property(lambda self: self)


@dataclass
class FakeLabelStudio(OneForAll):
    labelled: list[dict[str, Any]] = field(default_factory=lambda: [task(number) for number in range(1, 11)])
    unlabelled_ids: list[int] = field(default_factory=list)
    stored: list[dict[str, Any]] = field(default_factory=list)
    title: str = "old"
    error: Exception | None = None

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def get(self, project_id: int) -> dict[str, Any]:
        self._check()
        return {"id": project_id, "label_config": BRUSH, "model_version": self.title}

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

    def unlabelled(self, project_id: int, version: str | None = None) -> Iterator[dict[str, Any]]:
        known = {one["task"] for one in self.stored if one["model_version"] == version}
        for number in self.unlabelled_ids:
            if number not in known:
                yield {"id": number, "data": {"image": "bad" if number % 5 == 0 else f"/data/upload/{number}.png"}}

    def without_score(self, project_id: int, version: str) -> Iterator[dict[str, Any]]:
        for one in [one for one in self.stored if one["model_version"] == version and one["score"] is None]:
            yield {"id": one["task"], "data": {"image": f"/data/upload/{one['task']}.png"}}

    def fill(self, prediction: dict[str, Any]) -> int:
        empty = [one for one in self.stored if one["task"] == prediction["task"] and one["score"] is None]
        for one in empty:
            one.update(prediction)
        return len(empty)

    def least_sure(self, project_id: int, limit: int, **versions: str) -> list[dict[str, Any]]:
        return []

    def create(self, project_id: int, predictions: list[dict[str, Any]]) -> int:
        self.stored += predictions
        return len(predictions)

    def find(self, project_id: int, public_url: str = "") -> dict[str, Any] | None:
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
    poll_later_s: float | None = None

    def fetch_snapshot(self, digest: str, folder: Path) -> bool:
        return False

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
            "snapshot": load_manifest(run.snapshot).hash,
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


def scores(*values: float) -> Callable[..., Compared]:
    """A comparison that knows the versions by the order in which it first meets them."""
    known: dict[str, float] = {}
    left = list(values)

    def evaluate(bundle: Path) -> Metrics:
        weights = hashlib.sha256((bundle / "model.safetensors").read_bytes()).hexdigest()
        if weights not in known:
            known[weights] = left.pop(0)
        return Metrics(miou=known[weights], pixel_accuracy=0.5, tasks=2, pixels=192)

    def compare(candidate: Path, champion: Path | None, *_: Any) -> Compared:
        return Compared(evaluate(candidate), None if champion is None else evaluate(champion))

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
def context(settings: Settings, jobs: Jobs) -> JobContext:
    return make_context(settings, jobs, FakeTrainer())


def make_context(settings: Settings, jobs: Jobs, trainer: Trainer) -> JobContext:
    """A context over a real registry and queue, with everything else faked but the trainer."""
    registry = open_registry(settings)
    registry.write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": BRUSH})
    return JobContext(
        settings,
        registry,
        FakeLabelStudio(),  # type: ignore[arg-type]
        FakeImages(),  # type: ignore[arg-type]
        jobs,
        trainer,
        scores(0.5, 0.6, 0.4, 0.7),
        fake_export,
        lambda registry, project, version, settings: toy_model(version, project),
        lambda settings: settings.weights != "none",
        poll_s=0.0,
    )


def fake_export(bundle: Path, snapshot: Path | None, out: Path, settings: Settings) -> EngineReport:
    out.mkdir()
    (out / "openvino.xml").write_text("<net/>")
    (out / "openvino.bin").write_bytes(bundle.name.encode())
    return EngineReport() if snapshot is None else EngineReport(images=1, openvino=EngineFigures(serves=True))


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


def retrain(context: JobContext) -> dict[str, Any]:
    return run_retrain(context, PROJECT, begin(context.jobs))


@pytest.fixture
def quick_context(context: JobContext, settings: Settings) -> JobContext:
    """A context in which five changed tasks ask for a quick adaptation, and fifty for a full retrain."""
    own = settings.model_copy(update={"adapt_threshold": 5, "retrain_threshold": 50, "weights": "coco"})
    return replace(context, settings=own)


class Fuse:
    """Burns at the n-th thing done to the world, before or after it is done."""

    def __init__(self, burns_at: int, after: bool) -> None:
        self.left, self.after = burns_at, after

    def wrap(self, target: Any, names: tuple[str, ...]) -> Any:
        fuse = self

        class Wrapped:
            def __getattr__(self, name: str) -> Any:
                value = getattr(target, name)
                if parts := tuple(path.removeprefix(f"{name}.") for path in names if path.startswith(f"{name}.")):
                    return fuse.wrap(value, parts)
                if name not in names:
                    return self if value is target else value

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

    def fit(self, context: JobContext) -> JobContext:
        return replace(
            context,
            registry=self.wrap(context.registry, ("add", "promote", "write_json", "champion")),
            label_studio=self.wrap(context.label_studio, ("set_title", "totals", "annotated_pages")),
            jobs=self.wrap(
                context.jobs, ("changes.take", "enqueue_prelabel", "finish_retrain", "report", "counters.count_retrain")
            ),
            trainer=self.wrap(context.trainer, ("submit", "collect")),
            compare=self.wrap(StepsOf(context), ("compare",)).compare,
            export=self.wrap(StepsOf(context), ("export",)).export,
        )


@dataclass
class StepsOf:
    context: JobContext

    def compare(self, *args: Any) -> Compared:
        return self.context.compare(*args)

    def export(self, *args: Any) -> EngineReport:
        return self.context.export(*args)


def reconcile_all(context: JobContext) -> dict[str, list[str]]:
    """Every project's reconciliation, and the look for trainings of the managed route: what was queued."""
    projects = context.registry.projects()
    found = [job for project in projects for job in run_reconcile(context, project)["queued"]]
    return {"queued": found + take_up_missed(context)}
