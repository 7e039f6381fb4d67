"""Rings with fewer points, which neither touch nor pass each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from segloop.masks.rings import Bools, Ints, Rings, count_up
from segloop.masks.slits import find_slits

#: Pairs of segments compared at a time.
_PAIRS_AT_ONCE = 1 << 20


def simplify(rings: Rings, tolerance_px: float) -> Rings:
    """Rings along pixel edges with fewer points, at most `tolerance_px` away.

    By Douglas and Peucker's rule; where a segment would touch another, or have left a ring on its wrong side, all
    points that it stands for are kept.
    """
    kept = _thinned(rings, tolerance_px)
    while True:
        thin = rings.with_points(kept)
        start = np.flatnonzero(kept)
        end = start[thin.following]
        shortcut = (end - start) % rings.size[thin.ring] > 1
        wrong = _touching(thin, shortcut)
        if not wrong.any():
            wrong = _passing(rings, thin, kept) & shortcut
        if not wrong.any():
            return thin
        _restore(kept, rings, thin.ring[wrong], start[wrong], end[wrong])


def _thinned(rings: Rings, tolerance_px: float) -> Bools:
    """Which points Douglas and Peucker's rule keeps, (N,): all of a ring that would collapse."""
    import cv2

    exact = rings.size <= 4
    thinned = [
        cv2.approxPolyDP(rings.points[first : first + size], tolerance_px, True)[:, 0]
        for first, size in zip(rings.first[~exact].tolist(), rings.size[~exact].tolist(), strict=True)
    ]
    if not thinned:
        return np.ones(len(rings.points), np.bool_)
    # Where two points lie at the same place, both are kept.
    place = np.array([1, int(rings.points[:, 0].max()) + 1])
    kept = np.isin(rings.points @ place, np.concatenate(thinned) @ place, kind="table")
    exact |= np.add.reduceat(kept, rings.first, dtype=np.int64) < 3
    kept |= exact[rings.ring]
    kept |= (rings.with_points(kept).area * rings.area <= 0)[rings.ring]
    return kept


def _restore(kept: Bools, rings: Rings, ring: Ints, start: Ints, end: Ints) -> None:
    """Keep all points from `start` to `end`, each pair on the ring `ring`."""
    around = end <= start
    first = rings.first[ring[around]]
    change = np.zeros(kept.size + 1, np.int64)
    np.add.at(change, np.concatenate([start, first]), 1)
    np.add.at(change, np.concatenate([end, first + rings.size[ring[around]]]), -1)
    kept |= np.cumsum(change[:-1]) > 0


def _touching(rings: Rings, shortcut: Bools) -> Bools:
    """Which shortcuts among the segments (N,) meet a segment elsewhere than at their joint, or turn right back on it."""
    touching = np.zeros(shortcut.size, np.bool_)
    for a, b in _close_pairs(rings, shortcut):
        met = _meet(rings, a, b)
        touching[a[met]] = True
        touching[b[met]] = True
    return touching & shortcut


def _close_pairs(rings: Rings, shortcut: Bools) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of segments that lie close to each other, at least one of them a shortcut; some pairs more than once."""
    start, end = rings.points, rings.points[rings.following]
    low, high = np.minimum(start, end), np.maximum(start, end)
    # Segments are looked up by the squares of a grid that they lie in; a square is about twice as long as they are.
    side_px = max(2, round(2 * float((high - low).max(axis=1).mean())))
    first, last = low // side_px, high // side_px
    across, down = (last - first + 1).T.astype(np.int64)
    segment = np.repeat(np.arange(shortcut.size), across * down)
    nth = count_up(across * down)
    grid_width = int(last[:, 0].max()) + 1
    square = (first[segment, 1] + nth // across[segment]) * grid_width + first[segment, 0] + nth % across[segment]
    wanted = np.zeros(int(square.max()) + 1, np.bool_)
    wanted[square[shortcut[segment]]] = True
    segment, square = segment[wanted[square]], square[wanted[square]]
    order = np.argsort(square)
    segment, square = segment[order], square[order]
    partners = np.searchsorted(square, square, side="right") - np.arange(square.size) - 1
    total = np.cumsum(partners)
    begin = 0
    while begin < square.size:
        done = int(total[begin - 1]) if begin else 0
        stop = max(begin + 1, int(np.searchsorted(total, done + _PAIRS_AT_ONCE, side="right")))
        one = np.repeat(np.arange(begin, stop), partners[begin:stop])
        a, b = segment[one], segment[one + 1 + count_up(partners[begin:stop])]
        close = shortcut[a] | shortcut[b]
        a, b = a[close], b[close]
        close = (low[a] <= high[b]).all(axis=1) & (low[b] <= high[a]).all(axis=1)
        yield a[close], b[close]
        begin = stop


def _meet(rings: Rings, a: Ints, b: Ints) -> Bools:
    """Whether segments a and b share a point; where one follows the other, whether they share more than their joint."""
    following = rings.following
    swap = following[b] == a
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    points = rings.points.astype(np.int64)
    p, q, r, s = points[a], points[following[a]], points[b], points[following[b]]
    across = (_side(p, q, r) * _side(p, q, s) <= 0) & (_side(r, s, p) * _side(r, s, q) <= 0)
    back = (_side(p, q, s) == 0) & (((q - p) * (s - r)).sum(axis=1) < 0)
    met: Bools = np.where(following[a] == b, back, across)
    return met


def _side(p: Ints, q: Ints, r: Ints) -> Ints:
    """-1, 0 or 1: on which side of the line from p to q the point r lies."""
    side: Ints = np.sign((q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0]))
    return side


def _passing(rings: Rings, thin: Rings, kept: Bools) -> Bools:
    """Which segments of thinned rings, (N,), may have left another ring on their wrong side."""
    passing = np.zeros(len(thin.points), np.bool_)
    if rings.size.size == 1:
        return passing
    slits = find_slits(thin)
    astray = slits.inside != rings.hole
    astray |= rings.hole & (rings.piece[thin.ring[slits.segment]] != rings.piece)
    if not astray.any():
        return passing
    # What a segment has passed lies between it and the points that it stands for.
    segment = np.cumsum(kept) - 1
    before_first = segment < thin.first[rings.ring]
    segment[before_first] += thin.size[rings.ring[before_first]]
    end = thin.points[thin.following]
    low, high = np.minimum(thin.points, end), np.maximum(thin.points, end)
    np.minimum.at(low, segment, rings.points)
    np.maximum.at(high, segment, rings.points)
    for tip in thin.points[slits.tip[astray]]:
        passing |= ((low <= tip) & (tip <= high)).all(axis=1)
    return passing
