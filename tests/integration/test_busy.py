"""The routes when much is asked at once: refusals, order and deadlines."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager

import pytest

from tests.gated_world import PROJECT, World, click, labels_of, make_world, sizes_of
from tests.toys import BRUSH
from tests.waiting import PATIENCE_S, until

__all__ = ["make_world"]

EMPTY = {"result": [], "score": None}
#: What leaves a task without a prediction, so that Label Studio asks for one again.
NOT_NOW: dict[str, object] = {}


# -- more than can be answered


@contextmanager
def occupied(world: World, requests: int):
    """So many requests under way, each waiting for its image; afterwards their answers are all there."""
    waiting = [world.ask(f"/data/slow/{number}/40x30.png") for number in range(requests)]
    for _ in waiting:
        assert world.images.waiting.acquire(timeout=PATIENCE_S)
    yield waiting
    assert not any(answer.done() for answer in waiting)
    world.images.gate.set()
    for answer in waiting:
        assert answer.result(PATIENCE_S).status_code == 200
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_comes_back_whole_and_in_order(make_world, seed):
    world = make_world(prediction_cache_bytes=0)
    world.promote()
    rng = random.Random(seed)
    world.images.delay_s = lambda: rng.random() * 0.01
    batches = [[rng.randrange(20, 60) for _ in range(count)] for count in (1, 2, 5, 40, 23)]
    answers = [world.ask(*(f"/data/{width}x30.png" for width in widths)) for widths in batches]
    for widths, answer in zip(batches, answers, strict=True):
        assert sizes_of(answer.result(PATIENCE_S)) == widths


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
    response = world.ask(*uris).result(PATIENCE_S)
    assert not world.images.gate.is_set(), "answered while the slow images still wait"
    assert time.monotonic() - asked < 60, "the deadline of 3 s is a promise"
    assert response.status_code == 200
    assert sizes_of(response) == [None if index in slow else 20 + index for index in range(12)]
    for index, result in enumerate(response.json["results"]):
        if index in slow:
            assert result == NOT_NOW
        else:
            assert result["model_version"] == version
            assert 0 <= result["score"] <= 1


@pytest.mark.slow
def test_where_every_image_is_slow_no_task_gets_a_prediction(make_world):
    world = make_world(predict_deadline_s=0.5)
    world.promote()
    response = world.ask(*(f"/data/slow/{20 + index}x30.png" for index in range(12))).result(PATIENCE_S)
    assert not world.images.gate.is_set()
    assert response.json["results"] == [NOT_NOW] * 12
    world.images.gate.set()
    until(lambda: sizes_of(world.predict("/data/40x30.png", "/data/41x30.png")) == [40, 41])


def test_one_slow_task_alone_gets_its_answer_by_the_deadline_too(make_world):
    world = make_world(predict_deadline_s=0.5)
    world.promote()
    response = world.ask("/data/slow/40x30.png").result(PATIENCE_S)
    assert not world.images.gate.is_set()
    assert response.json["results"] == [NOT_NOW]


@pytest.mark.slow
def test_a_click_on_a_slow_image_gets_its_answer_by_the_deadline_too(make_world):
    world = make_world(predict_deadline_s=0.5)
    world.promote()
    response = world.ask("/data/slow/40x30.png", context=click(50, 20)).result(PATIENCE_S)
    assert not world.images.gate.is_set()
    assert response.json["results"] == [EMPTY]
    world.images.gate.set()
    until(lambda: labels_of(world.predict("/data/slow/40x30.png", context=click(50, 20))) == [["Road"]])


@pytest.mark.slow
def test_requests_while_a_network_is_made_ready_are_told_to_ask_again(make_world):
    world = make_world(predict_deadline_s=0.5)
    world.promote()
    world.loading.clear()
    for answer in [world.ask("/data/40x30.png") for _ in range(3)]:
        refused = answer.result(PATIENCE_S)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert "is being made ready" in refused.json["error"]
    assert not world.engines, "the network is still not there"
    world.loading.set()
    world.models.current(PROJECT, {})
    until(lambda: labels_of(world.predict("/data/40x30.png")) == [["Road", "Sky"]])
    assert len(world.engines) == 1


@pytest.mark.slow
def test_a_slow_network_keeps_the_deadline(make_world):
    world = make_world(predict_deadline_s=2)
    version = world.promote()
    until(lambda: sizes_of(world.predict("/data/20x30.png")) == [20])
    engine = world.engines[version]
    engine.gate.clear()
    response = world.ask("/data/40x30.png", "/data/20x30.png", "/data/41x30.png").result(PATIENCE_S)
    assert not engine.gate.is_set()
    assert sizes_of(response) == [None, 20, None], "the one that is in the cache needs no network"
    engine.gate.set()
    until(lambda: sizes_of(world.predict("/data/41x30.png", "/data/42x30.png")) == [41, 42])


@pytest.mark.slow
def test_a_click_on_what_another_request_is_computing_keeps_its_deadline(make_world):
    world = make_world(predict_deadline_s=2)
    version = world.promote()
    until(lambda: sizes_of(world.predict("/data/20x30.png")) == [20])
    engine = world.engines[version]
    while engine.begun.acquire(blocking=False):
        pass
    engine.gate.clear()
    first = world.ask("/data/40x30.png")
    assert engine.begun.acquire(timeout=PATIENCE_S)
    clicked = world.ask("/data/40x30.png", context=click(50, 20))
    assert clicked.result(PATIENCE_S).json["results"] == [EMPTY]
    assert not engine.gate.is_set()
    engine.gate.set()
    assert first.result(PATIENCE_S).status_code == 200
