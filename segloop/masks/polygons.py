"""Masks to polygons along pixel edges, with holes joined to their surroundings by slits of no width."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segloop.errors import MaskError
from segloop.masks.rings import trace_rings
from segloop.masks.simplify import simplify
from segloop.masks.slits import outlines

#: A tolerance below this is taken for none: pixel edges lie a whole pixel apart.
_LEAST_TOLERANCE_PX = 0.25


def mask_polygons(
    mask: NDArray[np.uint8] | NDArray[np.bool_], tolerance_px: float = 0.0, min_area_px: int = 0
) -> list[NDArray[np.float64]]:
    """The polygons of a mask (H, W): one (N, 2) array of x, y in pixels for each connected piece, largest first.

    Pieces of fewer than `min_area_px` pixels are left out. At tolerance 0 the polygons run along pixel edges and
    hold exactly the mask's pixels. Above it they are simplified by Douglas and Peucker's rule and may stray from
    the mask by that many pixels; where they would touch themselves or each other they keep to the pixel edges. A
    polygon's outline never crosses itself: it runs along its own slits twice, and may touch itself at a pixel's
    corner.

    Raises:
        MaskError: the tolerance is negative or not a number.
    """
    import cv2

    if not tolerance_px >= 0 or not np.isfinite(tolerance_px):
        raise MaskError(f"a polygon's tolerance must be 0 or more pixels, not {tolerance_px}.")
    solid = np.asarray(mask, order="C").view(np.uint8)
    left, top, width, height = cv2.boundingRect(solid)
    if width == 0:
        return []
    rings = trace_rings(solid[top : top + height, left : left + width], left, top)
    area = np.bincount(rings.piece, rings.area)
    rings = rings.with_rings(area[rings.piece] >= max(min_area_px, 1))
    if not rings.size.size:
        return []
    if tolerance_px >= _LEAST_TOLERANCE_PX:
        rings = simplify(rings, tolerance_px)
    found = outlines(rings)
    return [found[piece] for piece in sorted(found, key=lambda piece: -area[piece])]
