"""Clicks become a mask: what the network says, how far each pixel is from each click along the picture, and its colours.

A mask is made click by click, each from the mask before it, in a window around what is clicked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import cv2
import numpy as np

from segloop.masks import pieces_at
from segloop.results.guided import GuidedHead, head_inputs
from segloop.results.views import Asked, Float32, Mask, Place, Sight, View

#: Evidence of a pixel under a click, which nothing outweighs.
_CERTAIN: Final = 50.0
#: A further click changes the pieces of the mask that come as near to it as this, as a share of the view's long side.
_NEAR = 0.06
#: And within so many times its distance from the mask's boundary; at least within this share of the view's long side.
_ABOUT, _LEAST_ABOUT = 5.0, 0.03
#: How far about a click, in pixels, the mask's boundary is looked for at first.
_LEAST_LOOK_PX: Final = 64


def next_mask(sight: Sight, asked: Asked, before: Mask | None, head: GuidedHead | None = None) -> Mask:
    """The mask bool (H, W) after the last click asked for; `before` is the one before that click, None before the first.

    A guided head, where there is one, refines the evidence.
    """
    view = View.around(sight, asked, before)
    evidence = view.evidence()
    return settled(view, evidence if head is None else head(head_inputs(view, evidence), evidence))


def settled(view: View, evidence: Float32) -> Mask:
    """The mask bool (H, W) that evidence (h, w) on a view gives: with the positive clicks and without the negative ones, in
    pieces that a positive click lies on, and changed near the last click alone.

    All that is looked at lies in the view's window, the mask before and the clicks too: a large image takes no longer.
    """
    top, left, down, across = view.window
    for place in view.asked.clicks:
        row, column = view.cell(place)
        evidence[row, column] = _CERTAIN if place.positive else -_CERTAIN
    found = np.greater(cv2.resize(evidence, (across, down), interpolation=cv2.INTER_LINEAR), 0)
    if view.asked.allowed is not None:
        found &= view.asked.allowed[view.part]
    found = _near(found, view)
    clicks = [replace(place, row=place.row - top, column=place.column - left) for place in view.asked.clicks]
    for place in clicks:
        found[place.row, place.column] = place.positive
    mask = np.zeros(view.sight.class_map.shape, np.bool_)
    mask[view.part] = _clicked(found, clicks)
    return mask


def _near(found: Mask, view: View) -> Mask:
    """The mask before, but for the pieces of its change that come near the last click; all that is found at first. In the view's
    window, as `found`."""
    if view.before is None:
        return found
    before = view.before[view.part]
    last, reach = view.asked.clicks[-1], max(1, round(_NEAR * max(view.window[2:])))
    changed = (found ^ before).view(np.uint8)
    row, column = last.row - view.window[0], last.column - view.window[1]
    top, left = max(row - reach, 0), max(column - reach, 0)
    near = np.ascontiguousarray(changed[top : row + reach + 1, left : column + reach + 1])
    numbers, firsts = np.unique(cv2.connectedComponents(near, connectivity=8)[1], return_index=True)
    rows, columns = np.divmod(firsts[numbers > 0], near.shape[1])
    change = pieces_at(changed, zip((rows + top).tolist(), (columns + left).tolist(), strict=True))
    return np.asarray(before ^ (change & changeable(view, before)), np.bool_)


def changeable(view: View, before: Mask) -> Mask:
    """Where the last click may change a mask, both bool of the view's window: people click in the middle of what is wrong, so
    that its size is about the click's distance from the mask's boundary."""
    top, left, down, across = view.window
    last, (height, width) = view.asked.clicks[-1], view.sight.class_map.shape
    row, column = last.row - top, last.column - left
    # the image's border ends what is wrong, the window's does not
    border = min(last.row + 1, last.column + 1, height - last.row, width - last.column)
    depth = _depth_at(np.equal(before, before[row, column]), row, column)
    if depth is None:
        return np.ones((down, across), np.bool_)
    about = np.zeros((down, across), np.uint8)
    radius = int(max(_ABOUT * min(depth, border), _LEAST_ABOUT * max(down, across)))
    cv2.circle(about, (column, row), radius, 1, cv2.FILLED)
    return about.view(np.bool_)


def _depth_at(side: Mask, row: int, column: int) -> float | None:
    """How far a pixel that is in a mask bool (h, w) is from the nearest one that is not, in pixels; None where all are.

    It is looked for about the pixel first, and farther and farther away: to know it of all pixels takes ten times as long.
    """
    reach = _LEAST_LOOK_PX
    while True:
        top, left = max(row - reach, 0), max(column - reach, 0)
        about = side[top : row + reach + 1, left : column + reach + 1]
        is_all = about.shape == side.shape
        if not about.all():
            depth = cv2.distanceTransform(about.view(np.uint8), cv2.DIST_L2, 3)[row - top, column - left]
            # what lies outside is farther: OpenCV counts 0.955 for a step along a row or a column
            if is_all or depth <= 0.955 * reach:
                return float(depth)
        elif is_all:
            return None
        reach *= 2


def _clicked(mask: Mask, clicks: Sequence[Place]) -> Mask:
    """The pieces of a mask that positive clicks lie on; all of it where there are none.

    A positive click that a later one on the same pixel took back lies on no piece.
    """
    places = [(place.row, place.column) for place in clicks if place.positive]
    if not places:
        return mask
    return pieces_at(mask.view(np.uint8), [place for place in places if mask[place]])
