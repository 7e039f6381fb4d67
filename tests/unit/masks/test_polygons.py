"""Masks to polygons: exact along pixel edges, near them when simplified, and never crossing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segloop.errors import MaskError
from segloop.masks import mask_polygons, polygon_mask


def drawn(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def blobs(size: int, seed: int = 0) -> np.ndarray:
    return smooth(np.random.default_rng(seed), (size, size), size / 20) > 0


def smooth(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigma_px)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Noise with specks and corners that touch, blobs, bands with pieces in the holes of others, and blocks."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 32)), draw(st.integers(1, 32))
    kind = draw(st.sampled_from(["noise", "blobs", "bands", "blocks"]))
    if kind == "noise":
        return rng.random((height, width)) < draw(st.floats(0.1, 0.9))
    if kind == "blocks":
        return rng.random((height, width)).round().repeat(3, axis=0).repeat(2, axis=1)[:height, :width] > 0
    field = smooth(rng, (height, width), draw(st.floats(0.5, 4)))
    return field > 0 if kind == "blobs" else np.abs(field) < np.median(np.abs(field))


DIAGONAL = drawn("#..", ".#.", "..#")
NESTED = drawn("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######")
TOUCHING_HOLES = drawn("#####", "#.###", "##.##", "###.#", "#####")
SPECKS = drawn("#.#.#", ".....", "#.#.#")


def filled(polygons: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """What polygons hold, which must not overlap."""
    mask = np.zeros(shape, bool)
    for points in polygons:
        part = polygon_mask(points, *shape)
        assert not (mask & part).any()
        mask |= part
    return mask


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def crossings(points: np.ndarray) -> bool:
    """Whether two segments cross in the inside of both."""
    start, end = points[:, None], np.roll(points, -1, axis=0)[:, None]

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        cross = (b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]
        return np.where(np.abs(cross) < 1e-9, 0, np.sign(cross))

    other, last = start.transpose(1, 0, 2), end.transpose(1, 0, 2)
    apart = side(start, end, other) * side(start, end, last)
    return bool(((apart < 0) & (apart.T < 0)).any())


def astray_px(pixels: np.ndarray, mask: np.ndarray) -> float:
    """How far at most some pixels lie from the mask's edge, measured from their near sides."""
    import cv2

    padded = np.pad(mask, 1).astype(np.uint8)
    inside, outside = (cv2.distanceTransform(m, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for m in (padded, 1 - padded))
    return float((np.maximum(inside, outside)[1:-1, 1:-1][pixels] - 0.5).max(initial=0))


def winding(points: np.ndarray, x: float, y: float) -> int:
    angles = np.unwrap([math.atan2(py - y, px - x) for px, py in [*points, points[0]]])
    return round((angles[-1] - angles[0]) / (2 * math.pi))


def test_polygon_of_a_square_runs_along_its_pixel_edges() -> None:
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    [points] = mask_polygons(mask)
    assert len(points) == 4
    assert {tuple(point) for point in points} == {(3, 2), (7, 2), (7, 5), (3, 5)}


@example(np.ones((1, 1), bool))
@example(DIAGONAL)
@example(DIAGONAL[::-1])
@example(NESTED)
@example(~NESTED)
@example(TOUCHING_HOLES)
@example(TOUCHING_HOLES[:, ::-1])
@example(SPECKS)
@example(~SPECKS)
@given(masks())
def test_polygons_at_no_tolerance_hold_exactly_the_mask(mask: np.ndarray) -> None:
    polygons = mask_polygons(mask)
    assert (filled(polygons, mask.shape) == mask).all()
    assert not any(crossings(points) for points in polygons)
    assert all((points == points.round()).all() for points in polygons)


@example(NESTED, 2.0)
@example(TOUCHING_HOLES, 2.0)
@example(~SPECKS, 2.0)
@given(masks(), st.floats(0.3, 4))
def test_simplified_polygons_stay_near_and_never_cross(mask: np.ndarray, tolerance_px: float) -> None:
    polygons = mask_polygons(mask, tolerance_px)
    assert len(polygons) == len(mask_polygons(mask))
    assert not any(crossings(points) for points in polygons)
    assert astray_px(filled(polygons, mask.shape) != mask, mask) <= tolerance_px


def test_a_hole_stays_in_its_piece_where_a_straight_line_would_leave_it_outside() -> None:
    bay = drawn(
        "############",
        "#..........#",
        "#..........#",
        "#....###...#",
        "#...##.##..#",
        "#####...####",
        "############",
        "############",
    )
    for tolerance_px in (2.0, 3.0, 4.0):
        for mask in (bay, ~np.pad(bay, 2)):
            polygons = mask_polygons(mask, tolerance_px)
            assert astray_px(filled(polygons, mask.shape) != mask, mask) <= tolerance_px


def test_only_what_would_touch_keeps_to_the_pixel_edges() -> None:
    mask = blobs(128, seed=1)  # where two pieces all but touch
    assert sum(map(len, mask_polygons(mask, 2.0))) < sum(map(len, mask_polygons(mask))) / 6


def test_a_thin_piece_is_not_turned_over() -> None:
    mask = drawn(
        "....#............",
        "....#............",
        "...#.............",
        "...#.............",
        "..#..............",
        "###..............",
        "##....########...",
        "#######....######",
        "...##........####",
    )
    for tolerance_px in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0):
        [points] = mask_polygons(mask, tolerance_px)
        x, y = points.T
        assert x @ np.roll(y, 1) - y @ np.roll(x, 1) > 0


def test_hole_is_joined_by_a_slit() -> None:
    mask = drawn("#####", "##..#", "#####", "##.##", "#####")
    [points] = mask_polygons(mask)
    assert (polygon_mask(points, 5, 5) == mask).all()
    assert not crossings(points)
    # By the nonzero rule, as a canvas fills: a hole turns the other way round.
    assert winding(points, 2.5, 1.5) == 0
    assert winding(points, 0.5, 0.5) != 0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("tolerance_px", "at_least"), [(0.0, 0.999), (1.0, 0.98)])
def test_polygons_on_another_rasteriser(tolerance_px: float, at_least: float) -> None:
    from pycocotools import mask as coco

    mask = blobs(512)
    polygons = [points.ravel().tolist() for points in mask_polygons(mask, tolerance_px)]
    rasterised = coco.decode(coco.merge(coco.frPyObjects(polygons, 512, 512))).astype(bool)
    assert iou(rasterised, mask) >= at_least
    assert iou(filled(mask_polygons(mask, tolerance_px), mask.shape), mask) >= at_least


def test_simplified_polygons_have_far_fewer_points() -> None:
    mask = blobs(256, seed=3)
    assert sum(map(len, mask_polygons(mask, 1.0))) < sum(map(len, mask_polygons(mask))) / 4


def test_polygons_largest_first_and_specks_left_out() -> None:
    mask = drawn("#...##", "....##", "......", "###...")
    assert [len(polygon_mask(p, 4, 6).nonzero()[0]) for p in mask_polygons(mask)] == [4, 3, 1]
    assert len(mask_polygons(mask, min_area_px=3)) == 2
    assert mask_polygons(mask, min_area_px=5) == []
    assert mask_polygons(np.zeros((4, 6), bool)) == []


def test_area_is_that_of_the_pixels_without_the_holes() -> None:
    ring = drawn("###", "#.#", "###")
    assert len(mask_polygons(ring, min_area_px=8)) == 1
    assert mask_polygons(ring, min_area_px=9) == []


def test_alpha_masks_and_slices_are_masks() -> None:
    mask = blobs(64)
    for same in (mask * np.uint8(7), np.asfortranarray(mask), np.stack([mask, ~mask], axis=-1)[..., 0]):
        assert (filled(mask_polygons(same), mask.shape) == mask).all()


@pytest.mark.parametrize("tolerance_px", [-1, math.nan, math.inf])
def test_polygon_tolerance_must_be_a_length(tolerance_px: float) -> None:
    with pytest.raises(MaskError, match="tolerance"):
        mask_polygons(np.ones((2, 2), bool), tolerance_px)
