"""A failure that passes leaves nothing behind in a real Label Studio, so that a task gets its prediction later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from werkzeug.serving import make_server

from demo.label_studio import RunningLabelStudio
from segloop.errors import (
    DeadlinePassed,
    ImageDenied,
    ImageError,
    ImageForbidden,
    ImageMissing,
    ImageTooLarge,
    ImageUnavailable,
    LabelStudioUnreachable,
    RegistryError,
)
from segloop.label_config import parse_label_config
from segloop.labelstudio import LabelStudio
from segloop.payloads import project_key
from segloop.registry import Registry
from segloop.serving import UNTRAINED, ServedModel
from segloop.serving.predict import Predictor
from segloop.settings import Settings
from tests.toys import BRUSH, ToyImage, ToyImages, half_red_half_blue, toy_model
from tests.waiting import until
from tests.world import World

PASSING = [
    ImageUnavailable("503"),
    ImageDenied("401"),
    ImageForbidden("not among SEGLOOP_IMAGE_HOSTS"),
    ImageMissing("404"),
    ImageTooLarge("beyond SEGLOOP_IMAGE_MAX_PIXELS"),
    LabelStudioUnreachable("away"),
    DeadlinePassed("no time"),
    RuntimeError("a bug"),
    MemoryError(),
]


class Failing(ToyImages):
    """Toy images, unless `error` is set."""

    error: Exception | None = None

    def load(self, uri: str, task_id: int | None) -> ToyImage:
        if self.error is not None:
            raise self.error
        return super().load(uri, task_id)


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("tasks", [1, 3])
def test_what_passes_leaves_a_task_out(settings: Settings, error: Exception, tasks: int) -> None:
    images = Failing()
    images.error = error
    predictor = Predictor(parse_label_config(BRUSH), toy_model(), images, settings)  # type: ignore[arg-type]
    assert predictor.predict([{"id": n, "data": {"image": "a.png"}} for n in range(tasks)]) == [{}] * tasks


def test_what_never_works_gives_an_empty_prediction(settings: Settings) -> None:
    images = Failing()
    images.error = ImageError("no image")
    predictor = Predictor(parse_label_config(BRUSH), toy_model(), images, settings)  # type: ignore[arg-type]
    tasks = [{"id": 1, "data": {"image": "a.png"}}, {"id": 2, "data": {}}, {"id": 3}]
    assert predictor.predict(tasks) == [{"result": [], "score": None}] * 3


# -- versions that cannot be loaded


@pytest.mark.parametrize("error", [RegistryError("damaged"), RuntimeError("header too large"), OSError(5, "I/O error")])
def test_a_served_version_that_cannot_be_loaded_answers_503(
    settings: Settings, redis_url: str, error: Exception
) -> None:
    broken = True

    def load(registry: Registry, project: str, version: str, own: Settings) -> ServedModel:
        if broken:
            raise error
        return toy_model(version, project)

    world = World(settings.model_copy(update={"redis_url": redis_url}), load)
    version = world.promote("1.1795382829")
    body: dict[str, Any] = {"project": "1.1795382829", "label_config": BRUSH, "params": {}}
    body["tasks"] = [{"id": 1, "data": {"image": "a.png"}}]
    context = {"result": [{"type": "keypointlabels", "to_name": "image", "value": {"x": 1, "y": 1}}]}
    for asked in (body, {**body, "params": {"context": context}}):
        answer = world.client.post("/predict", json=asked)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert version in answer.json["error"]
    broken = False
    assert world.client.post("/predict", json=body).json["results"][0]["result"]
    world.close()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": "v9-aaaaaaaa"}', b"[]"])
def test_a_damaged_pointer_answers_503(settings: Settings, redis_url: str, damage: bytes) -> None:
    world = World(settings.model_copy(update={"redis_url": redis_url}))
    world.promote("1.1795382829")
    pointer = Path(settings.store_url) / "1.1795382829" / "champion.json"
    whole = pointer.read_bytes()
    pointer.write_bytes(damage)
    body = {"project": "1.1795382829", "label_config": BRUSH, "tasks": [{"id": 1, "data": {"image": "a.png"}}]}
    for route, asked in (("/predict", body), ("/setup", {"project": "1.1795382829", "schema": BRUSH})):
        answer = world.client.post(route, json=asked)
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True), answer.text
    pointer.write_bytes(whole)
    assert world.client.post("/predict", json=body).json["results"][0]["result"]
    world.close()


# -- a real Label Studio


class Connected:
    """A backend of toy networks behind a real HTTP server, and a project of a real Label Studio that it is connected to."""

    def __init__(self, running: RunningLabelStudio, studio: LabelStudio, settings: Settings, folder: Path) -> None:
        self.world = World(settings)
        self.images = Failing()
        self.world.backend._images = self.images  # type: ignore[assignment]
        self.server = make_server("127.0.0.1", 0, self.world.client.application, threaded=True)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.http = running.client()
        picture = folder / "picture.png"
        Image.fromarray(half_red_half_blue()).save(picture)
        self.project = int(running.create_project("passing failures", BRUSH)["id"])
        self.tasks = running.upload_images(self.project, [picture] * 3)
        self.key = project_key(studio.projects.get(self.project))
        fields = {"project": self.project, "url": f"http://127.0.0.1:{self.server.port}", "title": "segloop"}
        self.http.post("/api/ml/", json=fields).raise_for_status()

    def promote(self) -> None:
        """Promote a version that the backend serves at once, not only when it next looks."""
        self.world.promote(self.key)
        self.world.models._champions.clear()

    def open_task(self) -> int:
        """Regions of the first task's predictions, -1 for none, as a person opens it."""
        found = self.http.get(f"/api/tasks/{self.tasks[0]}/").raise_for_status().json()["predictions"]
        assert len(found) <= 1
        return len(found[0]["result"]) if found else -1

    def retrieve(self) -> list[int]:
        """Regions of all predictions after "Retrieve Predictions" of all tasks."""
        params = {"id": "retrieve_tasks_predictions", "project": self.project}
        everything = {"selectedItems": {"all": True, "excluded": []}}
        self.http.post("/api/dm/actions", params=params, json=everything).raise_for_status()
        return [len(row["result"]) for row in self.rows()]

    def rows(self) -> list[dict[str, Any]]:
        return [row for task in self.tasks for row in self.http.get("/api/predictions/", params={"task": task}).json()]

    def close(self) -> None:
        self.http.close()
        self.server.shutdown()
        self.thread.join()
        self.world.close()


@pytest.fixture
def connected(
    running: RunningLabelStudio, studio: LabelStudio, settings: Settings, redis_url: str, tmp_path: Path
) -> Iterator[Connected]:
    made = Connected(running, studio, settings.model_copy(update={"redis_url": redis_url}), tmp_path)
    yield made
    made.close()


@pytest.mark.label_studio
def test_an_image_host_that_was_away_costs_no_prediction(connected: Connected) -> None:
    connected.promote()
    connected.images.error = ImageUnavailable("the host answered 503")
    assert connected.open_task() == -1
    assert connected.retrieve() == []
    connected.images.error = None
    until(lambda: connected.open_task() == 2)
    assert connected.retrieve() == [2, 2, 2]


@pytest.mark.label_studio
def test_a_damaged_store_costs_no_prediction(connected: Connected) -> None:
    connected.promote()
    pointer = Path(connected.world.settings.store_url) / connected.key / "champion.json"
    whole = pointer.read_bytes()
    pointer.write_bytes(whole[:20])
    assert connected.open_task() == -1
    assert connected.retrieve() == []
    pointer.write_bytes(whole)
    until(lambda: connected.open_task() == 2)


@pytest.mark.label_studio
def test_a_project_without_a_version_keeps_its_tasks_open(connected: Connected) -> None:
    assert connected.world.models.version(connected.key, {}) == UNTRAINED
    assert connected.open_task() == -1
    connected.promote()
    until(lambda: connected.open_task() == 2)
