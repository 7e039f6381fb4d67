"""Result items of an annotation to a class map: what a network learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segloop.errors import MaskError
from segloop.formats import BACKGROUND, IGNORED
from segloop.label_config import LabelConfig
from segloop.results.shapes import Item, Shape, has_shape, read_shape, value_of

#: Regions that fill an area. Bare shapes have their label in another item with the same id (of a Labels tag).
_LABELLED = frozenset({"brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels"})
_BARE = frozenset({"brush", "bitmask", "polygon", "rectangle", "ellipse", "magicwand"})
#: Outlines. Closed ones fill an area that nothing is learnt from.
_OUTLINES = frozenset({"vectorlabels", "vector"})
#: Items that fill no area of an image, though they may repeat the shape of the region that they belong to.
_PASSED = frozenset(
    {
        *("keypoint", "keypointlabels", "relation", "choices", "taxonomy", "textarea", "rating", "number", "datetime"),
        *("pairwise", "ranker", "videorectangle", "timelinelabels", "hypertextlabels", "paragraphlabels"),
    }
)

Unlabelled = Literal["background", "ignore"]


@dataclass(frozen=True)
class Canvas:
    """An image of a task: its tag, its size in pixels, and its index in a list of images (else None)."""

    tag: str
    height: int
    width: int
    index: int | None = None


@dataclass(frozen=True)
class Problem:
    """A region (by its id) that does not count as it was meant, and why.

    Its label is unknown, or the object tag that it points at: `name` is that label or tag, of which `text` says what is
    wrong. Or its shape or its label cannot be read; or it was drawn on another size, `name`, than the image has, and was
    scaled: `text` says so of the region.
    """

    kind: Literal["label", "target", "region", "size"]
    region: str
    name: str
    text: str


@dataclass(frozen=True)
class Drawing:
    """What an annotation says of an image: its class map, uint8 (H, W), and the problems with its regions.

    `readable` is None where nothing was drawn on the image, and False where nothing of what was drawn can be read: then
    all pixels are ignored.
    """

    class_map: NDArray[np.uint8]
    problems: tuple[Problem, ...]
    readable: bool | None


def annotation_class_map(
    result: Sequence[Item],
    config: LabelConfig,
    canvas: Canvas,
    classes: Sequence[str],
    unlabelled: Unlabelled = "background",
) -> NDArray[np.uint8]:
    """The class map of an annotation of one image, as `draw_annotation` draws it.

    Raises:
        MaskError: the annotation cannot be used, or nothing of what was drawn on the image can be read.
    """
    drawing = draw_annotation(result, config, canvas, classes, unlabelled)
    if drawing.readable is False:
        raise nothing_readable([drawing])
    return drawing.class_map


def draw_annotation(
    result: Sequence[Item],
    config: LabelConfig,
    canvas: Canvas,
    classes: Sequence[str],
    unlabelled: Unlabelled = "background",
) -> Drawing:
    """Draw an annotation: i + 1 for `classes[i]`, 255 for ignored pixels.

    Where regions overlap, the later one in `result` wins, whatever its kind. Pixels of no region are 0, or 255
    where `unlabelled` is "ignore". Brush, bitmask, polygon, rectangle, ellipse and magic wand regions are read, from
    their *Labels tags or from bare tags with a Labels tag; a region with several labels counts for its first. Other
    kinds of items, and those of other images, are passed over. `image_rotation` only turns the view.

    No region is lost for another one's sake, and none becomes background: where its label is unknown or missing its
    pixels are ignored, and so are those of a closed vector, and those of a region that points at no tag, if the config
    has one image alone. A region whose shape cannot be read, or has no area, is left out. Each of them is a problem.

    Raises:
        MaskError: the annotation has no list of items, or all of its regions point at tags that the config does not have.
    """
    if not isinstance(result, (list, tuple)):
        raise MaskError(f"its result must be a list of items, not {type(result).__name__}.")
    regions = list(_regions(result))
    _check_targets(regions, config)
    values = {name: number for number, name in enumerate(classes, start=1)}
    class_map = np.full((canvas.height, canvas.width), IGNORED if unlabelled == "ignore" else BACKGROUND, np.uint8)
    problems = [
        _unreadable(f"item {position}", f"it is no JSON object but {type(item).__name__}")
        for position, item in enumerate(result)
        if not isinstance(item, Mapping)
    ]
    read = unread = 0
    for region in regions:
        strays = not config.has_object(region.to_name)
        if strays:
            problems.append(_strays(region))
        if not (region.is_on(canvas) or (strays and _has_one_image(config))):
            continue
        try:
            shape = read_shape(region.items, canvas.height, canvas.width)
        except MaskError as error:
            if not strays:
                unread += 1
                problems.append(_unreadable(region.name, str(error)))
            continue
        value = IGNORED
        if not strays:
            read += 1
            value, found = _class_value(region, config, values)
            problems += found
            problems += _scaling(region, shape, canvas)
        class_map[shape.mask] = value
    if unread and not read:
        class_map[:] = IGNORED
    return Drawing(class_map, tuple(problems), read > 0 if read or unread else None)


def misnamed_regions(result: object, config: LabelConfig) -> list[Problem]:
    """The regions of an annotation that have no label of the config, or that point at none of its object tags: of all
    its images, without a look at shapes."""
    problems: list[Problem] = []
    values = {name: number for number, name in enumerate(config.classes, start=1)}
    for region in _regions(result) if isinstance(result, (list, tuple)) else ():
        if config.has_object(region.to_name):
            problems += _class_value(region, config, values)[1]
        else:
            problems.append(_strays(region))
    return [problem for problem in problems if problem.kind in ("label", "target")]


def region_labels(result: Sequence[Item], config: LabelConfig) -> Iterator[tuple[str, str]]:
    """The id and the class of each region that fills an area and has a label of the config."""
    values = {name: number for number, name in enumerate(config.classes, start=1)}
    for region in _regions(result):
        value, problems = _class_value(region, config, values)
        if not problems:
            yield region.name, config.classes[value - 1]


def nothing_readable(drawings: Sequence[Drawing]) -> MaskError:
    """The error for an annotation of whose regions none can be read."""
    problems = [problem for drawing in drawings for problem in drawing.problems if problem.kind == "region"]
    return MaskError(f"Region {problems[0].region!r} cannot be used: {problems[0].text}; nor can any other")


@dataclass(frozen=True)
class _Region:
    """The items of one region, in their order; `name` is its id, as it is called in messages."""

    name: str
    items: list[Item]

    @property
    def to_name(self) -> object:
        return self.items[0].get("to_name")

    def is_on(self, canvas: Canvas) -> bool:
        on_tag = self.to_name == canvas.tag
        return on_tag and (canvas.index is None or (self.items[0].get("item_index") or 0) == canvas.index)

    def label(self) -> str | None:
        """The first label; None without one. MaskError where labels are no names."""
        for item in self.items:
            kind, value = _kind(item), value_of(item)
            known = [key for key in value if isinstance(key, str) and key.endswith("labels")]
            labels = value.get(kind if kind in known else "labels") or next(
                (value[key] for key in known if value[key]), None
            )
            if kind in _BARE or not labels:
                continue
            if isinstance(labels, str) or not isinstance(labels, Sequence) or not isinstance(labels[0], str):
                raise MaskError(f"its {kind or 'labels'} must be a list of names")
            return labels[0] or None
        return None


def _regions(result: Sequence[Item]) -> Iterator[_Region]:
    """The regions that fill an area, in the order of their first items."""
    regions: dict[object, _Region] = {}
    for position, item in enumerate(result):
        if isinstance(item, Mapping) and _fills_area(item):
            ident = item.get("id")
            known = isinstance(ident, (str, int))
            key = (ident, str(item.get("to_name")), str(item.get("item_index"))) if known else position
            regions.setdefault(key, _Region(str(ident) if known else f"item {position}", [])).items.append(item)
    return iter(regions.values())


def _fills_area(item: Item) -> bool:
    kind = _kind(item)
    if kind in _LABELLED | _BARE:
        return True
    if kind in _OUTLINES:
        value = item.get("value")
        return isinstance(value, Mapping) and value.get("closed") is True
    return kind not in _PASSED and has_shape(item)  # its type is missing, or one that nobody knows


def _kind(item: Item) -> str:
    kind = item.get("type")
    return kind.lower() if isinstance(kind, str) else ""


def _check_targets(regions: Sequence[_Region], config: LabelConfig) -> None:
    """Refuse an annotation all of whose regions point nowhere: it would be background alone."""
    if regions and not any(config.has_object(region.to_name) for region in regions):
        names = ", ".join(sorted({repr(region.to_name) for region in regions}))
        known = ", ".join(repr(name) for name, _ in config.objects)
        raise MaskError(
            f"all its regions ({len(regions)}) point at {names}, which is no tag of the label config ({known})"
        )


def _strays(region: _Region) -> Problem:
    return Problem("target", region.name, str(region.to_name), "is no tag of the label config")


def _has_one_image(config: LabelConfig) -> bool:
    return len(config.images) == 1 and not config.images[0].is_list and not config.images[0].repeats


def _class_value(region: _Region, config: LabelConfig, values: Mapping[str, int]) -> tuple[int, list[Problem]]:
    """The value of a region's pixels, and what is wrong with its label."""
    if _kind(region.items[0]) in _OUTLINES:
        return IGNORED, [_unreadable(region.name, "nothing is learnt from vectors; its pixels are ignored")]
    try:
        label = region.label()
    except MaskError as error:
        return IGNORED, [_unreadable(region.name, f"{error}; its pixels are ignored")]
    if label is None:
        return IGNORED, [_unreadable(region.name, "it has no label; its pixels are ignored")]
    value = values.get(config.class_of.get(label, label))
    if value is not None:
        return value, []
    alike = next((name for name in config.class_of if _plain(name) == _plain(label)), None)
    text = "is not in the label config" + (f", which has {alike!r}" if alike else "")
    return IGNORED, [Problem("label", region.name, label, text)]


def _plain(name: str) -> str:
    return "".join(name.split()).casefold()


def _scaling(region: _Region, shape: Shape, canvas: Canvas) -> list[Problem]:
    if shape.scaled_from is None:
        return []
    own, size = (f"{width}x{height}" for width, height in (shape.scaled_from, (canvas.width, canvas.height)))
    return [Problem("size", region.name, own, f"it was drawn on {own} pixels and is scaled to {size}")]


def _unreadable(region: str, text: str) -> Problem:
    return Problem("region", region, "", text.rstrip("."))
