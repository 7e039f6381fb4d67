"""Result items: written and read back in every tag, read from everything an annotator can draw."""

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.errors import MaskError
from segloop.label_config import LabelConfig, parse_label_config
from segloop.masks import encode_bitmask, encode_rle
from segloop.results import (
    Canvas,
    Drawing,
    Region,
    RegionWriter,
    Scene,
    annotation_class_map,
    draw_annotation,
)
from segloop.results.scores import mean_by_value
from tests.regions import ALL, BRUSH, CLASSES, LABELS, config_of, item

BARE = config_of(
    "PolygonLabels", extra=f'<Labels name="labels" toName="image">{LABELS}</Labels><Brush name="plain" toName="image"/>'
)

class_maps = st.integers(0, 2**32 - 1).map(
    lambda seed: (rng := np.random.default_rng(seed)).integers(0, 4, rng.integers(1, 16, 2)).astype(np.uint8)
)


def brush_item(mask: np.ndarray, label: str | None = "Road", ident: str = "r1", **more: Any) -> dict[str, Any]:
    sizes = {"original_height": mask.shape[0], "original_width": mask.shape[1], **more}
    return item("brushlabels", {"format": "rle", "rle": encode_rle(mask)}, label, ident, **sizes)


def rectangle(
    x: float, y: float, width: float, height: float, label: str = "Road", ident: str = "r1"
) -> dict[str, Any]:
    return item("rectanglelabels", {"x": x, "y": y, "width": width, "height": height, "rotation": 0}, label, ident)


def drawn(
    *items: Any, height: int = 4, width: int = 5, config: LabelConfig = ALL, unlabelled: Any = "background"
) -> Drawing:
    return draw_annotation(list(items), config, Canvas("image", height, width), CLASSES, unlabelled)


def painted(
    *items: Any, height: int = 4, width: int = 5, config: LabelConfig = ALL, unlabelled: Any = "background"
) -> np.ndarray:
    return annotation_class_map(list(items), config, Canvas("image", height, width), CLASSES, unlabelled)


# -- written


def class_map_regions(
    class_map: np.ndarray,
    classes: tuple[str, ...],
    config: LabelConfig,
    image: str,
    *,
    confidence: np.ndarray | None = None,
    **style: Any,
) -> list[Region]:
    return RegionWriter(config, image, **style).scene_regions(Scene(class_map, classes, confidence))


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "PolygonLabels"])
@pytest.mark.parametrize("per", ["class", "component"])
@given(class_map=class_maps)
def test_round_trip_through_every_tag(tag: str, per: Any, class_map: np.ndarray) -> None:
    config = config_of(tag)
    items = json.loads(json.dumps(class_map_regions(class_map, CLASSES, config, "image", per=per, tolerance_px=0)))
    assert (annotation_class_map(items, config, Canvas("image", *class_map.shape), CLASSES) == class_map).all()
    assert len({one["id"] for one in items}) == len(items)


def test_items_are_as_label_studio_keeps_them() -> None:
    class_map = np.array([[1, 1, 0], [0, 2, 255]], np.uint8)
    first, second = class_map_regions(class_map, CLASSES, BRUSH, "image")
    ident = first.pop("id")
    assert isinstance(ident, str)
    assert 5 <= len(ident) <= 20
    assert first == {
        "from_name": "brush",
        "to_name": "image",
        "type": "brushlabels",
        "origin": "prediction",
        "original_width": 3,
        "original_height": 2,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_rle(class_map == 1), "brushlabels": ["Road"]},
    }
    assert second["value"]["brushlabels"] == ["See"]


def test_polygon_points_are_percentages() -> None:
    class_map = np.zeros((10, 20), np.uint8)
    class_map[5:, :10] = 3
    [only] = class_map_regions(class_map, CLASSES, ALL, "image", preference="polygon")
    assert (only["type"], only["from_name"]) == ("polygonlabels", "polyg")
    assert {tuple(point) for point in only["value"]["points"]} == {(0, 50), (50, 50), (50, 100), (0, 100)}
    assert only["value"]["closed"] is True
    assert only["value"]["polygonlabels"] == ["Tree"]


def test_scores_are_mean_confidences() -> None:
    class_map = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [2, 0, 0, 0]], np.uint8)
    confidence = np.zeros((3, 4), np.float32)
    confidence[0] = 0.5, 1.0, 0.0, 0.25
    confidence[2, 0] = 1.5
    by_class = class_map_regions(class_map, CLASSES, BRUSH, "image", confidence=confidence)
    assert [one["score"] for one in by_class] == [pytest.approx(1.75 / 3), 1.0]
    by_piece = class_map_regions(class_map, CLASSES, BRUSH, "image", confidence=confidence, per="component")
    assert sorted(one["score"] for one in by_piece) == [0.25, 0.75, 1.0]
    polygons = class_map_regions(class_map, CLASSES, ALL, "image", confidence=confidence, preference="polygon")
    assert sorted(one["score"] for one in polygons) == [0.25, 0.75, 1.0]


def test_scores_of_a_coarser_confidence() -> None:
    class_map = np.zeros((8, 12), np.uint8)
    class_map[:, :4] = 1
    class_map[7, 11] = 2  # between the middles of the cells
    class_map[0, 8] = 255
    confidence = np.array([[0.5, 0.1, 0.2], [1.0, 0.3, 0.75]], np.float32)
    first, second = class_map_regions(class_map, CLASSES, BRUSH, "image", confidence=confidence)
    assert first["score"] == pytest.approx(0.75)
    assert second["score"] == pytest.approx(0.75)
    assert mean_by_value(class_map, 4, confidence)[3] is None


def test_a_score_that_is_no_number_is_left_out() -> None:
    [only] = class_map_regions(
        np.ones((2, 2), np.uint8), CLASSES, BRUSH, "image", confidence=np.full((2, 2), np.nan, np.float32)
    )
    assert "score" not in only


def test_nothing_to_write() -> None:
    empty = np.array([[0, 255]], np.uint8)
    assert class_map_regions(empty, CLASSES, BRUSH, "image") == []
    assert class_map_regions(np.ones((2, 2), np.uint8), CLASSES, BRUSH, "other") == []
    assert class_map_regions(np.ones((2, 2), np.uint8), ("Gone",), BRUSH, "image") == []
    assert class_map_regions(np.full((2, 2), 9, np.uint8), CLASSES, BRUSH, "image") == []
    assert class_map_regions(np.ones((2, 2), np.uint8), CLASSES, BRUSH, "image", min_area_px=5) == []


def test_254_classes_are_written() -> None:
    names = tuple(map(str, range(254)))
    tags = "".join(f'<Label value="{name}"/>' for name in names)
    config = parse_label_config(
        f'<View><Image name="image" value="$i"/><BrushLabels name="b" toName="image">{tags}</BrushLabels></View>'
    )
    class_map = np.arange(255, dtype=np.uint8).reshape(15, 17)
    items = class_map_regions(class_map, names, config, "image")
    assert [one["value"]["brushlabels"][0] for one in items] == list(names)
    assert (annotation_class_map(items, config, Canvas("image", 15, 17), names) == class_map).all()


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


# -- what regions point at


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


# -- sizes


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
