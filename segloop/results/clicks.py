"""Clicks become a mask: what the network says, how far each pixel is from each click along the picture, and its colours.

A mask is made click by click, each from the mask before it, in a window around what is clicked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from segloop.results.guided import GuidedHead, head_inputs
from segloop.results.views import Asked, Float32, Mask, Place, Sight, View

#: Evidence of a pixel under a click, which nothing outweighs.
_CERTAIN: Final = 50.0
#: A further click changes the pieces of the mask that come as near to it as this, as a share of the view's long side.
_NEAR = 0.06
#: And within so many times its distance from the mask's boundary; at least within this share of the view's long side.
_ABOUT, _LEAST_ABOUT = 3.0, 0.03


def next_mask(sight: Sight, asked: Asked, before: Mask | None, head: GuidedHead | None = None) -> Mask:
    """The mask bool (H, W) after the last click asked for; `before` is the one before that click, None before the first.

    A guided head, where there is one, refines the evidence.
    """
    view = View.around(sight, asked, before)
    evidence = view.evidence()
    return settled(view, evidence if head is None else head(head_inputs(view, evidence), evidence))


def settled(view: View, evidence: Float32) -> Mask:
    """The mask bool (H, W) that evidence (h, w) on a view gives: with the positive clicks and without the negative ones, in
    pieces that a positive click lies on, and changed near the last click alone."""
    height, width = view.sight.class_map.shape
    top, left, down, across = view.window
    for place in view.asked.clicks:
        row, column = view.cell(place)
        if 0 <= row < evidence.shape[0] and 0 <= column < evidence.shape[1]:
            evidence[row, column] = _CERTAIN if place.positive else -_CERTAIN
    found = np.zeros((height, width), np.bool_) if view.before is None else view.before.copy()
    found[top : top + down, left : left + across] = (
        cv2.resize(evidence, (across, down), interpolation=cv2.INTER_LINEAR) > 0
    )
    if view.asked.allowed is not None:
        found &= view.asked.allowed
    found = _near(found, view)
    _hold(found, view.asked.clicks)
    return _clicked(found, view.asked.clicks)


def _hold(mask: Mask, clicks: Sequence[Place]) -> None:
    """Put the pixels under clicks on their side."""
    for place in clicks:
        mask[place.row, place.column] = place.positive


def _near(found: Mask, view: View) -> Mask:
    """The mask before, but for the pieces of its change that come near the last click; all that is found at first."""
    if view.before is None:
        return found
    last, reach = view.asked.clicks[-1], max(1, round(_NEAR * max(view.window[2:])))
    changed = (found ^ view.before).view(np.uint8)
    count, pieces = cv2.connectedComponents(changed, connectivity=8)
    near = np.s_[max(last.row - reach, 0) : last.row + reach + 1, max(last.column - reach, 0) : last.column + reach + 1]
    kept = np.zeros(count, np.bool_)
    kept[np.unique(pieces[near])] = True
    kept[0] = False
    change = np.asarray(kept[pieces], np.bool_) & changeable(view.before, view)
    return np.asarray(view.before ^ change, np.bool_)


def changeable(before: Mask, view: View) -> Mask:
    """Where the last click may change a mask, bool (H, W): people click in the middle of what is wrong, so that its size is about
    the click's distance from the mask's boundary."""
    last = view.asked.clicks[-1]
    side = np.equal(before, before[last.row, last.column])
    if side.all():
        return np.ones(side.shape, np.bool_)
    inside = cv2.distanceTransform(np.pad(side.view(np.uint8), 1), cv2.DIST_L2, 3)
    depth = float(inside[last.row + 1, last.column + 1])
    about = np.zeros(side.shape, np.uint8)
    radius = int(max(_ABOUT * depth, _LEAST_ABOUT * max(view.window[2:])))
    cv2.circle(about, (last.column, last.row), radius, 1, cv2.FILLED)
    return np.equal(about, 1)


def _clicked(mask: Mask, clicks: Sequence[Place]) -> Mask:
    """The pieces of a mask that positive clicks lie on; all of it where there are none."""
    places = [(place.row, place.column) for place in clicks if place.positive]
    if not places:
        return mask
    count, pieces = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    if count == 2:
        return mask
    kept = np.zeros(count, np.bool_)
    kept[[pieces[place] for place in places]] = True
    kept[0] = False
    return np.asarray(kept[pieces], np.bool_)
