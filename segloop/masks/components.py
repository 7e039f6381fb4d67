"""Connected pieces of masks and class maps. Pixels that touch by a side or a corner are connected."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def label_pieces(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
    """Number the connected pieces of a mask.

    Returns how many there are, int32 (H, W) with 0 outside and 1, 2, ... inside, and int32 (n + 1, 5) with
    left, top, width, height and area of each, in pixels; row 0 is the outside.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return count - 1, labels.astype(np.int32, copy=False), stats.astype(np.int32, copy=False)


def piece_at(class_map: NDArray[np.uint8], row: int, column: int) -> NDArray[np.bool_]:
    """The connected piece of a class map uint8 (H, W) that a pixel lies on, all of the pixel's value: bool (H, W)."""
    return pieces_at(class_map, [(row, column)])


def pieces_at(class_map: NDArray[np.uint8], places: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
    """The connected pieces of a class map uint8 (H, W) that pixels, each a row and a column, lie on: bool (H, W).

    It takes as long as these pieces are large, while `label_pieces` looks at all there are.
    """
    import cv2

    height, width = class_map.shape
    found = np.zeros((height + 2, width + 2), np.uint8)  # the frame is floodFill's own
    flags = 8 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | 1 << 8
    # a bounded fill of the mask alone; still it asks for an image that it may write to
    image = np.require(class_map, requirements=["C", "W"])
    for row, column in places:
        if not found[row + 1, column + 1]:
            cv2.floodFill(image, found, (column, row), 0, 0, 0, flags)
    return found[1:-1, 1:-1].astype(np.bool_)


def components(mask: NDArray[np.bool_], min_area_px: int = 0) -> list[NDArray[np.bool_]]:
    """The connected pieces of a mask of at least `min_area_px` pixels, each a bool (H, W), the largest first."""
    count, labels, stats = label_pieces(mask)
    order = sorted(range(1, count + 1), key=lambda number: -int(stats[number, 4]))
    return [labels == number for number in order if stats[number, 4] >= min_area_px]


def class_pixels(class_map: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many pixels of a class map uint8 (H, W) have each value: int64 (256,)."""
    import cv2

    # np.bincount would widen every pixel to eight bytes first
    counts = cv2.calcHist([np.ascontiguousarray(class_map)], [0], None, [256], [0, 256])
    return counts.ravel().astype(np.int64)


def remove_specks(class_map: NDArray[np.uint8], min_area_px: int) -> NDArray[np.uint8]:
    """The class map without the connected pieces of a class smaller than `min_area_px` pixels: they become 0.

    Background (0) and ignored pixels (255) are left alone.
    """
    if min_area_px <= 1:
        return class_map
    cleaned = class_map.copy()
    for value in np.flatnonzero(class_pixels(class_map)):
        if value in (0, 255):
            continue
        _, labels, stats = label_pieces(class_map == value)
        small = stats[:, 4] < min_area_px
        small[0] = False
        if small.any():
            cleaned[small[labels]] = 0
    return cleaned
