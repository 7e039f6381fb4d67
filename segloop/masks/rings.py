"""Closed rings of points along the pixel edges of a mask: the outlines of its pieces and of their holes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class Rings:
    """Closed rings of points, one after the other; the last point of each is joined to its first.

    Attributes:
        points: x and y in pixels, int32 (N, 2).
        size: the number of points of each ring, int64 (R,).
        piece: the piece that each ring belongs to, int64 (R,): equal numbers, equal pieces.
        hole: whether it runs around a hole of its piece, bool (R,); holes turn the other way round.
    """

    points: NDArray[np.int32]
    size: Ints
    piece: Ints
    hole: Bools

    @cached_property
    def first(self) -> Ints:
        """The first point of each ring, (R,)."""
        return np.cumsum(self.size) - self.size

    @cached_property
    def ring(self) -> Ints:
        """The ring of each point, (N,)."""
        return np.repeat(np.arange(self.size.size), self.size)

    @cached_property
    def following(self) -> Ints:
        """The point after each point in its ring, (N,)."""
        following = np.arange(1, len(self.points) + 1)
        following[np.cumsum(self.size) - 1] = self.first
        return following

    @cached_property
    def area(self) -> Floats:
        """The area of each ring in square pixels, (R,); that of a hole is negative."""
        x, y = self.points.T.astype(np.int64)
        twice = np.add.reduceat(x * previous(y, self.size) - previous(x, self.size) * y, self.first)
        area: Floats = twice / 2
        return area

    def with_rings(self, kept: Bools) -> Rings:
        """Some of the rings, bool (R,)."""
        if kept.all():
            return self
        return Rings(self.points[kept[self.ring]], self.size[kept], self.piece[kept], self.hole[kept])

    def with_points(self, kept: Bools) -> Rings:
        """All rings with some of their points, bool (N,): at least one of each ring."""
        return Rings(self.points[kept], np.add.reduceat(kept, self.first, dtype=np.int64), self.piece, self.hole)


def previous(values: NDArray[_T], size: Ints) -> NDArray[_T]:
    """For each value, (N, ...), of rings of some size, (R,), the one before it in its ring."""
    last = np.cumsum(size) - 1
    moved = np.empty_like(values)
    moved[1:] = values[:-1]
    moved[last - size + 1] = values[last]
    return moved


def count_up(counts: Ints) -> Ints:
    """0, 1, ... below each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - counts, counts)


#: The direction of a step (dx, dy), at index 4 + 3 dy + dx: 0 is east, 1 south-east, 2 south ...; 8 is no step.
_DIRECTION = np.array([5, 6, 7, 4, 8, 0, 3, 2, 1])
#: Where the east, south, west and north side of a pixel begins for a ring that keeps the pixel on its left.
_SIDE_BEGINS = np.array([[1, 1], [0, 1], [0, 0], [1, 0]], np.int32)


def _sides_passed() -> tuple[Ints, Ints]:
    """How many sides of a pixel a contour passes between its step in and its step out, and the first; (81,) each.

    At index 9 in + out, with directions as in `_DIRECTION` and sides as in `_SIDE_BEGINS`.
    """
    count, first = np.zeros((9, 9), np.int64), np.zeros((9, 9), np.int64)
    for step_in in range(8):
        for step_out in range(8):
            back = step_in + 4
            turns = range(1, (back - step_out) % 8 or 8)
            sides = [(back - turn) % 8 // 2 for turn in turns if (back - turn) % 2 == 0]
            count[step_in, step_out] = len(sides)
            first[step_in, step_out] = sides[0] if sides else 0
    count[8, 8] = 4
    return count.ravel(), first.ravel()


_SIDES, _FIRST_SIDE = _sides_passed()


def trace_rings(mask: NDArray[np.uint8], left: int = 0, top: int = 0) -> Rings:
    """The rings around the pieces of a mask (H, W), as the pixel corners where they turn; not 0 is inside.

    Pixels that touch by a side or a corner are connected. The mask must not be empty; its first pixel lies at
    (left, top).
    """
    import cv2

    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(left, top))
    # OpenCV's contours run from pixel to pixel of the mask; the sides that they pass on the way are the pixel edges.
    pixels = np.concatenate(contours)[:, 0]
    size = np.array([len(contour) for contour in contours])
    before = previous(pixels, size)
    dx, dy = (pixels - before).T
    step_out = _DIRECTION[4 + 3 * dy + dx]
    steps = 9 * previous(step_out, size) + step_out
    sides = _SIDES[steps]
    pixel = np.repeat(np.arange(sides.size), sides)
    side = (_FIRST_SIDE[steps][pixel] - count_up(sides)) & 3
    size = np.add.reduceat(sides, np.cumsum(size) - size)
    turns = side != previous(side, size)
    corners = before[pixel[turns]] + _SIDE_BEGINS[side[turns]]
    parent = hierarchy[0, :, 3].astype(np.int64)
    hole = parent >= 0
    piece = np.where(hole, parent, np.arange(parent.size))
    return Rings(corners, np.add.reduceat(turns, np.cumsum(size) - size, dtype=np.int64), piece, hole)
