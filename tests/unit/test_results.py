"""Result items: written and read back in every tag, read from everything an annotator can draw."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.errors import BadRequest, MaskError
from segloop.label_config import LabelConfig, parse_label_config
from segloop.masks import decode_rle, encode_bitmask, encode_rle
from segloop.results import (
    Box,
    Click,
    Prompt,
    annotation_class_map,
    class_map_regions,
    interactive_mask,
    interactive_regions,
    prompt,
)
from segloop.results.scores import mean_by_value

LABELS = '<Label value="Road"/><Label value="Straße am See" alias="See"/><Label value="Tree"/>'
CLASSES = ("Road", "See", "Tree")


def config_of(*tags: str, extra: str = "") -> LabelConfig:
    controls = "".join(f'<{tag} name="{tag[:5].lower()}" toName="image">{LABELS}</{tag}>' for tag in tags)
    images = '<Image name="image" value="$image"/><Image name="other" value="$other"/>'
    return parse_label_config(f"<View>{images}{controls}{extra}</View>")


BRUSH = config_of("BrushLabels")
ALL = config_of("BrushLabels", "PolygonLabels", "BitmaskLabels", "RectangleLabels", "EllipseLabels")
BARE = config_of(
    "PolygonLabels", extra=f'<Labels name="labels" toName="image">{LABELS}</Labels><Brush name="plain" toName="image"/>'
)

class_maps = st.integers(0, 2**32 - 1).map(
    lambda seed: (rng := np.random.default_rng(seed)).integers(0, 4, rng.integers(1, 16, 2)).astype(np.uint8)
)


def item(
    kind: str, value: dict[str, Any], label: str | None = "Road", ident: str = "r1", **more: Any
) -> dict[str, Any]:
    named = {} if label is None else {kind: [label]}
    return {"id": ident, "from_name": "x", "to_name": "image", "type": kind, "value": {**value, **named}, **more}


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


# -- smart tools

#: Road on the left (two pieces), See in the middle, background on the right.
SCENE = np.array(
    [
        [1, 1, 0, 2, 2, 0, 0, 0],
        [1, 1, 0, 2, 2, 0, 0, 0],
        [0, 0, 0, 2, 2, 0, 0, 0],
        [1, 1, 0, 2, 2, 0, 0, 0],
    ],
    np.uint8,
)


def at(row: int, column: int, positive: bool = True) -> Click:
    return Click((column + 0.5) * 100 / 8, (row + 0.5) * 100 / 4, positive)


def test_a_click_takes_its_connected_piece() -> None:
    mask, value = interactive_mask(SCENE, Prompt((at(0, 1),)))
    assert value == 1
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    both, _ = interactive_mask(SCENE, Prompt((at(0, 1), at(3, 0))))
    assert (both == (SCENE == 1)).all()


@pytest.mark.parametrize("clicks", [(), (at(0, 7),), (at(0, 0, False),), (Click(150, 50),), (Click(-1, 50),)])
def test_clicks_that_find_nothing(clicks: tuple[Click, ...]) -> None:
    mask, value = interactive_mask(SCENE, Prompt(clicks))
    assert value == 0
    assert not mask.any()


def test_the_last_pixel_can_be_clicked() -> None:
    assert interactive_mask(np.ones((4, 8), np.uint8), Prompt((Click(100, 100),)))[1] == 1


def test_a_negative_click_takes_away() -> None:
    other_piece, _ = interactive_mask(SCENE, Prompt((at(0, 1), at(3, 0), at(3, 1, False))))
    assert np.argwhere(other_piece)[:, 0].max() == 3
    assert not other_piece[3, 1]
    assert other_piece[3, 0]
    same_piece, value = interactive_mask(SCENE, Prompt((at(0, 3), at(3, 3, False))))
    assert value == 2
    assert same_piece.sum(axis=1).tolist() == [2, 2, 0, 0]
    in_box, _ = interactive_mask(SCENE, Prompt((at(3, 0, False),), (Box(0, 0, 25, 100),)))
    assert in_box.sum(axis=1).tolist() == [2, 2, 0, 0]


def test_a_box_takes_the_label_else_the_largest_class_in_it() -> None:
    everything = Box(0, 0, 100, 100)
    assert interactive_mask(SCENE, Prompt(boxes=(everything,)))[1] == 2
    mask, value = interactive_mask(SCENE, Prompt(boxes=(everything,)), label_value=1)
    assert value == 1
    assert (mask == (SCENE == 1)).all()
    assert interactive_mask(SCENE, Prompt(boxes=(everything,)), label_value=3)[1] == 2
    top, _ = interactive_mask(SCENE, Prompt((at(0, 3),), (Box(0, 0, 100, 50),)))
    assert top.sum(axis=1).tolist() == [2, 2, 0, 0]
    assert interactive_mask(SCENE, Prompt(boxes=(Box(70, 0, 30, 100),)))[1] == 0


def road_and_picture(edge: int) -> tuple[np.ndarray, np.ndarray]:
    """A class map whose road ends at column 80, and a picture in which it ends at another column."""
    class_map = np.zeros((120, 160), np.uint8)
    class_map[20:100, 40:80] = 1
    picture = np.full((120, 160, 3), (70, 90, 150), np.uint8)
    picture[20:100, 40:edge] = (160, 80, 70)
    noise = np.random.default_rng(0).integers(0, 20, picture.shape).astype(np.uint8)
    return class_map, picture + noise


def on_road(row: int, column: int, positive: bool = True) -> Click:
    return Click((column + 0.5) * 100 / 160, (row + 0.5) * 100 / 120, positive)


@pytest.mark.parametrize("edge", [74, 86])
def test_a_region_ends_where_the_picture_does(edge: int) -> None:
    class_map, picture = road_and_picture(edge)
    asked = Prompt((on_road(60, 60),))
    coarse, _ = interactive_mask(class_map, asked, None, picture, 0)
    assert (coarse == (class_map == 1)).all()
    refined, value = interactive_mask(class_map, asked, None, picture, 10)
    assert value == 1
    assert np.abs(refined[40:80].sum(axis=1) - (edge - 40)).max() <= 2


def test_clicks_keep_their_side_where_the_picture_says_otherwise() -> None:
    class_map, picture = road_and_picture(86)
    refined, _ = interactive_mask(class_map, Prompt((on_road(60, 60), on_road(60, 83, False))), None, picture, 10)
    assert refined[40, 83]
    assert not refined[60, 83]
    class_map, picture = road_and_picture(74)
    refined, _ = interactive_mask(class_map, Prompt((on_road(60, 77),)), None, picture, 10)
    assert refined[60, 77]
    assert not refined[40, 77]


def test_a_cut_between_clicks_stays_where_it_was() -> None:
    class_map, picture = road_and_picture(86)
    asked = Prompt((on_road(30, 60), on_road(81, 60, False)))
    refined, _ = interactive_mask(class_map, asked, None, picture, 10)
    assert refined[:55, :86].any(axis=1).sum() == 35
    assert refined[40:55, 40:84].all()
    assert not refined[56:].any()
    everything = Prompt((on_road(30, 60),))
    assert interactive_mask(class_map, everything, None, picture, 10)[0][56:, 82].any()


def test_rectangles_still_cut_what_was_refined() -> None:
    class_map, picture = road_and_picture(86)
    box = Box(25, 25, 27.5, 50)  # columns 40 to 84, rows 30 to 90
    refined, _ = interactive_mask(class_map, Prompt(boxes=(box,)), None, picture, 10)
    assert np.flatnonzero(refined.any(axis=0)).tolist() == list(range(40, 84))
    assert np.flatnonzero(refined.any(axis=1)).tolist() == list(range(30, 90))
    elsewhere, value = interactive_mask(class_map, Prompt(boxes=(Box(80, 80, 10, 10),)), 1, picture, 10)
    assert value == 0
    assert not elsewhere.any()


def test_interactive_answer_follows_the_picture() -> None:
    class_map, picture = road_and_picture(86)
    value = {"x": 37.5, "y": 50, "width": 0.2}
    context = {"result": [item("keypointlabels", value, "Road")]}
    [coarse], _ = interactive_regions(context, class_map, None, CLASSES, BRUSH, "image")
    [refined], _ = interactive_regions(
        context, class_map, None, CLASSES, BRUSH, "image", image_pixels=picture, band_px=10.0
    )
    columns = [decode_rle(answer["value"]["rle"], 120, 160)[60].nonzero()[0].max() for answer in (coarse, refined)]
    assert columns == [79, 85]


def test_a_picture_of_another_size_is_refused() -> None:
    class_map, picture = road_and_picture(86)
    with pytest.raises(MaskError, match="size"):
        interactive_mask(class_map, Prompt((on_road(60, 60),)), None, picture[:100], 10)


def keypoint(row: int, column: int, label: str | None = "Road", **more: Any) -> dict[str, Any]:
    click = at(row, column)
    return item("keypointlabels", {"x": click.x, "y": click.y, "width": 0.2}, label, **more)


def test_interactive_answer() -> None:
    confidence = np.full(SCENE.shape, 0.5, np.float32)
    context = {"result": [keypoint(0, 3, "Tree", is_positive=True)]}
    items, score = interactive_regions(context, SCENE, confidence, CLASSES, ALL, "image")
    assert score == 0.5
    [only] = items
    assert only["value"]["brushlabels"] == ["Tree"]
    assert only["from_name"] == "brush"
    assert (decode_rle(only["value"]["rle"], 4, 8) == (SCENE == 2) * 255).all()
    [polygon], _ = interactive_regions(context, SCENE, None, CLASSES, ALL, "image", preference="polygon")
    assert polygon["type"] == "polygonlabels"
    assert interactive_regions({"result": [keypoint(0, 7)]}, SCENE, confidence, CLASSES, ALL, "image") == ([], None)
    assert interactive_regions({"result": []}, SCENE, confidence, CLASSES, ALL, "image") == ([], None)


def test_interactive_answer_takes_the_pixels_class_where_no_tag_has_the_label() -> None:
    for label in ("Object", None):
        [only], _ = interactive_regions({"result": [keypoint(0, 3, label)]}, SCENE, None, CLASSES, BRUSH, "image")
        assert only["value"]["brushlabels"] == ["See"]


PAYLOADS = Path(__file__).parents[1] / "payloads"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("09_ui_smart_keypoint_predict", Prompt((Click(31.022326674500583, 30.963572267920085),), (), "Road")),
        (
            "09b_ui_smart_rect_predict",
            Prompt((), (Box(11.985898942420675, 59.47904426165296, 19.036427732079908, 28.51547199373286),), "Road"),
        ),
        (
            "09c_ui_smart_keypoint_negative",
            Prompt(
                (
                    Click(31.022326674500583, 30.963572267920085),
                    Click(50.05875440658048, 78.59381120250684, positive=False),
                ),
                (),
                "Road",
            ),
        ),
    ],
)
def test_recorded_prompts(name: str, expected: Prompt) -> None:
    body = json.loads((PAYLOADS / f"{name}.json").read_text())[0]["body"]
    config = parse_label_config(body["label_config"])
    assert prompt(body["params"]["context"], config, "image") == expected
    assert prompt(body["params"]["context"], config, "other") == Prompt()


@pytest.mark.parametrize(
    "context",
    [
        None,
        [],
        {},
        {"result": None},
        {"result": "x"},
        {"result": [1]},
        {"result": [{**keypoint(0, 0), "value": None}]},
        {"result": [item("keypointlabels", {"x": "1", "y": 2})]},
        {"result": [item("keypointlabels", {"x": math.inf, "y": 2})]},
        {"result": [item("keypointlabels", {"x": 10**400, "y": 2})]},
        {"result": [item("rectanglelabels", {"x": 1, "y": 2, "width": 3})]},
    ],
)
def test_prompts_that_cannot_be_read(context: Any) -> None:
    with pytest.raises(BadRequest, match=r"params\.context\.result"):
        prompt(context, ALL, "image")
