"""Boundary F1, calibration error and the paired bootstrap, by hand and against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.metrics import (
    BoundaryScore,
    CalibrationError,
    ConfusionMatrix,
    Interval,
    fit_temperature,
    miou_of,
    paired_bootstrap,
)


def square(top: int, left: int, side: int = 40, size: int = 100) -> np.ndarray:
    found = np.zeros((size, size), np.uint8)
    found[top : top + side, left : left + side] = 1
    return found


def score(truth: np.ndarray, prediction: np.ndarray, classes: tuple[str, ...] = ("Road",)) -> dict[str, float | None]:
    counted = BoundaryScore(classes)
    counted.update(truth, prediction)
    return counted.summary()


def test_a_boundary_within_the_tolerance_is_met() -> None:
    # the diagonal of 100 x 100 is 141 px, so the tolerance is 1 px
    assert score(square(30, 30), square(30, 30)) == {"Road": 1.0}
    assert score(square(30, 30), square(30, 31)) == {"Road": 1.0}
    shifted = score(square(30, 30), square(30, 34))["Road"]
    assert shifted is not None
    assert 0.4 < shifted < 0.6, "two of four sides are met"


def test_a_class_missed_scores_nothing_and_one_that_the_truth_lacks_has_no_score() -> None:
    empty = np.zeros((100, 100), np.uint8)
    assert score(square(30, 30), empty) == {"Road": 0.0}
    assert score(empty, square(30, 30)) == {"Road": None}
    assert score(empty, empty) == {"Road": None}
    assert score(np.ones_like(empty), np.ones_like(empty)) == {"Road": 1.0}, "a class that fills the image has no edge"
    assert score(np.ones_like(empty), square(30, 30)) == {"Road": 0.0}


def test_ignored_pixels_neither_have_nor_hide_a_boundary() -> None:
    truth = square(30, 30)
    truth[:, 50:] = 255
    whole = square(30, 30)
    assert score(truth, whole) == {"Road": 1.0}
    cut = whole.copy()
    cut[:, 50:] = 0
    assert score(truth, cut) == {"Road": 1.0}


def test_boundaries_are_averaged_over_images() -> None:
    counted = BoundaryScore(["Road", "Sky"])
    counted.update(square(30, 30), square(30, 30))
    counted.update(square(30, 30), np.zeros((100, 100), np.uint8))
    counted.update(square(30, 30) * 2, square(30, 30) * 2)
    assert counted.summary() == {"Road": 0.5, "Sky": 1.0}
    stray = square(30, 30)
    stray[0, 0] = 2
    counted.update(square(30, 30), stray)
    assert counted.summary() == {"Road": 2 / 3, "Sky": 1.0}, (
        "a stray pixel of Sky where there is none costs Sky nothing"
    )


def test_calibration_by_hand() -> None:
    error = CalibrationError()
    assert error.summary() is None
    truth = np.array([[1, 1, 1, 1, 255]], np.uint8)
    prediction = np.array([[1, 1, 1, 0, 0]], np.uint8)
    error.update(truth, prediction, np.full((1, 5), 0.75, np.float32))
    assert error.summary() == pytest.approx(0.0), "right three times in four, and three quarters sure"
    error.update(truth, prediction, np.full((1, 5), 1.0, np.float32))
    assert error.summary() == pytest.approx(0.125), "in the top bin it is 0.25 too sure; half of the pixels are there"


@pytest.mark.parametrize("overconfidence", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_overconfidence(overconfidence: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 5)) * 2
    chances = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    truth = (chances.cumsum(axis=1) < rng.random((len(honest), 1))).sum(axis=1).astype(np.uint8)
    fitted = fit_temperature((honest * overconfidence).astype(np.float32), truth)
    assert fitted == pytest.approx(overconfidence, rel=0.05)


def test_without_pixels_the_temperature_is_one() -> None:
    assert fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.uint8)) == 1.0


def matrices(tasks: int, accuracy: float, seed: int, classes: int = 4) -> np.ndarray:
    """Confusion matrices by task of a prediction that is right in this share of the pixels; all have the same truth."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(tasks).integers(0, classes, (tasks, 400))
    found = np.where(rng.random((tasks, 400)) < accuracy, truth, rng.integers(0, classes, (tasks, 400)))
    counts = np.zeros((tasks, classes, classes), np.int64)
    for task in range(tasks):
        np.add.at(counts[task], (truth[task], found[task]), 1)
    return counts


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_miou_is_that_of_the_confusion_matrix(seed: int, classes: int) -> None:
    counts = matrices(1, 0.6, seed, classes)[0]
    matrix = ConfusionMatrix([f"c{index}" for index in range(1, classes)])
    matrix.counts += counts
    assert miou_of(counts) == pytest.approx(matrix.summary(1).miou)


def test_an_interval_holds_its_difference_and_tells_a_gain_from_noise() -> None:
    better, worse = matrices(30, 0.9, 1), matrices(30, 0.8, 2)
    gain = paired_bootstrap(better, worse)
    assert gain is not None
    assert 0 < gain.interval.low < gain.interval.difference < gain.interval.high
    twin = paired_bootstrap(matrices(30, 0.8, 3), matrices(30, 0.8, 4))
    assert twin is not None
    assert twin.interval.low < 0 < twin.interval.high
    same = paired_bootstrap(better, better)
    assert same is not None
    assert (same.interval, same.ahead) == ((0, 0, 0), 0)
    assert (gain.ahead, paired_bootstrap(worse, better).ahead) == (1, 0)
    assert paired_bootstrap(better, worse, seed=5) == paired_bootstrap(better, worse, seed=5)


@pytest.mark.slow
def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Two versions that are equally good: the interval holds 0 in about 95 of 100 repetitions."""
    covered = 0
    for repetition in range(100):
        found = paired_bootstrap(matrices(25, 0.7, 1000 + repetition), matrices(25, 0.7, 5000 + repetition))
        assert found is not None
        covered += found.interval.low <= 0 <= found.interval.high
    assert 85 <= covered <= 100


def test_too_little_for_an_interval() -> None:
    assert paired_bootstrap(matrices(1, 0.9, 1), matrices(1, 0.8, 2)) is None
    empty = np.zeros((5, 3, 3), np.int64)
    assert paired_bootstrap(empty, empty) is None
    one_with_a_label = np.concatenate([np.diag([9, 0, 0])[None], np.diag([5, 4, 0])[None]])
    assert paired_bootstrap(one_with_a_label, one_with_a_label) is None
    with pytest.raises(ValueError, match="not of the same images"):
        paired_bootstrap(empty, empty[:3])
    with pytest.raises(ValueError, match="not of the same images"):
        paired_bootstrap(matrices(5, 0.9, 1), matrices(5, 0.9, 1)[::-1])


def test_the_bootstrap_of_two_images_by_hand() -> None:
    """Background, Road and Sky. The resamples are the first image twice (1 in 4), the second twice, or both."""
    ours = np.array([[[4, 0, 0], [1, 3, 0], [0, 0, 0]], [[2, 0, 0], [2, 2, 0], [0, 0, 2]]], np.int64)
    theirs = np.array([[[4, 0, 0], [2, 2, 0], [0, 0, 0]], [[2, 0, 0], [1, 3, 0], [2, 0, 0]]], np.int64)
    # Road: 3/4 and 2/4 in the first image, 2/4 and 3/4 in the second, 5/8 each in both; Sky, in the second: 1 and 0
    found = paired_bootstrap(ours, theirs)
    assert found is not None
    # first twice: 3/4 - 2/4; second twice: (2/4 + 1) / 2 - 3/4 / 2; both: 1/2
    assert found.interval == ((5 / 8 + 1) / 2 - 5 / 8 / 2, 0.25, 0.5)
    assert found.ahead == 1
    assert found.classes == (Interval(0, -0.25, 0.25), None), "Sky is in one image alone"


def test_a_stray_pixel_of_an_absent_class_changes_nothing() -> None:
    ours, theirs = matrices(10, 0.8, 1), matrices(10, 0.7, 2)
    ours, theirs = (np.pad(counts, ((0, 0), (0, 1), (0, 1))) for counts in (ours, theirs))
    strayed = theirs.copy()
    strayed[0, 0, 0] -= 1
    strayed[0, 0, -1] += 1
    assert paired_bootstrap(ours, strayed) == paired_bootstrap(ours, theirs)
    assert miou_of(strayed[0]) == miou_of(theirs[0])
