"""A coarse mask's boundary moves to the edges of the image, and nowhere else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segloop.errors import MaskError
from segloop.masks import refine_boundary

RED, BLUE = (180, 60, 50), (60, 80, 160)


def painted(mask: np.ndarray, seed: int = 0, noise: float = 12.0) -> np.ndarray:
    """A picture of a mask: red on blue, with noise."""
    colours = np.where(mask[..., None], RED, BLUE) + np.random.default_rng(seed).normal(0, noise, (*mask.shape, 3))
    return np.clip(colours, 0, 255).astype(np.uint8)


def disc(size: int, radius: float) -> np.ndarray:
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    return np.hypot(rows, columns) < radius


def blocky(mask: np.ndarray, cell_px: int) -> np.ndarray:
    """A mask as a grid of cells knows it."""
    height, width = (length // cell_px for length in mask.shape)
    share = mask.reshape(height, cell_px, width, cell_px).mean(axis=(1, 3))
    return (share > 0.5).repeat(cell_px, axis=0).repeat(cell_px, axis=1)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(("size", "cell_px"), [(160, 16), (480, 48), (960, 96)])
def test_a_blocky_disc_becomes_round(size: int, cell_px: int) -> None:
    truth = disc(size, size * 0.36)
    coarse = blocky(truth, cell_px)
    refined = refine_boundary(coarse, painted(truth), cell_px / 2)
    assert iou(coarse, truth) < 0.85
    assert iou(refined, truth) > 0.95


def test_a_hole_and_a_thin_piece_find_their_edges() -> None:
    truth = disc(160, 60) & ~disc(160, 25)
    truth[:, 77:83] = True
    coarse = disc(160, 64) & ~disc(160, 20)
    coarse[:, 74:86] = True
    refined = refine_boundary(coarse, painted(truth), 8)
    assert iou(coarse, truth) < 0.85
    assert iou(refined, truth) > 0.95


def test_without_edges_the_mask_stays() -> None:
    mask = np.zeros((120, 140), bool)
    mask[30:80, 40:110] = True
    grey = np.random.default_rng(1).integers(120, 130, (120, 140, 3)).astype(np.uint8)
    assert (refine_boundary(mask, grey, 8) != mask).sum() < 30


@example(23, 10.0)
@given(st.integers(0, 2**32 - 1), st.floats(0, 24))
def test_only_pixels_in_the_band_change(seed: int, band_px: float) -> None:
    import cv2

    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 120, 2))
    mask = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), rng.uniform(1, 12)) > 0
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    before = mask.copy()
    refined = refine_boundary(mask, image, band_px)
    assert (mask == before).all()
    assert refined.dtype == bool
    # On a smaller image the band's ends fall between pixels.
    side = 2 * math.ceil(band_px * 1.25) + 1
    square = np.ones((side, side), np.uint8)
    solid = mask.astype(np.uint8)
    core, reach = cv2.erode(solid, square) > 0, cv2.dilate(solid, square) > 0
    assert not (core & ~refined).any()
    assert not (refined & ~reach).any()
    assert refined.any() == mask.any()


def test_a_rest_that_is_out_of_the_band_stays_however_small() -> None:
    mask, truth = np.zeros((2, 6, 78), bool)
    mask[:, :60] = True
    truth[:, :65] = True
    refined = refine_boundary(mask, painted(truth), 10)
    assert refined[:, :63].all()
    assert not refined[:, 71:].any()


@given(st.integers(0, 2**32 - 1))
def test_what_lies_far_off_does_not_matter(seed: int) -> None:
    import cv2

    rng = np.random.default_rng(seed)
    band_px = int(rng.integers(1, 20))
    field = cv2.GaussianBlur(rng.standard_normal((60, 60)).astype(np.float32), (0, 0), 5) > 0
    mask = np.pad(field, 4 * band_px)
    image = rng.integers(0, 256, (*mask.shape, 3)).astype(np.uint8)
    around = ((70, 30), (50, 90))
    large = rng.integers(0, 256, [sum(pair) + n for pair, n in zip(around, mask.shape, strict=True)] + [3])
    large = large.astype(np.uint8)
    inner = np.s_[70 : 70 + mask.shape[0], 50 : 50 + mask.shape[1]]
    large[inner] = image
    refined = refine_boundary(np.pad(mask, around), large, band_px)
    assert (refined[inner] == refine_boundary(mask, image, band_px)).all()
    assert refined.sum() == refined[inner].sum()


def test_no_specks_are_cut_off_and_small_pieces_stay() -> None:
    truth = disc(160, 55)
    image = painted(truth)
    image[74:77, 20:23] = RED  # in the band, outside
    image[29:34, 74:79] = BLUE  # in the band, inside
    coarse = blocky(truth, 16)
    coarse[2:6, 2:6] = True
    refined = refine_boundary(coarse, image, 8)
    assert iou(refined[10:], truth[10:]) > 0.95
    assert (refined[:10, :10] == coarse[:10, :10]).all()
    assert not refined[75, 21]
    assert refined[30:33, 75:78].all()


@pytest.mark.parametrize("band_px", [0, 0.9])
def test_a_band_under_a_pixel_changes_nothing(band_px: float) -> None:
    mask = blocky(disc(96, 30), 16)
    assert (refine_boundary(mask, painted(disc(96, 30)), band_px) == mask).all()


def test_masks_without_a_boundary() -> None:
    image = painted(disc(64, 20))
    assert not refine_boundary(np.zeros((64, 64), bool), image, 8).any()
    assert refine_boundary(np.ones((64, 64), bool), image, 8).all()


@pytest.mark.parametrize("shape", [(64, 63, 3), (64, 64), (64, 64, 4), (63, 64, 3)])
def test_image_of_another_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskError, match="size"):
        refine_boundary(np.ones((64, 64), bool), np.zeros(shape, np.uint8), 4)


@pytest.mark.parametrize("band_px", [-1, math.nan, math.inf])
def test_band_must_be_a_length(band_px: float) -> None:
    with pytest.raises(MaskError, match="band"):
        refine_boundary(np.ones((4, 4), bool), np.zeros((4, 4, 3), np.uint8), band_px)
