"""Label errors: the pixels whose label a network that never saw it contradicts, and the pieces that they make.

Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021), pixel by pixel: a network's threshold for a class is its mean probability for that class over the pixels labelled
as it. A pixel is counted as the most probable of the classes that reach their thresholds; where that is not its label, the
label is suspected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from segloop.formats import IGNORED
from segloop.masks import label_pieces

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

#: Nobody draws a boundary to the pixel: so many pixels on either side of one say nothing of a label.
BAND_PX: Final = 3
#: Least share of an image that a piece has.
LEAST_SHARE: Final = 5e-4
#: Temperature of the soft minimum, as Lad and Mueller chose it.
SOFT_MINIMUM_T: Final = 0.1

#: What each further piece of an image counts of the one before: who looks at the first one sees the others, and a label
#: that is wrong as a whole would fill the list. On CamVid, with 15 of 305 masks damaged, 0.9 points to more of these in
#: the first 20 suspects (see benchmarks.suspects); less than that costs more right ones than it wins.
REPEATED: Final = 0.9


@dataclass(frozen=True)
class PieceOfPixels:
    """A connected piece whose pixels all have one label and all seem to be of one other class.

    Attributes:
        labelled, seen: channels of the two classes.
        box: left, top, width and height in pixels.
        pixels: bool (height, width) of the box.
        area: share of the image.
        margin: by how much the class seen is more probable than the label, the mean over the piece.
        rarity: see `rarities`.
        repeats: how many pieces of the same image are more suspected; see `ranked`.
    """

    labelled: int
    seen: int
    box: tuple[int, int, int, int]
    pixels: NDArray[np.bool_]
    area: float
    margin: float
    rarity: float = 1.0
    repeats: int = 0

    @property
    def score(self) -> float:
        """How much it is suspected, in [0, 1]: by margin and rarity, by the square root of its side, so that a small object
        counts too, and the less the more of its image was looked at before."""
        return float(self.area**0.25) * self.margin * self.rarity * REPEATED**self.repeats


def ranked(pieces: Iterable[PieceOfPixels]) -> list[PieceOfPixels]:
    """The suspected pieces of one image, the most suspected first, with their `repeats`."""
    ordered = sorted(pieces, key=lambda piece: -piece.score)
    return [replace(piece, repeats=number) for number, piece in enumerate(ordered)]


class Thresholds:
    """The mean self-confidence of each of C classes, streaming: first `update` with each image, then `values`."""

    def __init__(self, channels: int) -> None:
        self._sums = np.zeros(channels)
        self._pixels = np.zeros(channels, np.int64)

    def update(self, probabilities: Float32, labels: UInt8) -> None:
        """Count one image: probabilities float32 (C, H, W), and labels uint8 (H, W) below C, 255 ignored."""
        counted = labels != IGNORED
        own, values = self_confidence(probabilities, labels)[counted], labels[counted]
        self._sums += np.bincount(values, weights=own, minlength=len(self._sums))
        self._pixels += np.bincount(values, minlength=len(self._sums))

    def values(self) -> Float32:
        """The threshold of each class, float32 (C,); infinite for one that no pixel is labelled as."""
        means = np.divide(self._sums, self._pixels, out=np.full(len(self._sums), np.inf), where=self._pixels > 0)
        return np.asarray(means, dtype=np.float32)


def self_confidence(probabilities: Float32, labels: UInt8) -> Float32:
    """The probability of each pixel's own label, float32 (H, W): of float32 (C, H, W), labels uint8 (H, W); 1 where
    ignored."""
    known = np.minimum(labels, len(probabilities) - 1)
    own = np.take_along_axis(probabilities, known[None].astype(np.int64), axis=0)[0]
    return np.asarray(np.where(labels == IGNORED, np.float32(1), own), dtype=np.float32)


def confident_classes(probabilities: Float32, thresholds: Float32) -> UInt8:
    """The class that each pixel is counted as, uint8 (H, W): the most probable one of those that reach their threshold;
    IGNORED where none does."""
    most = np.full(probabilities.shape[1:], -1.0, np.float32)
    found = np.full(probabilities.shape[1:], IGNORED, np.uint8)
    for channel, (plane, threshold) in enumerate(zip(probabilities, thresholds, strict=True)):
        better = (plane >= threshold) & (plane > most)
        found[better] = channel
        most[better] = plane[better]
    return found


def outside_band(labels: UInt8, band_px: int = BAND_PX) -> NDArray[np.bool_]:
    """Where a label counts, bool (H, W): it is not ignored, and no pixel of another label is within `band_px`. Ignored
    pixels have no boundary with others."""
    counted = labels != IGNORED
    size = 2 * band_px + 1
    kernel = np.ones((size, size), np.uint8)
    # the least and the greatest label around, with ignored pixels in the place of neither
    least = cv2.erode(labels, kernel, borderType=cv2.BORDER_REPLICATE)
    greatest = cv2.dilate(np.where(counted, labels, 0).astype(np.uint8), kernel, borderType=cv2.BORDER_REPLICATE)
    alike: NDArray[np.bool_] = counted & (np.asarray(least) == labels) & (np.asarray(greatest) == labels)
    return alike


def suspected_pieces(
    probabilities: Float32, labels: UInt8, thresholds: Float32, least_share: float = LEAST_SHARE
) -> list[PieceOfPixels]:
    """The suspected pieces of an image, the most suspected first.

    Args:
        probabilities: float32 (C, H, W) at the network's temperature.
        labels: uint8 (H, W) below C, 255 ignored.
        thresholds: float32 (C,), of `Thresholds`.
    """
    counted_as = confident_classes(probabilities, thresholds)
    suspect = (counted_as != IGNORED) & (counted_as != labels) & outside_band(labels)
    if not suspect.any():
        return []
    least_px = max(1.0, least_share * labels.size)
    pairs = np.where(suspect, labels.astype(np.int32) << 8 | counted_as, -1)
    values, counts = np.unique(pairs[suspect], return_counts=True)
    found = []
    for pair in values[counts >= least_px].tolist():
        labelled, seen = pair >> 8, pair & 255
        _, numbers, stats = label_pieces(pairs == pair)
        for number in np.flatnonzero(stats[1:, 4] >= least_px) + 1:
            left, top, width, height = (int(side) for side in stats[number, :4])
            place = np.s_[top : top + height, left : left + width]
            pixels = numbers[place] == number
            gap = probabilities[seen][place][pixels] - probabilities[labelled][place][pixels]
            share = int(stats[number, 4]) / labels.size
            found.append(PieceOfPixels(labelled, seen, (left, top, width, height), pixels, share, float(gap.mean())))
    return sorted((piece for piece in found if piece.margin > 0), key=lambda piece: -piece.score)


def rarities(images: Sequence[Sequence[PieceOfPixels]], shown: Sequence[int]) -> dict[tuple[int, int], float]:
    """How rare it is, in [0, 1], that one class is seen where another one is labelled: the square of the share of images
    with that label in which it does not happen, of all but one.

    What a network contradicts in many images is what it has not learnt, rather than what people got wrong.

    Args:
        images: the pieces of each image.
        shown: in how many images each class is labelled, by its channel.
    """
    found = Counter(pair for pieces in images for pair in {(piece.labelled, piece.seen) for piece in pieces})
    return {pair: (1 - (count - 1) / max(shown[pair[0]] - 1, 1)) ** 2 for pair, count in found.items()}


def soft_minimum(scores: Float32, temperature: float = SOFT_MINIMUM_T) -> float:
    """A soft minimum of scores float32 (N,) in [0, 1]: their mean, in which low ones weigh exponentially more (Lad and
    Mueller, "Estimating label quality and errors in semantic segmentation data via any model", 2023, arXiv:2307.05080).
    1 of nothing."""
    if not scores.size:
        return 1.0
    weights = np.exp((scores.min() - scores.astype(np.float64)) / temperature)
    return float(weights @ scores / weights.sum())


def label_quality(probabilities: Float32, labels: UInt8) -> float:
    """How well an image is labelled, in [0, 1]: the soft minimum of the self-confidence of its pixels outside the band."""
    return soft_minimum(self_confidence(probabilities, labels)[outside_band(labels)])
