"""Smart tools: clicks and rectangles become a region of the class map that follows the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segloop.errors import BadRequest
from segloop.label_config import parse_label_config
from segloop.masks import Rectangle, decode_rle
from segloop.results import (
    Click,
    Prompt,
    RegionWriter,
    Scene,
    Sight,
    Tools,
    boxed_mask,
    interactive_regions,
    prompt,
    prompted_mask,
)
from segloop.results.clicks import changeable
from segloop.results.views import Asked, Place, View
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


def sight_of(class_map: np.ndarray, picture: np.ndarray | None = None) -> Sight:
    """What a network that is sure of a class map says of a picture, by default one that is grey all over."""
    chances = np.stack([np.where(class_map == value, 0.97, 0.01) for value in range(4)]).astype(np.float32)
    pixels = np.full((*class_map.shape, 3), 128, np.uint8) if picture is None else picture
    return Sight(pixels, class_map, chances)


def at(row: int, column: int, positive: bool = True) -> Click:
    """A click on a pixel of SCENE."""
    return Click((column + 0.5) * 100 / 8, (row + 0.5) * 100 / 4, positive)


def on(row: int, column: int, positive: bool = True) -> Click:
    """A click on a pixel of `road_and_picture`."""
    return Click((column + 0.5) * 100 / 160, (row + 0.5) * 100 / 120, positive)


def road_and_picture(edge: int) -> tuple[np.ndarray, np.ndarray]:
    """A class map whose road ends at column 80, and a picture in which it ends at another column."""
    class_map = np.zeros((120, 160), np.uint8)
    class_map[20:100, 40:80] = 1
    picture = np.full((120, 160, 3), (70, 90, 150), np.uint8)
    picture[20:100, 40:edge] = (160, 80, 70)
    noise = np.random.default_rng(0).integers(0, 20, picture.shape).astype(np.uint8)
    return class_map, picture + noise


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def test_a_click_takes_what_the_network_says_is_there() -> None:
    class_map, picture = road_and_picture(80)
    mask = prompted_mask(sight_of(class_map, picture), Prompt((on(60, 60),)))
    assert iou(mask, class_map == 1) > 0.9


def test_a_positive_click_on_background_is_never_left_without_a_region() -> None:
    _, picture = road_and_picture(80)
    nothing = np.zeros((120, 160), np.uint8)
    mask = prompted_mask(sight_of(nothing, picture), Prompt((on(60, 60),)), 1)
    assert mask[60, 60]
    assert 250 < mask.sum() < 0.5 * mask.size
    assert not mask[:, 85:].any()
    more = prompted_mask(sight_of(nothing, picture), Prompt((on(60, 60), on(90, 45), on(60, 120, False))), 1)
    road = np.zeros_like(more)
    road[20:100, 40:80] = True
    assert iou(more, road) > iou(mask, road)


def test_a_further_click_adds_what_the_network_missed_and_a_negative_one_takes_away() -> None:
    class_map, picture = road_and_picture(120)
    sight, truth = sight_of(class_map, picture), np.zeros(class_map.shape, np.bool_)
    truth[20:100, 40:120] = True
    first = prompted_mask(sight, Prompt((on(60, 60),)), 1)
    second = prompted_mask(sight, Prompt((on(60, 60), on(60, 100))), 1)
    assert second[60, 100]
    assert iou(second, truth) > iou(first, truth)
    cut = prompted_mask(sight, Prompt((on(60, 60), on(60, 100), on(60, 140, False))), 1)
    assert not cut[60, 140]
    assert cut[60, 60]
    assert cut[60, 100]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 119), st.integers(0, 159), st.booleans()), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=2),
)
@example([(60, 60, True), (60, 100, True)], [(1, False)])
@example([(60, 60, True)], [(0, False)])
def test_pixels_under_clicks_have_their_side_whatever_else_is_clicked(
    clicks: list[tuple[int, int, bool]], again: list[tuple[int, bool]]
) -> None:
    """The last click on a pixel decides: those of `again` are on the pixels of others."""
    clicks = [*clicks, *((*clicks[number % len(clicks)][:2], positive) for number, positive in again)]
    class_map, picture = road_and_picture(86)
    mask = prompted_mask(sight_of(class_map, picture), Prompt(tuple(on(*click) for click in clicks)))
    for (row, column), positive in {click[:2]: click[2] for click in clicks}.items():
        assert mask[row, column] == positive


def test_the_answer_depends_on_the_clicks_alone_and_fewer_clicks_give_the_mask_of_before() -> None:
    class_map, picture = road_and_picture(86)
    kept: dict[Any, np.ndarray] = {}

    def keep(key: Any, compute: Any) -> np.ndarray:
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    sight, clicks = sight_of(class_map, picture), (on(60, 60), on(30, 100), on(90, 60, False))
    alone = [prompted_mask(sight, Prompt(clicks[:count])) for count in (1, 2, 3)]
    remembered = [prompted_mask(sight, Prompt(clicks[:count]), 0, Tools(keep=keep)) for count in (3, 2, 1)]
    assert all((one == other).all() for one, other in zip(alone, remembered[::-1], strict=True))
    assert len(kept) == 3


def test_a_further_click_leaves_alone_what_is_far_from_it() -> None:
    class_map = np.zeros((120, 160), np.uint8)
    class_map[:, :] = 1
    class_map[40:60, 60:80] = 0
    sight = sight_of(class_map)
    first = prompted_mask(sight, Prompt((on(10, 10),)))
    second = prompted_mask(sight, Prompt((on(10, 10), on(110, 150, False))))
    assert not second[110, 150]
    assert (first[:60, :60] == second[:60, :60]).all()


def test_a_click_near_the_boundary_changes_little_and_one_far_from_it_may_change_much() -> None:
    class_map = np.zeros((120, 160), np.uint8)
    class_map[20:100, 20:140] = 1
    sight, first = sight_of(class_map), (on(60, 40),)
    before = prompted_mask(sight, Prompt(first))
    edge = np.flatnonzero(before[60])[-1]
    near, far = (prompted_mask(sight, Prompt((*first, on(60, column, False)))) for column in (edge - 3, 100))
    assert 0 < (before & ~near).sum() < 800
    assert (before & ~far).sum() > 2 * (before & ~near).sum()


@pytest.mark.parametrize("size", [(1024, 1024), (777, 1031), (3001, 2000)])
def test_a_view_of_a_large_window_shows_the_mean_of_its_pixels(size: tuple[int, int]) -> None:
    rows, columns = np.indices(size)
    picture = np.stack([rows * 255 // size[0], columns * 255 // size[1], (rows + columns) % 2 * 255], axis=2)
    sight = sight_of(np.zeros(size, np.uint8), picture.astype(np.uint8))
    view = View(sight, Asked((Place(0, 0),)), None, (0, 0, *size))
    height, width = view.size
    down, across = np.indices((height, width))
    expected = np.stack([(down + 0.5) * 255 / height, (across + 0.5) * 255 / width, np.full(view.size, 127.5)], axis=2)
    assert np.abs(view.colours - expected).max() <= 3


@pytest.mark.parametrize("depth", [1, 40, 63, 64, 100, 250])
def test_a_click_may_correct_what_is_five_times_as_far_as_the_boundary_is(depth: int) -> None:
    """However far that is: the boundary is looked for near the click first."""
    before = np.ones((600, 900), np.bool_)
    before[:, : 300 - depth] = False
    sight = sight_of(before.astype(np.uint8))
    view = View(sight, Asked((Place(300, 0), Place(300, 300))), before, (0, 0, 600, 900))
    found = np.argwhere(changeable(view, before))
    reach = max(5 * min(0.955 * (depth + 1), 300), 0.03 * 900)
    farthest = np.hypot(*(found - (300, 300)).T).max()
    corner = np.hypot(300, 599)
    assert abs(farthest - min(reach, corner)) <= 1.5


@pytest.mark.parametrize("clicks", [(), (at(0, 0, False),), (Click(150, 50),), (Click(-1, 50),)])
def test_clicks_that_ask_for_nothing(clicks: tuple[Click, ...]) -> None:
    assert not prompted_mask(sight_of(SCENE), Prompt(clicks)).any()


def test_the_last_pixel_can_be_clicked() -> None:
    assert prompted_mask(sight_of(np.ones((4, 8), np.uint8)), Prompt((Click(100, 100),)))[3, 7]


def test_a_box_takes_the_label_else_the_largest_class_in_it() -> None:
    everything, sight = Rectangle(0, 0, 100, 100), sight_of(SCENE)
    assert (boxed_mask(sight, (everything,)) == (SCENE == 2)).all()
    assert (boxed_mask(sight, (everything,), label_value=1) == (SCENE == 1)).all()
    assert (boxed_mask(sight, (everything,), label_value=3) == (SCENE == 2)).all()
    top = boxed_mask(sight, (Rectangle(0, 0, 100, 50),))
    assert top.sum(axis=1).tolist() == [2, 2, 0, 0]
    assert not boxed_mask(sight, ()).any()
    assert not boxed_mask(sight, (Rectangle(150, 150, 5, 5),)).any()


def test_a_box_on_background_holds_a_region() -> None:
    _, picture = road_and_picture(80)
    sight = sight_of(np.zeros((120, 160), np.uint8), picture)
    box = Rectangle(20, 12, 35, 75)
    mask = boxed_mask(sight, (box,), 1)
    assert mask.any()
    assert not mask[:, 100:].any()


def test_a_box_followed_by_clicks_is_refined_within_it() -> None:
    class_map, picture = road_and_picture(80)
    sight, box = sight_of(class_map, picture), Rectangle(20, 10, 50, 50)
    refined = prompted_mask(sight, Prompt((on(30, 60), on(50, 70, False)), (box,)), 1)
    assert refined[30, 60]
    assert not refined[50, 70]
    assert not refined[73:].any()
    assert not refined[:, :31].any()


def test_a_box_follows_the_picture() -> None:
    class_map, picture = road_and_picture(86)
    box = Rectangle(25, 25, 27.5, 50)  # columns 40 to 84, rows 30 to 90
    refined = boxed_mask(sight_of(class_map, picture), (box,), 0, 10)
    assert np.flatnonzero(refined.any(axis=0)).tolist() == list(range(40, 84))
    assert np.flatnonzero(refined.any(axis=1)).tolist() == list(range(30, 90))


def keypoint(row: int, column: int, label: str | None = "Road", **more: Any) -> dict[str, Any]:
    click = at(row, column)
    return item("keypointlabels", {"x": click.x, "y": click.y, "width": 0.2}, label, **more)


def answered(context: dict[str, Any], writer: RegionWriter, confidence: np.ndarray | None = None) -> Any:
    return interactive_regions(context, sight_of(SCENE), Scene(SCENE, CLASSES, confidence), writer)


def test_interactive_answer() -> None:
    confidence = np.full(SCENE.shape, 0.5, np.float32)
    context = {"result": [keypoint(0, 3, "Tree", is_positive=True)]}
    [only], score = answered(context, RegionWriter(ALL, "image"), confidence)
    assert score == 0.5
    assert only["value"]["brushlabels"] == ["Tree"]
    assert only["from_name"] == "brush"
    assert decode_rle(only["value"]["rle"], 4, 8)[0, 3]
    [polygon], _ = answered(context, RegionWriter(ALL, "image", "polygon"))
    assert polygon["type"] == "polygonlabels"
    assert answered({"result": []}, RegionWriter(ALL, "image"), confidence) == ([], None)


def test_interactive_answer_takes_the_pixels_class_where_no_tag_has_the_label() -> None:
    for label in ("Object", None):
        [only], _ = answered({"result": [keypoint(0, 3, label)]}, RegionWriter(BRUSH, "image"))
        assert only["value"]["brushlabels"] == ["See"]


def test_too_many_clicks_are_refused() -> None:
    with pytest.raises(BadRequest, match="100"):
        prompt({"result": [keypoint(0, 3)] * 101}, ALL, "image")


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
