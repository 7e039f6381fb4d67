"""The pixels of a drawn region: what its result items say of its shape, on the image that it was drawn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segloop.errors import MaskError
from segloop.masks import (
    Ellipse,
    Rectangle,
    bitmask_size,
    decode_bitmask,
    decode_rle,
    ellipse_mask,
    most_pixels,
    polygon_mask,
    rectangle_mask,
    resize_nearest,
    rle_pixels,
    same_aspect,
)

Item = Mapping[str, Any]

#: Percentages beyond this are refused: such a place is on no image.
_FARTHEST_PERCENT = 1e6
#: A mask has as many changes between its rows times this, at least, where it is read at a width that is not its own.
_SHEARED = 1.5


class Shape(NamedTuple):
    """The pixels of a region, bool (H, W), and the width and height in pixels that they were scaled from, if they were."""

    mask: NDArray[np.bool_]
    scaled_from: tuple[int, int] | None = None


def has_shape(item: Item) -> bool:
    """Whether an item says which pixels it covers, well or badly."""
    value = item.get("value")
    if not isinstance(value, Mapping):
        return False
    return any(keys <= value.keys() for keys in _SHAPES)


#: The fields of value that make a shape.
_SHAPES = (
    {"rle"},
    {"imageDataURL"},
    {"points"},
    {"vertices"},
    {"radiusX"},
    {"radiusY"},
    {"width", "height"},
)


def value_of(item: Item) -> Mapping[str, Any]:
    """The value of an item.

    Raises:
        MaskError: it has none.
    """
    value = item.get("value")
    if not isinstance(value, Mapping):
        raise MaskError("it has no value.")
    return value


def read_shape(items: Sequence[Item], height: int, width: int) -> Shape:
    """The pixels of a region: of its first item that has a shape (the others repeat it).

    A pixel belongs to a brush or bitmask region from half of the region's strongest alpha upward (strokes have soft
    edges). Such a region is read at the image's size, as the editor reads it, whatever size it says; one that was made
    for another size in the same proportions is scaled.

    Raises:
        MaskError: it has no shape, none that can be read, one without area, or one that was made for another image.
    """
    for item in items:
        value = value_of(item)
        if "rle" in value:
            return _brush(item, value, height, width)
        if "imageDataURL" in value:
            return _bitmask(value["imageDataURL"], height, width)
        if "points" in value:
            return Shape(_polygon(value["points"], height, width))
        if "vertices" in value:
            return Shape(_polygon(_vertices(value["vertices"]), height, width))
        if "radiusX" in value or "radiusY" in value:
            x, rx = (_number(value, key) * width / 100 for key in ("x", "radiusX"))
            y, ry = (_number(value, key) * height / 100 for key in ("y", "radiusY"))
            _check_area(rx, ry)
            return Shape(ellipse_mask(Ellipse(x, y, rx, ry, _rotation(value)), height, width))
        if "width" in value or "height" in value:
            x, w = (_number(value, key) * width / 100 for key in ("x", "width"))
            y, h = (_number(value, key) * height / 100 for key in ("y", "height"))
            _check_area(w, h)
            return Shape(rectangle_mask(Rectangle(x, y, w, h, _rotation(value)), height, width))
    raise MaskError("it has no shape: none of rle, imageDataURL, points, width and height, radiusX and radiusY.")


def _brush(item: Item, value: Mapping[str, Any], height: int, width: int) -> Shape:
    if value.get("format", "rle") != "rle":
        raise MaskError(f"its format {value['format']!r} is unknown; expected 'rle'.")
    rle = value["rle"]
    pixels, own = rle_pixels(rle), _original_size(item)
    if pixels == height * width:
        alpha = decode_rle(rle, height, width)
        if own is not None and own != (height, width) and own[0] * own[1] == pixels:
            # The sides are swapped, in the fields alone or in the mask too: then it was drawn on the image as it lay.
            here, there = (_changes_between_rows(alpha.reshape(size)) for size in ((height, width), own))
            if there * _SHEARED < here:
                raise MaskError(f"it was drawn on an image of {own[1]}x{own[0]} pixels; this one has {width}x{height}.")
        return Shape(_solid(alpha))
    if own is None or own[0] * own[1] != pixels or not same_aspect(own, (height, width)):
        said = "" if own is None else f", and its original size is {own[1]}x{own[0]}"
        raise MaskError(f"its mask has {pixels} pixels{said}; the image has {width}x{height}.")
    if pixels > most_pixels(height, width):
        raise MaskError(f"its original size of {own[1]}x{own[0]} pixels is too large.")
    return Shape(_solid(resize_nearest(decode_rle(rle, *own), height, width)), (own[1], own[0]))


def _bitmask(url: object, height: int, width: int) -> Shape:
    mask = _solid(decode_bitmask(url, height, width))
    own = bitmask_size(url)
    return Shape(mask, None if own == (height, width) else (own[1], own[0]))


def _changes_between_rows(alpha: NDArray[np.uint8]) -> int:
    return int(np.count_nonzero(alpha[1:] != alpha[:-1]))


def _solid(alpha: NDArray[np.uint8]) -> NDArray[np.bool_]:
    solid: NDArray[np.bool_] = alpha > alpha.max(initial=0) // 2
    return solid


def _original_size(item: Item) -> tuple[int, int] | None:
    """Height and width that the item says its image has; None where it says nothing that makes sense."""
    sizes = [item.get(key) for key in ("original_height", "original_width")]
    for size in sizes:
        if (
            isinstance(size, bool)
            or not isinstance(size, (int, float))
            or not 1 <= size <= 1 << 30
            or size != int(size)
        ):
            return None
    height, width = (int(size) for size in sizes if size is not None)
    return height, width


def _polygon(points: object, height: int, width: int) -> NDArray[np.bool_]:
    try:
        corners = np.array(points, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise MaskError("its points must be pairs of numbers.") from error
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise MaskError("its points must be pairs of numbers.")
    if not np.abs(corners).max() <= _FARTHEST_PERCENT:
        raise MaskError("its points must be percentages, and one of them is no number or too far away.")
    if np.linalg.matrix_rank(corners - corners[0]) < 2:
        raise MaskError(f"its {len(corners)} points enclose no area; a polygon needs 3 or more that are not in a line.")
    return polygon_mask(corners * [width / 100, height / 100], height, width)


def _vertices(vertices: object) -> list[tuple[object, object]]:
    if not isinstance(vertices, Sequence) or not all(isinstance(vertex, Mapping) for vertex in vertices):
        raise MaskError("its vertices must be a list of points with x and y.")
    return [(vertex.get("x"), vertex.get("y")) for vertex in vertices]


def _check_area(*sides: float) -> None:
    if 0 in sides:
        raise MaskError("it has no area: its width or height is 0.")


def _number(value: Mapping[str, Any], key: str) -> float:
    number = value.get(key)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) <= _FARTHEST_PERCENT:
        raise MaskError(f"its {key} is {number!r}; expected a number.")
    return float(number)


def _rotation(value: Mapping[str, Any]) -> float:
    return 0.0 if value.get("rotation") is None else _number(value, "rotation")
