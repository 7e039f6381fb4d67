"""The held-out images on which a candidate does worst, gathered while it is evaluated, for its gallery."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from segloop.dataset import Item
from segloop.metrics import ConfusionMatrix, miou_of
from segloop.network.transforms import UInt8
from segloop.registry.gallery import LONG_SIDE, MOST_IMAGES, Entry


@dataclass(frozen=True)
class EvaluatedImage:
    """A held-out image after its prediction: RGB uint8 (H, W, 3), class maps uint8 (H, W), and their counts."""

    item: Item
    image: UInt8
    truth: UInt8
    found: UInt8
    matrix: ConfusionMatrix

    @property
    def miou(self) -> float | None:
        """The mIoU of this image alone; None where its truth has no class."""
        value = float(miou_of(self.matrix.counts))
        return None if math.isnan(value) else value

    @property
    def score(self) -> float:
        """How well the image is met: its mIoU or, where its truth has no class, the share of pixels left without one."""
        if self.miou is not None:
            return self.miou
        counts = self.matrix.counts
        return float(np.trace(counts) / counts.sum()) if counts.any() else 1.0


class WorstExamples:
    """The images with the lowest score, at most `most`. They are kept small, so that they fit into memory."""

    def __init__(self, most: int = MOST_IMAGES) -> None:
        self._most = most
        self._kept: dict[Item, tuple[float, int, Entry]] = {}
        self._seen = 0

    def add(self, seen: EvaluatedImage) -> None:
        """Take in an image that the candidate has predicted."""
        score = seen.score
        self._seen += 1
        if len(self._kept) == self._most:
            best = max(self._kept, key=lambda item: self._kept[item][:2])
            if self._kept[best][0] <= score:
                return
            del self._kept[best]
        height, width = _small(*seen.truth.shape)
        photo = np.asarray(cv2.resize(seen.image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        entry = Entry(seen.item.task, photo, _shrunk(seen.truth), _shrunk(seen.found), seen.miou)
        self._kept[seen.item] = score, self._seen, entry

    def add_champion(self, seen: EvaluatedImage) -> None:
        """Take in an image that the champion has predicted."""
        if seen.item in self._kept:
            entry = self._kept[seen.item][2]
            entry.champion, entry.champion_miou = _shrunk(seen.found), seen.miou

    def entries(self) -> list[Entry]:
        """The images, the worst first."""
        return [entry for *_, entry in sorted(self._kept.values(), key=lambda kept: kept[:2])]


def _small(height: int, width: int) -> tuple[int, int]:
    shrink = min(1.0, LONG_SIDE / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def _shrunk(class_map: UInt8) -> UInt8:
    height, width = _small(*class_map.shape)
    return np.asarray(cv2.resize(class_map, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
