"""Figures by version, class and annotator, and the time that pre-labels save, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from segloop.blind import is_blind
from segloop.ledger import Entry, time_saved, version_figures, winsorised
from tests.ledgers import entry


def test_figures_of_a_version() -> None:
    entries = [
        entry(1, 0, lead_time_s=4),
        entry(2, 30, lead_time_s=8, annotator=2),
        entry(3, 0),
        entry(4),
        entry(5, 10, version="v2"),
    ]
    first, second = version_figures(entries)
    assert (first.version, first.annotations, first.unchanged) == ("v1", 3, pytest.approx(2 / 3))
    assert first.changed_share == pytest.approx(30 / 300)
    assert (first.boundary_px, first.moved_px, first.regions_added, first.regions_removed) == (30, 5, 1, 0)
    assert first.median_s == 6
    assert [(one.annotator, one.annotations, one.median_s) for one in first.annotators] == [(1, 1, 4), (2, 1, 8)]
    sky = first.classes["Sky"]
    assert (sky.annotations, sky.changed_share) == (3, pytest.approx(30 / 150))
    assert (second.version, second.unchanged, second.median_s) == ("v2", 0, None)


def test_a_break_is_no_work() -> None:
    entries = [entry(number, 0, lead_time_s=10) for number in range(99)] + [entry(99, 0, lead_time_s=36000)]
    assert winsorised(entries)[99] == 10
    (figures,) = version_figures(entries)
    assert figures.median_s == 10


def arms(
    shown: list[float], blind: list[float], *, first: int = 0, annotator: int = 1, version: str = "v1"
) -> list[Entry]:
    times = [("pre-labelled", one) for one in shown] + [("blind", one) for one in blind]
    return [
        Entry(first + number, first + number, annotator, kind, version, None, seconds)  # type: ignore[arg-type]
        for number, (kind, seconds) in enumerate(times)
    ]


def test_below_twenty_blind_tasks_no_time_is_stated() -> None:
    saved = time_saved(arms([10.0] * 200, [30.0] * 19))
    assert (saved.seconds, saved.low, saved.high, saved.blind, saved.needed) == (None, None, None, 19, 1)


def test_time_saved_is_paired_by_annotator() -> None:
    # The slow annotator labelled most blind tasks: unpaired, pre-labels would seem to save far more.
    slow = arms([90.0] * 10, [100.0] * 20, annotator=1)
    fast = arms([4.0] * 100, [10.0] * 20, first=1000, annotator=2)
    saved = time_saved(slow + fast)
    assert saved.seconds == pytest.approx((20 * 10 + 20 * 6) / 40)
    assert saved.share == pytest.approx(8 / 55)
    assert saved.blind == 40
    assert saved.low == saved.high == pytest.approx(8)


def test_blind_tasks_without_a_pair_do_not_count() -> None:
    saved = time_saved(arms([10.0] * 30, []) + arms([], [30.0] * 30, first=100, version="v2"))
    assert (saved.seconds, saved.blind) == (None, 0)


@pytest.mark.slow
def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        shown, blind = rng.gamma(4, 10, 120), rng.gamma(4, 15, 40)
        saved = time_saved(arms(list(shown), list(blind)), seed)
        assert saved.low is not None
        assert saved.high is not None
        held += saved.low <= 20 <= saved.high
    # winsorising moves the mean of a skewed time a little
    assert held >= 175


def test_a_share_of_the_tasks_is_blind_and_more_of_them_with_a_larger_share() -> None:
    few, many = ({task for task in range(10000) if is_blind("29.1", task, share)} for share in (0.05, 0.2))
    assert 420 < len(few) < 580
    assert few < many
    assert not any(is_blind("29.1", task, 0.0) for task in range(100))
    assert all(is_blind("29.1", task, 1.0) for task in range(100))
