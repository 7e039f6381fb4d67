"""Masks to polygons along pixel edges, with holes joined to their surroundings by slits of no width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segloop.errors import MaskError

Points = NDArray[np.float64]

#: A tolerance below this is taken for none: pixel edges lie a whole pixel apart.
_LEAST_TOLERANCE_PX = 0.25
#: Pairs of segments compared at a time.
_PAIRS_AT_ONCE = 1 << 20


def mask_polygons(
    mask: NDArray[np.uint8] | NDArray[np.bool_], tolerance_px: float = 0.0, min_area_px: int = 0
) -> list[Points]:
    """The polygons of a mask (H, W): one (N, 2) array of x, y in pixels for each connected piece, largest first.

    Pieces of fewer than `min_area_px` pixels are left out. At tolerance 0 the polygons run along pixel edges and
    hold exactly the mask's pixels. Above it they are simplified by Douglas and Peucker's rule and may stray from
    the mask by that many pixels; a ring that would touch itself or another gets a smaller tolerance. A polygon's
    outline never crosses itself: it runs along its own slits twice, and may touch itself at a pixel's corner.

    Raises:
        MaskError: the tolerance is negative or not a number.
    """
    if not tolerance_px >= 0 or not np.isfinite(tolerance_px):
        raise MaskError(f"a polygon's tolerance must be 0 or more pixels, not {tolerance_px}.")
    solid = np.asarray(mask) != 0
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    pieces = _pieces(solid[top : rows[-1] + 1, left : columns[-1] + 1])
    kept = [(area, rings) for area, rings in ((_filled(rings), rings) for rings in pieces) if area >= min_area_px]
    kept.sort(key=lambda piece: -piece[0])
    offset = np.array([left, top], np.float64)
    return [_joined(_simplified(rings, tolerance_px)) + offset for _, rings in kept]


def _pieces(solid: NDArray[np.bool_]) -> list[list[NDArray[np.int32]]]:
    """The rings of each connected piece, as pixel edges: its outline, then its holes."""
    import cv2

    # At twice the size each pixel edge lies between two pixels of its own, so that contours (which run through
    # pixel centres) tell which side they are on; a border keeps OpenCV from cutting pixels off at the edge.
    doubled = np.pad(solid.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1), 1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    pieces: dict[int, list[NDArray[np.int32]]] = {}
    holes: list[tuple[int, NDArray[np.int32]]] = []
    for index, contour in enumerate(contours):
        ring = _corners(contour[:, 0] // 2)
        parent = int(hierarchy[0, index, 3])
        if parent < 0:
            pieces[index] = [ring]
        else:
            holes.append((parent, ring))
    for parent, ring in holes:
        pieces[parent].append(ring)
    return list(pieces.values())


def _corners(ring: NDArray[Any]) -> NDArray[np.int32]:
    """The points of a ring along pixel edges where it turns."""
    step = np.roll(ring, -1, axis=0) - ring
    moved = step.any(axis=1)
    ring, step = ring[moved], step[moved]
    turned = (np.roll(step, 1, axis=0) != step).any(axis=1)
    return np.ascontiguousarray(ring[turned], np.int32)


def _filled(rings: list[NDArray[np.int32]]) -> float:
    """Area of a piece in pixels; a hole turns the other way round than its outline."""
    return abs(sum(_signed_area(ring) for ring in rings))


def _signed_area(ring: NDArray[np.int32]) -> float:
    x, y = ring.astype(np.float64).T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def _simplified(rings: list[NDArray[np.int32]], tolerance_px: float) -> list[NDArray[np.int32]]:
    """Fewer points for each ring; rings that collapse or touch are tried again at half the tolerance."""
    import cv2

    tolerances = np.full(len(rings), float(tolerance_px))
    simple = list(rings)
    stale: NDArray[np.bool_] = np.ones(len(rings), np.bool_)
    while True:
        tolerances[tolerances < _LEAST_TOLERANCE_PX] = 0
        for index in np.flatnonzero(stale):
            simple[index] = rings[index]
            while tolerances[index] > 0:
                candidate = cv2.approxPolyDP(rings[index][:, None], float(tolerances[index]), True)[:, 0]
                if len(candidate) > 2 and _signed_area(candidate) * _signed_area(rings[index]) > 0:
                    simple[index] = candidate
                    break
                tolerances[index] = tolerances[index] / 2 if tolerances[index] / 2 >= _LEAST_TOLERANCE_PX else 0
        if not tolerances.any():
            return simple
        stale = _touching(simple) & (tolerances > 0)
        if not stale.any():
            return simple
        tolerances[stale] /= 2


@dataclass(frozen=True)
class _Segments:
    """Segments of rings: start and end (N, 2) int64, ring number, and the segment that follows, each (N,)."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    ring: NDArray[np.int64]
    following: NDArray[np.int64]


def _segments(rings: list[NDArray[np.int32]]) -> _Segments:
    sizes = [len(ring) for ring in rings]
    firsts = np.cumsum([0, *sizes[:-1]])
    following = np.arange(1, sum(sizes) + 1)
    following[firsts + np.array(sizes) - 1] = firsts
    start = np.concatenate(rings).astype(np.int64)
    return _Segments(start, start[following], np.repeat(np.arange(len(rings)), sizes), following)


def _touching(rings: list[NDArray[np.int32]]) -> NDArray[np.bool_]:
    """Which rings have a segment that meets another segment than its neighbours, or that turns right back."""
    segments = _segments(rings)
    low, high = np.minimum(segments.start, segments.end), np.maximum(segments.start, segments.end)
    order = np.argsort(low[:, 0], kind="stable")
    # Only segments that begin before another has ended can meet it.
    reach = np.searchsorted(low[order, 0], high[order, 0], side="right") - np.arange(order.size) - 1
    touching = np.zeros(len(rings), np.bool_)
    total = np.cumsum(reach)
    begin = 0
    while begin < order.size:
        done = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + _PAIRS_AT_ONCE, side="right")))
        count = reach[begin:end]
        first = np.repeat(np.arange(begin, end), count)
        second = first + 1 + np.arange(first.size) - np.repeat(np.cumsum(count) - count, count)
        a, b = order[first], order[second]
        near = (low[a, 1] <= high[b, 1]) & (low[b, 1] <= high[a, 1])
        a, b = a[near], b[near]
        a, b = np.where(segments.following[b] == a, b, a), np.where(segments.following[b] == a, a, b)
        met = _meet(segments, a, b)
        touching[segments.ring[a[met]]] = True
        touching[segments.ring[b[met]]] = True
        begin = end
    return touching


def _meet(segments: _Segments, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether segments a and b share a point; where b follows a, whether they share more than their joint."""
    p, q, r, s = segments.start[a], segments.end[a], segments.start[b], segments.end[b]
    across = (_side(p, q, r) * _side(p, q, s) <= 0) & (_side(r, s, p) * _side(r, s, q) <= 0)
    joined = segments.following[a] == b
    back = (_side(p, q, s) == 0) & (((q - p) * (s - r)).sum(axis=1) < 0)
    met: NDArray[np.bool_] = np.where(joined, back, across)
    return met


def _side(p: NDArray[np.int64], q: NDArray[np.int64], r: NDArray[np.int64]) -> NDArray[np.int64]:
    """-1, 0 or 1: on which side of the line from p to q the point r lies."""
    side: NDArray[np.int64] = np.sign(
        (q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0])
    )
    return side


def _joined(rings: list[NDArray[np.int32]]) -> Points:
    """One outline from an outer ring and its holes.

    From the leftmost point of each hole a slit runs left to the first ring that it hits. Holes are taken from left
    to right, so that this ring is the outer one or an earlier hole, and no slit crosses another ring or slit.
    """
    if len(rings) == 1:
        return rings[0].astype(np.float64)
    holes = [np.roll(ring, -int(np.lexsort((ring[:, 1], ring[:, 0]))[0]), axis=0) for ring in rings[1:]]
    holes.sort(key=lambda ring: tuple(ring[0]))
    ordered = [rings[0], *holes]
    segments = _segments(ordered)
    start, end = segments.start.astype(np.float64), segments.end.astype(np.float64)
    upper, lower = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    slope = (end[:, 0] - start[:, 0]) / np.where(upper == lower, 1.0, end[:, 1] - start[:, 1])
    firsts = np.cumsum([0, *(len(ring) for ring in ordered)])
    # For each ring the slits that end on it: segment within the ring, how far along it, point, the hole's number.
    slits: list[list[tuple[int, float, Points, int]]] = [[] for _ in ordered]
    for number in range(1, len(ordered)):
        tip = ordered[number][0].astype(np.float64)
        earlier = int(firsts[number])
        crossed = np.flatnonzero((upper[:earlier] <= tip[1]) & (lower[:earlier] > tip[1]))
        x = start[crossed, 0] + (tip[1] - start[crossed, 1]) * slope[crossed]
        hits = np.flatnonzero(x <= tip[0])
        hit = hits[np.argmax(x[hits])]
        segment, point = int(crossed[hit]), np.array([x[hit], tip[1]])
        ring = int(segments.ring[segment])
        along = abs(float(point[1] - start[segment, 1]))
        slits[ring].append((segment - int(firsts[ring]), along, point, number))
    joined: list[Points] = [np.empty((0, 2))] * len(ordered)
    # A slit ends on an earlier ring, so the last rings are whole first.
    for number in range(len(ordered) - 1, -1, -1):
        ring_points = ordered[number].astype(np.float64)
        parts: list[Points] = []
        taken = 0
        for segment, _, point, hole in sorted(slits[number], key=lambda slit: slit[:2]):
            inner = joined[hole]
            parts += [ring_points[taken : segment + 1], point[None], inner, inner[:1], point[None]]
            taken = segment + 1
            joined[hole] = np.empty((0, 2))
        joined[number] = np.concatenate([*parts, ring_points[taken:]])
    return _without_repeats(joined[0])


def _without_repeats(outline: Points) -> Points:
    distinct: Points = outline[(outline != np.roll(outline, 1, axis=0)).any(axis=1)]
    return distinct
