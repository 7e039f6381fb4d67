from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.policy import (
    LARGEST_LOSS,
    LEAST_AGREEMENT,
    Changes,
    Event,
    Live,
    Recipe,
    RetrainDecision,
    Thresholds,
    due_recipe,
    may_serve,
    should_promote,
    should_rerun,
    should_retrain,
)
from segloop.versions import Metrics

THRESHOLDS = Thresholds(full=100, quick=10)
FULL_RUNS, QUICK_RUNS, QUICK_WAITS = Live("full", waits=False), Live("quick", waits=False), Live("quick", waits=True)


def metrics(miou: float | None, *, tasks: int = 20, pixels: int = 1000, **own: Any) -> Metrics:
    return Metrics(miou=miou, pixel_accuracy=0.5, tasks=tasks, pixels=pixels, **own)


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


def test_without_a_backbone_the_first_training_is_a_full_one() -> None:
    decision = retrain("annotations", 99, 99, has_backbone=False)
    assert (decision.act, decision.recipe) == (True, "full")
    assert "without weights and without a served version the first training is a full one" in decision.reason
    assert not retrain("annotations", 9, 9, has_backbone=False).act
    assert not retrain("annotations", 99, 99, FULL_RUNS, has_backbone=False).act
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
    assert (decision.act, decision.recipe) == (True, "full")


def test_a_press_without_changes_says_that_nothing_changed() -> None:
    decision = should_rerun(
        changes=Changes(0, 0), thresholds=THRESHOLDS, requested=True, ended="full", has_backbone=True
    )
    assert "nothing changed" in decision.reason


@pytest.mark.parametrize("champion", [None, metrics(0.1)])
def test_a_candidate_without_a_number_never_wins(champion: Metrics | None) -> None:
    assert not should_promote(metrics(None), champion, new_classes=frozenset({"Sky"})).act


def test_the_first_version_must_beat_empty_predictions() -> None:
    assert not should_promote(metrics(0.0), None).act
    decision = should_promote(metrics(0.25), None)
    assert (decision.act, decision.reason) == (True, "The first version: mIoU 0.2500 on 20 tasks.")


@pytest.mark.parametrize(
    ("candidate", "champion", "tolerance", "new_classes", "act"),
    [
        (0.51, 0.5, 0.0, set(), True),
        (0.5, 0.5, 0.0, set(), False),
        (0.5, 0.5, 0.0, {"Sky"}, True),
        (0.499, 0.5, 0.0, {"Sky"}, False),
        (0.499, 0.5, 0.02, set(), False),
        (0.51, 0.5, 0.02, set(), True),
        (0.51, 0.5, 0.02, {"Sky"}, True),
        (0.485, 0.5, 0.02, {"Sky"}, True),
        (0.475, 0.5, 0.02, {"Sky"}, False),
    ],
)
def test_a_champion_is_replaced_only_by_a_winner(
    candidate: float, champion: float, tolerance: float, new_classes: set[str], act: bool
) -> None:
    decision = should_promote(metrics(candidate), metrics(champion), tolerance=tolerance, new_classes=new_classes)
    assert decision.act is act
    assert f"{candidate:.4f}" in decision.reason
    assert f"{champion:.4f}" in decision.reason


def test_metrics_of_other_tasks_are_not_compared() -> None:
    assert not should_promote(metrics(0.9, tasks=21), metrics(0.5)).act
    assert not should_promote(metrics(0.9, pixels=1001), metrics(0.5)).act


def test_a_champion_without_a_number_stays() -> None:
    decision = should_promote(metrics(0.9), metrics(None))
    assert not decision.act
    assert "champion has no mIoU" in decision.reason


@given(
    candidate=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    champion=st.none() | st.floats(0, 1),
    tolerance=st.floats(0, 1),
    new_classes=st.frozensets(st.sampled_from(["Sky", "Road"])),
)
def test_a_promotion_never_makes_it_worse(
    candidate: float | None, champion: float | None, tolerance: float, new_classes: frozenset[str]
) -> None:
    decision = should_promote(metrics(candidate), metrics(champion), tolerance=tolerance, new_classes=new_classes)
    if decision.act:
        assert candidate is not None
        assert champion is not None
        assert candidate - champion >= -(tolerance if new_classes else 0)


def test_no_class_may_lose_more_than_its_limit() -> None:
    before = metrics(0.5, iou={"Sky": 0.9, "Pole": 0.2, "Car": None, "Gone": 0.4})
    after = metrics(0.6, iou={"Sky": 0.95, "Pole": 0.05, "Car": 0.1, "Gone": None})
    decision = should_promote(after, before, class_limit=0.1)
    assert not decision.act
    assert "loses more than 0.1 IoU of Pole (0.050 after 0.200)" in decision.reason
    assert should_promote(after, before, class_limit=0.2).act


def test_the_reason_says_how_sure_the_difference_is() -> None:
    decision = should_promote(metrics(0.52), metrics(0.5), interval=[0.02, -0.01, 0.05])
    assert decision.act
    assert "95 % interval of the difference -0.0100 to +0.0500" in decision.reason


@pytest.mark.parametrize(
    ("miou", "torch_miou", "agreement", "act", "reason"),
    [
        (
            0.8,
            0.8,
            1.0,
            True,
            "It is as good as torch: mIoU 0.8000 against torch's 0.8000, 100.00% of the pixels alike.",
        ),
        (0.9, 0.8, 0.99, True, "as good as torch"),
        (0.8 - LARGEST_LOSS, 0.8, LEAST_AGREEMENT, True, "as good as torch"),
        (0.7949, 0.8, 1.0, False, "It loses more than 0.005 of mIoU: mIoU 0.7949 against torch's 0.8000"),
        (0.0, 0.8, 1.0, False, "loses more"),
        (0.8, 0.8, 0.9799, False, "It gives less than 98% of the pixels torch's class: mIoU 0.8000"),
        (0.9, 0.8, 0.0, False, "less than 98%"),
        (0.0, 0.0, 1.0, True, "as good as torch"),
        # no class occurs in the held-out images: the agreement alone decides
        (None, None, 1.0, True, "It is as good as torch: 100.00% of the pixels alike."),
        (None, None, 0.5, False, "It gives less than 98% of the pixels torch's class: 50.00% of the pixels alike."),
        (None, 0.8, 0.5, False, "less than 98%"),
        # what is no number decides for torch
        (math.nan, 0.8, 1.0, False, "loses more"),
        (0.8, math.nan, 1.0, False, "loses more"),
        (math.nan, math.nan, 1.0, False, "loses more"),
        (0.8, 0.8, math.nan, False, "less than 98%"),
        (None, None, math.nan, False, "less than 98%"),
        (-math.inf, 0.8, 1.0, False, "loses more"),
    ],
)
def test_an_engine_serves_where_it_is_as_good_as_torch(
    miou: float | None, torch_miou: float | None, agreement: float, act: bool, reason: str
) -> None:
    decision = may_serve(miou, torch_miou, agreement)
    assert decision.act is act
    assert reason in decision.reason


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_an_engine_that_serves_loses_little(miou: float, torch_miou: float, agreement: float) -> None:
    if may_serve(miou, torch_miou, agreement).act:
        assert torch_miou - miou <= LARGEST_LOSS + 1e-12
        assert agreement >= LEAST_AGREEMENT
    else:
        assert miou < torch_miou or agreement < LEAST_AGREEMENT
