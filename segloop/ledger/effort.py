"""What an annotator changed of a prediction: pixels, boundaries and regions, from the result items of both. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segloop.errors import MaskError
from segloop.formats import BACKGROUND
from segloop.label_config import LabelConfig
from segloop.metrics import moved_boundary
from segloop.results import Canvas, draw_annotation, region_labels

Items = Sequence[Mapping[str, Any]]

#: How far a boundary may lie from where it was and count as left there, in pixels.
MOVED_PX: Final = 3.0


class ClassEffort(BaseModel):
    """What was changed of one class. Lengths in pixels of the boundary; regions are Label Studio's.

    Attributes:
        pixels: of the class in the prediction, in the annotation, or in both; `true_px` of them in the annotation.
        changed_px: of these, the pixels that only one of the two has.
        boundary_px: the length of the annotation's boundary of the class.
        moved_px: how much of it is more than MOVED_PX from the prediction's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels: int = 0
    changed_px: int = 0
    boundary_px: int = 0
    moved_px: int = 0
    regions_added: int = 0
    regions_removed: int = 0
    true_px: int = 0

    @property
    def is_missed(self) -> bool:
        """Whether the annotation has the class and the prediction no pixel of it where it is."""
        return self.true_px > 0 and self.changed_px == self.pixels


class Effort(BaseModel):
    """What was changed of a prediction, over all images of its task.

    Attributes:
        pixels: of the images that either has a region on.
        changed_px: those of another class than predicted.
        classes: by name, those that either has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels: int
    changed_px: int
    classes: dict[str, ClassEffort]

    @property
    def is_unchanged(self) -> bool:
        """Whether every pixel is as it was predicted."""
        return self.changed_px == 0

    @property
    def changed_share(self) -> float:
        """The share of the pixels whose class was changed."""
        return self.changed_px / self.pixels if self.pixels else 0.0

    @property
    def misses_a_class(self) -> bool:
        """Whether a class of the annotation is missed."""
        return any(one.is_missed for one in self.classes.values())


def effort_of(prediction: Items, annotation: Items, config: LabelConfig, max_pixels: int) -> Effort:
    """What lies between a prediction and the annotation that began as its copy.

    Both are drawn at the size that their regions name. A region is the same in both where its id is; labels that the
    config does not have are left out of the classes.

    Raises:
        MaskError: one of them cannot be drawn, or is on an image of more than `max_pixels`.
    """
    pixels = changed = 0
    totals: dict[str, Counter[str]] = {name: Counter() for name in config.classes}
    for canvas in _canvases(prediction, annotation):
        if canvas.height * canvas.width > max_pixels:
            raise MaskError(f"its regions are on an image of {canvas.width}x{canvas.height} pixels")
        before, after = (
            draw_annotation(items, config, canvas, config.classes).class_map for items in (prediction, annotation)
        )
        pixels += before.size
        changed += int((before != after).sum())
        for value in np.unique(np.concatenate([np.unique(before), np.unique(after)])):
            if BACKGROUND < value <= len(config.classes):
                totals[config.classes[value - 1]].update(_class_effort(before == value, after == value))
    for name, number in _regions_only_in(annotation, prediction, config).items():
        totals[name]["regions_added"] += number
    for name, number in _regions_only_in(prediction, annotation, config).items():
        totals[name]["regions_removed"] += number
    return Effort(
        pixels=pixels,
        changed_px=changed,
        classes={name: ClassEffort(**total) for name, total in totals.items() if total},
    )


def _class_effort(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> dict[str, int]:
    boundary, moved = moved_boundary(before, after, np.ones(before.shape, bool), MOVED_PX)
    return {
        "pixels": int((before | after).sum()),
        "changed_px": int((before ^ after).sum()),
        "boundary_px": boundary,
        "moved_px": moved,
        "true_px": int(after.sum()),
    }


@dataclass(frozen=True)
class _Place:
    """An image that regions are on: its tag, and its index in a list of images."""

    tag: str
    index: int | None


def _canvases(*results: Items) -> Iterator[Canvas]:
    """The images that regions are on, each of the size that its first region names."""
    sizes: dict[_Place, tuple[int, int]] = {}
    for items in results:
        for item in items:
            size = item.get("original_height"), item.get("original_width")
            place = _Place(str(item.get("to_name")), item.get("item_index"))
            if isinstance(size[0], int) and isinstance(size[1], int) and min(size[0], size[1]) > 0:
                sizes.setdefault(place, (size[0], size[1]))
    return (Canvas(place.tag, *size, place.index) for place, size in sizes.items())


def _regions_only_in(items: Items, others: Items, config: LabelConfig) -> Counter[str]:
    """How many regions of each class `items` has whose ids `others` does not have."""
    known = {ident for ident, _ in region_labels(others, config)}
    return Counter(name for ident, name in region_labels(items, config) if ident not in known)
