"""Boundary F1: how well the outlines of classes are met, which IoU hardly shows on large regions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from segloop.formats import IGNORED

#: How far apart two boundaries may lie and still agree, as a share of the image's diagonal.
TOLERANCE = 0.0075
#: Larger maps are looked at in this size, in pixels of the long side: their boundaries are as thick as the tolerance.
_LONG_SIDE = 1024


class BoundaryScore:
    """The BF score of class maps: per class the F1 of boundary precision and recall, averaged over the images whose truth
    has the class, so that all networks are averaged over the same images.

    A boundary pixel agrees if the other map has a boundary pixel of the class within TOLERANCE of the image's diagonal
    (Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013). Ignored pixels have no
    boundary, and hide those of the prediction.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._sums = np.zeros(len(self.classes))
        self._images = np.zeros(len(self.classes), np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Count one image: two class maps, uint8 (H, W); i + 1 is `classes[i]`, 255 in the truth is ignored."""
        scale = _LONG_SIDE / max(truth.shape)
        if scale < 1:
            size = (max(1, round(truth.shape[1] * scale)), max(1, round(truth.shape[0] * scale)))
            truth, prediction = (
                np.asarray(cv2.resize(one, size, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)
                for one in (truth, prediction)
            )
        seen = truth != IGNORED
        radius = max(1.0, TOLERANCE * math.hypot(*truth.shape))
        for index in range(len(self.classes)):
            real = (truth == index + 1).astype(np.uint8)
            found = ((prediction == index + 1) & seen).astype(np.uint8)
            real_there, found_there = bool(real.any()), bool(found.any())
            if not real_there:
                continue
            self._images[index] += 1
            if found_there:
                self._sums[index] += _f1(_boundary(real, seen), _boundary(found, seen), radius)

    def summary(self) -> dict[str, float | None]:
        """The score of each class that the truth has, in [0, 1]; None for the others."""
        return {
            name: float(total / images) if images else None
            for name, total, images in zip(self.classes, self._sums, self._images, strict=True)
        }


def moved_boundary(
    before: NDArray[np.bool_], after: NDArray[np.bool_], seen: NDArray[np.bool_], radius_px: float
) -> tuple[int, int]:
    """The length of the boundary of `after`, and how much of it is more than `radius_px` from any of `before`, in pixels.

    All bool (H, W). Where `before` has no boundary, all of it is. The image's edge and pixels that are not `seen` have none.
    """
    rows, columns = np.flatnonzero((before | after).any(axis=1)), np.flatnonzero((before | after).any(axis=0))
    if not len(rows):
        return 0, 0
    # a pixel more, so that a mask's own edge is not taken for the image's
    part = (
        slice(max(rows[0] - 1, 0), rows[-1] + 2),
        slice(max(columns[0] - 1, 0), columns[-1] + 2),
    )
    old, new, shown = before[part].astype(np.uint8), after[part].astype(np.uint8), seen[part]
    outline = _boundary(new, shown) > 0
    length = int(outline.sum())
    if not length or not (old != new).any():
        return length, 0
    known = _boundary(old, shown)
    moved = int((_distance(known)[outline] > radius_px).sum()) if known.any() else length
    return length, moved


def _boundary(mask: NDArray[np.uint8], seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The mask's pixels with a neighbour, by side or corner, outside it; the image's edge and ignored pixels are none."""
    around = np.where(seen, mask, 1).astype(np.uint8)
    inner = cv2.erode(around, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    boundary: NDArray[np.uint8] = np.where(np.asarray(inner) > 0, 0, mask).astype(np.uint8)
    return boundary


def _f1(real: NDArray[np.uint8], found: NDArray[np.uint8], radius: float) -> float:
    """F1 of two boundaries; 1 where neither map has one, as where a class fills the image."""
    if not real.any() or not found.any():
        return float(real.any() == found.any())
    precision = (_distance(real)[found > 0] <= radius).mean()
    recall = (_distance(found)[real > 0] <= radius).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def _distance(boundary: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance of each pixel from the boundary, in pixels."""
    return np.asarray(cv2.distanceTransform(1 - boundary, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), dtype=np.float32)
