"""Result items: written and read back in every tag, read from everything an annotator can draw."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.errors import MaskError
from segloop.label_config import LabelConfig, parse_label_config
from segloop.masks import encode_bitmask, encode_rle
from segloop.results import (
    Region,
    RegionWriter,
    Scene,
    annotation_class_map,
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


def painted(
    *items: Any, height: int = 4, width: int = 5, config: LabelConfig = ALL, unlabelled: Any = "background"
) -> np.ndarray:
    return annotation_class_map(list(items), config, "image", height, width, CLASSES, unlabelled)


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
    assert (annotation_class_map(items, config, "image", *class_map.shape, CLASSES) == class_map).all()
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
    assert (annotation_class_map(items, config, "image", 15, 17, names) == class_map).all()


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
        (rectangle(0, 0, 9, 9, "Unknown", "q7"), "'q7'.*'Unknown'"),
        (
            item("brushlabels", {"format": "rle", "rle": encode_rle(np.ones((4, 5), bool))[:-2]}, ident="q7"),
            "'q7'.*cut short",
        ),
        (item("brushlabels", {"format": "rle"}, ident="q7"), "'q7'.*no shape"),
        (item("brushlabels", {"format": "rle", "rle": None}, ident="q7"), "'q7'.*list"),
        (item("brushlabels", {"format": "png", "rle": []}, ident="q7"), "'q7'.*'png'"),
        (brush_item(np.ones((2, 2), bool), ident="q7", original_width=3), "'q7'.*needs"),
        (brush_item(np.ones((2, 2), bool), ident="q7", original_width="2"), "'q7'.*original_width"),
        (brush_item(np.ones((2, 2), bool), ident="q7", original_width=-2), "'q7'.*original_width"),
        (brush_item(np.ones((2, 2), bool), ident="q7", original_width=2**20, original_height=2**20), "'q7'.*too large"),
        (item("bitmasklabels", {"imageDataURL": "data:,"}, ident="q7"), "'q7'.*must begin"),
        (item("polygonlabels", {"points": [[0, 0], [1, 1]]}, ident="q7"), "'q7'.*3 or more"),
        (item("polygonlabels", {"points": []}, ident="q7"), "'q7'.*points"),
        (item("polygonlabels", {"points": "abc"}, ident="q7"), "'q7'.*points"),
        (item("polygonlabels", {"points": [[0, None]] * 3}, ident="q7"), "'q7'"),
        (item("polygonlabels", {"points": [[0, 10**400]] * 3}, ident="q7"), "'q7'"),
        (item("brushlabels", {"rle": [10**400]}, ident="q7"), "'q7'"),
        (item("rectanglelabels", {"x": 1, "y": 1, "width": 5}, ident="q7"), "'q7'.*height"),
        (item("rectanglelabels", {"x": "1", "y": 1, "width": 5, "height": 5}, ident="q7"), "'q7'.*x is '1'"),
        (item("rectanglelabels", {"x": math.nan, "y": 1, "width": 5, "height": 5}, ident="q7"), "'q7'.*x is nan"),
        (item("rectanglelabels", {"x": 10**400, "y": 1, "width": 5, "height": 5}, ident="q7"), "'q7'"),
        (item("ellipselabels", {"x": 1, "y": 1, "radiusX": -5, "radiusY": 5}, ident="q7"), "'q7'.*negative"),
        (
            item("rectanglelabels", {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": "up"}, ident="q7"),
            "'q7'.*rotation",
        ),
        ({**rectangle(0, 0, 9, 9, ident="q7"), "value": None}, "'q7'.*no value"),
        (item("rectanglelabels", {"rectanglelabels": "Road"}, None, "q7"), "'q7'.*list of names"),
        (item("rectanglelabels", {"rectanglelabels": [1]}, None, "q7"), "'q7'.*list of names"),
        (None, "not a JSON object"),
    ],
)
def test_regions_that_cannot_be_read_are_named(region: Any, says: str) -> None:
    with pytest.raises(MaskError, match=says):
        painted(rectangle(0, 0, 50, 50), region)
