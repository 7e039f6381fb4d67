"""How many pixels are under way at once."""

from __future__ import annotations

import threading
import time

import pytest

from segloop.errors import DeadlinePassed
from segloop.serving.pixels import PixelBudget
from tests.waiting import until


def test_no_more_than_the_budget_is_under_way_and_all_get_their_turn() -> None:
    budget, lock, seen = PixelBudget(100), threading.Lock(), []
    under_way = 0

    def work(pixels: int) -> None:
        nonlocal under_way
        with budget.taken(pixels):
            with lock:
                under_way += pixels
                seen.append(under_way)
            time.sleep(0.001)
            with lock:
                under_way -= pixels

    threads = [threading.Thread(target=work, args=(pixels,)) for pixels in (60, 30, 90, 10, 250, 5, 100) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(threads)
    assert max(seen) == 250, "one that is larger than the budget goes alone"
    assert sorted(set(seen))[-2] <= 100


def test_who_waits_too_long_gives_up_its_place() -> None:
    budget, taken, go_on = PixelBudget(100), threading.Event(), threading.Event()

    def hold() -> None:
        with budget.taken(80):
            taken.set()
            go_on.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    with pytest.raises(DeadlinePassed), budget.taken(80, time.monotonic() + 0.01):
        raise AssertionError("there is no room")
    with budget.taken(20, time.monotonic() + 60):
        pass
    go_on.set()
    holder.join()
    until(lambda: not budget._waiting)
