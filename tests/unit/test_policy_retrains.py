"""When a change, a press or the end of a run begins a retrain, and whether it is a full or a quick one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.policy import (
    Changes,
    Event,
    Live,
    Recipe,
    RetrainDecision,
    Thresholds,
    due_recipe,
    should_rerun,
    should_retrain,
)

THRESHOLDS = Thresholds(full=100, quick=10)
FULL_RUNS, QUICK_RUNS, QUICK_WAITS = Live("full", waits=False), Live("quick", waits=False), Live("quick", waits=True)


def retrain(event: Event, full: int, recent: int, live: Live | None = None, **given: Any) -> RetrainDecision:
    arguments = {"thresholds": THRESHOLDS, "has_backbone": True, **given}
    return should_retrain(event=event, changes=Changes(full, recent), live=live, **arguments)


@pytest.mark.parametrize(
    ("live", "act", "reason"),
    [
        (None, True, "Start Training was pressed."),
        (FULL_RUNS, False, "joins it"),
        (Live("full", waits=True), False, "joins it"),
        (QUICK_WAITS, True, "becomes a full one"),
        (QUICK_RUNS, True, "a full retrain follows the quick adaptation"),
    ],
)
def test_start_always_means_a_full_retrain(live: Live | None, act: bool, reason: str) -> None:
    for changed in (0, 10, 500):
        decision = retrain("start", changed, changed, live, has_backbone=False)
        assert (decision.act, decision.recipe) == (act, "full")
        assert reason in decision.reason


@pytest.mark.parametrize("event", ["annotations", "reconcile"])
@pytest.mark.parametrize(
    ("full", "recent", "live", "expected", "reason"),
    [
        (
            1,
            1,
            None,
            None,
            "1 task changed since the last snapshot; a quick adaptation begins at 10, a retrain begins at 100.",
        ),
        (9, 9, None, None, "9 tasks changed since the last snapshot; a quick adaptation begins at 10"),
        (10, 10, None, "quick", "10 tasks changed since the last snapshot, and a quick adaptation begins at 10."),
        (10, 10, QUICK_RUNS, None, "what is due follows it"),
        (10, 10, FULL_RUNS, None, "what is due follows it"),
        # those that a quick adaptation has seen count on toward the full retrain alone
        (
            19,
            9,
            None,
            None,
            "19 tasks changed since the last full retrain's snapshot, 9 of them since the last one; a quick",
        ),
        (20, 10, None, "quick", "10 tasks changed since the last snapshot, and a quick adaptation begins at 10."),
        (
            100,
            0,
            None,
            "full",
            "100 tasks changed since the last full retrain's snapshot, and a retrain begins at 100.",
        ),
        (100, 100, None, "full", "100 tasks changed since the last snapshot, and a retrain begins at 100."),
        (100, 100, FULL_RUNS, None, "a retrain is already under way; another follows it."),
        (100, 90, QUICK_RUNS, None, "a retrain is already under way; another follows it."),
        (100, 100, QUICK_WAITS, "full", "the quick adaptation that waits becomes a full retrain."),
    ],
)
def test_changes_act_at_the_thresholds(
    event: Event, full: int, recent: int, live: Live | None, expected: Recipe | None, reason: str
) -> None:
    decision = retrain(event, full, recent, live)
    assert (decision.recipe if decision.act else None) == expected
    assert reason in decision.reason


def test_no_quick_adaptation_without_a_backbone() -> None:
    decision = retrain("annotations", 99, 99, has_backbone=False)
    assert not decision.act
    assert "without weights and without a served version only a full retrain makes sense" in decision.reason
    assert retrain("annotations", 100, 100, has_backbone=False).act


def test_zero_means_no_quick_adaptation() -> None:
    decision = retrain("annotations", 99, 99, thresholds=Thresholds(100, 0))
    assert (decision.act, decision.reason) == (
        False,
        "99 tasks changed since the last snapshot; a retrain begins at 100.",
    )


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 200), st.integers(0, 200))
def test_the_full_threshold_goes_first(full: int, recent: int, full_at: int, quick_at: int) -> None:
    due = due_recipe(Changes(full, recent), Thresholds(full_at, quick_at))
    assert (due == "full") == (full >= full_at)
    assert (due == "quick") == (full < full_at and 0 < quick_at <= recent)


@pytest.mark.parametrize(
    ("ended", "full", "recent", "requested", "expected"),
    [
        ("full", 0, 0, False, None),
        ("full", 0, 0, True, None),
        ("full", 1, 1, True, "full"),
        ("full", 9, 9, False, None),
        ("full", 10, 10, False, "quick"),
        ("full", 10, 10, True, "full"),
        ("full", 100, 100, False, "full"),
        ("quick", 10, 0, False, None),
        ("quick", 20, 10, False, "quick"),
        ("quick", 99, 0, False, None),
        ("quick", 100, 1, False, "full"),
        ("quick", 100, 1, True, "full"),
        # someone pressed Start Training: a quick adaptation was no answer
        ("quick", 0, 0, True, "full"),
    ],
)
def test_what_follows_a_run(ended: Recipe, full: int, recent: int, requested: bool, expected: Recipe | None) -> None:
    decision = should_rerun(
        changes=Changes(full, recent), thresholds=THRESHOLDS, requested=requested, ended=ended, has_backbone=True
    )
    assert (decision.recipe if decision.act else None) == expected


def test_nothing_quick_follows_a_run_without_a_backbone() -> None:
    decision = should_rerun(
        changes=Changes(10, 10), thresholds=THRESHOLDS, requested=False, ended="full", has_backbone=False
    )
    assert not decision.act


def test_a_press_without_changes_says_that_nothing_changed() -> None:
    decision = should_rerun(
        changes=Changes(0, 0), thresholds=THRESHOLDS, requested=True, ended="full", has_backbone=True
    )
    assert "nothing changed" in decision.reason
