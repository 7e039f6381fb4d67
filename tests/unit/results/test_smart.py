"""Smart tools: clicks and rectangles become a region of the class map that follows the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segloop.errors import BadRequest, MaskError
from segloop.label_config import parse_label_config
from segloop.masks import Rectangle, decode_rle
from segloop.results import (
    Click,
    Edges,
    Prompt,
    RegionWriter,
    Scene,
    interactive_mask,
    interactive_regions,
    prompt,
)
from tests.regions import ALL, BRUSH, CLASSES, item

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
    in_box, _ = interactive_mask(SCENE, Prompt((at(3, 0, False),), (Rectangle(0, 0, 25, 100),)))
    assert in_box.sum(axis=1).tolist() == [2, 2, 0, 0]


def test_a_box_takes_the_label_else_the_largest_class_in_it() -> None:
    everything = Rectangle(0, 0, 100, 100)
    assert interactive_mask(SCENE, Prompt(boxes=(everything,)))[1] == 2
    mask, value = interactive_mask(SCENE, Prompt(boxes=(everything,)), label_value=1)
    assert value == 1
    assert (mask == (SCENE == 1)).all()
    assert interactive_mask(SCENE, Prompt(boxes=(everything,)), label_value=3)[1] == 2
    top, _ = interactive_mask(SCENE, Prompt((at(0, 3),), (Rectangle(0, 0, 100, 50),)))
    assert top.sum(axis=1).tolist() == [2, 2, 0, 0]
    assert interactive_mask(SCENE, Prompt(boxes=(Rectangle(70, 0, 30, 100),)))[1] == 0


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
    coarse, _ = interactive_mask(class_map, asked, None, Edges(picture, 0))
    assert (coarse == (class_map == 1)).all()
    refined, value = interactive_mask(class_map, asked, None, Edges(picture, 10))
    assert value == 1
    assert np.abs(refined[40:80].sum(axis=1) - (edge - 40)).max() <= 2


def test_clicks_keep_their_side_where_the_picture_says_otherwise() -> None:
    class_map, picture = road_and_picture(86)
    refined, _ = interactive_mask(
        class_map, Prompt((on_road(60, 60), on_road(60, 83, False))), None, Edges(picture, 10)
    )
    assert refined[40, 83]
    assert not refined[60, 83]
    class_map, picture = road_and_picture(74)
    refined, _ = interactive_mask(class_map, Prompt((on_road(60, 77),)), None, Edges(picture, 10))
    assert refined[60, 77]
    assert not refined[40, 77]


def test_a_cut_between_clicks_stays_where_it_was() -> None:
    class_map, picture = road_and_picture(86)
    asked = Prompt((on_road(30, 60), on_road(81, 60, False)))
    refined, _ = interactive_mask(class_map, asked, None, Edges(picture, 10))
    assert refined[:55, :86].any(axis=1).sum() == 35
    assert refined[40:55, 40:84].all()
    assert not refined[56:].any()
    everything = Prompt((on_road(30, 60),))
    assert interactive_mask(class_map, everything, None, Edges(picture, 10))[0][56:, 82].any()


def test_rectangles_still_cut_what_was_refined() -> None:
    class_map, picture = road_and_picture(86)
    box = Rectangle(25, 25, 27.5, 50)  # columns 40 to 84, rows 30 to 90
    refined, _ = interactive_mask(class_map, Prompt(boxes=(box,)), None, Edges(picture, 10))
    assert np.flatnonzero(refined.any(axis=0)).tolist() == list(range(40, 84))
    assert np.flatnonzero(refined.any(axis=1)).tolist() == list(range(30, 90))
    elsewhere, value = interactive_mask(class_map, Prompt(boxes=(Rectangle(80, 80, 10, 10),)), 1, Edges(picture, 10))
    assert value == 0
    assert not elsewhere.any()


def test_interactive_answer_follows_the_picture() -> None:
    class_map, picture = road_and_picture(86)
    value = {"x": 37.5, "y": 50, "width": 0.2}
    context = {"result": [item("keypointlabels", value, "Road")]}
    [coarse], _ = interactive_regions(context, Scene(class_map, CLASSES), RegionWriter(BRUSH, "image"))
    [refined], _ = interactive_regions(
        context, Scene(class_map, CLASSES), RegionWriter(BRUSH, "image"), Edges(picture, 10.0)
    )
    columns = [decode_rle(answer["value"]["rle"], 120, 160)[60].nonzero()[0].max() for answer in (coarse, refined)]
    assert columns == [79, 85]


def test_a_picture_of_another_size_is_refused() -> None:
    class_map, picture = road_and_picture(86)
    with pytest.raises(MaskError, match="size"):
        interactive_mask(class_map, Prompt((on_road(60, 60),)), None, Edges(picture[:100], 10))


def keypoint(row: int, column: int, label: str | None = "Road", **more: Any) -> dict[str, Any]:
    click = at(row, column)
    return item("keypointlabels", {"x": click.x, "y": click.y, "width": 0.2}, label, **more)


def test_interactive_answer() -> None:
    confidence = np.full(SCENE.shape, 0.5, np.float32)
    context = {"result": [keypoint(0, 3, "Tree", is_positive=True)]}
    items, score = interactive_regions(context, Scene(SCENE, CLASSES, confidence), RegionWriter(ALL, "image"))
    assert score == 0.5
    [only] = items
    assert only["value"]["brushlabels"] == ["Tree"]
    assert only["from_name"] == "brush"
    assert (decode_rle(only["value"]["rle"], 4, 8) == (SCENE == 2) * 255).all()
    [polygon], _ = interactive_regions(context, Scene(SCENE, CLASSES), RegionWriter(ALL, "image", "polygon"))
    assert polygon["type"] == "polygonlabels"
    assert interactive_regions(
        {"result": [keypoint(0, 7)]}, Scene(SCENE, CLASSES, confidence), RegionWriter(ALL, "image")
    ) == ([], None)
    assert interactive_regions({"result": []}, Scene(SCENE, CLASSES, confidence), RegionWriter(ALL, "image")) == (
        [],
        None,
    )


def test_interactive_answer_takes_the_pixels_class_where_no_tag_has_the_label() -> None:
    for label in ("Object", None):
        [only], _ = interactive_regions(
            {"result": [keypoint(0, 3, label)]}, Scene(SCENE, CLASSES), RegionWriter(BRUSH, "image")
        )
        assert only["value"]["brushlabels"] == ["See"]


PAYLOADS = Path(__file__).parents[2] / "payloads"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("09_ui_smart_keypoint_predict", Prompt((Click(31.022326674500583, 30.963572267920085),), (), "Road")),
        (
            "09b_ui_smart_rect_predict",
            Prompt(
                (), (Rectangle(11.985898942420675, 59.47904426165296, 19.036427732079908, 28.51547199373286),), "Road"
            ),
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
