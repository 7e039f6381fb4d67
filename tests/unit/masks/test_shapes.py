"""Shapes, bitmasks and pieces, against hand-drawn pixels."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segloop.errors import MaskError
from segloop.masks import (
    Ellipse,
    Rectangle,
    components,
    decode_bitmask,
    ellipse_mask,
    encode_bitmask,
    label_pieces,
    pieces_at,
    polygon_mask,
    rectangle_mask,
    remove_specks,
)

EDITOR_MASK = np.zeros((6, 7), np.uint8)
EDITOR_MASK[1:4, 2:6] = 255
EDITOR_MASK[5, 0] = 255


def drawn(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def blobs(size: int, seed: int = 0) -> np.ndarray:
    import cv2

    noise = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), size / 20) > 0


masks = st.integers(0, 2**32 - 1).map(
    lambda seed: (rng := np.random.default_rng(seed)).random(rng.integers(1, 20, 2)) < rng.random()
)


# -- shapes


def test_polygon_mask_takes_pixels_by_their_centres() -> None:
    triangle = polygon_mask([(0, 0), (4, 0), (0, 4)], 4, 4)
    assert (triangle == drawn("###.", "##..", "#...", "....")).all()
    assert (polygon_mask([(0.6, 0), (2.6, 0), (2.6, 2), (0.6, 2)], 2, 4) == drawn(".##.", ".##.")).all()


def test_polygon_mask_of_crossing_edges_and_beyond_the_image() -> None:
    bow_tie = polygon_mask([(0, 0), (6, 4), (6, 0), (0, 4)], 4, 6)
    assert (bow_tie == drawn("#....#", "##..##", "##..##", "#....#")).all()
    assert polygon_mask([(-9, -9), (99, -9), (99, 99), (-9, 99)], 3, 5).all()
    assert not polygon_mask([(50, 50), (60, 50), (60, 60)], 3, 5).any()
    assert not polygon_mask([(1, 1), (1, 1), (1, 1)], 3, 5).any()


@given(st.lists(st.tuples(st.floats(-5, 15), st.floats(-5, 15)), min_size=3, max_size=12))
def test_polygon_mask_is_the_even_odd_rule_at_each_centre(points: list[tuple[float, float]]) -> None:
    def inside(x: float, y: float) -> bool:
        odd = False
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * ((x1 - x0) / (y1 - y0)) <= x:
                odd = not odd
        return odd

    expected = [[inside(x + 0.5, y + 0.5) for x in range(11)] for y in range(9)]
    assert polygon_mask(points, 9, 11).tolist() == expected


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(1, 2)],
        [(1, 2), (3, 4)],
        [(1, 2, 3)] * 3,
        [("a", "b")] * 3,
        [(math.nan, 1), (2, 3), (4, 5)],
        [(1e300, 1)] * 3,
        None,
    ],
)
def test_polygon_mask_refuses(points: object) -> None:
    with pytest.raises(MaskError):
        polygon_mask(points, 4, 4)  # type: ignore[arg-type]


def test_rectangle_turns_clockwise_about_its_top_left_corner() -> None:
    upright = rectangle_mask(Rectangle(2, 1, 3, 1, 0), 6, 6)
    assert (upright == drawn("......", "..###.", "......", "......", "......", "......")).all()
    down = rectangle_mask(Rectangle(2, 1, 3, 1, 90), 6, 6)
    assert (down == drawn("......", ".#....", ".#....", ".#....", "......", "......")).all()
    assert (rectangle_mask(Rectangle(2, 1, 3, 1, -270), 6, 6) == down).all()
    back = rectangle_mask(Rectangle(3, 2, 3, 2, 180), 6, 6)
    assert (back == drawn("###...", "###...", "......", "......", "......", "......")).all()
    assert rectangle_mask(Rectangle(50, 0, 60, 80, 30), 200, 200).sum() == pytest.approx(60 * 80, rel=0.01)


def test_ellipse_turns_clockwise_about_its_centre() -> None:
    circle = ellipse_mask(Ellipse(2.5, 2.5, 1.5, 1.5, 0), 5, 5)
    assert (circle == drawn(".....", ".###.", ".###.", ".###.", ".....")).all()
    lying = ellipse_mask(Ellipse(4.5, 4.5, 4, 1, 0), 9, 9)
    assert lying.sum(axis=1).tolist() == [0, 0, 0, 1, 9, 1, 0, 0, 0]
    assert (ellipse_mask(Ellipse(4.5, 4.5, 4, 1, 90), 9, 9) == lying.T).all()
    # 45 degrees clockwise, y down: from the top left to the bottom right.
    tilted = ellipse_mask(Ellipse(10, 10, 9, 2, 45), 20, 20)
    assert tilted[15, 15]
    assert not tilted[15, 4]
    assert ellipse_mask(Ellipse(100, 100, 60, 30, 20), 200, 200).sum() == pytest.approx(math.pi * 60 * 30, rel=0.01)
    assert not ellipse_mask(Ellipse(2, 2, 0, 1, 0), 5, 5).any()
    assert not ellipse_mask(Ellipse(-50, 2, 3, 1, 0), 5, 5).any()
    assert ellipse_mask(Ellipse(2, 2, 300, 300, 0), 5, 5).all()


@pytest.mark.parametrize("radius", [-1, math.nan, math.inf])
def test_ellipse_refuses(radius: float) -> None:
    with pytest.raises(MaskError):
        ellipse_mask(Ellipse(1, 1, radius, 1, 0), 4, 4)


# -- bitmasks


def url(image: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@given(masks)
def test_bitmask_round_trip(mask: np.ndarray) -> None:
    assert (decode_bitmask(encode_bitmask(mask), *mask.shape) == mask * np.uint8(255)).all()


def test_bitmask_is_black_on_transparent_rgba_as_the_editor_writes_it() -> None:
    prefix, data = encode_bitmask(EDITOR_MASK).split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (prefix, image.mode, image.size) == ("data:image/png;base64", "RGBA", (7, 6))
    pixels = np.asarray(image)
    assert (pixels[..., :3] == 0).all()
    assert (pixels[..., 3] == EDITOR_MASK).all()


def test_bitmask_reads_alpha_whatever_the_colour_or_mode() -> None:
    rgba = np.full((6, 7, 4), 255, np.uint8)
    rgba[..., 3] = EDITOR_MASK
    picture = Image.fromarray(rgba)
    assert (decode_bitmask(url(picture), 6, 7) == EDITOR_MASK).all()
    assert (decode_bitmask(url(picture.convert("LA")), 6, 7) == EDITOR_MASK).all()
    palette = Image.fromarray((EDITOR_MASK > 0).astype(np.uint8))
    palette.putpalette([0, 0, 0, 0, 0, 0])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=0)
    encoded = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    assert (decode_bitmask(encoded, 6, 7) == EDITOR_MASK).all()


def test_bitmask_without_transparency_is_read_by_lightness() -> None:
    assert (decode_bitmask(url(Image.fromarray(EDITOR_MASK)), 6, 7) == EDITOR_MASK).all()


def test_bitmask_of_another_size_is_stretched() -> None:
    small = drawn("#.", ".#")
    expected = small.repeat(3, axis=0).repeat(2, axis=1) * np.uint8(255)
    assert (decode_bitmask(encode_bitmask(small), 6, 4) == expected).all()


def png_of_size(width: int, height: int) -> str:
    data = bytearray(base64.b64decode(encode_bitmask(EDITOR_MASK).split(",")[1]))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "must begin"),
        (5, "must begin"),
        ("", "must begin"),
        ("https://example.org/mask.png", "must begin"),
        ("data:image/png;base64,***", "base64"),
        ("data:image/png;base64,", "no PNG"),
        (url(Image.new("RGB", (2, 2)), "JPEG"), "no PNG"),
        (encode_bitmask(EDITOR_MASK)[:100], "base64|decoded"),
        (encode_bitmask(blobs(64))[:422], "decoded"),
        (png_of_size(60000, 60000), "too large"),
        (png_of_size(7, 9), "does not fit"),
        (png_of_size(14, 12), "decoded"),
        (png_of_size(11_500, 9_857), "too large"),
    ],
)
def test_bitmask_that_is_none(value: object, says: str) -> None:
    with pytest.raises(MaskError, match=says):
        decode_bitmask(value, 6, 7)  # type: ignore[arg-type]


# -- pieces


def test_components_are_connected_by_sides_and_corners_largest_first() -> None:
    mask = drawn("#..##", ".#...", "....#")
    assert [piece.sum() for piece in components(mask)] == [2, 2, 1]
    assert len(components(mask, min_area_px=2)) == 2
    assert (np.logical_or.reduce(components(mask)) == mask).all()
    assert components(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize("seed", range(4))
def test_pieces_at_pixels_are_those_that_all_pieces_would_show(seed: int) -> None:
    random = np.random.default_rng(seed)
    class_map = np.asarray(random.integers(0, 3, (40, 60)), np.uint8)
    places = [(int(row), int(column)) for row, column in random.integers(0, 40, (seed, 2))]
    expected = np.zeros(class_map.shape, np.bool_)
    for row, column in places:
        _, numbers, _ = label_pieces(class_map == class_map[row, column])
        expected |= numbers == numbers[row, column]
    assert np.array_equal(pieces_at(class_map, places), expected)


def test_remove_specks_drops_small_pieces_of_each_class() -> None:
    class_map = np.array([[1, 1, 2, 0], [1, 0, 0, 255], [0, 0, 2, 2]], np.uint8)
    assert remove_specks(class_map, 1) is class_map
    assert remove_specks(class_map, 2).tolist() == [[1, 1, 0, 0], [1, 0, 0, 255], [0, 0, 2, 2]]
    assert remove_specks(class_map, 4).tolist() == [[0, 0, 0, 0], [0, 0, 0, 255], [0, 0, 0, 0]]
    assert class_map[0, 2] == 2
