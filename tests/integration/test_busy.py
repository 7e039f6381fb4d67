"""The routes when much is asked at once: refusals, order, deadlines, and what is computed once."""

from __future__ import annotations

import random
import re
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from segloop.backend import Backend
from segloop.masks import decode_rle
from segloop.registry import open_registry
from segloop.serving import Batcher, ServedModel, ServedModels
from segloop.web import create_app
from tests.toys import BRUSH, ColourEngine, ToyImage, half_red_half_blue, toy_bundle
from worker.queue import Jobs

PROJECT = "1.1795382829"
CLASSES = ("Road", "Sky")
EMPTY = {"result": [], "score": None}


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
        return ServedModel(version, project, CLASSES, settings.input_size, Batcher(engine))

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
    return [result["result"][0]["original_width"] if result["result"] else None for result in response.json["results"]]


# -- more than can be answered


@contextmanager
def occupied(world: World, requests: int):
    """So many requests under way, each waiting for its image; afterwards their answers are all there."""
    waiting = [world.ask(f"/data/slow/{number}/40x30.png") for number in range(requests)]
    for _ in waiting:
        assert world.images.waiting.acquire(timeout=20)
    yield waiting
    assert not any(answer.done() for answer in waiting)
    world.images.gate.set()
    for answer in waiting:
        assert answer.result(20).status_code == 200
        assert labels_of(answer.result()) == [["Road", "Sky"]]


def test_the_surplus_is_refused_at_once_while_the_rest_answers(make_world):
    world = make_world(predict_requests=3)
    version = world.promote()
    with occupied(world, 3):
        client = world.app.test_client()
        for context in (None, click(50, 20)):
            for _ in range(4):
                refused = world.predict("/data/40x30.png", context=context)
                assert refused.status_code == 503
                assert int(refused.headers["Retry-After"]) >= 1
                assert refused.headers["Retry-After"].isdigit()
                assert set(refused.json) == {"error"}
                assert "3 predict requests are under way" in refused.json["error"]
        setup = client.post("/setup", json={"project": PROJECT, "schema": BRUSH})
        assert (setup.status_code, setup.json["model_version"]) == (200, version)
        event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "task": 1}, "task": {"id": 1}}
        event["project"] = {"id": 1, "created_at": "2026-11-22T21:27:09.771975Z", "label_config": BRUSH}
        assert client.post("/webhook", json=event).status_code == 201
        assert client.get("/health").status_code == 200
        assert client.get("/versions?project=1").json["versions"] == [version]
    assert world.predict("/data/40x30.png").status_code == 200


def test_some_threads_stay_free_of_predictions_whatever_predict_requests_says(make_world):
    world = make_world(predict_requests=100, threads=6)
    world.promote()
    with occupied(world, 2):
        assert world.predict("/data/40x30.png").status_code == 503
    with_one_thread = make_world(predict_requests=100, threads=1)
    assert with_one_thread.predict("/data/40x30.png").status_code == 200


def test_requests_that_fail_give_their_place_back(make_world):
    world = make_world(predict_requests=2)
    world.promote()
    unusable = {"tasks": [], "project": PROJECT, "label_config": "<View/>", "params": {}}
    for _ in range(5):
        assert world.app.test_client().post("/predict", json=unusable).status_code == 400
        assert world.predict("/data/40x30.png", context={"result": "?"}).status_code in (200, 400)
    with occupied(world, 2):
        assert world.predict("/data/40x30.png").status_code == 503


def test_the_time_to_ask_again_follows_what_requests_take(make_world):
    world = make_world(predict_requests=1)
    world.promote()
    world.backend._predict_s = 7.3
    with occupied(world, 1):
        assert world.predict("/data/40x30.png").headers["Retry-After"] == "8"


# -- batches


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_comes_back_whole_and_in_order(make_world, seed):
    world = make_world(prediction_cache_bytes=0)
    world.promote()
    rng = random.Random(seed)
    world.images.delay_s = lambda: rng.random() * 0.01
    batches = [[rng.randrange(20, 60) for _ in range(count)] for count in (1, 2, 5, 40, 23)]
    answers = [world.ask(*(f"/data/{width}x30.png" for width in widths)) for widths in batches]
    for widths, answer in zip(batches, answers, strict=True):
        assert sizes_of(answer.result(60)) == widths


def test_an_empty_batch_is_answered(make_world):
    world = make_world()
    world.promote()
    assert world.predict().json["results"] == []


@pytest.mark.slow
@pytest.mark.parametrize("slow", [{0}, {0, 5, 11}])
def test_a_slow_image_costs_the_others_of_its_batch_nothing(make_world, slow):
    world = make_world(predict_deadline_s=3)
    version = world.promote()
    uris = [f"/data/{'slow/' * (index in slow)}{20 + index}x30.png" for index in range(12)]
    asked = time.monotonic()
    response = world.ask(*uris).result(30)
    assert not world.images.gate.is_set(), "answered while the slow images still wait"
    assert time.monotonic() - asked < 20, "the deadline of 3 s is a promise"
    assert response.status_code == 200
    assert sizes_of(response) == [None if index in slow else 20 + index for index in range(12)]
    for index, result in enumerate(response.json["results"]):
        if index in slow:
            assert result == EMPTY
        else:
            assert result["model_version"] == version
            assert 0 <= result["score"] <= 1


def test_where_every_image_is_slow_each_task_gets_its_empty_result(make_world):
    world = make_world(predict_deadline_s=0.5)
    world.promote()
    response = world.ask(*(f"/data/slow/{20 + index}x30.png" for index in range(12))).result(20)
    assert not world.images.gate.is_set()
    assert response.json["results"] == [EMPTY] * 12
    world.images.gate.set()
    assert sizes_of(world.predict("/data/40x30.png", "/data/41x30.png")) == [40, 41]


def test_one_slow_task_alone_gets_its_answer_by_the_deadline_too(make_world):
    world = make_world(predict_deadline_s=0.5)
    world.promote()
    response = world.ask("/data/slow/40x30.png").result(20)
    assert not world.images.gate.is_set()
    assert response.json["results"] == [EMPTY]


def test_a_click_on_a_slow_image_gets_its_answer_by_the_deadline_too(make_world):
    world = make_world(predict_deadline_s=0.5)
    world.promote()
    response = world.ask("/data/slow/40x30.png", context=click(50, 20)).result(20)
    assert not world.images.gate.is_set()
    assert response.json["results"] == [EMPTY]
    world.images.gate.set()
    assert labels_of(world.predict("/data/slow/40x30.png", context=click(50, 20))) == [["Road"]]


def test_requests_while_a_network_is_made_ready_are_told_to_ask_again(make_world):
    world = make_world(predict_deadline_s=0.5)
    world.promote()
    world.loading.clear()
    for answer in [world.ask("/data/40x30.png") for _ in range(3)]:
        refused = answer.result(20)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert "is being made ready" in refused.json["error"]
    assert not world.engines, "the network is still not there"
    world.loading.set()
    world.models.current(PROJECT, {})
    assert labels_of(world.predict("/data/40x30.png")) == [["Road", "Sky"]]
    assert len(world.engines) == 1


def test_a_slow_network_keeps_the_deadline(make_world):
    world = make_world(predict_deadline_s=1)
    version = world.promote()
    world.predict("/data/20x30.png")
    engine = world.engines[version]
    engine.gate.clear()
    response = world.ask("/data/40x30.png", "/data/20x30.png", "/data/41x30.png").result(20)
    assert not engine.gate.is_set()
    assert sizes_of(response) == [None, 20, None], "the one that is in the cache needs no network"
    engine.gate.set()
    assert sizes_of(world.predict("/data/41x30.png", "/data/42x30.png")) == [41, 42]


def test_a_click_on_what_another_request_is_computing_keeps_its_deadline(make_world):
    world = make_world(predict_deadline_s=1)
    version = world.promote()
    world.predict("/data/20x30.png")
    engine = world.engines[version]
    while engine.begun.acquire(blocking=False):
        pass
    engine.gate.clear()
    first = world.ask("/data/40x30.png")
    assert engine.begun.acquire(timeout=20)
    clicked = world.ask("/data/40x30.png", context=click(50, 20))
    assert clicked.result(20).json["results"] == [EMPTY]
    assert not engine.gate.is_set()
    engine.gate.set()
    assert first.result(20).status_code == 200


# -- the prediction cache


def test_the_same_image_under_another_address_runs_no_pass(make_world):
    world = make_world()
    world.promote()
    first = world.predict("/data/upload/1/40x30.png")
    passes = world.passes()
    second = world.predict("/data/upload/2/copy-40x30.png?signature=1")
    assert world.passes() == passes
    assert [item["value"] for item in first.json["results"][0]["result"]] == [
        item["value"] for item in second.json["results"][0]["result"]
    ]
    world.predict("/data/41x30.png")
    assert world.passes() == passes + 1


def test_the_same_image_many_times_in_one_batch_runs_one_pass(make_world):
    world = make_world()
    world.promote()
    world.predict("/data/20x30.png")
    passes = world.passes()
    response = world.predict(*["/data/40x30.png"] * 12)
    assert sizes_of(response) == [40] * 12
    assert world.passes() == passes + 1


def test_a_click_after_a_prediction_runs_no_pass(make_world):
    world = make_world()
    world.promote()
    world.predict("/data/40x30.png")
    passes = world.passes()
    for y, inside in ((20, slice(0, 13)), (30, slice(0, 13))):
        [result] = world.predict("/data/40x30.png", context=click(50, y)).json["results"]
        [region] = result["result"]
        assert region["value"]["brushlabels"] == ["Road"]
        assert decode_rle(region["value"]["rle"], 30, 40)[inside].all()
    assert world.passes() == passes


def test_without_a_cache_each_request_runs_a_pass(make_world):
    world = make_world(prediction_cache_bytes=0)
    world.promote()
    world.predict("/data/40x30.png")
    passes = world.passes()
    world.predict("/data/40x30.png")
    assert world.passes() == passes + 1


def test_after_a_swap_the_old_versions_map_is_never_served(make_world):
    world = make_world()
    first = world.promote(seed=1)
    red_above = world.predict("/data/40x30.png")
    assert (red_above.json["model_version"], road_is_above(red_above)) == (first, True)

    # a pass of the old version is under way while the new one is promoted
    engine = world.engines[first]
    while engine.begun.acquire(blocking=False):
        pass
    engine.gate.clear()
    under_way = world.ask("/data/50x30.png")
    assert engine.begun.acquire(timeout=20)
    second = world.promote(seed=2)
    swap = world.pool.submit(world.models.refresh)
    engine.gate.set()
    swap.result(20)
    assert (under_way.result(20).json["model_version"], road_is_above(under_way.result())) == (first, True)

    for uri in ("/data/40x30.png", "/data/50x30.png"):
        for context in (None, click(50, 20)):
            passes = world.passes()
            answer = world.predict(uri, context=context)
            assert answer.json["model_version"] == answer.json["results"][0]["model_version"] == second
            if context is None:
                assert world.passes() == passes + 1
                assert road_is_above(answer) is False
            else:
                assert labels_of(answer) == [["Road"]]
                assert world.passes() == passes


def test_after_a_rollback_the_first_versions_map_is_served_again(make_world):
    world = make_world()
    first = world.promote(seed=1)
    world.predict("/data/40x30.png")
    world.promote(seed=2)
    world.models.refresh()
    assert road_is_above(world.predict("/data/40x30.png")) is False
    world.registry.rollback(PROJECT, "worse")
    world.engines.clear()
    world.models.refresh()
    passes = world.passes()
    answer = world.predict("/data/40x30.png")
    assert (answer.json["model_version"], road_is_above(answer)) == (first, True)
    assert world.passes() == passes, "it is the same version, and its answer is still known"


def road_is_above(response) -> bool:
    [result] = response.json["results"]
    [road] = [item for item in result["result"] if item["value"]["brushlabels"] == ["Road"]]
    mask = decode_rle(road["value"]["rle"], road["original_height"], road["original_width"])
    assert mask[:13].all() != mask[17:].all()
    return bool(mask[:13].all())
