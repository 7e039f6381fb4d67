"""What trainings are worth on images held out, measured by image, and how sure the difference of two networks is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segloop.metrics.bootstrap import RESAMPLES, Interval

Float64 = NDArray[np.float64]
Value = float | Interval | None


@dataclass(frozen=True)
class Effort:
    """What a training did: optimizer steps of `batch_size` images, in `seconds` of the clock that it is kept by."""

    steps: int
    batch_size: int
    seconds: float

    @property
    def images_per_s(self) -> float:
        """Images that were learnt from in a second, all that a training does besides included."""
        return self.steps * self.batch_size / self.seconds


@dataclass(frozen=True)
class Measured:
    """What one training is worth on the N held-out images, with K classes.

    Attributes:
        counts: a confusion matrix for each image, int64 (N, K + 1, K + 1), rows the truth, background first.
        boundary: boundary F1 of each image and class, float64 (N, K); NaN where the truth has no such class.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    boundary: Float64
    effort: Effort

    def save(self, path: Path) -> None:
        """Write it to a .npz file, which appears whole."""
        temporary = path.with_suffix(".part.npz")
        facts = json.dumps({"classes": self.classes, "effort": asdict(self.effort)})
        np.savez(temporary, counts=self.counts, boundary=self.boundary, facts=facts)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Measured:
        """Read what `save` wrote."""
        with np.load(path) as saved:
            facts = json.loads(str(saved["facts"]))
            return cls(tuple(facts["classes"]), saved["counts"], saved["boundary"], Effort(**facts["effort"]))


@dataclass(frozen=True)
class Scores:
    """Means over the classes and over the thin ones alone, and each class's IoU and boundary F1: numbers, or intervals of
    differences; None where the truth has no such class."""

    miou: Value
    boundary_f1: Value
    thin_iou: Value
    thin_boundary_f1: Value
    iou: dict[str, Value]
    boundary_f1_by_class: dict[str, Value]


def scores(trainings: Sequence[Measured], thin: Sequence[str] = ()) -> Scores:
    """The mean over trainings (seeds) of what each is worth on all images."""
    times = np.ones((1, len(trainings[0].counts)))
    table = np.mean([_table(one, times, thin)[0] for one in trainings], axis=0)
    return _named([None if np.isnan(mean) else float(mean) for mean in table], trainings[0].classes)


def differences(ours: Sequence[Measured], theirs: Sequence[Measured], thin: Sequence[str] = ()) -> Scores:
    """What ours is ahead of theirs, the mean over pairs of trainings with the same seed, with its 95 % interval; None for a
    class that fewer than two images have.

    Seeds and images are drawn with replacement, each by itself, the same for both networks (Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 2007; percentile interval). A single seed leaves only the images to draw.

    Raises:
        ValueError: the trainings are not of the same seeds, images and classes.
    """
    for one, other in zip(ours, theirs, strict=True):
        same = one.counts.shape == other.counts.shape == ours[0].counts.shape and one.classes == other.classes
        if not same or (one.counts.sum(axis=2) != other.counts.sum(axis=2)).any():
            raise ValueError("the trainings were not measured on the same images and classes")
    seeds, images = len(ours), len(ours[0].counts)
    rng = np.random.default_rng(0)
    # the first row is what was measured, the others are resamples
    times = np.vstack([np.ones(images), rng.multinomial(images, np.full(images, 1 / images), RESAMPLES)])
    weights = np.vstack([np.ones(seeds), rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)]) / seeds
    gaps = [_table(one, times, thin) - _table(other, times, thin) for one, other in zip(ours, theirs, strict=True)]
    table = np.einsum("rs,srf->rf", weights, np.stack(gaps))
    rare = (~np.isnan(ours[0].boundary)).sum(axis=0) < 2
    table[:, np.concatenate([np.zeros(_MEANS, bool), rare, rare])] = np.nan
    return _named([_interval(column) for column in table.T], ours[0].classes)


_MEANS = 4


def _table(measured: Measured, times: Float64, thin: Sequence[str]) -> Float64:
    """The numbers of `Scores` in resamples, float64 (R, 4 + 2 K), NaN for none; `times` is how often each image is
    counted in each, (R, N)."""
    matrices = (times @ measured.counts.reshape(len(measured.counts), -1)).reshape(-1, *measured.counts.shape[1:])
    hits = np.diagonal(matrices, axis1=1, axis2=2)[:, 1:]
    truth, found = matrices.sum(axis=2)[:, 1:], matrices.sum(axis=1)[:, 1:]
    iou = _divide(hits, truth + found - hits, truth > 0)
    there = ~np.isnan(measured.boundary)
    images = times @ there
    outlines = _divide(times @ np.where(there, measured.boundary, 0), images, images > 0)
    chosen = [index for index, name in enumerate(measured.classes) if name in thin]
    means = [_mean(iou), _mean(outlines), _mean(iou[:, chosen]), _mean(outlines[:, chosen])]
    return np.column_stack([*means, iou, outlines])


def _named(values: Sequence[Value], classes: Sequence[str]) -> Scores:
    """A row of `_table` by its names."""
    by_class, outlines = values[_MEANS : _MEANS + len(classes)], values[_MEANS + len(classes) :]
    return Scores(
        *values[:_MEANS], dict(zip(classes, by_class, strict=True)), dict(zip(classes, outlines, strict=True))
    )


def _interval(values: Float64) -> Interval | None:
    """The first of the values, and what holds 95 % of the others, float64 (1 + R,); None where it is no number."""
    if np.isnan(values[0]):
        return None
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))


def _divide(part: Float64, whole: Float64, where: NDArray[np.bool_]) -> Float64:
    """Quotients; NaN elsewhere."""
    quotients: Float64 = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=where)
    return quotients


def _mean(by_class: Float64) -> Float64:
    """The mean (...,) over the classes (..., K) that are numbers; NaN without one."""
    known = ~np.isnan(by_class)
    classes = known.sum(axis=-1)
    return _divide(np.where(known, by_class, 0).sum(axis=-1), classes, classes > 0)
