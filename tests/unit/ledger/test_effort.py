"""What was changed of a prediction, against edits of a known size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segloop.errors import MaskError
from segloop.label_config import parse_label_config
from segloop.ledger import Effort, effort_of
from segloop.masks import encode_rle

CONFIG = parse_label_config(
    """<View><Image name="image" value="$image"/>
    <BrushLabels name="brush" toName="image"><Label value="Sky"/><Label value="Road"/></BrushLabels></View>"""
)
HEIGHT, WIDTH = 40, 60
LIMIT = HEIGHT * WIDTH


def brush(ident: str, label: str, rows: slice, columns: slice, **place: Any) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[rows, columns] = 255
    value = {"format": "rle", "rle": encode_rle(mask), "brushlabels": [label]}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    return {
        "id": ident,
        "from_name": "brush",
        "to_name": "image",
        "type": "brushlabels",
        "value": value,
        **size,
        **place,
    }


SKY = brush("a", "Sky", slice(0, 10), slice(0, 60))
ROAD = brush("b", "Road", slice(20, 40), slice(0, 60))


def effort(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Effort:
    return effort_of(before, after, CONFIG, LIMIT)


def test_a_copy_is_unchanged() -> None:
    found = effort([SKY, ROAD], [ROAD, SKY])
    assert found.is_unchanged
    assert (found.pixels, found.changed_px) == (LIMIT, 0)
    # the boundary of the sky is its lowest row, that of the road its highest: the image's edge is none
    assert found.classes["Sky"].model_dump() == {
        "pixels": 600, "changed_px": 0, "boundary_px": 60, "moved_px": 0, "regions_added": 0, "regions_removed": 0,
        "true_px": 600
    }  # fmt: skip


@pytest.mark.parametrize(("rows", "moved"), [(2, 0), (3, 0), (4, 60), (9, 60)])
def test_a_boundary_counts_as_moved_beyond_three_pixels(rows: int, moved: int) -> None:
    found = effort([SKY, ROAD], [brush("a", "Sky", slice(0, 10 + rows), slice(0, 60)), ROAD])
    assert not found.is_unchanged
    assert found.changed_px == 60 * rows
    sky = found.classes["Sky"]
    assert (sky.pixels, sky.changed_px, sky.boundary_px, sky.moved_px) == (600 + 60 * rows, 60 * rows, 60, moved)
    assert found.classes["Road"].changed_px == 0


def test_regions_that_were_added_and_removed_are_counted_by_class() -> None:
    added = brush("c", "Sky", slice(15, 18), slice(0, 4))
    found = effort([SKY, ROAD], [SKY, added])
    sky, road = found.classes["Sky"], found.classes["Road"]
    assert (sky.regions_added, sky.regions_removed, sky.changed_px) == (1, 0, 12)
    assert (road.regions_added, road.regions_removed, road.changed_px, road.boundary_px) == (0, 1, 1200, 0)
    assert found.changed_px == 1212


def test_a_region_of_another_class_is_a_change_of_both() -> None:
    other = {**ROAD, "value": {**ROAD["value"], "brushlabels": ["Sky"]}}
    found = effort([ROAD], [other])
    assert found.changed_px == 1200
    assert (found.classes["Road"].changed_px, found.classes["Sky"].changed_px) == (1200, 1200)
    assert (found.classes["Road"].regions_added, found.classes["Road"].regions_removed) == (0, 0), "the same region"


def test_images_of_a_list_are_compared_each_with_itself() -> None:
    first, second = ({**SKY, "id": name, "item_index": place} for place, name in enumerate("ab"))
    found = effort([first, second], [first])
    assert (found.pixels, found.changed_px, found.classes["Sky"].regions_removed) == (2 * LIMIT, 600, 1)


def test_nothing_on_nothing_is_unchanged() -> None:
    assert effort([], []) == Effort(pixels=0, changed_px=0, classes={})
    assert effort([], [SKY]).classes["Sky"].regions_added == 1


def test_an_image_beyond_the_limit_is_refused() -> None:
    with pytest.raises(MaskError, match="60x40"):
        effort_of([SKY], [SKY], CONFIG, LIMIT - 1)
