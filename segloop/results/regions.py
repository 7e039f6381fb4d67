"""Class maps and masks to result items: what a prediction holds."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segloop.label_config import Control, LabelConfig, Preference
from segloop.masks import class_pixels, encode_bitmask, encode_class_rle, label_pieces, mask_polygons, remove_specks
from segloop.results.scores import mean_by_value

Per = Literal["class", "component"]


def class_map_regions(
    class_map: NDArray[np.uint8],
    classes: Sequence[str],
    config: LabelConfig,
    image: str,
    *,
    preference: Preference = "auto",
    per: Per = "class",
    min_area_px: int = 0,
    tolerance_px: float = 1.0,
    confidence: NDArray[np.float32] | None = None,
) -> list[dict[str, Any]]:
    """The result items of a prediction, ready for Label Studio, in the order of `classes`.

    `class_map` is uint8 (H, W): i + 1 for `classes[i]`, 0 and 255 for nothing. Classes that no output tag of the
    image has are left out; so are pieces smaller than `min_area_px` pixels. Brush and bitmask regions cover a
    class or one connected piece (`per`), polygons always one piece. With `confidence` in [0, 1], of the map's size or
    coarser, each item has a `score`: the mean confidence of the pixels it stands for (see `mean_by_value`).
    """
    cleaned = remove_specks(class_map, min_area_px)
    outputs = config.outputs(image, preference)
    present = class_pixels(cleaned) > 0
    items: list[dict[str, Any]] = []
    whole: list[tuple[int, str, Control]] = []
    for value, name in enumerate(classes, start=1):
        control = outputs.get(name)
        if control is None or not present[value]:
            continue
        if per == "class" and control.tag != "PolygonLabels":
            whole.append((value, name, control))
        else:
            items += mask_regions(cleaned == value, name, control, image, "component", tolerance_px, confidence)
    items += _area_items(cleaned, whole, image, confidence)
    order = {name: index for index, name in enumerate(classes)}
    return sorted(items, key=lambda item: order[item["value"][item["type"]][0]])


def mask_regions(
    mask: NDArray[np.bool_],
    label: str,
    control: Control,
    image: str,
    per: Per = "class",
    tolerance_px: float = 1.0,
    confidence: NDArray[np.float32] | None = None,
) -> list[dict[str, Any]]:
    """The result items of one mask, bool (H, W), under one label; none for an empty mask. See `class_map_regions`."""
    if not mask.any():
        return []
    if per == "class" and control.tag != "PolygonLabels":
        return _area_items(mask.astype(np.uint8), [(1, label, control)], image, confidence)
    count, pieces, stats = label_pieces(mask)
    if control.tag != "PolygonLabels":
        return _area_items(pieces, [(number, label, control) for number in range(1, count + 1)], image, confidence)
    height, width = mask.shape
    scores = mean_by_value(pieces, count + 1, confidence)
    to_percent = np.array([100 / width, 100 / height])
    items = []
    for number in range(1, count + 1):
        left, top, across, down = (int(side) for side in stats[number, :4])
        piece = pieces[top : top + down, left : left + across] == number
        for points in mask_polygons(piece, tolerance_px):
            percent = np.clip((points + np.array([left, top])) * to_percent, 0, 100)
            value = {"points": percent.tolist(), "closed": True}
            items.append(_item(value, label, control, image, mask.shape, scores[number]))
    return items


def _area_items(
    values: NDArray[np.uint8] | NDArray[np.int32],
    wanted: Sequence[tuple[int, str, Control]],
    image: str,
    confidence: NDArray[np.float32] | None,
) -> list[dict[str, Any]]:
    """Brush and bitmask items for some values of an integer map (H, W)."""
    if not wanted:
        return []
    scores = mean_by_value(values, max(value for value, _, _ in wanted) + 1, confidence)
    brushed = [value for value, _, control in wanted if control.tag == "BrushLabels"]
    codes = dict(zip(brushed, encode_class_rle(values, brushed), strict=True))
    return [
        _item(
            {"format": "rle", "rle": codes[value]}
            if control.tag == "BrushLabels"
            else {"imageDataURL": encode_bitmask(values == value)},
            label,
            control,
            image,
            values.shape,
            scores[value],
        )
        for value, label, control in wanted
    ]


def _item(
    value: dict[str, Any], label: str, control: Control, image: str, shape: tuple[int, ...], score: float | None
) -> dict[str, Any]:
    kind = control.tag.lower()
    height, width = shape
    item: dict[str, Any] = {
        "id": uuid.uuid4().hex[:12],
        "from_name": control.name,
        "to_name": image,
        "type": kind,
        "origin": "prediction",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, kind: [label]},
    }
    return item if score is None else {**item, "score": score}
