"""The bound of auto-accept: hand-computed cases, and a thousand simulated projects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from segloop.accept import Calibration, Rule, Scored, calibrate, grid_of, is_broken, labels_needed, upper_bound

RULE = Rule(tau=0.05, risk=0.05, confidence=0.95)
Float64 = NDArray[np.float64]


def same(score: float, labels: int, wrong: int = 0) -> list[tuple[float, bool]]:
    return [(score, number < wrong) for number in range(labels)]


@pytest.mark.parametrize(("risk", "confidence", "labels"), [(0.05, 0.95, 59), (0.1, 0.95, 29), (0.05, 0.9, 45)])
def test_labels_without_an_error_that_prove_the_bound(risk: float, confidence: float, labels: int) -> None:
    assert labels_needed(risk, confidence) == labels
    none = np.array([0, 0])
    bounds = upper_bound(none, np.array([labels, labels - 1]), confidence)
    assert bounds[0] <= risk < bounds[1]


def test_the_bound_is_the_binomial_test_turned_round() -> None:
    wrong, labels = np.array([1, 3, 10, 20]), np.array([20, 93, 100, 20])
    bounds = upper_bound(wrong, labels, 0.95)
    assert binom.cdf(wrong[:3], labels[:3], bounds[:3]) == pytest.approx(0.05)
    assert bounds[3] == 1.0


@pytest.mark.parametrize("labels", [0, 58])
def test_with_too_few_labels_it_says_how_many_are_missing(labels: int) -> None:
    found = calibrate(Scored.of(same(0.9, labels)), grid_of([0.5, 0.9]), RULE)
    assert found == Calibration(labels=labels, above=labels, needed=59 - labels)
    assert not found.is_tested


def test_labels_of_less_sure_tasks_than_those_that_wait_prove_nothing() -> None:
    found = calibrate(Scored.of(same(0.5, 500)), grid_of([0.8, 0.9]), RULE)
    assert (found.threshold, found.needed) == (None, 59)


def test_the_search_ends_with_the_first_threshold_that_fails() -> None:
    labels = Scored.of([*same(0.9, 60), *same(0.8, 40, wrong=1), *same(0.7, 20, wrong=20), *same(0.6, 9000)])
    found = calibrate(labels, np.array([0.95, 0.9, 0.8, 0.7, 0.6]), RULE)
    assert (found.threshold, found.above, found.wrong, found.labels) == (0.8, 100, 1, 9120)
    assert found.bound == pytest.approx(0.0466, abs=1e-4)


def test_one_error_among_the_first_59_is_one_too_many() -> None:
    found = calibrate(Scored.of(same(0.9, 59, wrong=1)), np.array([0.9]), RULE)
    assert (found.threshold, found.is_tested, found.needed) == (None, True, 0)
    assert found.bound == pytest.approx(0.0779, abs=1e-4)


def test_thresholds_are_shares_of_the_tasks_that_wait() -> None:
    grid = grid_of(list(np.arange(1, 101) / 100))
    assert len(grid) == 20
    assert (grid[0], grid[-1]) == (0.95, 0.01), "at least the surest five of a hundred, and all"
    assert list(grid_of([0.3])) == [0.3]
    assert not len(grid_of([]))


@pytest.mark.parametrize(("wrong", "audited", "broken"), [(0, 0, False), (1, 2, False), (2, 7, True), (2, 8, False)])
def test_an_audit_breaks_the_bound_where_chance_hardly_explains_it(wrong: int, audited: int, broken: bool) -> None:
    assert is_broken(wrong, audited, RULE) is broken


def rising(scores: Float64) -> Float64:
    return 0.5 * (1 - scores) ** 3


def flat(scores: Float64) -> Float64:
    """The hardest: just beyond the bound everywhere."""
    return np.full(scores.shape, 0.0501)


def valley(scores: Float64) -> Float64:
    """Not monotone: the surest are worse than those below."""
    return np.where(scores > 0.8, 0.08, np.where(scores > 0.5, 0.01, 0.4))


@pytest.mark.slow
@pytest.mark.parametrize("risk_at", [rising, flat, valley])
def test_in_a_thousand_projects_the_bound_is_broken_in_five_of_a_hundred(risk_at: Callable[[Float64], Float64]) -> None:
    """Each project has its own number of blind labels. The true risk of what it accepts is known."""
    projects, rng = 1000, np.random.default_rng(17)
    dense = rng.random(100_000)
    broken = accepting = 0
    for _ in range(projects):
        scores = rng.random(rng.integers(30, 500))
        labels = Scored(scores, rng.random(scores.shape) < risk_at(scores))
        found = calibrate(labels, grid_of(list(rng.random(200))), RULE)
        if found.threshold is not None:
            accepting += 1
            broken += bool(risk_at(dense[dense >= found.threshold]).mean() > RULE.risk)
    # what chance allows of 1,000 projects of which each breaks it in 5 % at most: 3 standard deviations
    assert broken <= binom.ppf(0.9987, projects, 1 - RULE.confidence)
    if risk_at is rising:
        assert accepting > projects / 3, "a bound that lets nothing through would be worth nothing"
