"""A coarse mask's boundary moved to the edges of the image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from segloop.errors import MaskError

_Image = NDArray[np.float32]

#: The window in which colours are compared, as a multiple of the band: it must reach beyond the band.
_WINDOW = 1.25
#: How far from its surroundings' mean share (0 to 1) colour must put a pixel to move it across the boundary.
_LEAST_EVIDENCE = 0.1
#: How often the walk along a piece's border can pass one pixel: once from each side.
_LONGEST_WALK = 4
#: What is added to the variance of colours (0 to 1), so that noise tells nothing.
_COLOUR_NOISE = 1e-4
#: The band's width, in pixels, on the smaller images on which a wide one is moved, and on which colours are compared.
_WORKING_BAND_PX, _COARSE_BAND_PX = 8, 4


def refine_boundary(mask: NDArray[np.bool_], image: NDArray[np.uint8], band_px: float) -> NDArray[np.bool_]:
    """A mask (H, W) whose boundary follows the edges of an image (H, W, 3): bool (H, W).

    Only pixels at most `band_px` from the boundary, along rows and columns, change sides, and only where their colour
    is clearly more like that of the pixels on the other side around them: by the regression of a guided filter (He,
    Sun and Tang 2010; He and Sun 2015 for its smaller image), less its mean. No specks or pinholes of less than a
    square of the band are cut off, and pieces of the mask that are as small stay as they are. A band under a pixel, or
    a mask that nothing would be left of, changes nothing.

    Raises:
        MaskError: the image has another size than the mask, or the band is negative or not a number.
    """
    import cv2

    if image.shape != (*mask.shape, 3):
        raise MaskError(f"to refine a mask of shape {mask.shape} takes an RGB image of its size, not {image.shape}.")
    if not 0 <= band_px < math.inf:
        raise MaskError(f"a band to refine must be 0 or more pixels wide, not {band_px}.")
    band = int(band_px)
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if band < 1 or width == 0:
        return mask
    margin = 4 * band
    part = np.s_[max(top - margin, 0) : top + height + margin, max(left - margin, 0) : left + width + margin]
    step = max(1, band // _WORKING_BAND_PX)
    solid, colour = _smaller(mask[part].astype(np.uint8) * np.uint8(255), step) > 127, _smaller(image[part], step)
    moved = _moved(solid, colour, band // step)
    if not moved.any():
        return mask
    # The change is brought back, not the mask: what keeps its side keeps its detail.
    height, width = mask[part].shape
    refined = mask.copy()
    refined[part] |= _enlarged(moved & ~solid, height, width)
    refined[part] &= ~_enlarged(solid & ~moved, height, width)
    return refined


def _smaller(image: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    import cv2

    size = [max(length // step, 1) for length in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _enlarged(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    import cv2

    return np.greater(cv2.resize(mask * np.uint8(255), (width, height), interpolation=cv2.INTER_LINEAR), 127)


def _moved(mask: NDArray[np.bool_], image: NDArray[np.uint8], band: int) -> NDArray[np.bool_]:
    import cv2

    solid = mask.astype(np.uint8)
    square = np.ones((2 * band + 1, 2 * band + 1), np.uint8)
    core, reach = cv2.erode(solid, square).view(np.bool_), cv2.dilate(solid, square).view(np.bool_)
    rows, columns = np.nonzero(reach & ~core)
    evidence = _evidence(solid, image, band, rows, columns)
    moved = mask.copy()
    moved[rows, columns] = np.where(mask[rows, columns], evidence > -_LEAST_EVIDENCE, evidence > _LEAST_EVIDENCE)
    # The majority in a small window: single pixels of another colour are noise.
    size = 2 * (band // 4) + 1
    moved = cv2.blur(moved * np.uint8(255), (size, size)) > 127
    small = _specks(mask, True, band * band) | _specks(mask, False, band * band)
    moved &= ~_specks(moved, True, band * band)
    moved |= _specks(moved, False, band * band)
    return np.where(small, mask, moved & reach | core)


def _evidence(
    solid: NDArray[np.uint8], image: NDArray[np.uint8], band: int, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float32]:
    """By how much the colour of some pixels raises their share in the mask above its mean around them."""
    import cv2

    height, width = solid.shape
    step = max(1, band // _COARSE_BAND_PX)
    share, colour = (_shares(_smaller(whole, step)) for whole in (solid * np.uint8(255), image))
    parts = _regression(share, colour, max(1, round(band * _WINDOW / step)))
    slope, level = (cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) for part in parts)
    evidence: _Image = (slope[rows, columns] * _shares(image[rows, columns])).sum(axis=1) - level[rows, columns]
    return evidence


def _shares(image: NDArray[np.uint8]) -> _Image:
    """0 to 255 as 0 to 1."""
    return image.astype(np.float32) / np.float32(255)


def _regression(share: _Image, colour: _Image, radius: int) -> tuple[_Image, _Image]:
    """A guided filter without its mean: float32 slope (H, W, 3) by colour and level (H, W) to take away."""
    import cv2

    def mean(values: _Image) -> _Image:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1)).astype(np.float32, copy=False)

    mean_colour, mean_share = mean(colour), mean(share)
    mixed = (mean_share > 1e-3) & (mean_share < 1 - 1e-3)  # elsewhere there is nothing to tell apart
    covariance = (mean(colour * share[..., None]) - mean_colour * mean_share[..., None])[mixed]
    spread = np.empty((len(covariance), 3, 3), np.float32)
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        product = mean(colour[..., i] * colour[..., j]) - mean_colour[..., i] * mean_colour[..., j]
        spread[:, i, j] = spread[:, j, i] = product[mixed]
    spread += _COLOUR_NOISE * np.eye(3, dtype=np.float32)
    slope = np.zeros_like(colour)
    slope[mixed] = np.linalg.solve(spread, covariance[..., None])[..., 0]
    return mean(slope), mean((slope * mean_colour).sum(axis=2))


def _specks(mask: NDArray[np.bool_], inside: bool, min_area_px: int) -> NDArray[np.bool_]:
    """The small pieces of the inside, or of the outside, with what lies in their holes."""
    import cv2

    side = (mask == inside).view(np.uint8)
    specks = np.zeros(mask.shape, np.bool_)
    # Borders are found in a fifth of the time that it takes to number the pieces, and a small piece has a short one.
    borders, hierarchy = cv2.findContours(side, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for number, border in enumerate(borders):
        if len(border) > _LONGEST_WALK * min_area_px or hierarchy[0, number, 3] >= 0:
            continue
        left, top, width, height = cv2.boundingRect(border)
        box = np.s_[top : top + height, left : left + width]
        piece = np.zeros((height, width), np.uint8)
        cv2.drawContours(piece, [border], 0, 1, cv2.FILLED, offset=(-left, -top))
        piece &= side[box]
        if cv2.countNonZero(piece) < min_area_px:
            specks[box] |= piece.view(np.bool_)
    return specks
