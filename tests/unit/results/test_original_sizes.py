"""Masks of a size, on an image of the same size or of another: original_width, original_height, and the mask itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.errors import MaskError
from segloop.masks import encode_bitmask
from segloop.results import Canvas, annotation_class_map
from tests.regions import ALL, CLASSES, brush_item, drawn, item, painted


def sized(mask: np.ndarray, height: Any, width: Any) -> dict[str, Any]:
    return brush_item(mask, original_height=height, original_width=width)


BOX = np.zeros((30, 50), np.uint8)
BOX[5:15, 10:40] = 255


@pytest.mark.parametrize(
    ("height", "width"),
    [(30, 50), (50, 30), (0, 0), (-30, 50), ("30", "50"), (None, None), (30, None), (1, 1), (15, 100), (math.nan, 50)],
)
def test_a_brush_that_fits_the_image_is_read_as_the_editor_reads_it(height: Any, width: Any) -> None:
    drawing = drawn(sized(BOX, height, width), height=30, width=50)
    assert (drawing.class_map == (BOX > 0)).all()
    assert drawing.problems == ()


def test_a_brush_of_an_image_as_it_lay_is_named() -> None:
    upright = np.ascontiguousarray(BOX.T)
    with pytest.raises(MaskError, match="drawn on an image of 30x50 pixels; this one has 50x30"):
        painted(sized(upright, 50, 30), height=30, width=50)


@pytest.mark.parametrize(
    ("mask", "height", "width"),
    [
        (np.ones((31, 50), np.uint8), 31, 50),
        (np.ones((30, 50), np.uint8)[:29], 30, 50),
        (np.ones((10, 10), np.uint8), 10, 10),
        (np.ones((50, 30), np.uint8)[:49], 49, 30),
        (np.ones((60, 100), np.uint8), 100, 60),
        (np.ones((60, 100), np.uint8), None, None),
        (np.ones((60, 100), np.uint8), 30, 50),
    ],
)
def test_a_brush_of_another_image_is_named_and_never_stretched(mask: np.ndarray, height: Any, width: Any) -> None:
    with pytest.raises(MaskError, match=rf"its mask has {mask.size} pixels.*the image has 50x30"):
        painted(sized(mask, height, width), height=30, width=50)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_brush_of_the_same_image_in_another_size_is_scaled_and_said_to_be(factor: int) -> None:
    large = BOX.repeat(factor, axis=0).repeat(factor, axis=1)
    drawing = drawn(sized(large, 30 * factor, 50 * factor), height=30, width=50)
    assert (drawing.class_map == (BOX > 0)).all()
    [problem] = drawing.problems
    assert (problem.kind, problem.name) == ("size", f"{50 * factor}x{30 * factor}")
    back = drawn(sized(BOX, 30, 50), height=30 * factor, width=50 * factor)
    assert (back.class_map == (large > 0)).all()
    bitmask = drawn(item("bitmasklabels", {"imageDataURL": encode_bitmask(large > 0)}), height=30, width=50)
    assert (bitmask.class_map == (BOX > 0)).all()
    assert bitmask.problems[0].name == f"{50 * factor}x{30 * factor}"


@pytest.mark.parametrize("shape", [(50, 30), (30, 30), (1, 50), (60, 50)])
def test_a_bitmask_of_other_proportions_is_named(shape: tuple[int, int]) -> None:
    with pytest.raises(MaskError, match="does not fit an image of 50x30"):
        painted(item("bitmasklabels", {"imageDataURL": encode_bitmask(np.ones(shape, bool))}), height=30, width=50)


@given(
    st.tuples(st.integers(2, 40), st.integers(2, 40)),
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.integers(0, 2**32 - 1),
)
def test_sizes_that_contradict_never_change_a_mask_that_fits(
    size: tuple[int, int], told: tuple[int, int], seed: int
) -> None:
    mask = np.zeros(size, np.uint8)
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(0, side)) for side in size)
    mask[top : top + 1 + int(rng.integers(size[0])), left : left + 1 + int(rng.integers(size[1]))] = 255
    region = sized(mask, *told)
    try:
        found = annotation_class_map([region], ALL, Canvas("image", *size), CLASSES)
    except MaskError:
        # A box that is as plain at the other width: it may have been drawn on the image as it lay.
        assert told != size
        assert told[0] * told[1] == mask.size
    else:
        assert (found == (mask > 0)).all()
