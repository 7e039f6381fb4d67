"""Paired bootstrap: how sure the difference of two versions is, that were measured on the same tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Resamples of the tasks; the interval's ends then move by less than a tenth of its width from seed to seed.
RESAMPLES = 2000
_AT_ONCE = 64


@dataclass(frozen=True)
class Interval:
    """A difference in mIoU, and the interval that holds 95 % of its resamples."""

    difference: float
    low: float
    high: float


def miou_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """mIoU (...,) of confusion matrices (..., C, C), as `ConfusionMatrix.summary` gives it; NaN where no class occurs."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)[..., 1:]
    unions = (counts.sum(axis=-1) + counts.sum(axis=-2))[..., 1:] - hits
    known = unions > 0
    iou = np.divide(hits, unions, out=np.zeros(hits.shape), where=known)
    classes = known.sum(axis=-1)
    miou: NDArray[np.float64] = np.divide(
        iou.sum(axis=-1), classes, out=np.full(classes.shape, np.nan), where=classes > 0
    )
    return miou


def paired_bootstrap(ours: NDArray[np.int64], theirs: NDArray[np.int64], seed: int = 0) -> Interval | None:
    """The difference in mIoU of two versions from their confusion matrices by task, each int64 (T, C, C).

    Tasks are drawn with replacement, the same for both (Efron and Tibshirani, "An Introduction to the Bootstrap",
    1993, percentile interval). None where there are fewer than two tasks, or no label in them.

    Raises:
        ValueError: the matrices are not of the same tasks and classes.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"matrices of shape {ours.shape} and {theirs.shape} are not of the same tasks and classes")
    difference = float(miou_of(ours.sum(axis=0)) - miou_of(theirs.sum(axis=0)))
    if len(ours) < 2 or np.isnan(difference):
        return None
    rng = np.random.default_rng(seed)
    found = []
    for begin in range(0, RESAMPLES, _AT_ONCE):
        # how often each task is drawn, in as many resamples as fit
        size = min(_AT_ONCE, RESAMPLES - begin)
        drawn = rng.multinomial(len(ours), np.full(len(ours), 1 / len(ours)), size=size)
        found.append(miou_of(np.tensordot(drawn, ours, 1)) - miou_of(np.tensordot(drawn, theirs, 1)))
    differences = np.concatenate(found)
    low, high = np.nanpercentile(differences, [2.5, 97.5])
    return Interval(difference, float(low), float(high))
