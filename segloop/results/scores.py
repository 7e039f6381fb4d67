"""The score of a region: the mean confidence of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def mean_by_value(
    values: NDArray[np.uint8] | NDArray[np.int32], count: int, confidence: Float32 | None
) -> list[float | None]:
    """Mean confidence, in [0, 1], of the pixels of each value below `count`; None where there is none to tell.

    `values` is an integer map (H, W). `confidence` is float32 (h, w), of the map's size or coarser: then the mean is
    over the pixels at the middle of its cells and, for a value that has none there, over all of its pixels.
    """
    if confidence is None:
        return [None] * count
    rows, columns = (_middles(*sides) for sides in zip(values.shape, confidence.shape, strict=True))
    means = _means(values[np.ix_(rows, columns)].ravel(), confidence.ravel(), count)
    if confidence.shape != values.shape and (missing := np.isnan(means)).any():
        without = np.zeros(max(count, int(values.max()) + 1), np.bool_)
        without[:count] = missing
        pixels = np.flatnonzero(without[values])
        row, column = np.divmod(pixels, values.shape[1])
        cells = confidence[row * confidence.shape[0] // len(values), column * confidence.shape[1] // values.shape[1]]
        means = np.where(missing, _means(values.ravel()[pixels], cells, count), means)
    return [min(max(float(mean), 0.0), 1.0) if np.isfinite(mean) else None for mean in means]


def _means(values: NDArray[np.uint8] | NDArray[np.int32], confidence: Float32, count: int) -> NDArray[np.float64]:
    """Mean confidence by value, float64 (count,); NaN for a value that does not occur."""
    pixels = np.bincount(values, minlength=count)[:count]
    sums = np.bincount(values, weights=confidence, minlength=count)[:count]
    means: NDArray[np.float64] = np.divide(sums, pixels, out=np.full(count, np.nan), where=pixels > 0)
    return means


def _middles(pixels: int, cells: int) -> NDArray[np.int64]:
    """The pixel at the middle of each cell along one axis."""
    return (2 * np.arange(cells) + 1) * pixels // (2 * cells)
