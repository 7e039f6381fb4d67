"""Smart tools: the clicks and rectangles that the editor sends, and the region that answers them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segloop.errors import BadRequest
from segloop.label_config import LabelConfig
from segloop.masks import Rectangle, piece_at, rectangle_mask, refine_boundary
from segloop.results.regions import Region, RegionWriter, Scene
from segloop.results.scores import mean_by_value

#: Percentages beyond this are refused: such a place is on no image.
_FARTHEST_PERCENT = 1e6


@dataclass(frozen=True)
class Click:
    """A click of the smart keypoint tool; x and y in percent of the image's width and height."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True)
class Prompt:
    """What a smart tool asks for: places in percent of the image's width and height.

    `label` is the one last chosen in the tool, as the label config's class.
    """

    clicks: tuple[Click, ...] = ()
    boxes: tuple[Rectangle, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Edges:
    """The image whose edges a boundary follows, uint8 (H, W, 3), within `band_px` pixels: about half a cell of the
    network's grid."""

    pixels: NDArray[np.uint8]
    band_px: float


def prompt(context: Mapping[str, object], config: LabelConfig, image: str) -> Prompt:
    """Read the context of an interactive request: its keypoints and rectangles on an image.

    Other kinds of regions and those of other images are passed over.

    Raises:
        BadRequest: the context is malformed.
    """
    result = context.get("result") if isinstance(context, Mapping) else None
    if not isinstance(result, Sequence) or isinstance(result, str):
        raise BadRequest("params.context.result must be a list of regions.")
    clicks: list[Click] = []
    boxes: list[Rectangle] = []
    label = None
    for item in result:
        if not isinstance(item, Mapping):
            raise BadRequest("params.context.result must hold objects only.")
        kind = str(item.get("type", "")).lower()
        value = item.get("value")
        if item.get("to_name") != image or not kind.startswith(("keypoint", "rectangle")):
            continue
        if not isinstance(value, Mapping):
            raise BadRequest(f"region {item.get('id')!r} of params.context.result has no value.")
        if kind.startswith("keypoint"):
            positive = item.get("is_positive", value.get("is_positive", True))
            clicks.append(Click(_percent(value, "x"), _percent(value, "y"), positive not in (False, 0)))
        else:
            x, y, width, height = (_percent(value, key) for key in ("x", "y", "width", "height"))
            boxes.append(Rectangle(x, y, width, height, _percent(value, "rotation", 0.0)))
        labels = value.get(kind) or value.get("labels")
        if isinstance(labels, Sequence) and not isinstance(labels, str) and labels and isinstance(labels[0], str):
            label = config.class_of.get(labels[0], labels[0])
    return Prompt(tuple(clicks), tuple(boxes), label)


def interactive_mask(
    class_map: NDArray[np.uint8],
    asked: Prompt,
    label_value: int | None = None,
    edges: Edges | None = None,
) -> tuple[NDArray[np.bool_], int]:
    """The pixels that a prompt asks for, bool (H, W), and the class value (1 and above) they have; 0 if there are none.

    Positive clicks take the connected pieces of the first clicked class that they lie on; rectangles cut them off.
    Rectangles alone take, within them, the class `label_value` if it is there, else the class with most pixels.
    A negative click takes its piece away, or, where positive clicks lie on the same piece, the part of it that is
    nearer to it than to any of them. Nothing is found on background.

    With `edges`, the boundary of the pieces follows them, but for that of rectangles and between clicks; the pixels
    under clicks keep their side.

    Raises:
        MaskError: the image has another size than the class map, or the band is negative or not a number.
    """
    height, width = class_map.shape
    allowed = _allowed(asked.boxes, height, width)
    positive, negative = _pixels(asked, True, height, width), _pixels(asked, False, height, width)
    if asked.boxes and not any(click.positive for click in asked.clicks):
        value = _main_class(class_map, allowed, label_value)
    else:
        value = next((int(class_map[point]) for point in positive if class_map[point] not in (0, 255)), 0)
    if value == 0:
        return np.zeros(class_map.shape, np.bool_), 0
    inside, outside = ([point for point in points if class_map[point] == value] for points in (positive, negative))
    pieces = _pieces(class_map, value, inside, outside)
    mask = pieces if edges is None else _refined(pieces, allowed, positive + negative, edges)
    for click in outside:
        if pieces[click]:
            piece = piece_at(class_map, *click)
            rivals = [point for point in inside if piece[point]]
            mask = mask & ((pieces & ~piece) | _nearer(rivals, click, height, width))
    if allowed is not None:
        mask = mask & allowed
    return mask, value if mask.any() else 0


def interactive_regions(
    context: Mapping[str, object], scene: Scene, writer: RegionWriter, edges: Edges | None = None
) -> tuple[list[Region], float | None]:
    """Answer a smart tool: the region's items and its mean confidence, or ([], None) where there is none.

    The label chosen in the tool names the region; where no output tag has it, the class of its pixels does.
    With `edges`, the region's boundary follows them.

    Raises:
        BadRequest: the context is malformed.
        MaskError: the image has another size than the class map, or the band is negative or not a number.
    """
    classes = scene.classes
    asked = prompt(context, writer.config, writer.image)
    chosen = classes.index(asked.label) + 1 if asked.label in classes else None
    mask, value = interactive_mask(scene.class_map, asked, chosen, edges)
    found = classes[value - 1] if 1 <= value <= len(classes) else None
    label = next((name for name in (asked.label, found) if name in writer.outputs), None)
    if label is None or value == 0:
        return [], None
    _, score = mean_by_value(mask.view(np.uint8), 2, scene.confidence)
    return writer.mask_regions(mask, label, scene.confidence), score


def _allowed(boxes: Sequence[Rectangle], height: int, width: int) -> NDArray[np.bool_] | None:
    """Where the rectangles are; None if there are none, for then any place is."""
    allowed = None
    for box in boxes:
        inside = rectangle_mask(box.scaled(width / 100, height / 100), height, width)
        allowed = inside if allowed is None else allowed | inside
    return allowed


def _main_class(class_map: NDArray[np.uint8], allowed: NDArray[np.bool_] | None, label_value: int | None) -> int:
    """`label_value` if it is among some pixels, else the class of most of them; 0 if there is none."""
    pixels = np.bincount(class_map[allowed].ravel(), minlength=256)
    pixels[[0, 255]] = 0
    if label_value is not None and pixels[label_value]:
        return label_value
    return int(pixels.argmax())


def _pieces(
    class_map: NDArray[np.uint8], value: int, positive: list[tuple[int, int]], negative: list[tuple[int, int]]
) -> NDArray[np.bool_]:
    """The pieces of a class under positive clicks; without such, all of them but those under negative ones."""
    if not positive:
        pieces = np.equal(class_map, value)
        for click in negative:
            if pieces[click]:
                pieces &= ~piece_at(class_map, *click)
        return pieces
    pieces = piece_at(class_map, *positive[0])
    for click in positive[1:]:
        if not pieces[click]:
            pieces |= piece_at(class_map, *click)
    return pieces


def _refined(
    mask: NDArray[np.bool_],
    allowed: NDArray[np.bool_] | None,
    clicks: list[tuple[int, int]],
    edges: Edges,
) -> NDArray[np.bool_]:
    """A mask refined where the rectangles reach; close to clicks as it was."""
    part = np.s_[0 : mask.shape[0], 0 : mask.shape[1]]
    if allowed is not None:
        rows, columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
        if not rows.size:
            return mask
        margin = math.ceil(2 * edges.band_px)
        part = np.s_[
            max(int(rows[0]) - margin, 0) : int(rows[-1]) + margin + 1,
            max(int(columns[0]) - margin, 0) : int(columns[-1]) + margin + 1,
        ]
    refined = mask.copy()
    refined[part] = refine_boundary(mask[part], edges.pixels[part], edges.band_px)
    reach = math.ceil(edges.band_px / 4)
    for row, column in clicks:
        near = np.s_[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        refined[near] = mask[near]
    return refined


def _pixels(asked: Prompt, positive: bool, height: int, width: int) -> list[tuple[int, int]]:
    """Row and column under each positive or negative click; clicks outside the image are passed over."""
    found = []
    for click in asked.clicks:
        if click.positive == positive and 0 <= click.x <= 100 and 0 <= click.y <= 100:
            row, column = int(click.y * height / 100), int(click.x * width / 100)
            found.append((min(row, height - 1), min(column, width - 1)))
    return found


def _nearer(rivals: list[tuple[int, int]], click: tuple[int, int], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels at most as far from one of the rivals as from the click."""
    rows, columns = np.arange(height)[:, None], np.arange(width)
    distance = np.square(rows - click[0]) + np.square(columns - click[1])
    nearer = np.zeros((height, width), np.bool_)
    for row, column in rivals:
        nearer |= np.square(rows - row) + np.square(columns - column) < distance
    return nearer


def _percent(value: Mapping[str, object], key: str, default: float | None = None) -> float:
    number = value.get(key)
    if number is None and default is not None:
        return default
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) <= _FARTHEST_PERCENT:
        raise BadRequest(f"a region of params.context.result has {key}={number!r}; expected a number.")
    return float(number)
