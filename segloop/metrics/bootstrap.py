"""Bootstraps: how sure a difference in mIoU is, of two versions on the same tasks, or of one on two sets of tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Resamples of the images; the interval's ends then move by less than a tenth of its width from seed to seed.
RESAMPLES = 2000
_AT_ONCE = 256


class Interval(NamedTuple):
    """A difference, and the interval that holds 95 % of its resamples."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedBootstrap:
    """What resamples say of two versions.

    Attributes:
        interval: of the difference in mIoU.
        ahead: the share of the resamples in which ours is higher, of those with a label; where both are equal counts as
            behind.
        classes: the intervals of the difference in each class's IoU, background left out; None for a class that is in the
            truth of fewer than two images.
    """

    interval: Interval
    ahead: float
    classes: tuple[Interval | None, ...]


def miou_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """mIoU (...,) of confusion matrices (..., C, C), as `ConfusionMatrix.summary` gives it; NaN without a class."""
    return _mean(_iou(_pixels(counts)))


def paired_bootstrap(ours: NDArray[np.int64], theirs: NDArray[np.int64], seed: int = 0) -> PairedBootstrap | None:
    """The difference in mIoU of two versions from their confusion matrices by image, each int64 (T, C, C).

    Images are drawn with replacement, the same for both (Efron and Tibshirani, "An Introduction to the Bootstrap",
    1993, percentile interval). Both have the same truth, so that in each resample both are averaged over the same
    classes. None where fewer than two images have a label: resamples then differ by what has no mIoU.

    Raises:
        ValueError: the matrices are not of the same images and classes.
    """
    if ours.shape != theirs.shape or (ours.sum(axis=-1) != theirs.sum(axis=-1)).any():
        raise ValueError(f"matrices of shape {ours.shape} and {theirs.shape} are not of the same images and classes")
    images = len(ours)
    shown = ours.sum(axis=-1)[:, 1:] > 0
    if shown.any(axis=1).sum() < 2:
        return None
    by_class = _iou(_pixels(ours.sum(axis=0))) - _iou(_pixels(theirs.sum(axis=0)))
    both = np.stack([_pixels(ours), _pixels(theirs)], axis=1).astype(np.float64)
    rng = np.random.default_rng(seed)
    found = []
    for begin in range(0, RESAMPLES, _AT_ONCE):
        # how often each image is drawn, in as many resamples as fit
        size = min(_AT_ONCE, RESAMPLES - begin)
        drawn = rng.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float64)
        # sums of whole numbers below 2**53 are exact, and products of floats go through BLAS
        iou = _iou((drawn @ both.reshape(images, -1)).reshape(size, *both.shape[1:]))
        found.append(iou[:, 0] - iou[:, 1])
    drawn_by_class = np.concatenate(found)
    differences = _mean(drawn_by_class)
    differences = differences[~np.isnan(differences)]  # a resample without a label says nothing of either
    low, high = np.percentile(differences, [2.5, 97.5])
    known = shown.sum(axis=0) >= 2
    classes: list[Interval | None] = [None] * len(known)
    for index in np.flatnonzero(known):
        ends = np.nanpercentile(drawn_by_class[:, index], [2.5, 97.5])
        classes[index] = Interval(float(by_class[index]), *map(float, ends))
    interval = Interval(float(_mean(by_class)), float(low), float(high))
    return PairedBootstrap(interval, float((differences > 0).mean()), tuple(classes))


def unpaired_bootstrap(some: NDArray[np.int64], others: NDArray[np.int64], seed: int = 0) -> Interval | None:
    """The difference in mIoU of one version between two sets of images, from confusion matrices int64 (T, C, C) of each.

    The images of each set are drawn by themselves. Each side is averaged over the classes that both sets have in their
    truth, so that a class that one set lacks makes no difference. None where there is no such class.
    """
    pixels = [_pixels(counts) for counts in (some, others)]
    both = np.all([(one[:, 1] > 0).any(axis=0) for one in pixels], axis=0)
    if not both.any():
        return None
    kept = [one[..., both].astype(np.float64) for one in pixels]
    difference = float(np.subtract(*(_mean(_iou(one.sum(axis=0))) for one in kept)))
    rng = np.random.default_rng(seed)
    sides = []
    for one in kept:
        drawn = rng.multinomial(len(one), np.full(len(one), 1 / len(one)), size=RESAMPLES).astype(np.float64)
        sides.append(_mean(_iou((drawn @ one.reshape(len(one), -1)).reshape(RESAMPLES, *one.shape[1:]))))
    differences = sides[0] - sides[1]
    low, high = np.percentile(differences[~np.isnan(differences)], [2.5, 97.5])
    return Interval(difference, float(low), float(high))


def _pixels(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hits, truth and prediction of each class but background, (..., 3, C - 1), of confusion matrices (..., C, C)."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return np.stack([hits, counts.sum(axis=-1), counts.sum(axis=-2)], axis=-2)[..., 1:]


def _iou(pixels: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (..., K) of hits, truth and prediction (..., 3, K); NaN for a class that is not in the truth."""
    hits, truth, prediction = pixels[..., 0, :], pixels[..., 1, :], pixels[..., 2, :]
    iou: NDArray[np.float64] = np.divide(
        hits, truth + prediction - hits, out=np.full(hits.shape, np.nan), where=truth > 0
    )
    return iou


def _mean(by_class: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean (...,) over the classes (..., K) that are numbers; NaN without one."""
    known = ~np.isnan(by_class)
    classes = known.sum(axis=-1)
    total = np.where(known, by_class, 0).sum(axis=-1)
    mean: NDArray[np.float64] = np.divide(total, classes, out=np.full(classes.shape, np.nan), where=classes > 0)
    return mean
