"""Distances along a picture: short over even colour, long across edges."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Rounds of sweeps over rows and columns: a path may turn about twice as often.
_ROUNDS: Final = 4


def edge_costs(image: NDArray[np.uint8], weight: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a step to the next pixel costs, float32 (H, W - 1) along rows and (H - 1, W) along columns, in an image
    (H, W, C): 1, and `weight` times how much more than on average the colours differ, in the channel that differs most.

    So distances are alike in bright and in dark pictures.
    """
    across, down = (_apart(one, next_) for one, next_ in ((image[:, :-1], image[:, 1:]), (image[:-1], image[1:])))
    usual = np.float32(max((across.sum() + down.sum()) / max(across.size + down.size, 1), 1e-3))
    return 1 + across * (np.float32(weight) / usual), 1 + down * (np.float32(weight) / usual)


def _apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """By how much colours differ, in the channel that differs most: float32 (h, w) of two images (h, w, C)."""
    channels = np.moveaxis(np.maximum(one, other) - np.minimum(one, other), 2, 0)
    return np.asarray(reduce(np.maximum, channels), np.float32)


def geodesic_distances(
    seeds: NDArray[np.bool_], costs: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """How far each pixel is from the nearest seed of its map, by steps along rows and columns: float32 (N, H, W) of seeds
    bool (N, H, W); infinite where a map has none.

    Sweeps, as Criminisi, Sharp and Blake (GeoS, 2008) do: a whole row at once, as the least of `distance - cost so far`.
    """
    across, down = costs
    along = np.ascontiguousarray(np.pad(np.cumsum(across, axis=1, dtype=np.float32), ((0, 0), (1, 0))).T)
    below = np.pad(np.cumsum(down, axis=0, dtype=np.float32), ((1, 0), (0, 0)))
    far = np.float32(1e9)
    distance = np.where(seeds.transpose(1, 0, 2), np.float32(0), far)
    for _ in range(_ROUNDS):
        for path in (along, below):
            distance = _swept(np.ascontiguousarray(distance.transpose(2, 1, 0)), path[:, None])
    distance = distance.transpose(1, 0, 2)
    return np.where(distance >= far / 2, np.float32(np.inf), np.maximum(distance, 0))


def _swept(distance: NDArray[np.float32], path: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances float32 (A, N, B) after a sweep forth and back along the first axis, where the way to each line costs `path`,
    float32 (A, 1, B)."""
    length, maps, across = distance.shape
    both = np.empty((length, 2 * maps, across), np.float32)
    forth, back = both[:, :maps], both[::-1, maps:]
    np.subtract(distance, path, out=forth)
    np.add(distance, path, out=back)
    # line by line, for NumPy's own running minimum goes element by element and takes seven times as long
    for before, line in pairwise(both.reshape(length, -1)):
        np.minimum(before, line, out=line)
    forth += path
    back -= path
    return np.minimum(forth, back)
