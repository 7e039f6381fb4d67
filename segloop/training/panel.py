"""A panel: what networks that never saw them say of images' labels, kept on disk, and looked at once all are there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from segloop.dataset import Item
from segloop.formats import IGNORED
from segloop.network.transforms import Float32, UInt8, resize_mask
from segloop.suspects.confident import PieceOfPixels, Thresholds, label_quality, ranked, rarities, suspected_pieces
from segloop.suspects.format import MOST_OF_IMAGE

#: Long side, in pixels, at which labels are judged, and of the photos that are kept.
JUDGED_PX: Final = 480
#: Pieces of an image that are weighed, at most.
_CANDIDATES: Final = 30
#: What is kept on disk for the second look, at most.
_MOST_BYTES: Final = 2**30


@dataclass
class Room:
    """A folder with room for so many bytes, less what was put there."""

    folder: Path
    left: int
    files: int = 0

    def keep(self, *arrays: NDArray[Any]) -> Path | None:
        """Keep arrays in one file; None where there is no room."""
        self.left -= sum(one.nbytes for one in arrays)
        if self.left < 0:
            return None
        self.files += 1
        path = self.folder / f"{self.files}.npz"
        np.savez(path, *arrays)
        return path


def room_in(folder: Path) -> Room:
    """A folder as the room for all that is judged."""
    return Room(folder, _MOST_BYTES)


@dataclass
class Heard:
    """An image and what a network says of it, in a file: its label and the network's logits, in half precision."""

    item: Item
    file: Path
    temperature: float | None = None

    @property
    def labels(self) -> UInt8:
        """The class map uint8 (H, W) at the size at which it is judged."""
        with np.load(self.file) as kept:
            return np.asarray(kept["arr_0"], np.uint8)

    def probabilities(self) -> Float32:
        """Class probabilities float32 (C, H, W) at the size of the labels."""
        with np.load(self.file) as kept:
            (height, width), logits = kept["arr_0"].shape, kept["arr_1"].astype(np.float32)
        planes = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in logits])
        planes -= planes.max(axis=0)
        np.exp(np.divide(planes, self.temperature or 1.0, out=planes), out=planes)
        return np.asarray(np.divide(planes, planes.sum(axis=0), out=planes), np.float32)


@dataclass(frozen=True)
class SeenImage:
    """An image whose label was judged: its suspected pieces, the worst first, and its quality (see `label_quality`)."""

    heard: Heard
    pieces: tuple[PieceOfPixels, ...]
    quality: float
    held_out: bool

    @property
    def item(self) -> Item:
        return self.heard.item


class Panel:
    """Images judged by networks of one kind, with thresholds over all of them."""

    def __init__(self, room: Room, channels: int) -> None:
        self._room, self._channels = room, channels
        self.heard: list[Heard] = []

    def __len__(self) -> int:
        return len(self.heard)

    def hear(self, item: Item, truth: UInt8, logits: Float32) -> None:
        """Take in an image's class map uint8 (H, W) and logits float32 (C, h, w) of all of it."""
        height, width = judged_size(*truth.shape)
        half = np.clip(_no_larger(logits, height, width), -6e4, 6e4).astype(np.float16)
        kept = self._room.keep(resize_mask(truth, height, width), half)
        if kept is not None:
            self.heard.append(Heard(item, kept))

    def calibrate(self, temperature: float) -> None:
        """Say at which temperature the logits are read that were taken in since the last call."""
        for one in self.heard:
            if one.temperature is None:
                one.temperature = temperature

    def look(self, *, held_out: bool) -> list[SeenImage]:
        """What is suspected in each image."""
        thresholds, shown = Thresholds(self._channels), np.zeros(self._channels, np.int64)
        for one in self.heard:
            labels = one.labels
            thresholds.update(one.probabilities(), labels)
            shown[np.unique(labels[labels != IGNORED])] += 1
        values = thresholds.values()
        found, qualities = [], []
        for one in self.heard:
            labels, probabilities = one.labels, one.probabilities()
            found.append(suspected_pieces(probabilities, labels, values)[:_CANDIDATES])
            qualities.append(label_quality(probabilities, labels))
        rarity = rarities(found, shown.tolist())
        seen = []
        for one, pieces, quality in zip(self.heard, found, qualities, strict=True):
            weighed = ranked(replace(piece, rarity=rarity[piece.labelled, piece.seen]) for piece in pieces)
            seen.append(SeenImage(one, tuple(weighed[:MOST_OF_IMAGE]), quality, held_out))
        return seen


def judged_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which an image's label is judged, in pixels."""
    shrink = min(1.0, JUDGED_PX / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def _no_larger(logits: Float32, height: int, width: int) -> Float32:
    """Logits float32 (C, h, w), shrunk where they are larger than what is judged."""
    if logits.shape[1] <= height and logits.shape[2] <= width:
        return logits
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in logits])
