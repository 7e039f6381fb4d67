"""By how much held-out labels favour the champion, from confusion matrices whose mIoU is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from segloop.ledger import Origins
from segloop.metrics import unpaired_bootstrap
from segloop.policy import Compared
from segloop.versions import HeldOutBias, Metrics
from worker.jobs.bias import bias_of

SHOWN, BLIND = range(100, 112), range(200, 210)


def matrix(hits: int, missed: int, *, water: int = 0) -> NDArray[np.int64]:
    """Background, Sky, Water: Sky's IoU is hits / (hits + missed)."""
    return np.array([[50, 0, 0], [missed, hits, 0], [0, 0, water]], np.int64)


def compared(shown: NDArray[np.int64], blind: NDArray[np.int64]) -> Compared:
    tasks = (*SHOWN, *BLIND, 300)
    counts = np.stack([*[shown] * len(SHOWN), *[blind] * len(BLIND), matrix(0, 100)])
    return Compared(Metrics(), Metrics(), tasks=tasks, champion_counts=counts)


ORIGINS = Origins(frozenset(BLIND), {**dict.fromkeys(SHOWN, "v1"), 300: "v0"})


def test_the_bias_is_the_difference_between_shown_and_blind_tasks() -> None:
    found = bias_of(compared(matrix(90, 10), matrix(80, 20)), "v1", ORIGINS)
    assert (found.blind, found.shown) == (10, 12), "a task that began as another version's pre-label is neither"
    assert found.difference == pytest.approx(0.1)
    assert found.sentence() == (
        "Held-out labels drawn over the champion's pre-labels favour it by +0.1000 mIoU "
        "(95 % interval +0.1000 to +0.1000; 10 blind tasks, 12 drawn over its pre-labels)."
    )


def test_a_class_that_one_side_lacks_makes_no_difference() -> None:
    found = bias_of(compared(matrix(90, 10, water=40), matrix(90, 10)), "v1", ORIGINS)
    assert found.difference == pytest.approx(0.0)
    assert "not proven" in found.sentence()


def test_below_ten_tasks_it_is_unknown() -> None:
    few = Origins(frozenset(list(BLIND)[:9]), ORIGINS.shown)
    found = bias_of(compared(matrix(90, 10), matrix(80, 20)), "v1", few)
    assert found == HeldOutBias(blind=9, shown=12)
    assert found.sentence() == (
        "By how much held-out labels favour the champion is unknown: 9 blind tasks, 12 drawn over its pre-labels."
    )


@pytest.mark.slow
def test_the_interval_covers_the_true_difference() -> None:
    rng = np.random.default_rng(3)

    def draw(share: float) -> NDArray[np.int64]:
        hits = rng.binomial(100, np.clip(rng.normal(share, 0.1, 20), 0, 1))
        return np.stack([matrix(int(one), 100 - int(one)) for one in hits])

    covered = 0
    for _ in range(60):
        interval = unpaired_bootstrap(draw(0.8), draw(0.7))
        assert interval is not None
        covered += interval.low <= 0.1 <= interval.high
    assert covered >= 50, "95 % are 57 of 60"
