"""Masks and their codes, against hand-drawn pixels, the SDK's decoder and pycocotools' rasteriser."""

from __future__ import annotations

import base64
import contextlib
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.converter import brush
from PIL import Image

from segloop.errors import MaskError
from segloop.masks import (
    components,
    decode_bitmask,
    decode_rle,
    ellipse_mask,
    encode_bitmask,
    encode_class_rle,
    encode_rle,
    mask_polygons,
    polygon_mask,
    rectangle_mask,
    remove_specks,
)

# What `encode` of the editor's own bundle (Label Studio 1.23.2, @thi.ng/rle-pack) gave for this mask, run in Node.
EDITOR_MASK = np.zeros((6, 7), np.uint8)
EDITOR_MASK[1:4, 2:6] = 255
EDITOR_MASK[5, 0] = 255
EDITOR_RLE = [
    *(0, 0, 0, 168, 57, 27, 254, 35, 0, 191, 255, 108, 2, 255, 253, 176, 11, 255, 248, 124, 2, 63, 252, 46, 0),
]


def drawn(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def blobs(size: int, seed: int = 0) -> np.ndarray:
    import cv2

    noise = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), size / 20) > 0


masks = st.integers(0, 2**32 - 1).map(
    lambda seed: (rng := np.random.default_rng(seed)).random(rng.integers(1, 20, 2)) < rng.random()
)


def sdk_decode(rle: list[int], shape: tuple[int, ...]) -> np.ndarray:
    return brush.decode_rle(rle).reshape(*shape, 4)


# -- run-length codes


def test_rle_is_the_editors_byte_for_byte() -> None:
    assert encode_rle(EDITOR_MASK) == EDITOR_RLE
    assert (decode_rle(EDITOR_RLE, 6, 7) == EDITOR_MASK).all()


@given(masks)
def test_rle_round_trip_and_the_sdk_agrees(mask: np.ndarray) -> None:
    alpha = mask * np.uint8(255)
    rle = encode_rle(mask)
    assert rle == encode_rle(alpha)
    assert (decode_rle(rle, *mask.shape) == alpha).all()
    assert (sdk_decode(rle, mask.shape) == alpha[..., None]).all()


@given(st.integers(0, 2**32 - 1))
def test_rle_of_any_alpha(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, rng.integers(2, 256), rng.integers(1, 12, 2)).astype(np.uint8)
    assert (decode_rle(encode_rle(mask), *mask.shape) == mask).all()
    assert (sdk_decode(encode_rle(mask), mask.shape)[..., 3] == mask).all()


@pytest.mark.parametrize("pixels", [1, 2, 4, 5, 64, 65, 2**14 - 1, 2**14, 2**14 + 1, 2**15, 2**15 + 3, 3 * 2**14])
def test_rle_around_the_longest_run_of_each_size(pixels: int) -> None:
    mask = np.zeros((1, pixels + 3), np.uint8)
    mask[0, 1 : pixels + 1] = 255
    rle = encode_rle(mask)
    assert (decode_rle(rle, 1, pixels + 3) == mask).all()
    assert (sdk_decode(rle, mask.shape)[..., 3] == mask).all()


def test_rle_of_the_sdks_encoder_with_literals() -> None:
    rgba = np.zeros((9, 5, 4), np.uint8)
    rgba[2:5, 1:4] = (0, 255, 0, 100)
    alpha = decode_rle(brush.encode_rle(rgba.ravel()), 9, 5)
    assert (alpha == rgba[..., 3]).all()


def pack(*fields: tuple[int, int]) -> list[int]:
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_rle_with_long_literals_and_other_sizes() -> None:
    # 2 pixels = 8 values: literals 1..5 in one chunk, then a run of three 9s. Length sizes 2, 3, 5, 7; values of 6 bits.
    header = [(8, 32), (5, 5), (1, 4), (2, 4), (4, 4), (6, 4)]
    literals = [(0, 1), (1, 2), (4, 3), *((value, 6) for value in (1, 2, 3, 4, 5))]
    rle = pack(*header, *literals, (1, 1), (0, 2), (2, 2), (9, 6))
    assert decode_rle(rle, 1, 2).tolist() == [[4, 9]]


def test_rle_that_runs_over_its_end_is_cut_off_there() -> None:
    header = [(4, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4)]
    rle = pack(*header, (1, 1), (2, 2), (200, 8), (255, 8))
    assert decode_rle(rle, 1, 1).tolist() == [[255]]


@pytest.mark.parametrize("length", range(len(EDITOR_RLE) - 1))
def test_rle_cut_short(length: int) -> None:
    with pytest.raises(MaskError):
        decode_rle(EDITOR_RLE[:length], 6, 7)


@pytest.mark.parametrize(
    ("rle", "says"),
    [
        ([], "too few"),
        ("0000", "list of bytes"),
        (12, "list of bytes"),
        (None, "list of bytes"),
        ([0, 256], "0 to 255"),
        ([0, -1], "0 to 255"),
        ([0, 1.5], "0 to 255"),
        ([0, "1"], "0 to 255"),
        ([255] * 100, "values"),
        ([0] * 100, "values"),
        ([0, 0, 0, 168, *[255] * 3, 0], "bits"),
    ],
)
def test_rle_that_is_none(rle: object, says: str) -> None:
    with pytest.raises(MaskError, match=says):
        decode_rle(rle, 6, 7)  # type: ignore[arg-type]


def test_rle_of_another_size_is_refused_before_anything_is_unpacked() -> None:
    bomb = [255, 255, 255, 252, 57, 27, *[255] * 40]
    with pytest.raises(MaskError, match="168"):
        decode_rle(bomb, 6, 7)


@given(st.lists(st.integers(0, 255), max_size=60))
def test_rle_of_noise_decodes_or_is_refused(tail: list[int]) -> None:
    with contextlib.suppress(MaskError):
        assert decode_rle([0, 0, 0, 168, *tail], 6, 7).shape == (6, 7)


@pytest.mark.parametrize("mask", [np.zeros((0, 3), np.uint8), np.zeros(3, np.uint8), np.zeros((2, 2), np.float32)])
def test_rle_needs_a_mask(mask: np.ndarray) -> None:
    with pytest.raises(MaskError):
        encode_rle(mask)


@given(st.integers(0, 2**32 - 1))
def test_class_rle_is_each_masks_own(seed: int) -> None:
    class_map = np.random.default_rng(seed).integers(0, 4, (7, 9)).astype(np.uint8)
    wanted = [2, 1, 5]
    assert encode_class_rle(class_map, wanted) == [encode_rle(class_map == value) for value in wanted]


# -- polygons


def filled(polygons: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for points in polygons:
        part = polygon_mask(points, *shape)
        assert not (mask & part).any()
        mask |= part
    return mask


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_polygon_of_a_square_runs_along_its_pixel_edges() -> None:
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    [points] = mask_polygons(mask)
    assert {tuple(point) for point in points} == {(3, 2), (7, 2), (7, 5), (3, 5)}


@given(masks)
def test_polygons_at_no_tolerance_hold_exactly_the_mask(mask: np.ndarray) -> None:
    assert (filled(mask_polygons(mask), mask.shape) == mask).all()


@given(masks, st.floats(0.3, 3))
def test_simplified_polygons_never_cross_themselves(mask: np.ndarray, tolerance_px: float) -> None:
    for points in mask_polygons(mask, tolerance_px):
        assert not crossings(points)


def crossings(points: np.ndarray) -> bool:
    """Whether two segments cross in the inside of both."""
    start, end = points[:, None], np.roll(points, -1, axis=0)[:, None]

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        cross = (b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]
        return np.where(np.abs(cross) < 1e-9, 0, np.sign(cross))

    other, last = start.transpose(1, 0, 2), end.transpose(1, 0, 2)
    apart = side(start, end, other) * side(start, end, last)
    return bool(((apart < 0) & (apart.T < 0)).any())


def test_hole_is_joined_by_a_slit() -> None:
    mask = drawn("#####", "##..#", "#####", "##.##", "#####")
    [points] = mask_polygons(mask)
    assert (polygon_mask(points, 5, 5) == mask).all()
    assert not crossings(points)
    # By the nonzero rule, as a canvas fills: a hole turns the other way round.
    assert winding(points, 2.5, 1.5) == 0
    assert winding(points, 0.5, 0.5) != 0


def winding(points: np.ndarray, x: float, y: float) -> int:
    angles = np.unwrap([math.atan2(py - y, px - x) for px, py in [*points, points[0]]])
    return round((angles[-1] - angles[0]) / (2 * math.pi))


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
    assert mask_polygons(np.zeros((4, 6), bool)) == []


@pytest.mark.parametrize("tolerance_px", [-1, math.nan, math.inf])
def test_polygon_tolerance_must_be_a_length(tolerance_px: float) -> None:
    with pytest.raises(MaskError, match="tolerance"):
        mask_polygons(np.ones((2, 2), bool), tolerance_px)


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
    upright = rectangle_mask(2, 1, 3, 1, 0, 6, 6)
    assert (upright == drawn("......", "..###.", "......", "......", "......", "......")).all()
    down = rectangle_mask(2, 1, 3, 1, 90, 6, 6)
    assert (down == drawn("......", ".#....", ".#....", ".#....", "......", "......")).all()
    assert (rectangle_mask(2, 1, 3, 1, -270, 6, 6) == down).all()
    back = rectangle_mask(3, 2, 3, 2, 180, 6, 6)
    assert (back == drawn("###...", "###...", "......", "......", "......", "......")).all()
    assert rectangle_mask(50, 0, 60, 80, 30, 200, 200).sum() == pytest.approx(60 * 80, rel=0.01)


def test_ellipse_turns_clockwise_about_its_centre() -> None:
    circle = ellipse_mask(2.5, 2.5, 1.5, 1.5, 0, 5, 5)
    assert (circle == drawn(".....", ".###.", ".###.", ".###.", ".....")).all()
    lying = ellipse_mask(4.5, 4.5, 4, 1, 0, 9, 9)
    assert lying.sum(axis=1).tolist() == [0, 0, 0, 1, 9, 1, 0, 0, 0]
    assert (ellipse_mask(4.5, 4.5, 4, 1, 90, 9, 9) == lying.T).all()
    # 45 degrees clockwise, y down: from the top left to the bottom right.
    tilted = ellipse_mask(10, 10, 9, 2, 45, 20, 20)
    assert tilted[15, 15]
    assert not tilted[15, 4]
    assert ellipse_mask(100, 100, 60, 30, 20, 200, 200).sum() == pytest.approx(math.pi * 60 * 30, rel=0.01)
    assert not ellipse_mask(2, 2, 0, 1, 0, 5, 5).any()
    assert not ellipse_mask(-50, 2, 3, 1, 0, 5, 5).any()
    assert ellipse_mask(2, 2, 300, 300, 0, 5, 5).all()


@pytest.mark.parametrize("radius", [-1, math.nan, math.inf])
def test_ellipse_refuses(radius: float) -> None:
    with pytest.raises(MaskError):
        ellipse_mask(1, 1, radius, 1, 0, 4, 4)


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
        (png_of_size(7, 9), "decoded"),
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


def test_remove_specks_drops_small_pieces_of_each_class() -> None:
    class_map = np.array([[1, 1, 2, 0], [1, 0, 0, 255], [0, 0, 2, 2]], np.uint8)
    assert remove_specks(class_map, 1) is class_map
    assert remove_specks(class_map, 2).tolist() == [[1, 1, 0, 0], [1, 0, 0, 255], [0, 0, 2, 2]]
    assert remove_specks(class_map, 4).tolist() == [[0, 0, 0, 0], [0, 0, 0, 255], [0, 0, 0, 0]]
    assert class_map[0, 2] == 2
