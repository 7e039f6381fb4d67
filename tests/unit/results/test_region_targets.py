"""Which image a region was drawn on: its to_name, and its item_index in a list of images."""

from __future__ import annotations

import re
from typing import Any

import pytest

from segloop.errors import MaskError
from segloop.label_config import parse_label_config
from segloop.results import Canvas, draw_annotation
from tests.regions import ALL, CLASSES, LABELS, drawn, painted, rectangle

ONE_IMAGE = parse_label_config(
    f'<View><Image name="image" value="$image"/><BrushLabels name="b" toName="image">{LABELS}</BrushLabels></View>'
)


@pytest.mark.parametrize("to_name", ["img", "Image", "b", "", None, 5])
def test_an_annotation_that_points_nowhere_is_refused(to_name: Any) -> None:
    regions = [{**rectangle(0, 0, 50, 50, ident=ident), "to_name": to_name} for ident in "ab"]
    with pytest.raises(MaskError, match=rf"all its regions \(2\) point at {re.escape(repr(to_name))}, which is no tag"):
        painted(*regions, config=ONE_IMAGE)
    del regions[0]["to_name"], regions[1]["to_name"]
    with pytest.raises(MaskError, match="point at None"):
        painted(*regions)


def test_regions_that_point_nowhere_are_ignored_beside_others() -> None:
    good, stray = rectangle(0, 0, 100, 50), {**rectangle(0, 25, 100, 50, ident="s"), "to_name": "img"}
    drawing = drawn(good, stray, config=ONE_IMAGE)
    assert drawing.class_map.tolist() == [[1] * 5, [255] * 5, [255] * 5, [0] * 5]
    [problem] = drawing.problems
    assert (problem.kind, problem.region, problem.name) == ("target", "s", "img")
    # With two images nobody knows which one it was drawn on.
    drawing = drawn(good, stray)
    assert (drawing.class_map == painted(good)).all()
    assert [problem.kind for problem in drawing.problems] == ["target"]


def test_regions_of_other_images_and_of_other_tags_point_somewhere() -> None:
    elsewhere = {**rectangle(0, 0, 100, 100), "to_name": "other"}
    drawing = drawn(elsewhere)
    assert (drawing.class_map == 0).all()
    assert (drawing.problems, drawing.readable) == ((), None)


def test_items_of_a_list_of_images() -> None:
    first, second = (
        {**rectangle(0, 0, 100, 50, name, name), "item_index": n} for n, name in enumerate(("Road", "Tree"))
    )
    maps = [
        draw_annotation([first, second], ALL, Canvas("image", 2, 2, index), CLASSES).class_map.tolist()
        for index in (0, 1, 2)
    ]
    assert maps == [[[1, 1], [0, 0]], [[3, 3], [0, 0]], [[0, 0], [0, 0]]]
    # Without an index it is the first image's.
    del second["item_index"]
    assert draw_annotation([second], ALL, Canvas("image", 2, 2, 0), CLASSES).class_map.any()


def test_what_cannot_be_read_on_one_image_does_not_cost_the_other() -> None:
    broken = {**rectangle(0, 0, 0, 0, ident="q"), "to_name": "other"}
    result = [rectangle(0, 0, 100, 50), broken]
    image, other = (draw_annotation(result, ALL, Canvas(tag, 2, 2), CLASSES) for tag in ("image", "other"))
    assert image.class_map.tolist() == [[1, 1], [0, 0]]
    assert image.problems == ()
    assert (other.class_map == 255).all()
    assert other.readable is False
