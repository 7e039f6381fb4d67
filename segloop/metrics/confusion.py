"""A streaming confusion matrix over class maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segloop.errors import MaskError
from segloop.formats import IGNORED
from segloop.versions import Metrics

#: Value of a pixel that counts neither way.

# bincount widens its input to int64, so a 100-megapixel map goes through in pieces.
_CHUNK_PIXELS = 2**20


class ConfusionMatrix:
    """Pixel counts of truth against prediction, int64, shape (C, C) with C = len(classes) + 1.

    Index 0 is background, i + 1 is `classes[i]`; rows are the truth.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        channels = len(self.classes) + 1
        self.counts: npt.NDArray[np.int64] = np.zeros((channels, channels), np.int64)

    def update(self, truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> None:
        """Count one image: two class maps, uint8 (H, W). Where the truth is 255 nothing counts.

        Raises:
            MaskError: the shapes differ, or a value that counts is no class.
        """
        if truth.shape != prediction.shape:
            raise MaskError(f"the truth is {truth.shape} and the prediction {prediction.shape}; they must be alike")
        channels = len(self.counts)
        counts = np.zeros_like(self.counts)
        flat_truth, flat_prediction = truth.ravel(), prediction.ravel()
        for start in range(0, flat_truth.size, _CHUNK_PIXELS):
            true, predicted = (flat[start : start + _CHUNK_PIXELS] for flat in (flat_truth, flat_prediction))
            counted = true != IGNORED
            true, predicted = true[counted], predicted[counted]
            highest = int(max(true.max(initial=0), predicted.max(initial=0)))
            if highest >= channels:
                raise MaskError(f"a class map has the value {highest}, but there are {channels - 1} classes")
            pairs = true.astype(np.uint16) * channels + predicted
            counts += np.bincount(pairs, minlength=channels**2).reshape(counts.shape)
        self.counts += counts

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix over the same classes.

        Raises:
            ValueError: the classes differ.
        """
        if self.classes != other.classes:
            raise ValueError(f"classes {other.classes} are not {self.classes}")
        self.counts += other.counts

    def summary(self, tasks: int) -> Metrics:
        """The metrics of a version that the counts give, for so many tasks.

        The IoU of a class is TP / (TP + FP + FN), None for a class that is not in the truth; miou is the mean over the
        label classes (not background) that have one. So every network that is measured on the same truth is averaged
        over the same classes. Pixels that are predicted as a class that the truth lacks count in
        absent_false_positives, by class, and as misses of their true class; pixel_accuracy counts background too.
        """
        hits, truth, predicted = self.counts.diagonal(), self.counts.sum(axis=1), self.counts.sum(axis=0)
        pixels = int(self.counts.sum())
        iou, absent = dict[str, float | None](), dict[str, int]()
        for index, name in enumerate(self.classes, start=1):
            hit, true, found = int(hits[index]), int(truth[index]), int(predicted[index])
            iou[name] = hit / (true + found - hit) if true else None
            if found and not true:
                absent[name] = found
        known = [value for value in iou.values() if value is not None]
        return Metrics(
            miou=sum(known) / len(known) if known else None,
            pixel_accuracy=int(hits.sum()) / pixels if pixels else None,
            iou=iou,
            absent_false_positives=absent,
            tasks=tasks,
            pixels=pixels,
        )
