"""From pixels to the network's input and back: resizing, normalising, upsampling, training augmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segloop.formats import IGNORED

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]

#: Sides of the network's input are multiples of this many pixels.
STRIDE_PX = 32
#: Mean and standard deviation of ImageNet's RGB channels on the 0 to 255 scale: what published weights expect.
MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)
# Confidence is computed on a grid finer than coarse logits, to follow the blend between two cells: up to so many times,
# and up to so many points a side.
_CONFIDENCE_GRID = 4
_CONFIDENCE_POINTS = 128
# Logits are resized in tiles of about this many pixels a side, within these numbers of cells: small tiles are near one
# class only, and stay in the processor's cache.
_TILE_PX = 160
_TILE_CELLS = (2, 16)


def network_size(height: int, width: int, input_size: int) -> tuple[int, int]:
    """Height and width, in pixels, at which the network sees an image: the long side is about `input_size`.

    Both are multiples of STRIDE_PX, and at least that.
    """
    scale = input_size / max(height, width)
    rounded = [max(1, round(side * scale / STRIDE_PX)) * STRIDE_PX for side in (height, width)]
    return rounded[0], rounded[1]


def resize_image(image: UInt8, height: int, width: int) -> UInt8:
    """An image uint8 (H, W, 3) at another size: pixel areas averaged when it shrinks, bilinear when it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def resize_mask(mask: UInt8, height: int, width: int) -> UInt8:
    """A class map uint8 (H, W) at another size: the value at each new pixel's centre."""
    # INTER_NEAREST takes the pixel's corner, which shifts a shrunken map by half a pixel against the image
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def normalise(image: UInt8) -> Float32:
    """An RGB image uint8 (H, W, 3) as the network takes it: float32 (3, H, W), ImageNet's mean and deviation."""
    scaled = (image.astype(np.float32) - MEAN) * (1 / STD)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def class_map_of(logits: Float32, height: int, width: int) -> UInt8:
    """The class map uint8 (height, width) of logits float32 (C, h, w).

    The argmax over the bilinearly resized logits (as `F.interpolate(align_corners=False)` resizes them); a tie goes
    to the lower class.

    Raises:
        ValueError: logits that are not (C, h, w) with 1 to 255 classes.
    """
    if logits.ndim != 3 or not 1 <= len(logits) <= IGNORED:
        raise ValueError(f"logits of shape {logits.shape}: expected (C, h, w) with 1 to {IGNORED} classes")
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    class_map = np.empty((height, width), dtype=np.uint8)
    columns = [(here, window, weights.T) for here, window, weights in _tiles(logits.shape[2], width)]
    for rows, window_y, weights_y in _tiles(logits.shape[1], height):
        for across, window_x, weights_x in columns:
            window = logits[:, window_y, window_x]
            # A resized logit lies between the least and the greatest of its window: a class whose greatest is below
            # another's least wins nowhere in the tile. Most tiles have one class left, and need no resizing.
            lowest, highest = window.min(axis=(1, 2)), window.max(axis=(1, 2))
            first, *rivals = np.flatnonzero(highest >= lowest.max()).tolist()
            tile = class_map[rows, across]
            tile[...] = first
            if rivals:
                best = weights_y @ (window[first] @ weights_x)
            for channel in rivals:
                plane = weights_y @ (window[channel] @ weights_x)
                np.copyto(tile, np.uint8(channel), where=plane > best)
                np.maximum(plane, best, out=best)
    return class_map


def _tiles(cells: int, pixels: int) -> list[tuple[slice, slice, Float32]]:
    """One axis, cut where pixels pass from one group of cells to the next: pixels, the cells that they lie between,
    and the bilinear weights float32 (pixels, cells) of these on those."""
    places = np.clip((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5, 0, cells - 1)
    lower = np.minimum(places.astype(np.int64), max(cells - 2, 0))
    tiles = []
    side = min(max(_TILE_PX * cells // pixels, _TILE_CELLS[0]), _TILE_CELLS[1])
    for start in range(0, cells, side):
        begin, end = np.searchsorted(lower, [start, start + side])
        if begin < end:
            window = slice(start, min(start + side, cells - 1) + 1)
            distance = np.abs(places[begin:end, None] - np.arange(window.start, window.stop)[None, :])
            tiles.append((slice(begin, end), window, np.maximum(1 - distance, 0).astype(np.float32)))
    return tiles


def probability_grid(logits: Float32, height: int, width: int, temperature: float = 1.0) -> Float32:
    """Class probabilities of logits float32 (C, h, w): their softmax at `temperature`, float32 (C, rows, columns).

    It is of the bilinearly resized logits, on a grid a few times finer than theirs and no finer than (height, width).
    """
    finer = min(max(_CONFIDENCE_POINTS / max(logits.shape[1:]), 1.0), _CONFIDENCE_GRID)
    rows, columns = min(height, int(logits.shape[1] * finer)), min(width, int(logits.shape[2] * finer))
    grid = np.stack([cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_LINEAR) for plane in logits])
    grid -= grid.max(axis=0)
    np.exp(np.divide(grid, temperature, out=grid), out=grid)
    return np.asarray(np.divide(grid, grid.sum(axis=0), out=grid), dtype=np.float32)


def confidence_grid(logits: Float32, height: int, width: int, temperature: float = 1.0) -> Float32:
    """Confidence in (0, 1] of logits float32 (C, h, w): the winner's probability in `probability_grid`, float32 (rows,
    columns); `resize_confidence` gives that of each pixel."""
    return np.asarray(probability_grid(logits, height, width, temperature).max(axis=0), dtype=np.float32)


def resize_confidence(grid: Float32, height: int, width: int) -> Float32:
    """A confidence grid at another size, float32 (height, width), bilinear."""
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


@dataclass(frozen=True)
class Augmentation:
    """How far random views go: the image is scaled by a factor from `scale`, one side by up to `stretch` more, and its
    colours change within one of `jitters`, each as often (see `jitter_colours`).

    A network that sees nothing but strange colours learns little of those that images mostly have; one that never sees
    them knows no dusk (docs/adr/0016).
    """

    scale: tuple[float, float] = (0.75, 1.5)
    stretch: float = 1.15
    jitters: tuple[float, ...] = (0.1, 0.75)


def augment(
    image: UInt8, mask: UInt8, size: tuple[int, int], rng: np.random.Generator, how: Augmentation = Augmentation()
) -> tuple[UInt8, UInt8]:
    """A random view of an image uint8 (H, W, 3) and its class map uint8 (H, W): both of `size` (height, width).

    It is cropped where it is larger, padded (mean colour, IGNORED) where it is smaller, and flipped left to right half
    the time. The same generator state gives the same view.
    """
    height, width = size
    low, high = how.scale
    factor = math.exp(rng.uniform(math.log(low), math.log(high)))
    ratio = math.exp(rng.uniform(-math.log(how.stretch), math.log(how.stretch)) / 2)
    scale_x, scale_y = factor * ratio, factor / ratio
    # what is left over on each axis: positive is cropped away, negative is padding; either is split at random
    shift_x = -rng.uniform(0, 1) * (image.shape[1] * scale_x - width)
    shift_y = -rng.uniform(0, 1) * (image.shape[0] * scale_y - height)
    if rng.random() < 0.5:
        scale_x, shift_x = -scale_x, width - shift_x
    # the half pixels: warpAffine maps pixel indices, and pixel i has its centre at i + 0.5
    affine = np.array(
        [[scale_x, 0, shift_x + (scale_x - 1) / 2], [0, scale_y, shift_y + (scale_y - 1) / 2]], dtype=np.float64
    )
    mean_colour = [float(channel) for channel in MEAN]
    view = cv2.warpAffine(image, affine, (width, height), flags=cv2.INTER_LINEAR, borderValue=mean_colour)
    truth = cv2.warpAffine(mask, affine, (width, height), flags=cv2.INTER_NEAREST, borderValue=[float(IGNORED)])
    strength = how.jitters[rng.integers(len(how.jitters))]
    return jitter_colours(np.asarray(view, dtype=np.uint8), rng, strength), np.asarray(truth, dtype=np.uint8)


def jitter_colours(image: UInt8, rng: np.random.Generator, strength: float) -> UInt8:
    """An RGB image uint8 (H, W, 3) with random brightness, contrast, saturation and tint, each within `strength`."""
    contrast, saturation = 1 + rng.uniform(-strength, strength, 2)
    tint = 1 + rng.uniform(-strength, strength, 3) / 4
    brightness = rng.uniform(-strength, strength) * 128
    grey = np.full((3, 3), 1 / 3)
    mix = contrast * tint[:, None] * (grey + saturation * (np.eye(3) - grey))
    offset = 128 * (1 - contrast) + brightness
    return np.asarray(cv2.transform(image, np.column_stack([mix, np.full(3, offset)])), dtype=np.uint8)
