"""Result items of an annotation to a class map: what a network learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segloop.errors import MaskError
from segloop.formats import BACKGROUND, IGNORED
from segloop.label_config import LabelConfig
from segloop.masks import (
    Ellipse,
    Rectangle,
    decode_bitmask,
    decode_rle,
    ellipse_mask,
    polygon_mask,
    rectangle_mask,
    resize_nearest,
)

#: Values of a class map beside the classes' own, 1 and above.
#: Regions that fill an area. Bare shapes have their label in another item with the same id (of a Labels tag).
_LABELLED = frozenset({"brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels"})
_BARE = frozenset({"brush", "bitmask", "polygon", "rectangle", "ellipse"})

#: Pixels of a brush region whose original size is not the image's.
_MAX_PIXELS = 1 << 27

#: Percentages beyond this are refused: such a place is on no image.
_FARTHEST_PERCENT = 1e6

Item = Mapping[str, Any]


def annotation_class_map(
    result: Sequence[Item],
    config: LabelConfig,
    image: str,
    height: int,
    width: int,
    classes: Sequence[str],
    unlabelled: Literal["background", "ignore"] = "background",
) -> NDArray[np.uint8]:
    """The class map of an annotation: uint8 (height, width), i + 1 for `classes[i]`.

    Where regions overlap, the later one in `result` wins, whatever its kind. Pixels of no region are 0, or 255
    where `unlabelled` is "ignore". Brush, bitmask, polygon, rectangle and ellipse regions are read, from their
    *Labels tags or from bare tags with a Labels tag; a region with several labels counts for its first, one with
    none is passed over. So are other kinds of items, and those of other images. A pixel belongs to a brush or
    bitmask region from half of the region's strongest alpha upward (strokes have soft edges). Brush and bitmask
    regions of another size than the image's are stretched to it. `image_rotation` only turns the view.

    Raises:
        MaskError: a region that cannot be read or whose label is none of `classes`; the text names the region.
    """
    values = {name: number for number, name in enumerate(classes, start=1)}
    class_map = np.full((height, width), IGNORED if unlabelled == "ignore" else BACKGROUND, np.uint8)
    for items in _regions(result, image):
        region = items[0].get("id")
        try:
            label = next((label for item in items if (label := _label(item)) is not None), None)
            if label is None:
                continue
            value = values.get(config.class_of.get(label, label))
            if value is None:
                raise MaskError(f"its label {label!r} is not in the label config.")
            class_map[_mask(items, height, width)] = value
        except MaskError as error:
            raise MaskError(f"Region {region!r} cannot be used: {error}") from error
    return class_map


def _regions(result: Sequence[Item], image: str) -> list[list[Item]]:
    """The items of each region that fills an area of the image, in the order of first items."""
    regions: dict[object, list[Item]] = {}
    for position, item in enumerate(result):
        if not isinstance(item, Mapping):
            raise MaskError(f"Item {position} of the annotation is not a JSON object but {type(item).__name__}.")
        if item.get("to_name") == image and _kind(item) in _LABELLED | _BARE:
            ident = item.get("id")
            regions.setdefault(ident if isinstance(ident, (str, int)) else ("item", position), []).append(item)
    return list(regions.values())


def _kind(item: Item) -> str:
    kind = item.get("type")
    return kind.lower() if isinstance(kind, str) else ""


def _value(item: Item) -> Mapping[str, Any]:
    value = item.get("value")
    if not isinstance(value, Mapping):
        raise MaskError("it has no value.")
    return value


def _label(item: Item) -> str | None:
    kind = _kind(item)
    if kind in _BARE:
        return None
    value = _value(item)
    labels = value.get(kind) or value.get("labels")
    if not labels:
        return None
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not isinstance(labels[0], str):
        raise MaskError(f"its {kind} must be a list of names.")
    return labels[0]


def _mask(items: Sequence[Item], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of a region: of its first item that has a shape (the others repeat it)."""
    for item in items:
        value = _value(item)
        if "rle" in value:
            return _solid(_brush(item, value, height, width))
        if "imageDataURL" in value:
            return _solid(decode_bitmask(value["imageDataURL"], height, width))
        if "points" in value:
            return polygon_mask(_points(value["points"]) * [width / 100, height / 100], height, width)
        if "radiusX" in value or "radiusY" in value:
            x, rx = (_number(value, key) * width / 100 for key in ("x", "radiusX"))
            y, ry = (_number(value, key) * height / 100 for key in ("y", "radiusY"))
            return ellipse_mask(Ellipse(x, y, rx, ry, _rotation(value)), height, width)
        if "width" in value or "height" in value:
            x, w = (_number(value, key) * width / 100 for key in ("x", "width"))
            y, h = (_number(value, key) * height / 100 for key in ("y", "height"))
            return rectangle_mask(Rectangle(x, y, w, h, _rotation(value)), height, width)
    raise MaskError("it has no shape: none of rle, imageDataURL, points, width and height, radiusX and radiusY.")


def _solid(alpha: NDArray[np.uint8]) -> NDArray[np.bool_]:
    solid: NDArray[np.bool_] = alpha > alpha.max(initial=0) // 2
    return solid


def _brush(item: Item, value: Mapping[str, Any], height: int, width: int) -> NDArray[np.uint8]:
    if value.get("format", "rle") != "rle":
        raise MaskError(f"its format {value['format']!r} is unknown; expected 'rle'.")
    own_height, own_width = _size(item, "original_height", height), _size(item, "original_width", width)
    if own_height * own_width > max(_MAX_PIXELS, height * width):
        raise MaskError(f"its original size of {own_width}x{own_height} pixels is too large.")
    return resize_nearest(decode_rle(value["rle"], own_height, own_width), height, width)


def _size(item: Item, key: str, default: int) -> int:
    size = item.get(key)
    if size is None:
        return default
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not 1 <= size <= 1 << 30 or size != int(size):
        raise MaskError(f"its {key} is {size!r}; expected a number of pixels.")
    return int(size)


def _points(points: object) -> NDArray[np.float64]:
    try:
        corners = np.array(points, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise MaskError("its points must be pairs of numbers.") from error
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise MaskError("its points must be pairs of numbers.")
    return corners


def _number(value: Mapping[str, Any], key: str) -> float:
    number = value.get(key)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) <= _FARTHEST_PERCENT:
        raise MaskError(f"its {key} is {number!r}; expected a number.")
    return float(number)


def _rotation(value: Mapping[str, Any]) -> float:
    return 0.0 if value.get("rotation") is None else _number(value, "rotation")
