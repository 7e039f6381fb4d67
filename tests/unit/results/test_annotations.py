"""Annotations are read into class maps, from everything an annotator can draw."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.errors import MaskError
from segloop.masks import encode_bitmask, encode_rle
from segloop.results import Canvas, annotation_class_map
from tests.regions import ALL, CLASSES, LABELS, brush_item, config_of, drawn, item, painted, rectangle

BARE = config_of(
    "PolygonLabels", extra=f'<Labels name="labels" toName="image">{LABELS}</Labels><Brush name="plain" toName="image"/>'
)


# -- read


def test_later_regions_paint_over_earlier_ones_whatever_their_kind() -> None:
    whole = brush_item(np.ones((4, 5), bool), "See")
    box = rectangle(0, 0, 40, 50, "Tree", "r2")
    assert painted(whole, box).tolist() == [[3, 3, 2, 2, 2]] * 2 + [[2] * 5] * 2
    assert (painted(box, whole) == 2).all()


def test_unlabelled_pixels() -> None:
    box = rectangle(0, 0, 20, 25)
    assert painted(box).tolist() == [[1, 0, 0, 0, 0]] + [[0] * 5] * 3
    assert painted(box, unlabelled="ignore").tolist() == [[1, 255, 255, 255, 255]] + [[255] * 5] * 3
    assert (painted() == 0).all()


def test_rotated_rectangle_on_an_image_that_is_not_square() -> None:
    # 2 pixels wide, 1 high at (4, 1) of a 10x4 image, turned by 90 degrees: it hangs down to the left.
    value = {"x": 40, "y": 25, "width": 20, "height": 25, "rotation": 90}
    mask = painted(item("rectanglelabels", value), height=4, width=10)
    assert np.argwhere(mask).tolist() == [[1, 3], [2, 3]]


def test_rotated_ellipse_on_an_image_that_is_not_square() -> None:
    value = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 2.5, "rotation": 90}
    mask = painted(item("ellipselabels", value), height=20, width=40)
    # Radii of 4 and half a pixel about (20, 10), upright.
    assert sorted({int(x) for _, x in np.argwhere(mask)}) in ([19, 20], [])
    flat = painted(item("ellipselabels", {**value, "radiusY": 10, "rotation": 0}), height=20, width=40)
    assert np.flatnonzero(flat.any(axis=0)).tolist() == list(range(16, 24))
    assert np.flatnonzero(flat.any(axis=1)).tolist() == list(range(8, 12))


def test_polygon_and_bitmask_are_read() -> None:
    points = [[0, 0], [60, 0], [60, 50], [0, 50]]
    assert (
        painted(item("polygonlabels", {"points": points, "closed": True})).tolist()
        == [[1, 1, 1, 0, 0]] * 2 + [[0] * 5] * 2
    )
    mask = np.eye(4, 5, dtype=bool)
    assert (painted(item("bitmasklabels", {"imageDataURL": encode_bitmask(mask)}, "Tree")) == mask * 3).all()


def test_soft_edges_count_from_half_of_the_strongest_alpha() -> None:
    assert painted(brush_item(np.array([[0, 60, 127, 128, 255]] * 4, np.uint8))).tolist() == [[0, 0, 0, 1, 1]] * 4
    assert painted(brush_item(np.array([[0, 1, 0, 1, 1]] * 4, np.uint8))).tolist() == [[0, 1, 0, 1, 1]] * 4
    assert (painted(brush_item(np.zeros((4, 5), np.uint8))) == 0).all()


def test_region_of_another_size_is_stretched() -> None:
    small = np.array([[True, False], [False, True]])
    assert painted(brush_item(small), height=4, width=6).tolist() == [[1, 1, 1, 0, 0, 0]] * 2 + [[0, 0, 0, 1, 1, 1]] * 2


def test_region_without_an_original_size_has_the_images() -> None:
    region = brush_item(np.eye(4, 5, dtype=bool))
    del region["original_width"], region["original_height"]
    assert (painted(region) == np.eye(4, 5)).all()


def test_labels_by_value_alias_and_unicode() -> None:
    assert (painted(rectangle(0, 0, 100, 100, "See")) == 2).all()
    assert (painted(rectangle(0, 0, 100, 100, "Straße am See")) == 2).all()


def test_bare_shapes_take_their_label_from_the_item_that_shares_their_id() -> None:
    shape = {"format": "rle", "rle": encode_rle(np.eye(4, 5, dtype=bool))}
    size = {"original_height": 4, "original_width": 5}
    bare, named = item("brush", shape, None, **size), item("labels", shape, "Tree", **size)
    for items in ([bare, named], [named, bare], [item("labels", {}, "Tree"), bare]):
        assert (painted(*items, config=BARE) == np.eye(4, 5) * 3).all()


def test_what_is_passed_over() -> None:
    elsewhere = {**rectangle(0, 0, 100, 100), "to_name": "other"}
    others = [
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        {"id": "r1", "from_name": "c", "to_name": "image", "type": "choices", "value": {"choices": ["Rain"]}},
        {"id": "r1", "from_name": "t", "to_name": "image", "type": "textarea", "value": {"text": ["hi"]}},
        item("keypointlabels", {"x": 1, "y": 1, "width": 1}, "Nothing known"),
        item("vectorlabels", {"vertices": []}),
        item("polygonlabels", {"points": [[0, 0], [9, 0], [9, 9]], "polygonlabels": []}, None),
        item("brush", {"format": "rle", "rle": [1]}, None),
        {},
        {"type": None, "to_name": "image"},
    ]
    assert (painted(elsewhere, *others) == 0).all()


@pytest.mark.parametrize(
    ("region", "says"),
    [
        (
            item("brushlabels", {"format": "rle", "rle": encode_rle(np.ones((4, 5), bool))[:-2]}, ident="q7"),
            "cut short",
        ),
        (item("brushlabels", {"format": "rle", "rle": []}, ident="q7"), "0 bytes"),
        (item("brushlabels", {"format": "rle", "rle": list(b"garbage, no code")}, ident="q7"), "."),
        (item("brushlabels", {"format": "rle", "rle": "AAAA"}, ident="q7"), "list of bytes"),
        (item("brushlabels", {"format": "rle"}, ident="q7"), "no shape"),
        (item("brushlabels", {"format": "rle", "rle": None}, ident="q7"), "list"),
        (item("brushlabels", {"format": "png", "rle": []}, ident="q7"), "'png'"),
        (item("brushlabels", {"rle": [10**400]}, ident="q7"), "whole numbers"),
        (item("brushlabels", {"rle": [math.nan] * 20}, ident="q7"), "whole numbers"),
        (item("bitmasklabels", {"imageDataURL": "data:,"}, ident="q7"), "must begin"),
        (item("bitmasklabels", {"imageDataURL": None}, ident="q7"), "must begin"),
        (
            item("bitmasklabels", {"imageDataURL": encode_bitmask(np.ones((4, 5), bool))[:-40]}, ident="q7"),
            "base64|decoded",
        ),
        (
            item("bitmasklabels", {"imageDataURL": encode_bitmask(np.ones((40, 5), bool))}, ident="q7"),
            "5x40.*does not fit",
        ),
        (item("polygonlabels", {"points": [[0, 0], [90, 90]]}, ident="q7"), "no area"),
        (item("polygonlabels", {"points": [[0, 0], [50, 50], [90, 90]]}, ident="q7"), "no area"),
        (item("polygonlabels", {"points": [[5, 5]] * 4}, ident="q7"), "no area"),
        (item("polygonlabels", {"points": [[5, 5]]}, ident="q7"), "no area"),
        (item("polygonlabels", {"points": []}, ident="q7"), "points"),
        (item("polygonlabels", {"points": "abc"}, ident="q7"), "points"),
        (item("polygonlabels", {"points": None}, ident="q7"), "points"),
        (item("polygonlabels", {"points": [[0, 0], [9], [9, 9]]}, ident="q7"), "points"),
        (item("polygonlabels", {"points": [{"x": 1, "y": 2}] * 3}, ident="q7"), "points"),
        (item("polygonlabels", {"points": [[0, None]] * 3}, ident="q7"), "."),
        (item("polygonlabels", {"points": [[0, 10**400]] * 3}, ident="q7"), "."),
        (item("polygonlabels", {"points": [[0, 0], [math.nan, 0], [90, 90]]}, ident="q7"), "no number"),
        (item("polygonlabels", {"points": [[0, 0], [math.inf, 0], [90, 90]]}, ident="q7"), "no number"),
        (item("polygonlabels", {"points": [[0, 0], [1e9, 0], [90, 90]]}, ident="q7"), "too far"),
        (item("polygonlabels", {"closed": True}, ident="q7"), "no shape"),
        (item("rectanglelabels", {"x": 1, "y": 1, "width": 5}, ident="q7"), "height"),
        (item("rectanglelabels", {"y": 1, "width": 5, "height": 5}, ident="q7"), "x is None"),
        (item("rectanglelabels", {"x": "1", "y": 1, "width": 5, "height": 5}, ident="q7"), "x is '1'"),
        (item("rectanglelabels", {"x": math.nan, "y": 1, "width": 5, "height": 5}, ident="q7"), "x is nan"),
        (item("rectanglelabels", {"x": 1, "y": 1, "width": math.inf, "height": 5}, ident="q7"), "width is inf"),
        (item("rectanglelabels", {"x": 10**400, "y": 1, "width": 5, "height": 5}, ident="q7"), "."),
        (item("rectanglelabels", {"x": 1, "y": 1, "width": 0, "height": 5}, ident="q7"), "no area"),
        (item("rectanglelabels", {"x": 1, "y": 1, "width": 5, "height": 0}, ident="q7"), "no area"),
        (item("rectanglelabels", {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": "up"}, ident="q7"), "rotation"),
        (
            item("rectanglelabels", {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": math.nan}, ident="q7"),
            "rotation",
        ),
        (item("ellipselabels", {"x": 1, "y": 1, "radiusX": -5, "radiusY": 5}, ident="q7"), "negative"),
        (item("ellipselabels", {"x": 1, "y": 1, "radiusX": 0, "radiusY": 5}, ident="q7"), "no area"),
        (item("ellipselabels", {"x": 1, "y": 1, "radiusX": 5}, ident="q7"), "radiusY"),
        ({**rectangle(0, 0, 9, 9, ident="q7"), "value": None}, "no value"),
        ({**rectangle(0, 0, 9, 9, ident="q7"), "value": []}, "no value"),
        (item("rectanglelabels", {}, ident="q7"), "no shape"),
        (item("magicwand", {"format": "rle", "rle": [0]}, None, "q7"), "too few"),
        (item("vectorlabels", {"vertices": [{"x": 1}] * 3, "closed": True}, ident="q7"), "points"),
    ],
)
def test_a_region_that_cannot_be_read_costs_no_other(region: Any, says: str) -> None:
    good = rectangle(0, 0, 50, 50)
    for items in ([good, region], [region, good]):
        drawing = drawn(*items)
        assert (drawing.class_map == painted(good)).all()
        assert drawing.readable
        [problem] = drawing.problems
        assert (problem.kind, problem.region) == ("region", "q7")
        assert re.search(says, problem.text), problem.text
    # Alone, it would be background: nobody said that.
    with pytest.raises(MaskError, match=r"Region 'q7' cannot be used: .*; nor can any other"):
        painted(region)


@pytest.mark.parametrize("thing", [None, 5, "text", [], True])
def test_what_is_no_item_is_named(thing: Any) -> None:
    good = rectangle(0, 0, 50, 50)
    drawing = drawn(good, thing)
    assert (drawing.class_map == painted(good)).all()
    assert drawing.problems[0].region == "item 1"


@pytest.mark.parametrize("result", [None, {}, "[]", 5])
def test_an_annotation_without_a_list_is_refused(result: Any) -> None:
    with pytest.raises(MaskError, match="must be a list of items"):
        annotation_class_map(result, ALL, Canvas("image", 4, 5), CLASSES)


# -- labels


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("Bike", "not in the label config$"),
        ("road", "not in the label config, which has 'Road'"),
        ("Road ", "which has 'Road'"),
        (" r o a d", "which has 'Road'"),
        ("strasse am see", "which has 'Straße am See'"),
        ("", "no label"),
    ],
)
@pytest.mark.parametrize("unlabelled", ["background", "ignore"])
def test_pixels_of_an_unknown_label_are_ignored(label: str, says: str, unlabelled: Any) -> None:
    drawing = drawn(rectangle(0, 0, 40, 100, "See", "a"), rectangle(20, 0, 40, 100, label, "b"), unlabelled=unlabelled)
    rest = 255 if unlabelled == "ignore" else 0
    assert drawing.class_map.tolist() == [[2, 255, 255, rest, rest]] * 4
    [problem] = drawing.problems
    assert problem.region == "b"
    assert re.search(says, problem.text)
    if label:
        assert (problem.kind, problem.name) == ("label", label)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "no label"),
        ({"rectanglelabels": []}, "no label"),
        ({"rectanglelabels": None}, "no label"),
        ({"rectanglelabels": "Road"}, "list of names"),
        ({"rectanglelabels": [1]}, "list of names"),
        ({"rectanglelabels": [None]}, "list of names"),
        ({"rectanglelabels": {"a": 1}}, "list of names"),
    ],
)
def test_pixels_without_a_label_that_can_be_read_are_ignored(value: Any, says: str) -> None:
    box = {"x": 0, "y": 0, "width": 100, "height": 50}
    drawing = drawn(item("rectanglelabels", {**box, **value}, None, "q7"))
    assert drawing.class_map.tolist() == [[255] * 5] * 2 + [[0] * 5] * 2
    assert drawing.readable
    [problem] = drawing.problems
    assert (problem.kind, problem.region) == ("region", "q7")
    assert says in problem.text


@pytest.mark.parametrize("kind", [None, "", 5, "polygon_labels", "PolygonLabels"])
def test_a_type_that_is_missing_or_unknown_is_told_by_the_shape(kind: Any) -> None:
    region = {"id": "r", "to_name": "image", "value": {"points": [[0, 0], [100, 0], [100, 50], [0, 50]]}}
    region["value"]["polygonlabels"] = ["Tree"]
    if kind is not None:
        region["type"] = kind
    assert painted(region).tolist() == [[3] * 5] * 2 + [[0] * 5] * 2


def test_a_region_keeps_its_pixels_beside_items_that_belong_to_it() -> None:
    box = rectangle(0, 0, 100, 50, "Tree")
    more = [
        {**box, "type": kind, "value": {**box["value"], kind: ["x"]}} for kind in ("choices", "textarea", "newkind")
    ]
    assert (painted(box, *more) == painted(box)).all()


def test_a_closed_vector_is_ignored_and_an_open_one_is_a_line() -> None:
    vertices = [{"x": x, "y": y} for x, y in ((0, 0), (100, 0), (100, 50), (0, 50))]
    drawing = drawn(item("vectorlabels", {"vertices": vertices, "closed": True}, "Tree", "v"))
    assert drawing.class_map.tolist() == [[255] * 5] * 2 + [[0] * 5] * 2
    assert "vectors" in drawing.problems[0].text
    assert drawn(item("vectorlabels", {"vertices": vertices, "closed": False}, "Tree")).problems == ()


def test_magic_wand_regions_are_read() -> None:
    shape = {"format": "rle", "rle": encode_rle(np.eye(4, 5, dtype=bool))}
    wand, named = item("magicwand", shape, None), item("labels", shape, "Tree")
    config = config_of(
        "BrushLabels", extra=f'<Labels name="l" toName="image">{LABELS}</Labels><MagicWand name="m" toName="image"/>'
    )
    for items in ([wand, named], [named, wand], [wand, item("labels", {}, "Tree")]):
        assert (painted(*items, config=config) == np.eye(4, 5) * 3).all()


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["Road", "image", "x", ""]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            *(
                                "id",
                                "type",
                                "to_name",
                                "from_name",
                                "value",
                                "points",
                                "rle",
                                "x",
                                "y",
                                "width",
                                "height",
                            ),
                            *("brushlabels", "labels", "original_width", "original_height", "item_index", "rotation"),
                            *("radiusX", "radiusY", "imageDataURL", "vertices", "closed", "format"),
                        ]
                    ),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=12,
        ),
        max_size=3,
    ),
    st.sampled_from(["polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels", "brush", "vector", None]),
)
def test_nonsense_beside_a_region_costs_it_nothing(things: list[Any], kind: str | None) -> None:
    extra = [
        {**thing, "type": kind, "to_name": "other", "id": n}
        for n, thing in enumerate(things)
        if isinstance(thing, dict)
    ]
    good = rectangle(0, 0, 50, 50, ident="good")
    assert (drawn(good, *extra).class_map == painted(good)).all()
    with contextlib.suppress(MaskError):
        on_image = [{**thing, "to_name": "image"} for thing in extra]
        assert drawn(*on_image, *things).class_map.shape == (4, 5)
