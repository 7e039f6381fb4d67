"""Holes joined to their outlines by slits of no width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from segloop.masks.rings import Bools, Floats, Ints, Rings, count_up


@dataclass(frozen=True)
class Slits:
    """A line from each ring's tip, its leftmost point, to the left until it hits another ring: each (R,).

    Attributes:
        tip: the point.
        segment: what is hit: the segment that begins at this point. Of no meaning where nothing is hit.
        x: where it is hit, in pixels.
        inside: whether the tip lies inside the other rings by the even-odd rule; then something is hit.
    """

    tip: Ints
    segment: Ints
    x: Floats
    inside: Bools


def find_slits(rings: Rings) -> Slits:
    """The slits of rings that do not cross."""
    x, y = rings.points.T.astype(np.int64)
    tip = _tips(rings)
    down = y <= y[rings.following]
    upper = np.where(down, np.arange(y.size), rings.following)
    lower = np.where(down, rings.following, np.arange(y.size))
    # A segment crosses the rows from its upper end to above its lower one; only the rows of tips matter.
    rows, tip_row = np.unique(y[tip], return_inverse=True)
    begin = np.searchsorted(rows, y[upper])
    count = np.searchsorted(rows, y[lower]) - begin
    segment = np.repeat(np.arange(y.size), count)
    row = begin[segment] + count_up(count)
    top, bottom = upper[segment], lower[segment]
    crossing = x[top] + (rows[row] - y[top]) * ((x[bottom] - x[top]) / (y[bottom] - y[top]))
    # In each row from left to right; at one place a tip comes after other rings and before its own.
    after_tip = 2 * (top == tip[rings.ring[segment]])
    order = np.lexsort(
        (
            np.concatenate([after_tip, np.ones(tip.size, np.int64)]),
            np.concatenate([crossing, x[tip]]),
            np.concatenate([row, tip_row]),
        )
    )
    crossings = np.cumsum(order < segment.size)
    in_order = np.concatenate([[segment.size], order[order < segment.size]])
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    before = crossings[place[segment.size :]]
    hit = in_order[before]
    in_rows_above = np.searchsorted(np.sort(row), tip_row)
    return Slits(tip, np.append(segment, 0)[hit], np.append(crossing, 0.0)[hit], (before - in_rows_above) % 2 == 1)


def outlines(rings: Rings) -> dict[int, Floats]:
    """For each piece the one outline, float64 (N, 2), that its rings and the slits of its holes make."""
    points = rings.points.astype(np.float64)
    ends = np.cumsum(rings.size).tolist()
    found = {
        piece: points[end - size : end]
        for piece, end, size, hole in zip(
            rings.piece.tolist(), ends, rings.size.tolist(), rings.hole.tolist(), strict=True
        )
        if not hole
    }
    if rings.hole.any():
        slits = find_slits(rings)
        for piece, members in _pieces_with_holes(rings):
            found[piece] = _joined(rings, points, slits, members)
    return found


def _pieces_with_holes(rings: Rings) -> Iterator[tuple[int, Ints]]:
    """Each piece that has holes with its rings, the outer one first."""
    order = np.lexsort((rings.hole, rings.piece))
    for members in np.split(order, np.flatnonzero(np.diff(rings.piece[order])) + 1):
        if members.size > 1:
            yield int(rings.piece[members[0]]), members


def _tips(rings: Rings) -> Ints:
    """The leftmost point of each ring, the topmost of these."""
    x, y = rings.points.T.astype(np.int64)
    rank = x * (int(y.max()) + 1) + y
    tips = np.flatnonzero(rank == np.minimum.reduceat(rank, rings.first)[rings.ring])
    return tips[np.unique(rings.ring[tips], return_index=True)[1]]


def _joined(rings: Rings, points: Floats, slits: Slits, members: Ints) -> Floats:
    """One outline of the rings of a piece: its outer one, then its holes."""
    whole: dict[int, Floats] = {}
    # For each ring the slits that end on it: the segment, counted from the ring's start, how far down or up it, the
    # place, and the hole.
    ends: dict[int, list[tuple[int, float, Floats, int]]] = {ring: [] for ring in members.tolist()}
    start = np.where(rings.hole, slits.tip, rings.first)
    for hole in members[1:].tolist():
        segment, tip = int(slits.segment[hole]), points[slits.tip[hole]]
        ring = int(rings.ring[segment])
        place = np.array([slits.x[hole], tip[1]])
        nth = (segment - int(start[ring])) % int(rings.size[ring])
        ends[ring].append((nth, abs(float(tip[1] - points[segment, 1])), place, hole))
    # A slit ends on a ring that begins further left: from right to left, what ends on a ring is whole before it.
    tips = rings.points[slits.tip[members]]
    for ring in members[np.lexsort((tips[:, 1], tips[:, 0]))][::-1].tolist():
        first, last = int(rings.first[ring]), int(rings.first[ring] + rings.size[ring])
        own = np.concatenate([points[start[ring] : last], points[first : start[ring]]])
        parts: list[Floats] = []
        taken = 0
        for nth, _, place, hole in sorted(ends[ring], key=lambda end: end[:2]):
            inner = whole.pop(hole)
            parts += [own[taken : nth + 1], place[None], inner, inner[:1], place[None]]
            taken = nth + 1
        whole[ring] = np.concatenate([*parts, own[taken:]])
    [outline] = whole.values()
    distinct: Floats = outline[(outline != np.roll(outline, 1, axis=0)).any(axis=1)]
    return distinct
