"""Which version is served: candidate against champion, an engine against torch, and a guided head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segloop.metrics import ConfusionMatrix
from segloop.policy import LARGEST_LOSS, LEAST_AGREEMENT, Decision, Evidence, may_guide, may_serve, should_promote
from segloop.training.evaluation import resample
from segloop.versions import Metrics


def metrics(miou: float | None, *, tasks: int = 20, pixels: int = 1000, **own: Any) -> Metrics:
    return Metrics(miou=miou, pixel_accuracy=0.5, tasks=tasks, pixels=pixels, **own)


@pytest.mark.parametrize("champion", [None, metrics(0.1)])
def test_a_candidate_without_a_number_never_wins(champion: Metrics | None) -> None:
    assert not should_promote(metrics(None), champion, evidence=Evidence(frozenset({"Sky"}), ahead=1.0)).act


def test_the_first_version_must_beat_empty_predictions() -> None:
    assert not should_promote(metrics(0.0), None).act
    decision = should_promote(metrics(0.25), None)
    assert (decision.act, decision.reason) == (True, "The first version: mIoU 0.2500 on 20 tasks.")


@pytest.mark.parametrize(
    ("candidate", "tolerance", "new_classes", "ahead", "act", "reason"),
    [
        # the champion's mIoU is 0.5
        (0.53, 0.01, set(), 0.8, True, "The candidate wins: "),
        (0.53, 0.01, set(), 0.799, False, "may be an accident, for it is ahead in less than 80 % of the resamples"),
        (0.505, 0.01, set(), 1.0, False, "The candidate does not win by more than 0.01: "),
        (0.505, 0.0, set(), 1.0, True, "The candidate wins: "),
        (0.5, 0.0, set(), 0.0, False, "The candidate does not win: "),
        (0.49, 0.02, set(), 0.0, False, "The candidate does not win: "),
        # new labels: an equal is promoted, and no certainty is asked for
        (0.5, 0.0, {"Sky"}, 0.0, True, "The candidate is no worse and adds Sky: "),
        (0.499, 0.0, {"Sky"}, 0.0, False, "The candidate does not win: "),
        (0.485, 0.02, {"Sky"}, 0.1, True, "The candidate is within 0.02 and adds Sky: "),
        (0.475, 0.02, {"Sky"}, 0.1, False, "The candidate does not win: "),
        (0.53, 0.01, {"Sky"}, 0.7, True, "The candidate wins and adds Sky: "),
    ],
)
def test_a_champion_is_replaced_by_a_winner_and_between_equals_stays(
    candidate: float, tolerance: float, new_classes: set[str], ahead: float, act: bool, reason: str
) -> None:
    evidence = Evidence(frozenset(new_classes), ahead=ahead)
    decision = should_promote(metrics(candidate), metrics(0.5), tolerance=tolerance, evidence=evidence)
    assert decision.act is act
    assert reason in decision.reason
    assert f"mIoU {candidate:.4f} against the champion's 0.5000 on 20 tasks" in decision.reason


@pytest.mark.parametrize(("candidate", "act"), [(0.549, False), (0.56, True)])
def test_on_a_single_held_out_task_a_candidate_has_to_gain_much(candidate: float, act: bool) -> None:
    decision = should_promote(metrics(candidate, tasks=1), metrics(0.5, tasks=1), tolerance=0.01)
    assert decision.act is act
    assert ("does not win by more than 0.05" in decision.reason) is not act


def test_metrics_of_other_tasks_or_over_other_classes_are_not_compared() -> None:
    sure = Evidence(ahead=1.0)
    assert not should_promote(metrics(0.9, tasks=21), metrics(0.5), evidence=sure).act
    assert not should_promote(metrics(0.9, pixels=1001), metrics(0.5), evidence=sure).act
    road, both = {"Road": 0.9, "Sky": None}, {"Road": 0.9, "Sky": 0.1}
    assert not should_promote(metrics(0.9, iou=road), metrics(0.5, iou=both), evidence=sure).act
    assert should_promote(metrics(0.9, iou=road), metrics(0.5, iou=road), evidence=sure).act


def test_a_champion_without_a_number_stays() -> None:
    decision = should_promote(metrics(0.9), metrics(None))
    assert not decision.act
    assert "champion has no mIoU" in decision.reason


@given(
    candidate=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    champion=st.none() | st.floats(0, 1),
    tolerance=st.floats(0, 1),
    new_classes=st.frozensets(st.sampled_from(["Sky", "Road"])),
    ahead=st.none() | st.floats(0, 1),
)
def test_a_promotion_never_makes_it_worse(
    candidate: float | None,
    champion: float | None,
    tolerance: float,
    new_classes: frozenset[str],
    ahead: float | None,
) -> None:
    evidence = Evidence(new_classes, ahead=ahead)
    decision = should_promote(metrics(candidate), metrics(champion), tolerance=tolerance, evidence=evidence)
    if decision.act:
        assert candidate is not None
        assert champion is not None
        assert candidate - champion >= (-tolerance if new_classes else tolerance)


def test_a_class_that_surely_loses_more_than_its_limit_keeps_a_candidate_back() -> None:
    before = metrics(0.5, iou={"Sky": 0.9, "Pole": 0.2, "Car": None})
    after = metrics(0.6, iou={"Sky": 0.95, "Pole": 0.05, "Car": None})

    def decide(limit: float, **intervals: tuple[float, float, float]) -> Decision:
        evidence = Evidence(ahead=1.0, class_intervals=intervals)
        return should_promote(after, before, class_limit=limit, evidence=evidence)

    decision = decide(0.1, Pole=(-0.15, -0.2, -0.01), Sky=(0.05, 0.01, 0.1))
    assert not decision.act
    assert "loses more than 0.1 IoU of Pole (0.050 after 0.200)" in decision.reason
    assert decide(0.2, Pole=(-0.15, -0.2, -0.01)).act
    assert decide(0.1, Pole=(-0.15, -0.3, 0.01)).act, "the loss may be noise"
    assert decide(0.1).act, "a class without an interval is in the truth of one image"


def test_the_reason_says_how_sure_the_difference_is() -> None:
    decision = should_promote(
        metrics(0.52), metrics(0.5), evidence=Evidence(ahead=0.8999, interval=(0.02, -0.01, 0.05))
    )
    assert decision.act
    assert decision.reason.endswith(
        "on 20 tasks, 95 % interval of the difference -0.0100 to +0.0500, ahead in 89 % of the resamples."
    )


def test_the_reason_tells_of_many_false_positives_of_absent_classes() -> None:
    painted = metrics(0.6, absent_false_positives={"Sky": 40, "Car": 3})
    clean = metrics(0.5, absent_false_positives={"Sky": 1})
    decision = should_promote(painted, clean)
    assert decision.act
    assert decision.reason.endswith(
        " 4.3 % of the pixels are predicted as classes that these tasks lack; by the champion 0.1 %."
    )
    assert "lack" not in should_promote(metrics(0.7, absent_false_positives={}), painted).reason


def test_the_share_of_false_positives_is_of_classes_that_the_truth_lacks() -> None:
    found = metrics(0.5, iou={"Road": 0.5, "Sky": None, "Car": None}, absent_false_positives={"Sky": 40})
    assert found.absent_share() == 0.04
    assert [found.absent_share(name) for name in ("Road", "Sky", "Car")] == [None, 0.04, 0.0]
    assert metrics(0.5).absent_share() is None, "an early version"


# A gate's numbers by hand. Two classes and images of 100 x 100; Road is the upper half of each, Sky is nowhere.
CLASSES = ("Road", "Sky")
TRUTH = np.zeros((100, 100), np.uint8)
TRUTH[:50] = 1


def road(rows_missed: int, stray_pixels: int = 0) -> np.ndarray:
    """A prediction whose Road has an IoU of 1 - rows_missed / 50, with some stray pixels of Sky where nothing is."""
    found = TRUTH.copy()
    found[:rows_missed] = 0
    found[99, :stray_pixels] = 2
    return found


def counts_of(truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Confusion matrices int64 (T, C, C), one for each image."""
    matrices = []
    for truth, prediction in zip(truths, predictions, strict=True):
        matrix = ConfusionMatrix(CLASSES)
        matrix.update(truth, prediction)
        matrices.append(matrix.counts)
    return np.array(matrices)


def gate(candidate: np.ndarray, champion: np.ndarray, tolerance: float = 0.01, class_limit: float = 0.15) -> Decision:
    """The decision on confusion matrices by image, as a retrain makes it."""
    summaries = []
    for counts in (candidate, champion):
        total = ConfusionMatrix(CLASSES)
        total.counts += counts.sum(axis=0)
        summaries.append(total.summary(len(counts)))
    ours, theirs = summaries
    evidence = resample(candidate, champion, CLASSES)
    return should_promote(ours, theirs, tolerance=tolerance, class_limit=class_limit, evidence=evidence)


def judge(candidate: Sequence[int], champion: Sequence[int], stray: tuple[int, int] = (0, 0)) -> Decision:
    """The decision where candidate and champion miss so many rows of the Road in each image, with stray pixels."""
    truths = [TRUTH] * len(candidate)
    ours = counts_of(truths, [road(rows, stray[0]) for rows in candidate])
    return gate(ours, counts_of(truths, [road(rows, stray[1]) for rows in champion]))


def test_a_stray_pixel_does_not_promote_a_worse_network() -> None:
    def summary(prediction: np.ndarray) -> Metrics:
        matrix = ConfusionMatrix(CLASSES)
        matrix.update(TRUTH, prediction)
        return matrix.summary(10)

    candidate, champion = summary(road(17)), summary(road(10, 1))
    assert (candidate.miou, champion.miou) == (0.66, 0.8)
    decision = should_promote(candidate, champion, tolerance=0.01, class_limit=0.15)
    assert (decision.act, decision.reason) == (
        False,
        "The candidate does not win: mIoU 0.6600 against the champion's 0.8000 on 10 tasks.",
    )


def test_equals_stay_and_winners_win() -> None:
    # Road 0.80 and, of the candidate, 0.82 on each of five images: ahead in every resample
    assert judge([9] * 5, [10] * 5).act
    assert not judge([10] * 5, [10] * 5).act
    # 0.80 each: the candidate is ahead on two images, behind on two others by as much
    assert not judge([8, 8, 10, 12, 12], [10] * 5).act
    # 0.808: a gain within the tolerance, however sure it is
    assert "by more than 0.01" in judge([10, 10, 10, 10, 8], [10] * 5).reason
    # 0.82, by one image alone, which 0.8 ** 5 = 33 % of the resamples lack
    one_image = judge([10, 10, 10, 10, 5], [10] * 5)
    assert not one_image.act
    assert "ahead in 67 % of the resamples" in one_image.reason


def test_on_two_tasks_a_candidate_has_to_be_ahead_on_both() -> None:
    assert judge([8, 9], [10, 10]).act
    # 0.88 against 0.80: a quarter of the resamples draws the second image alone, on which the candidate is behind
    behind_on_one = judge([1, 11], [10, 10])
    assert not behind_on_one.act
    assert "may be an accident" in behind_on_one.reason


def test_on_one_task_no_resamples_are_drawn() -> None:
    assert judge([7], [10]).act
    assert "resamples" not in judge([7], [10]).reason
    assert not judge([9], [10]).act


@pytest.mark.parametrize("labelled", [1, 2])
def test_images_of_background_alone_keep_no_better_candidate_back(labelled: int) -> None:
    """Resamples of them alone, 35 or 11 % of those of ten images, have no mIoU; one image with a label is one image."""
    truths = [TRUTH] * labelled + [np.zeros_like(TRUTH)] * (10 - labelled)

    def decide(rows_missed: int) -> Decision:
        ours, theirs = (
            counts_of(truths, [road(rows) if truth.any() else truth for truth in truths]) for rows in (rows_missed, 10)
        )
        return gate(ours, theirs)

    decision = decide(2)
    assert decision.act
    assert ("ahead in 100 % of the resamples" in decision.reason) is (labelled > 1)
    assert decide(9).act is (labelled > 1), "a gain of 0.02"
    assert not decide(10).act


def test_the_class_limit_tells_noise_from_a_loss() -> None:
    """Sky is in the right half of each image; the candidate gains Road everywhere, and loses Sky in one image or in all."""
    truth = TRUTH.copy()
    truth[50:, 50:] = 2

    def found(road_rows: int, sky_rows: int) -> np.ndarray:
        prediction = truth.copy()
        prediction[:road_rows] = 0
        prediction[50 : 50 + sky_rows, 50:] = 0
        return prediction

    truths = [truth] * 6
    champion = counts_of(truths, [found(25, 10)] * 6)
    # Sky 200 / 300 after 0.8: one image lost it whole, and 33 % of the resamples lack that image
    unlucky = counts_of(truths, [found(0, 10)] * 5 + [found(0, 50)])
    assert gate(unlucky, champion, class_limit=0.1).act
    lost = counts_of(truths, [found(0, 20)] * 6)
    decision = gate(lost, champion)
    assert not decision.act
    assert "loses more than 0.15 IoU of Sky (0.600 after 0.800)" in decision.reason


def test_a_class_absent_from_the_truth_has_no_say() -> None:
    same = judge([9] * 5, [10] * 5)
    for stray in ((1, 0), (0, 1), (100, 0), (0, 100)):
        assert judge([9] * 5, [10] * 5, stray).act
        assert not judge([10] * 5, [9] * 5, stray).act
    assert judge([9] * 5, [10] * 5, (0, 100)).reason == same.reason
    assert (
        "1.0 % of the pixels are predicted as classes that these tasks lack"
        in judge([9] * 5, [10] * 5, (100, 0)).reason
    )


SMALL = hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(4), st.just(4)), elements=st.integers(0, 1))


@pytest.mark.slow
@given(st.data(), SMALL, st.floats(0, 0.1))
def test_stray_pixels_never_turn_a_loser_into_a_winner(
    data: st.DataObject, truth: np.ndarray, tolerance: float
) -> None:
    """Pixels of a class that no image has change no decision where nothing is and nothing was predicted. Where a candidate
    was right they do not promote it."""
    predictions = hnp.arrays(np.uint8, truth.shape, elements=st.integers(0, 2))
    candidate, champion = data.draw(predictions), data.draw(predictions)
    stray = data.draw(hnp.arrays(np.bool_, truth.shape))

    def decide(ours: np.ndarray, theirs: np.ndarray) -> bool:
        return gate(counts_of(truth, ours), counts_of(truth, theirs), tolerance).act

    def strayed(prediction: np.ndarray, where: np.ndarray) -> np.ndarray:
        return np.where(stray & where, 2, prediction).astype(np.uint8)

    before = decide(candidate, champion)
    nothing_in = (truth == 0) & (champion == 0)
    assert decide(candidate, strayed(champion, nothing_in)) is before
    assert decide(strayed(candidate, (truth == 0) & (candidate == 0)), champion) is before
    if not before:
        assert not decide(strayed(candidate, candidate == truth), champion)


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


@pytest.mark.parametrize(
    ("gain", "ahead", "act"),
    [(0.05, 1.0, True), (0.01, 0.8, True), (0.01, 0.79, False), (0.0, 0.0, False), (None, 0.0, False)],
)
def test_a_guided_head_serves_if_it_is_surely_better(gain: float | None, ahead: float, act: bool) -> None:
    decision = may_guide(gain, ahead)
    assert decision.act == act
    assert decision.reason.endswith(".")
