"""Vector shapes to masks. A pixel belongs to a shape if its centre does.

Lengths are pixels from the top-left corner of the image, y down; angles are degrees, clockwise as seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segloop.errors import MaskError

#: Coordinates beyond this are refused: float64 is too coarse there for the slopes of edges.
_FARTHEST_PX = 1e8
#: Crossings of polygon edges with pixel rows computed at a time.
_CROSSINGS_AT_ONCE = 1 << 22


def polygon_mask(points: ArrayLike, height: int, width: int) -> NDArray[np.bool_]:
    """The inside of a polygon, by the even-odd rule: bool (height, width).

    `points` is (N, 2), x and y; the last is joined to the first. Parts outside the image are cut off.
    An edge through a pixel's centre counts it in on the left and at the top, out on the right and at the bottom.

    Raises:
        MaskError: fewer than 3 points, or a coordinate that is not a number within reason.
    """
    try:
        corners = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise MaskError("a polygon's points must be pairs of numbers.") from error
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise MaskError(f"a polygon needs 3 or more points (x, y), not an array of shape {corners.shape}.")
    _check(*corners.ravel())
    x0, y0 = corners.T
    x1, y1 = np.roll(corners, -1, axis=0).T
    # Row r is crossed where min(y0, y1) <= r + 0.5 < max(y0, y1).
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    inside = np.zeros((height, width), np.bool_)
    crossed = last > first
    if not crossed.any():
        return inside
    x0, y0, x1, y1, first, last = (side[crossed] for side in (x0, y0, x1, y1, first, last))
    slope = (x1 - x0) / (y1 - y0)
    top, bottom = int(first.min()), int(last.max())
    left = int(np.clip(np.floor(corners[:, 0].min()), 0, width))
    right = int(np.clip(np.ceil(corners[:, 0].max()), 0, width))
    if right <= left:
        return inside
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)
    rows = np.cumsum(last - first)
    begin = 0
    while begin < rows.size:
        done = int(rows[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(rows, done + _CROSSINGS_AT_ONCE, side="right")))
        part = slice(begin, end)
        count = (last - first)[part]
        edge = np.repeat(np.arange(begin, end), count)
        row = np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        x = x0[edge] + (row + 0.5 - y0[edge]) * slope[edge]
        column = np.clip(np.ceil(x - 0.5), left, right).astype(np.int64)
        np.add.at(toggles, (row - top, column - left), np.uint8(1))
        begin = end
    parity = np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint8) & 1
    inside[top:bottom, left:right] = parity.view(np.bool_)
    return inside


@dataclass(frozen=True)
class Rectangle:
    """A rectangle that is turned clockwise about its top-left corner (x, y)."""

    x: float
    y: float
    width: float
    height: float
    rotation_deg: float = 0.0

    def scaled(self, by_x: float, by_y: float) -> Rectangle:
        """The rectangle with its corner and its sides multiplied, and the same rotation."""
        return Rectangle(self.x * by_x, self.y * by_y, self.width * by_x, self.height * by_y, self.rotation_deg)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse about (cx, cy) with radii rx and ry that is turned clockwise about its centre."""

    cx: float
    cy: float
    rx: float
    ry: float
    rotation_deg: float = 0.0


def rectangle_mask(shape: Rectangle, height: int, width: int) -> NDArray[np.bool_]:
    """The inside of a rectangle: bool (height, width).

    Raises:
        MaskError: a value is not a number within reason.
    """
    x, y, w, h = shape.x, shape.y, shape.width, shape.height
    _check(x, y, w, h, shape.rotation_deg)
    cos, sin = _cos_sin(shape.rotation_deg)
    corners = [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in ((0.0, 0.0), (w, 0.0), (w, h), (0.0, h))]
    return polygon_mask(corners, height, width)


def ellipse_mask(shape: Ellipse, height: int, width: int) -> NDArray[np.bool_]:
    """The inside of an ellipse: bool (height, width).

    Raises:
        MaskError: a value is not a number within reason, or a radius is negative.
    """
    cx, cy, rx, ry = shape.cx, shape.cy, shape.rx, shape.ry
    _check(cx, cy, rx, ry, shape.rotation_deg)
    if rx < 0 or ry < 0:
        raise MaskError(f"an ellipse's radii must not be negative: {rx}, {ry}.")
    inside = np.zeros((height, width), np.bool_)
    if rx == 0 or ry == 0:
        return inside
    cos, sin = _cos_sin(shape.rotation_deg)
    reach_x, reach_y = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    left, right = (min(max(math.floor(cx + side * reach_x), 0), width) for side in (-1, 1))
    top, bottom = (min(max(math.floor(cy + side * reach_y), 0), height) for side in (-1, 1))
    right, bottom = min(right + 1, width), min(bottom + 1, height)
    dx = np.arange(left, right) + 0.5 - cx
    dy = (np.arange(top, bottom) + 0.5 - cy)[:, None]
    along, across = (dx * cos + dy * sin) / rx, (dy * cos - dx * sin) / ry
    inside[top:bottom, left:right] = along * along + across * across <= 1
    return inside


def _cos_sin(angle_deg: float) -> tuple[float, float]:
    """Exact at right angles, where a rounding error would move an edge across pixel centres."""
    turns, rest = divmod(angle_deg % 360, 90)
    if rest == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(turns) % 4]
    return math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))


def _check(*numbers: float) -> None:
    values = np.asarray(numbers, np.float64)
    wrong = ~(np.abs(values) <= _FARTHEST_PX)
    if wrong.any():
        raise MaskError(f"a shape has a coordinate of {values[wrong][0]} pixels; expected a number within reason.")
