"""Distances along a picture: short over even colour, long across edges."""

from __future__ import annotations

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
    colours = image.astype(np.int16)
    across, down = (np.abs(np.diff(colours, axis=axis)).max(axis=2).astype(np.float32) for axis in (1, 0))
    usual = np.float32(max((across.sum() + down.sum()) / max(across.size + down.size, 1), 1e-3))
    return 1 + across * (np.float32(weight) / usual), 1 + down * (np.float32(weight) / usual)


def geodesic_distances(
    seeds: NDArray[np.bool_], costs: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """How far each pixel is from the nearest seed of its map, by steps along rows and columns: float32 (N, H, W) of seeds
    bool (N, H, W); infinite where a map has none.

    Sweeps, as Criminisi, Sharp and Blake (GeoS, 2008) do: a whole row at once, as the least of `distance - cost so far`.
    """
    across, down = costs
    along = np.pad(np.cumsum(across, axis=1, dtype=np.float32), ((0, 0), (1, 0)))
    below = np.pad(np.cumsum(down, axis=0, dtype=np.float32), ((1, 0), (0, 0)))
    far = np.float32(1e9)
    distance = np.where(seeds, np.float32(0), far)
    for _ in range(_ROUNDS):
        for path, axis in ((along, 2), (below, 1)):
            forth = np.minimum.accumulate(distance - path, axis=axis) + path
            back = np.flip(np.minimum.accumulate(np.flip(distance + path, axis), axis=axis), axis) - path
            distance = np.minimum(forth, back)
    return np.where(distance >= far / 2, np.float32(np.inf), np.maximum(distance, 0))
