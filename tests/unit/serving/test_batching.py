"""Micro-batching and the prediction cache: who waits for whom, and what is computed once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from segloop.errors import DeadlinePassed
from segloop.metrics.uncertainty import Certainty
from segloop.serving import Batcher, PredictionCache, Segmentation
from tests.waiting import PATIENCE_S, until


class GatedEngine:
    """Doubles its input; each pass waits for `gate`, and what ran side by side is noted."""

    def __init__(self, max_batch: int = 1) -> None:
        self.max_batch = max_batch
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.batches: list[int] = []
        self.running = 0

    def logits(self, batch: np.ndarray) -> np.ndarray:
        self.running += 1
        assert self.running == 1, "two passes side by side"
        self.started.release()
        assert self.gate.wait(PATIENCE_S)
        self.batches.append(len(batch))
        self.running -= 1
        return batch * 2


def image(value: float, side: int = 4) -> np.ndarray:
    return np.full((3, side, side), value, np.float32)


def ask(pool: ThreadPoolExecutor, batcher: Batcher, images: list[np.ndarray], **options):
    return pool.submit(batcher.logits, images, **options)


def test_each_caller_gets_its_own_logits_and_waiting_images_go_together():
    engine = GatedEngine(max_batch=3)
    batcher = Batcher(engine, wait_s=0)
    with ThreadPoolExecutor(8) as pool:
        first = ask(pool, batcher, [image(1)])
        assert engine.started.acquire(timeout=PATIENCE_S)
        others = [ask(pool, batcher, [image(value)]) for value in range(2, 8)]
        until(lambda: len(batcher._pending) == 6)
        engine.gate.set()
        assert (first.result(PATIENCE_S)[0] == 2).all()
        for value, other in zip(range(2, 8), others, strict=True):
            [logits] = other.result(PATIENCE_S)
            assert (logits == 2 * value).all()
    assert engine.batches == [1, 3, 3]


def test_an_engine_without_batches_runs_one_image_at_a_time_over_all_batchers():
    engine = GatedEngine()
    engine.gate.set()
    batchers = [Batcher(engine), Batcher(engine)]
    with ThreadPoolExecutor(8) as pool:
        answers = [ask(pool, batchers[value % 2], [image(value), image(value + 0.5)]) for value in range(8)]
        for value, answer in enumerate(answers):
            one, two = answer.result(PATIENCE_S)
            assert (one == 2 * value).all()
            assert (two == 2 * value + 1).all()
    assert engine.batches == [1] * 16


def test_images_of_other_sizes_go_in_their_own_batch():
    engine = GatedEngine(max_batch=8)
    batcher = Batcher(engine, wait_s=0)
    with ThreadPoolExecutor(8) as pool:
        first = ask(pool, batcher, [image(0)])
        assert engine.started.acquire(timeout=PATIENCE_S)
        mixed = [ask(pool, batcher, [image(value, side)]) for value, side in ((1, 4), (2, 8), (3, 4))]
        until(lambda: len(batcher._pending) == 3)
        engine.gate.set()
        first.result(PATIENCE_S)
        assert [answer.result(PATIENCE_S)[0].shape[1] for answer in mixed] == [4, 8, 4]
    assert sorted(engine.batches) == [1, 1, 2]


def test_a_batch_waits_a_moment_to_fill():
    engine = GatedEngine(max_batch=2)
    engine.gate.set()
    batcher = Batcher(engine, wait_s=20)
    with ThreadPoolExecutor(2) as pool:
        one = ask(pool, batcher, [image(1)])
        until(lambda: len(batcher._pending) == 1)
        two = ask(pool, batcher, [image(2)])
        assert (one.result(15)[0] == 2).all(), "the second image fills the batch, so nobody waits 20 s"
        assert (two.result(15)[0] == 4).all()
    assert engine.batches == [2]


def test_a_deadline_ends_the_wait_and_takes_the_image_out_of_the_queue():
    engine = GatedEngine()
    batcher = Batcher(engine)
    with ThreadPoolExecutor(2) as pool:
        first = ask(pool, batcher, [image(1)])
        assert engine.started.acquire(timeout=PATIENCE_S)
        late = ask(pool, batcher, [image(2)], deadline=time.monotonic() + 0.05)
        with pytest.raises(DeadlinePassed):
            late.result(PATIENCE_S)
        assert batcher._pending == []
        engine.gate.set()
        first.result(PATIENCE_S)
    assert engine.batches == [1]
    with pytest.raises(DeadlinePassed):
        batcher.logits([image(3)], deadline=time.monotonic() - 1)


def test_a_failure_reaches_those_whose_batch_it_was_and_nobody_else():
    class Fragile(GatedEngine):
        def logits(self, batch: np.ndarray) -> np.ndarray:
            if batch.max() > 5:
                raise RuntimeError("out of memory")
            return batch

    engine = Fragile()
    batcher = Batcher(engine)
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.logits([image(9)])
    assert (batcher.logits([image(1)])[0] == 1).all()


def segmentation(pixels: int) -> Segmentation:
    nothing = np.zeros(0, np.float16)
    grid = np.zeros((1, 1), np.float32)
    return Segmentation(np.zeros((1, pixels), np.uint8), grid, 16.0, Certainty(1, 1, 1), nothing, nothing)


def test_the_cache_holds_at_most_its_bytes_and_drops_the_least_recently_used():
    cache = PredictionCache(250)
    made = []

    def make(key):
        def compute():
            made.append(key)
            return segmentation(96)  # and 4 bytes of confidence

        return cache.get(key, compute)

    for key in ("a", "b", "a", "c", "a", "b"):
        make(key)
    assert made == ["a", "b", "c", "b"]
    assert cache.nbytes == 200


def test_what_is_larger_than_the_cache_is_given_but_not_kept():
    cache = PredictionCache(50)
    assert cache.get("a", lambda: segmentation(96)).class_map.size == 96
    assert cache.nbytes == 0


def test_what_is_being_computed_is_waited_for():
    cache = PredictionCache(1000)
    gate, started, calls = threading.Event(), threading.Event(), []

    def compute():
        calls.append(1)
        started.set()
        assert gate.wait(PATIENCE_S)
        return segmentation(10)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(cache.get, "a", compute)
        assert started.wait(PATIENCE_S)
        late = pool.submit(cache.get, "a", compute, time.monotonic() + 0.05)
        with pytest.raises(DeadlinePassed):
            late.result(PATIENCE_S)
        second = pool.submit(cache.get, "a", compute)
        gate.set()
        assert first.result(PATIENCE_S) is second.result(PATIENCE_S)
    assert calls == [1]


def test_a_failed_computation_is_tried_again():
    cache = PredictionCache(1000)

    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.get("a", fail)
    assert cache.get("a", lambda: segmentation(10)).class_map.size == 10
