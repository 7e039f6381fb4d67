"""From which score on pre-labels may be accepted unseen: Learn then Test on blind labels. Pure.

Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then Test" (2021), section 4.2: hypotheses "of the pre-labels with this
score or more, too many are wrong" in a fixed order, each tested at the same level until the first that is not rejected. The
loss of a pre-label is 0 or 1, so that the exact test is the binomial one, and its bound that of Clopper and Pearson (1934).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segloop.settings import Settings

#: Thresholds that are tested, at most: those that accept 5 %, 10 %, ... of the tasks that wait.
THRESHOLDS: Final = 20

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """What is promised: at most `risk` of the accepted pre-labels are wrong, with this confidence. One is wrong where more
    than `tau` of its pixels would have been corrected, or where it misses a class."""

    tau: float
    risk: float
    confidence: float

    @classmethod
    def of(cls, settings: Settings) -> Rule | None:
        """What a project's settings promise; None where auto-accept is off."""
        return (
            cls(settings.accept_tau, settings.accept_risk, settings.accept_confidence) if settings.auto_accept else None
        )


@dataclass(frozen=True)
class Scored:
    """Blind labels: the score of each one's hidden pre-label, and whether that was wrong. Both (N,)."""

    scores: Float64
    wrong: NDArray[np.bool_]

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, bool]]) -> Scored:
        """From pairs of a score and whether it was wrong."""
        return cls(
            np.array([score for score, _ in pairs], np.float64), np.array([wrong for _, wrong in pairs], np.bool_)
        )


class Calibration(BaseModel):
    """What blind labels say of a version's pre-labels.

    Attributes:
        threshold: the lowest score from which on pre-labels may be accepted; None: none may.
        labels: blind labels with a pre-label; of these, `above` have a score of `threshold` or more (without one: of the
            first threshold that was tested), and `wrong` of these were wrong.
        bound: the upper bound of the share that is wrong there; None where nothing was tested.
        needed: blind labels that are missing for a first test.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    threshold: float | None = None
    labels: int = 0
    above: int = 0
    wrong: int = 0
    bound: float | None = None
    needed: int = 0

    @property
    def is_tested(self) -> bool:
        """Whether there were labels enough to test anything."""
        return self.bound is not None


def upper_bound(wrong: NDArray[np.int64], labels: NDArray[np.int64], confidence: float) -> Float64:
    """The upper Clopper-Pearson bound of the share that is wrong, of arrays (...,); 1 where all are, or there is none."""
    from scipy.stats import beta

    found = beta.ppf(confidence, wrong + 1, np.maximum(labels - wrong, 1))
    bound: Float64 = np.where(wrong < labels, found, 1.0)
    return bound


def labels_needed(risk: float, confidence: float) -> int:
    """How many labels without one that is wrong prove the bound: 59 for 5 % at 95 %."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - risk))


def grid_of(scores: Sequence[float]) -> Float64:
    """The thresholds to test, the strictest first, from the scores of the tasks that wait: blind labels have no part in it."""
    if not scores:
        return np.empty(0)
    shares = np.arange(1, THRESHOLDS + 1) / THRESHOLDS
    # each accepts at least its share
    found = np.quantile(np.array(scores, np.float64), 1 - shares, method="lower")
    grid: Float64 = np.unique(found)[::-1]
    return grid


def calibrate(labels: Scored, grid: Float64, rule: Rule) -> Calibration:
    """The lowest threshold of a grid (G,), the strictest first, whose pre-labels keep to a rule.

    Thresholds with too few blind labels for any outcome to prove the bound are passed over. Whether that is so depends on
    the scores alone. The first of the others that fails ends the search.
    """
    least = labels_needed(rule.risk, rule.confidence)
    known = len(labels.scores)
    is_above = labels.scores >= grid[:, None]
    above = is_above.sum(axis=1)
    wrong = (is_above & labels.wrong).sum(axis=1)
    testable = np.flatnonzero(above >= least)
    if not testable.size:
        most = int(above.max(initial=0))
        return Calibration(labels=known, above=most, needed=least - most)
    bounds = upper_bound(wrong[testable], above[testable], rule.confidence)
    passed = bounds <= rule.risk
    last = len(passed) if passed.all() else int(np.argmin(passed))
    at = max(last - 1, 0)
    place = testable[at]
    return Calibration(
        threshold=float(grid[place]) if last else None,
        labels=known,
        above=int(above[place]),
        wrong=int(wrong[place]),
        bound=float(bounds[at]),
    )


def is_broken(wrong: int, audited: int, rule: Rule) -> bool:
    """Whether an audit refutes the bound: so many wrong ones would be rarer than the confidence allows (binomial test)."""
    from scipy.stats import binom

    return audited > 0 and bool(binom.sf(wrong - 1, audited, rule.risk) < 1 - rule.confidence)
