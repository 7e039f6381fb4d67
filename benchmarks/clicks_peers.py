"""What `benchmarks.clicks` compares with: segloop's tool as it was, and ways to cut out an object that learn nothing."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import random_walker

from segloop.masks import piece_at, refine_boundary
from segloop.masks.geodesic import edge_costs, geodesic_distances
from segloop.results.clicks import next_mask
from segloop.results.views import Asked, Place, Sight

Mask = NDArray[np.bool_]

#: How far segloop's tool moved a boundary, in pixels of CamVid's photos: half a cell of the network's grid.
BAND_PX = 3.0
#: GrabCut's rounds, radius of a click in pixels, and the long side at which the random walker runs.
ROUNDS, DISK_PX, WALKER_PX = 3, 3, 160
#: The long side at which geodesic distances alone are computed, and the weight of edges there, as segloop's.
GEODESIC_PX, EDGE_WEIGHT = 240, 5.0


def before(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
    """Pieces of the class map under positive clicks, of the first one's class; each negative click on one takes away what is
    nearer to it."""
    seen = sight.class_map
    value = next((int(seen[one.row, one.column]) for one in clicks if one.positive), 0)
    if value in (0, 255):
        return np.zeros(seen.shape, np.bool_)
    inside = [one for one in clicks if one.positive and seen[one.row, one.column] == value]
    whole = np.zeros(seen.shape, np.bool_)
    for one in inside:
        whole |= piece_at(seen, one.row, one.column)
    found = refine_boundary(whole, sight.pixels, BAND_PX)
    for one in clicks:
        found[one.row, one.column] = whole[one.row, one.column]
    rows, columns = np.ogrid[: seen.shape[0], : seen.shape[1]]

    def apart(one: Place) -> NDArray[np.int64]:
        return np.asarray((rows - one.row) ** 2 + (columns - one.column) ** 2)

    for one in clicks:
        if not one.positive and whole[one.row, one.column]:
            piece = piece_at(seen, one.row, one.column)
            nearer = np.zeros(seen.shape, np.bool_)
            for rival in (rival for rival in inside if piece[rival.row, rival.column]):
                nearer |= apart(rival) < apart(one)
            found &= ~piece | nearer
    return found


def without_network(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
    """segloop's tool with a network that sees nothing."""
    blind = Sight(sight.pixels, np.zeros_like(sight.class_map), np.full_like(sight.probabilities, 0.5))
    return next_mask(blind, Asked(clicks), mask)


def grab_cut(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
    """OpenCV's GrabCut: clicks are certain, the mask of before probable; at first what is near the click is."""
    height, width = sight.class_map.shape
    trimap = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    if mask is None:
        reach = max(height, width) // 10
        cv2.circle(trimap, (clicks[0].column, clicks[0].row), reach, int(cv2.GC_PR_FGD), cv2.FILLED)
    else:
        trimap[mask] = cv2.GC_PR_FGD
    for one in clicks:
        cv2.circle(trimap, (one.column, one.row), DISK_PX, int(cv2.GC_FGD if one.positive else cv2.GC_BGD), cv2.FILLED)
    trimap[0, 0] = cv2.GC_BGD if trimap[0, 0] == cv2.GC_PR_BGD else trimap[0, 0]
    cv2.setRNGSeed(0)
    cv2.grabCut(sight.pixels, trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    return _under_positive(np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)), clicks)


def random_walk(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
    """scikit-image's random walker from the clicks; until one is negative, the image's border counts as such."""
    height, width = sight.class_map.shape
    scale = WALKER_PX / max(height, width)
    small = cv2.resize(sight.pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    seeds = np.zeros(small.shape[:2], np.uint8)
    if all(one.positive for one in clicks):
        seeds[[0, -1]] = 2
        seeds[:, [0, -1]] = 2
    for one in clicks:
        place = min(int(one.row * scale), len(seeds) - 1), min(int(one.column * scale), seeds.shape[1] - 1)
        seeds[place] = 1 if one.positive else 2
    if not (seeds == 1).any() or not (seeds == 2).any():
        return np.zeros((height, width), np.bool_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of probabilities a little beyond 0 and 1
        chances = random_walker(small / 255, seeds, beta=130, mode="cg_j", channel_axis=2, return_full_prob=True)
    ours = cv2.resize(chances[0].astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return _under_positive(np.greater(ours, 0.5), clicks)


def geodesic(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
    """What is nearer to the positive clicks than to the negative ones along the picture (GeoS), without a network, colours or the
    mask before; until one is negative, the image's border counts as such."""
    height, width = sight.class_map.shape
    scale = GEODESIC_PX / max(height, width)
    small = cv2.resize(sight.pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    seeds = np.zeros((2, *small.shape[:2]), np.bool_)
    if all(one.positive for one in clicks):
        seeds[1, [0, -1]] = True
        seeds[1, :, [0, -1]] = True
    for one in clicks:
        place = min(int(one.row * scale), small.shape[0] - 1), min(int(one.column * scale), small.shape[1] - 1)
        seeds[0 if one.positive else 1][place] = True
    ours, theirs = geodesic_distances(seeds, edge_costs(np.asarray(small, np.uint8), EDGE_WEIGHT))
    # infinite distances have no difference
    ahead = np.exp(-ours / GEODESIC_PX) - np.exp(-theirs / GEODESIC_PX)
    wide = cv2.resize(ahead.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return _under_positive(np.greater(wide, 0), clicks)


def _under_positive(mask: Mask, clicks: tuple[Place, ...]) -> Mask:
    """The pieces that positive clicks lie on."""
    _, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    kept = {int(numbers[one.row, one.column]) for one in clicks if one.positive} - {0}
    return np.asarray(np.isin(numbers, sorted(kept)), np.bool_)
