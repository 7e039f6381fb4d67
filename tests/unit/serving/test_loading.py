"""Loads aside from those who wait for them: once for all, one at a time, and no longer than a caller's deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from segloop.errors import Busy
from segloop.serving.loading import RETRY_AFTER_S, SingleFlight
from tests.waiting import PATIENCE_S


class Slow:
    """A load that waits for `gate`, and counts."""

    def __init__(self, error: Exception | None = None) -> None:
        self.gate, self.begun, self.times, self.error = threading.Event(), threading.Semaphore(0), 0, error

    def __call__(self) -> str:
        self.times += 1
        self.begun.release()
        assert self.gate.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return "network"


def test_who_gives_up_is_told_when_to_ask_again_and_the_load_goes_on():
    loads, load = SingleFlight(), Slow()
    with pytest.raises(Busy, match="v1 is being made ready") as refused:
        loads.get("v1", load, "v1", time.monotonic() + 0.05)
    assert refused.value.retry_after_s == RETRY_AFTER_S
    with pytest.raises(Busy):
        loads.get("v1", load, "v1", time.monotonic() - 1)
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(loads.get, "v1", load, "v1")
        load.gate.set()
        assert patient.result(PATIENCE_S) == "network"
    assert load.times == 1


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory"), TimeoutError("the store is slow")])
def test_all_who_wait_get_the_one_outcome_and_the_next_one_loads_anew(error):
    loads, load = SingleFlight(), Slow(error)

    def ask(_: int) -> str:
        try:
            return loads.get("v1", load, "v1", time.monotonic() + 60)
        except (RuntimeError, TimeoutError) as failure:
            return str(failure)

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, number) for number in range(4)]
        assert load.begun.acquire(timeout=PATIENCE_S)
        load.gate.set()
        found = {answer.result(PATIENCE_S) for answer in answers}
    assert found == {"network" if error is None else str(error)}
    before = load.times
    ask(0)
    assert load.times == before + 1


def test_loads_of_different_keys_take_turns():
    loads, first, second = SingleFlight(), Slow(), Slow()
    second.gate.set()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(loads.get, "v1", first, "v1")
        assert first.begun.acquire(timeout=PATIENCE_S)
        two = pool.submit(loads.get, "v2", second, "v2")
        assert not second.begun.acquire(timeout=0.2)
        first.gate.set()
        assert (one.result(PATIENCE_S), two.result(PATIENCE_S)) == ("network", "network")
