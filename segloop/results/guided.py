"""What a guided head is given of a view, besides the evidence that needs no training."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from segloop.formats import GUIDED_MAPS
from segloop.results.views import Float32, View

#: Reaches of a click's marks in pixels of the view: near it, about it, and that of the last click.
_NEAR_PX, _ABOUT_PX, _LAST_PX = 3.0, 20.0, 12.0


class GuidedHead(Protocol):
    """Refines the evidence of a view: from `inputs` float32 (GUIDED_MAPS, h, w), see `head_inputs`, and `evidence` float32
    (h, w) it gives log-odds of what is meant, float32 (h, w)."""

    def __call__(self, inputs: Float32, evidence: Float32) -> Float32: ...


def head_inputs(view: View, evidence: Float32) -> Float32:
    """Maps of a view, float32 (GUIDED_MAPS, h, w), about within -2 and 2. None tells which class is meant.

    In their order: the picture (3), less its mean; the log-odds of the clicked classes, of the chosen label, and of the colours;
    how near the positive and the negative clicks are along the picture, twice (far and near), and in a straight line, twice; the
    last click, if positive, and if negative; the mask before, and whether there is one; the evidence; how many clicks there are;
    how alike the network's probabilities are to those under the positive and under the negative clicks.
    """
    height, width = view.size
    maps = np.zeros((GUIDED_MAPS, height, width), np.float32)
    picture = view.colours.astype(np.float32)
    picture -= picture.mean(axis=(0, 1))
    maps[:3] = picture.transpose(2, 0, 1) / (picture.std() + 8)
    maps[3] = view.odds / 4
    if view.asked.value:
        share = np.clip(view.share(view.asked.value), 1e-3, 1 - 1e-3)
        maps[4] = np.clip(np.log(share / (1 - share)), -5, 5) / 4
    maps[5] = view.likeness / 3
    near = np.exp(-view.distances)
    maps[6:8], maps[8:10] = near, np.square(np.square(near))
    for place, positive in enumerate((True, False)):
        if cells := view.cells(positive):
            apart = np.ones(view.size, np.uint8)
            apart[tuple(zip(*cells, strict=True))] = 0
            straight = cv2.distanceTransform(apart, cv2.DIST_L2, 5)
            maps[10 + place], maps[12 + place] = np.exp(-straight / _NEAR_PX), np.exp(-straight / _ABOUT_PX)
    last = view.asked.clicks[-1]
    row, column = view.cell(last)
    rows, columns = np.ogrid[:height, :width]
    maps[14 if last.positive else 15] = np.exp(-np.hypot(rows - row, columns - column) / _LAST_PX)
    if view.was is not None:
        maps[16] = view.was.astype(np.float32) / 127.5 - 1
        maps[21] = 1
    maps[17] = np.clip(evidence / 8, -2, 2)
    maps[18] = 2 / (1 + 0.5 * (len(view.asked.clicks) - 1)) - 1
    maps[19:21] = _alike(view)
    return maps


def _alike(view: View) -> Float32:
    """How alike the network's probabilities are to those under the positive and under the negative clicks, float32 (2, h, w): the
    largest Bhattacharyya coefficient, within 0 and 1."""
    grid = np.sqrt(view.sight.probabilities, dtype=np.float32)
    height, width = view.sight.class_map.shape
    rows, columns = grid.shape[1:]
    found = np.zeros((2, *view.size), np.float32)
    for place, positive in enumerate((True, False)):
        cells = {
            (click.row * rows // height, click.column * columns // width)
            for click in view.asked.clicks
            if click.positive == positive
        }
        if cells:
            under = np.stack([grid[:, row, column] for row, column in sorted(cells)])
            alike = np.asarray((under @ grid.reshape(len(grid), -1)).max(axis=0), np.float32)
            found[place] = view.warped(alike.reshape(rows, columns))
    return found
