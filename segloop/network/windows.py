"""Sliding windows: how a network of limited input sees an image in more detail than that, without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from segloop.network.transforms import STRIDE_PX, network_size, normalise, resize_image

UInt8 = NDArray[np.uint8]
Pixel = TypeVar("Pixel", bound=np.generic)
Float32 = NDArray[np.float32]

#: Runs a network on windows of one size: each float32 (3, h, w) to logits float32 (C, h / s, w / s).
Forward = Callable[[Sequence[Float32]], Iterable[Float32]]

#: Least share of a window that its neighbour sees too.
_OVERLAP = 0.25
#: Windows handed to the network at a time: enough for a batch, few enough for memory.
_AT_ONCE = 8


def windowed_logits(forward: Forward, image: UInt8, input_size: int, long_side: int = 0) -> Float32:
    """Logits float32 (C, h', w') of an RGB image uint8 (H, W, 3) as a network sees it.

    The network sees the image with a long side of about `input_size` pixels. With a `long_side` beyond that it sees
    a larger image (never enlarged for it) at up to `long_side`, through windows of `input_size` that overlap by a
    quarter at least. Where windows overlap their logits are averaged, each weighted by how far inside its window a
    place lies, so that none begins or ends with a step.
    """
    pixels = seen_pixels(image, input_size, long_side)
    side = window_side(input_size)
    places = window_places(pixels.shape[0], pixels.shape[1], input_size)
    if places == [(0, 0)]:
        [logits] = forward([normalise(pixels)])
        return logits
    total: Float32 = np.empty(0, np.float32)
    weights: Float32 = np.empty(0, np.float32)
    for begin in range(0, len(places), _AT_ONCE):
        chosen = places[begin : begin + _AT_ONCE]
        windows = [normalise(pixels[top : top + side, left : left + side]) for top, left in chosen]
        for (top, left), window, logits in zip(chosen, windows, forward(windows), strict=True):
            stride = window.shape[1] // logits.shape[1]
            if not total.size:
                total = np.zeros((len(logits), pixels.shape[0] // stride, pixels.shape[1] // stride), np.float32)
                weights = np.zeros(total.shape[1:], np.float32)
            across = np.outer(_ramp(logits.shape[1]), _ramp(logits.shape[2]))
            place = np.s_[
                top // stride : top // stride + logits.shape[1], left // stride : left // stride + logits.shape[2]
            ]
            total[:, *place] += logits * across
            weights[place] += across
    return total / weights


def seen_pixels(image: UInt8, input_size: int, long_side: int) -> UInt8:
    """An RGB image uint8 (H, W, 3) at the size at which a network sees it: uint8 (h, w, 3)."""
    height, width = image.shape[:2]
    return resize_image(image, *network_size(height, width, seen_size(height, width, input_size, long_side)))


def window_places(height: int, width: int, input_size: int) -> list[tuple[int, int]]:
    """Top and left, in pixels, of the windows of an image at the size at which a network sees it: (0, 0) where it sees it whole."""
    side = window_side(input_size)
    if max(height, width) <= side:
        return [(0, 0)]
    return [(top, left) for top in _starts(height, side) for left in _starts(width, side)]


def window_of(pixels: NDArray[Pixel], input_size: int, number: int) -> NDArray[Pixel]:
    """One of the windows of an image (h, w, ...) at the size at which a network sees it, counted round and round."""
    side = window_side(input_size)
    places = window_places(pixels.shape[0], pixels.shape[1], input_size)
    top, left = places[number % len(places)]
    return pixels[top : top + side, left : left + side]


def seen_size(height: int, width: int, input_size: int, long_side: int) -> int:
    """Long side, in pixels, at which a network sees an image; beyond `input_size` it sees windows of it."""
    return max(input_size, min(long_side, max(height, width)))


def window_side(input_size: int) -> int:
    """Side of a window in pixels: `input_size`, rounded up to a multiple of STRIDE_PX."""
    return -(-input_size // STRIDE_PX) * STRIDE_PX


def _starts(length: int, side: int) -> list[int]:
    """Where windows begin along an axis, in pixels: evenly spread, on the grid of the network's stride."""
    if length <= side:
        return [0]
    # on the grid too: rounded afterwards, a step of less than a side could become a whole one, and the overlap none
    step = max(1, int(side * (1 - _OVERLAP) / STRIDE_PX)) * STRIDE_PX
    count = 1 + int(np.ceil((length - side) / step))
    return [round(place / STRIDE_PX) * STRIDE_PX for place in np.linspace(0, length - side, count)]


def _ramp(cells: int) -> Float32:
    """The weight of each cell of a window along one axis: rising from its edges to its middle."""
    place = np.arange(cells) + 0.5
    return np.asarray(np.minimum(place, cells - place), dtype=np.float32)
