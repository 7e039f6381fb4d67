"""Clicks as people make them, simulated: each at the centre of the largest error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from segloop.masks import label_pieces
from segloop.results.views import Mask, Place, Sight

#: What answers the clicks on an image; it is given the chosen label's class value and the mask of before.
Method = Callable[[Sight, tuple[Place, ...], int, Mask | None], Mask]

#: A mask as good as this takes no further click.
_PERFECT: Final = 0.98
#: How deep in the largest error a random click is, as a share of the error's depth.
_CENTRE: Final = 0.6


@dataclass(frozen=True)
class Piece:
    """A connected piece of the truth, bool (H, W), of a class value; `counted` leaves out pixels of no class."""

    value: int
    wanted: Mask
    counted: Mask

    def iou(self, mask: Mask) -> float:
        """The IoU of a mask bool (H, W) with the piece."""
        found = mask & self.counted
        return float((found & self.wanted).sum() / (found | self.wanted).sum())

    def next_click(self, mask: Mask | None, random: np.random.Generator | None = None) -> Place:
        """A click at the centre of the largest error of a mask bool (H, W), of nothing at first; with `random`, anywhere about
        that centre."""
        found = np.zeros_like(self.wanted) if mask is None else mask
        missed, extra = _depth(self.wanted & ~found), _depth(found & ~self.wanted & self.counted)
        depth = missed if missed.max() >= extra.max() else extra
        place = int(depth.argmax())
        if random is not None:
            place = int(random.choice(np.flatnonzero(depth >= _CENTRE * depth.max())))
        row, column = np.unravel_index(place, depth.shape)
        return Place(int(row), int(column), depth is missed)


def pieces(truth: NDArray[np.uint8], counted: Mask, least_px: int) -> Iterator[Piece]:
    """The pieces of a truth, a class map uint8 (H, W), that have so many pixels."""
    for value in np.unique(truth[counted & (truth > 0)]).tolist():
        count, numbers, stats = label_pieces(truth == value)
        for number in range(1, count + 1):
            if stats[number, 4] >= least_px:
                yield Piece(value, numbers == number, counted)


def clicked(method: Method, sight: Sight, piece: Piece, most_clicks: int) -> list[float]:
    """The IoU after each of so many clicks; one that is all but perfect stays."""
    clicks: tuple[Place, ...] = ()
    mask: Mask | None = None
    found: list[float] = []
    while len(found) < most_clicks:
        clicks = (*clicks, piece.next_click(mask))
        mask = method(sight, clicks, piece.value, mask)
        found.append(piece.iou(mask))
        if found[-1] > _PERFECT:
            found += [found[-1]] * (most_clicks - len(found))
    return found


def _depth(mask: Mask) -> NDArray[np.float32]:
    padded = np.pad(mask.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], np.float32)
