"""Smart tools: the clicks and rectangles that the editor sends, and the region that answers them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from segloop.errors import BadRequest
from segloop.label_config import LabelConfig
from segloop.masks import Rectangle, class_pixels, rectangle_mask, refine_boundary
from segloop.results.clicks import next_mask
from segloop.results.guided import GuidedHead
from segloop.results.regions import Region, RegionWriter, Scene
from segloop.results.scores import mean_by_value
from segloop.results.views import Asked, Mask, Place, Sight

#: Percentages beyond this are refused: such a place is on no image.
_FARTHEST_PERCENT = 1e6
#: More clicks and rectangles than this in one request are refused: each takes time.
_MOST_PLACES = 100


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


def _compute(_key: Hashable, compute: Callable[[], Mask]) -> Mask:
    return compute()


@dataclass(frozen=True)
class Tools:
    """What clicks are answered with.

    `band_px` is how far, in pixels, a boundary that the network drew moves to the picture's edges: about half a cell of its
    grid. `keep` gives the mask of a key, or computes it: the masks of earlier clicks come from there. `head` is the version's
    guided head, where it has one.
    """

    band_px: float = 0.0
    keep: Callable[[Hashable, Callable[[], Mask]], Mask] = _compute
    head: GuidedHead | None = None


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
    if len(clicks) + len(boxes) > _MOST_PLACES:
        raise BadRequest(
            f"params.context.result holds more than {_MOST_PLACES} clicks and rectangles; accept the region first."
        )
    return Prompt(tuple(clicks), tuple(boxes), label)


def boxed_mask(sight: Sight, boxes: Sequence[Rectangle], label_value: int = 0, band_px: float = 0.0) -> Mask:
    """What rectangles alone ask for, bool (H, W): within them, the class `label_value` if it is there, else the class with
    most pixels; where there is none, what is like their middle and unlike what is around them. Its boundary follows the
    picture's edges within `band_px`, but for that of the rectangles.

    Raises:
        MaskError: the band is negative or not a number.
    """
    height, width = sight.class_map.shape
    allowed = _allowed(boxes, height, width)
    if allowed is None or not allowed.any():
        return np.zeros((height, width), np.bool_)
    value = _main_class(sight.class_map, allowed, label_value)
    if value:
        return _refined(np.equal(sight.class_map, value), allowed, sight.pixels, band_px) & allowed
    rows, columns = np.nonzero(allowed)
    middle = Place(int(rows[len(rows) // 2]), int(np.median(columns[rows == rows[len(rows) // 2]])))
    return next_mask(sight, Asked((middle,), allowed, label_value), None)


def prompted_mask(sight: Sight, asked: Prompt, label_value: int = 0, tools: Tools | None = None) -> Mask:
    """The pixels bool (H, W) that a prompt asks for; none where all clicks are negative and there is no rectangle.

    Rectangles come first, and nothing lies outside them. Each click in its turn changes the mask before it. The pixel under
    a positive click is in, that under a negative one out; of two on one pixel the later one counts.

    Raises:
        MaskError: the band of `tools` is negative or not a number.
    """
    tools = tools or Tools()
    height, width = sight.class_map.shape
    clicks = _places(asked.clicks, height, width)
    allowed = _allowed(asked.boxes, height, width)
    mask = boxed_mask(sight, asked.boxes, label_value, tools.band_px) if asked.boxes else None
    for count in range(1, len(clicks) + 1):
        wanted = Asked(clicks[:count], allowed, label_value)
        if mask is not None or wanted.first is not None:
            mask = tools.keep(
                (asked.boxes, label_value, wanted.clicks), partial(next_mask, sight, wanted, mask, tools.head)
            )
    return np.zeros((height, width), np.bool_) if mask is None else mask


def interactive_regions(
    context: Mapping[str, object], sight: Sight, scene: Scene, writer: RegionWriter, tools: Tools | None = None
) -> tuple[list[Region], float | None]:
    """Answer a smart tool: the region's items and its mean confidence, or ([], None) where there is none.

    The label chosen in the tool names the region; where no output tag has it, the class of most of its pixels does.

    Raises:
        BadRequest: the context is malformed.
        MaskError: the image has another size than the class map, or the band is negative or not a number.
    """
    classes = scene.classes
    asked = prompt(context, writer.config, writer.image)
    mask = prompted_mask(sight, asked, classes.index(asked.label) + 1 if asked.label in classes else 0, tools)
    if not mask.any():
        return [], None
    value = _main_class(scene.class_map, mask, None)
    found = classes[value - 1] if 1 <= value <= len(classes) else None
    label = next((name for name in (asked.label, found) if name in writer.outputs), None)
    if label is None:
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


def _main_class(class_map: NDArray[np.uint8], allowed: NDArray[np.bool_], label_value: int | None) -> int:
    """`label_value` if it is among some pixels, else the class of most of them; 0 if there is none."""
    pixels = class_pixels(class_map * allowed)
    pixels[[0, 255]] = 0
    if label_value is not None and pixels[label_value]:
        return label_value
    return int(pixels.argmax())


def _refined(mask: Mask, allowed: Mask, pixels: NDArray[np.uint8], band_px: float) -> Mask:
    """A mask refined where the rectangles reach."""
    rows, columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    margin = math.ceil(2 * band_px)
    part = np.s_[
        max(int(rows[0]) - margin, 0) : int(rows[-1]) + margin + 1,
        max(int(columns[0]) - margin, 0) : int(columns[-1]) + margin + 1,
    ]
    refined = mask.copy()
    refined[part] = refine_boundary(mask[part], pixels[part], band_px)
    return refined


def _places(clicks: Sequence[Click], height: int, width: int) -> tuple[Place, ...]:
    """The pixels under clicks; clicks outside the image are passed over."""
    found = []
    for click in clicks:
        if 0 <= click.x <= 100 and 0 <= click.y <= 100:
            row, column = int(click.y * height / 100), int(click.x * width / 100)
            found.append(Place(min(row, height - 1), min(column, width - 1), click.positive))
    return tuple(found)


def _percent(value: Mapping[str, object], key: str, default: float | None = None) -> float:
    number = value.get(key)
    if number is None and default is not None:
        return default
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) <= _FARTHEST_PERCENT:
        raise BadRequest(f"a region of params.context.result has {key}={number!r}; expected a number.")
    return float(number)
