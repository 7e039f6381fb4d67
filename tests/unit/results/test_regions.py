"""Class maps become result items: the tags of each, their masks, polygons and scores."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.label_config import LabelConfig, parse_label_config
from segloop.masks import encode_rle
from segloop.results import Canvas, Region, RegionWriter, Scene, annotation_class_map
from segloop.results.scores import mean_by_value
from tests.regions import ALL, BRUSH, CLASSES, config_of

class_maps = st.integers(0, 2**32 - 1).map(
    lambda seed: (rng := np.random.default_rng(seed)).integers(0, 4, rng.integers(1, 16, 2)).astype(np.uint8)
)


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
