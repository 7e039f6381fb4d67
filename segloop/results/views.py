"""What a click is answered from: a window of the image around what is clicked, and what speaks there for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from segloop.formats import BACKGROUND, IGNORED
from segloop.masks import piece_at
from segloop.masks.geodesic import edge_costs, geodesic_distances

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Sides of a view are multiples of this many pixels.
GRID_STEP: Final = 16
#: Longest side of a view, in pixels of its own.
VIEW_PX: Final = 192
#: Side of the smallest window as a share of the image's long side, and how much wider a window is than what it is for.
_LEAST_WINDOW, _MARGIN = 0.16, 1.4
#: The weight of edges, and the distance by which a click's evidence falls to 1/e, as a share of the view's long side.
_EDGE_WEIGHT, _REACH = 5.0, 0.35
#: The weight of distances, and the most that the network's log-odds count for.
_CLICK_WEIGHT, _MOST_ODDS = 16.0, 4.0
#: By how much each further click lowers the weight of log-odds: they have 1 / (1 + so much for each).
_DOUBT = 0.5
#: How near a negative click is taken to be where there is none; and where the network sees nothing under the others either, how
#: far the places are that tell how far the region goes, as a share of the view's long side.
_NOWHERE, _BLIND_RING = 0.1, 0.45
#: The side of a cell of colours, in levels of CIELAB; how much nearer to a click a pixel must be for its colour to count than for its
#: place; the weight of a pixel of the mask before, and the most that colours count for.
_COLOUR_STEP: Final = 8
_COLOUR_REACH, _PART, _MOST_LIKENESS = 3.0, 0.5, 3.0


@dataclass(frozen=True)
class Sight:
    """An image and what the network says of it: pixels uint8 (H, W, 3), the class map uint8 (H, W), and probabilities
    (C, h, w) of background and each class, on a coarser grid."""

    pixels: UInt8
    class_map: UInt8
    probabilities: Float32 | NDArray[np.float16]


@dataclass(frozen=True)
class Place:
    """A click on a pixel of the image."""

    row: int
    column: int
    positive: bool = True


@dataclass(frozen=True)
class Asked:
    """What is asked for: the clicks in their order, where it may lie (bool (H, W); None: anywhere), and the class value of the
    chosen label (0: none is chosen)."""

    clicks: tuple[Place, ...]
    allowed: Mask | None = None
    value: int = 0

    @property
    def first(self) -> Place | None:
        """The first positive click."""
        return next((place for place in self.clicks if place.positive), None)


def first_piece(sight: Sight, asked: Asked) -> Mask:
    """The network's own piece under the first positive click, bool (H, W); nothing on background."""
    place = asked.first
    if place is None or sight.class_map[place.row, place.column] in (BACKGROUND, IGNORED):
        return np.zeros(sight.class_map.shape, np.bool_)
    return piece_at(sight.class_map, place.row, place.column)


@dataclass(frozen=True)
class View:
    """A window of an image around what is clicked, at a size of its own.

    `window` is top, left, height and width, in pixels of the image.
    """

    sight: Sight
    asked: Asked
    before: Mask | None
    window: tuple[int, int, int, int]
    side_px: int = VIEW_PX

    @classmethod
    def around(cls, sight: Sight, asked: Asked, before: Mask | None, side_px: int = VIEW_PX) -> View:
        """The view of the clicks, of the mask before, and, at first, of the network's piece."""
        height, width = sight.class_map.shape
        shape = first_piece(sight, asked) if before is None else before
        left, top, across, down = cv2.boundingRect(shape.view(np.uint8))
        rows, columns = [place.row for place in asked.clicks], [place.column for place in asked.clicks]
        if across:
            rows, columns = [*rows, top, top + down - 1], [*columns, left, left + across - 1]
        least = _LEAST_WINDOW * max(height, width) * (1 if across else 2)
        spans = [_span(each, least, side) for each, side in ((rows, height), (columns, width))]
        return cls(sight, asked, before, (spans[0][0], spans[1][0], spans[0][1], spans[1][1]), side_px)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the view, in pixels of its own."""
        down, across = self.window[2:]
        scale = min(1.0, self.side_px / max(down, across))
        height, width = (max(1, round(side * scale / GRID_STEP)) * GRID_STEP for side in (down, across))
        return height, width

    def cell(self, place: Place) -> tuple[int, int]:
        """Row and column, in the view, of a pixel of the image."""
        top, left, down, across = self.window
        return (place.row - top) * self.size[0] // down, (place.column - left) * self.size[1] // across

    @cached_property
    def part(self) -> tuple[slice, slice]:
        """The window's rows and columns."""
        top, left, down, across = self.window
        return slice(top, top + down), slice(left, left + across)

    def seen(self, part: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the view shows of the window's part of a map: the mean of the pixels that each of its own covers."""
        height, width = self.size
        # a half is quick to make: of a megapixel, all in one step takes more than twice as long
        while part.shape[0] >= 4 * height and part.shape[1] >= 4 * width:
            rows, columns = part.shape[0] // 2, part.shape[1] // 2
            half = cv2.resize(part[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA)
            part = np.asarray(half, np.uint8)
        return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

    @cached_property
    def colours(self) -> UInt8:
        """What the picture shows, uint8 (h, w, 3)."""
        return self.seen(self.sight.pixels[self.part])

    @cached_property
    def was(self) -> UInt8 | None:
        """What it shows of the mask before, uint8 (h, w): 255 where it is whole; None before the first click."""
        return None if self.before is None else self.seen(self.before[self.part] * np.uint8(255))

    def share(self, value: int) -> Float32:
        """The network's probability of a class, or of background, float32 (h, w)."""
        return self.warped(self.sight.probabilities[value].astype(np.float32, copy=False))

    def warped(self, grid: Float32) -> Float32:
        """What the view shows, float32 (h, w), of a map of the whole image on a grid of its own, float32 (rows, columns)."""
        height, width = self.sight.class_map.shape
        top, left, down, across = self.window
        scale_y, scale_x = self.size[0] / down, self.size[1] / across
        # from the cells of the grid to those of the view, by their centres
        to_y, to_x = scale_y * height / grid.shape[0], scale_x * width / grid.shape[1]
        affine = np.array(
            [[to_x, 0, to_x / 2 - left * scale_x - 0.5], [0, to_y, to_y / 2 - top * scale_y - 0.5]], np.float64
        )
        seen = cv2.warpAffine(grid, affine, self.size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(seen, np.float32)

    def cells(self, positive: bool) -> list[tuple[int, int]]:
        """Row and column, in the view, of the positive or of the negative clicks that it shows."""
        height, width = self.size
        cells = [self.cell(place) for place in self.asked.clicks if place.positive == positive]
        return [cell for cell in cells if 0 <= cell[0] < height and 0 <= cell[1] < width]

    @cached_property
    def distances(self) -> Float32:
        """How far each pixel is from the positive and from the negative clicks along the picture, float32 (2, h, w), in
        lengths by which a click's evidence falls to 1/e."""
        cells = self.cells(True), self.cells(False)
        clicked = [place for place in (0, 1) if cells[place]]
        seeds = np.zeros((len(clicked), *self.size), np.bool_)
        for seed, place in zip(seeds, clicked, strict=True):
            seed[tuple(zip(*cells[place], strict=True))] = True
        unit = np.float32(_REACH * max(self.size))
        smooth = np.asarray(cv2.GaussianBlur(self.colours, (3, 3), 0), np.uint8)
        found = np.full((2, *self.size), np.inf, np.float32)
        found[clicked] = geodesic_distances(seeds, edge_costs(smooth, _EDGE_WEIGHT)) / unit
        return found

    @cached_property
    def odds(self) -> Float32:
        """The network's log-odds of the classes that are clicked, and of the chosen label: float32 (h, w), within MOST_ODDS.

        The more clicks say that pixels of a class are no part of it, the less the class counts.
        """
        votes: dict[int, list[int]] = {self.asked.value: [1, 0]} if self.asked.value else {}
        for place in self.asked.clicks:
            value = int(self.sight.class_map[place.row, place.column])
            if value != IGNORED:
                votes.setdefault(value, [0, 0])[not place.positive] += 1
        found = np.full(self.size, -_MOST_ODDS, np.float32)
        for value, (ours, against) in votes.items():
            if ours:
                share = np.clip(self.share(value), 1e-3, 1 - 1e-3)
                # that the network sees nothing there does not say that all that it sees nothing of is meant
                most = _MOST_ODDS if value else 0.0
                odds = np.clip(np.log(share / (1 - share)), -_MOST_ODDS, most)
                found = np.maximum(found, odds * np.float32(max(ours - against, 0) / (ours + against)))
        return found

    def _is_blind(self) -> bool:
        """Whether the network sees nothing but background under the positive clicks."""
        seen = self.sight.class_map
        return not any(
            seen[place.row, place.column] not in (BACKGROUND, IGNORED) for place in self.asked.clicks if place.positive
        )

    def _blind_reach(self) -> np.float32:
        """How far a region goes of which nothing is known but its clicks: half as far as the nearer of the places on a ring
        around them, so that an edge within the ring ends it."""
        rows, columns = np.ogrid[: self.size[0], : self.size[1]]
        apart = np.full(self.size, np.inf)
        for row, column in self.cells(True):
            apart = np.minimum(apart, np.hypot(rows - row, columns - column))
        ring = np.abs(apart - _BLIND_RING * max(self.size)) < 2
        return np.float32(np.percentile(self.distances[0][ring], 20) / 2 if ring.any() else 1.0)

    def evidence(self) -> Float32:
        """How much speaks for each pixel, float32 (h, w): the network's log-odds, and how much nearer it is to the positive
        clicks than to the negative ones."""
        near = np.exp(-self.distances)
        nowhere = np.exp(-self._blind_reach()) if self._is_blind() else np.float32(_NOWHERE)
        away = near[1] if self.cells(False) else nowhere
        # the more clicks it took, the less the network knows of this
        trust = np.float32(1 / (1 + _DOUBT * (len(self.asked.clicks) - 1)))
        return np.asarray(self.odds * trust + self.likeness + _CLICK_WEIGHT * (near[0] - away), np.float32)

    @cached_property
    def likeness(self) -> Float32:
        """The log-odds of the colours: how much more often each is in the mask before, and near positive clicks, than elsewhere
        and near negative ones, float32 (h, w), within MOST_LIKENESS."""
        if self.was is None:
            return np.zeros(self.size, np.float32)
        inside = self.was > 127
        near = np.exp(-_COLOUR_REACH * self.distances)
        cells = (cv2.cvtColor(self.colours, cv2.COLOR_RGB2LAB) // _COLOUR_STEP).astype(np.int32)
        side = 256 // _COLOUR_STEP + 1
        index = (cells[..., 0] * side + cells[..., 1]) * side + cells[..., 2]
        weights = ((part * np.float64(_PART) + near[place]).ravel() for place, part in enumerate((inside, ~inside)))
        counts = (np.asarray(np.bincount(index.ravel(), weight, side**3), np.float64) for weight in weights)
        ours, theirs = (_spread(each.reshape(side, side, side)) for each in counts)
        odds = np.log((ours + 1e-4) / (theirs + 1e-4)).astype(np.float32).ravel()[index]
        return np.asarray(np.clip(cv2.GaussianBlur(odds, (5, 5), 0), -_MOST_LIKENESS, _MOST_LIKENESS), np.float32)


def _spread(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts by colour, float64 (L, A, B), as shares that sum to 1, each spread over the colours beside it."""
    for axis in range(3):
        counts = counts / 2 + (np.roll(counts, 1, axis) + np.roll(counts, -1, axis)) / 4
    return counts / max(float(counts.sum()), 1e-6)


def _span(places: Sequence[int], least: float, side: int) -> tuple[int, int]:
    """Begin and length of a window along an axis that has some places well inside."""
    low, high = min(places), max(places) + 1
    length = min(side, max(int((high - low) * _MARGIN), int(least), 2 * GRID_STEP))
    begin = min(max((low + high - length) // 2, 0), side - length)
    return begin, length
