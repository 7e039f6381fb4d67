"""A backend in this process whose images and passes wait until a test lets them go on."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from segloop.backend import Backend
from segloop.queue import Jobs
from segloop.registry import open_registry
from segloop.serving import Batcher, ServedModel, ServedModels
from segloop.web import create_app
from tests.toys import BRUSH, ColourEngine, ToyImage, half_red_half_blue, toy_bundle

PROJECT = "1.1795382829"
CLASSES = ("Road", "Sky")
#: Long side at which the networks see images, in pixels.
INPUT_SIZE = 512


class Album:
    """An image for each address, as large as its name says (40x30.png); those named `slow` wait for `gate`."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.delay_s = lambda: 0.0

    def load(self, uri: str, task_id: int | None) -> ToyImage:
        time.sleep(self.delay_s())
        if "slow" in uri:
            self.waiting.release()
            assert self.gate.wait(60)
        width, height = map(int, re.search(r"(\d+)x(\d+)", uri).groups())
        return ToyImage(half_red_half_blue(height, width))


class GatedEngine(ColourEngine):
    """Tells that a pass has begun, and waits with it for `gate`."""

    def __init__(self, gain: float = 4.0) -> None:
        super().__init__(gain=gain)
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def logits(self, batch):
        self.begun.release()
        assert self.gate.wait(60)
        return super().logits(batch)


class World:
    """A backend over a real registry and queue; each version's engine is kept, so that its passes can be counted."""

    def __init__(self, settings) -> None:
        self.settings = settings
        self.registry = open_registry(settings)
        self.images = Album()
        self.engines: dict[str, GatedEngine] = {}
        self.loading = threading.Event()
        self.loading.set()
        self.jobs = Jobs.open(settings)
        self.models = ServedModels(self.registry, settings, self._load)
        self.backend = Backend(settings, self.registry, self.models, self.images, lambda: self.jobs)
        self.app = create_app(self.backend, settings)
        self.pool = ThreadPoolExecutor(16)

    def _load(self, registry, project, version, settings) -> ServedModel:
        assert self.loading.wait(60)
        # every second version takes red for blue
        gain = 4.0 if len(self.engines) % 2 == 0 else -4.0
        engine = self.engines[version] = GatedEngine(gain)
        return ServedModel(version, project, CLASSES, INPUT_SIZE, Batcher(engine))

    def promote(self, project: str = PROJECT, seed: int = 0) -> str:
        folder, info = toy_bundle(self.settings.data_dir / f"bundle-{project}-{seed}", seed)
        version = self.registry.add(project, folder, info)
        self.registry.promote(project, version, "test")
        return version

    def passes(self) -> int:
        return sum(len(engine.batches) for engine in self.engines.values())

    def predict(self, *uris: str, context: dict | None = None):
        tasks = [{"id": number, "data": {"image": uri}} for number, uri in enumerate(uris, start=1)]
        body = {"tasks": tasks, "project": PROJECT, "label_config": BRUSH, "params": {"context": context}}
        return self.app.test_client().post("/predict", json=body)

    def ask(self, *uris: str, context: dict | None = None) -> Future:
        return self.pool.submit(self.predict, *uris, context=context)

    def close(self) -> None:
        self.images.gate.set()
        self.loading.set()
        for engine in self.engines.values():
            engine.gate.set()
        self.pool.shutdown()
        self.backend.close()
        self.jobs.close()


@pytest.fixture
def make_world(settings, redis_url):
    worlds = []

    def make(**changes) -> World:
        values = settings.model_dump() | {"redis_url": redis_url} | changes
        worlds.append(World(type(settings).model_validate(values)))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def click(x: float, y: float) -> dict:
    """The context of a smart tool's key point on a 40x30 image, in percent."""
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": ["Road"], "labels": ["Road"]}
    item = {"type": "keypointlabels", "to_name": "image", "from_name": "tag", "value": value}
    return {"result": [{**item, "original_width": 40, "original_height": 30, "is_positive": True}]}


def labels_of(response) -> list[list[str]]:
    return [[item["value"]["brushlabels"][0] for item in result["result"]] for result in response.json["results"]]


def sizes_of(response) -> list[int | None]:
    """The width of the image that each result is of."""
    return [
        result["result"][0]["original_width"] if result.get("result") else None for result in response.json["results"]
    ]
