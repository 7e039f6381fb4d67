"""Class maps and masks to result items: what a prediction holds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from segloop.label_config import Control, LabelConfig, Preference
from segloop.masks import class_pixels, encode_bitmask, encode_class_rle, label_pieces, mask_polygons, remove_specks
from segloop.results.scores import mean_by_value

Per = Literal["class", "component"]


class Region(TypedDict):
    """A result item of Label Studio: one region under one label. `value` has its shape and its label."""

    id: str
    from_name: str
    to_name: str
    type: str
    origin: str
    original_width: int
    original_height: int
    image_rotation: int
    value: dict[str, object]
    #: The mean confidence of the pixels that the item stands for.
    score: NotRequired[float]
    item_index: NotRequired[int]


@dataclass(frozen=True)
class Scene:
    """What a network found on an image.

    `class_map` is uint8 (H, W): i + 1 for `classes[i]`, 0 and 255 for nothing. `confidence` is float32 in [0, 1], of
    the map's size or coarser.
    """

    class_map: NDArray[np.uint8]
    classes: tuple[str, ...]
    confidence: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class RegionWriter:
    """Writes regions on one image tag.

    Each class goes to the control tag that `config.outputs` gives for it. Brush and bitmask regions cover a class or
    one connected piece (`per`), polygons always one piece. Pieces smaller than `min_area_px` pixels are left out.
    """

    config: LabelConfig
    image: str
    preference: Preference = "auto"
    per: Per = "class"
    min_area_px: int = 0
    tolerance_px: float = 1.0

    @cached_property
    def outputs(self) -> Mapping[str, Control]:
        """The control tag of each class that can be written."""
        return self.config.outputs(self.image, self.preference)

    def scene_regions(self, scene: Scene) -> list[Region]:
        """The result items of a prediction, ready for Label Studio, in the order of the classes.

        Classes that no output tag of the image has are left out. With a confidence, each item has a `score`
        (see `mean_by_value`).
        """
        class_map = remove_specks(scene.class_map, self.min_area_px)
        present = class_pixels(class_map) > 0
        found = {
            value: label
            for value, label in enumerate(scene.classes, start=1)
            if label in self.outputs and present[value]
        }
        whole = {value: label for value, label in found.items() if self.per == "class" and not self._is_polygon(label)}
        areas = self._areas(class_map, whole, scene.confidence)
        items: list[Region] = []
        for value, label in found.items():
            items += [areas[value]] if value in areas else self._pieces(class_map == value, label, scene.confidence)
        return items

    def mask_regions(
        self, mask: NDArray[np.bool_], label: str, confidence: NDArray[np.float32] | None = None
    ) -> list[Region]:
        """The result items of one mask, bool (H, W), under one label; none for an empty mask.

        One brush or bitmask region, whatever `per` says; or a polygon for each piece.
        """
        if not mask.any():
            return []
        if self._is_polygon(label):
            return self._pieces(mask, label, confidence)
        return list(self._areas(mask.astype(np.uint8), {1: label}, confidence).values())

    def _is_polygon(self, label: str) -> bool:
        return self.outputs[label].tag == "PolygonLabels"

    def _pieces(self, mask: NDArray[np.bool_], label: str, confidence: NDArray[np.float32] | None) -> list[Region]:
        """An item for each connected piece of a mask, bool (H, W)."""
        count, pieces, stats = label_pieces(mask)
        if not self._is_polygon(label):
            return list(self._areas(pieces, dict.fromkeys(range(1, count + 1), label), confidence).values())
        height, width = mask.shape
        scores = mean_by_value(pieces, count + 1, confidence)
        to_percent = np.array([100 / width, 100 / height])
        items = []
        for number in range(1, count + 1):
            left, top, across, down = (int(side) for side in stats[number, :4])
            piece = pieces[top : top + down, left : left + across] == number
            for points in mask_polygons(piece, self.tolerance_px):
                percent = np.clip((points + np.array([left, top])) * to_percent, 0, 100)
                value = {"points": percent.tolist(), "closed": True}
                items.append(self._item(value, label, mask.shape, scores[number]))
        return items

    def _areas(
        self,
        values: NDArray[np.uint8] | NDArray[np.int32],
        wanted: Mapping[int, str],
        confidence: NDArray[np.float32] | None,
    ) -> dict[int, Region]:
        """A brush or bitmask item for each wanted value, with its label, of an integer map (H, W)."""
        if not wanted:
            return {}
        scores = mean_by_value(values, max(wanted) + 1, confidence)
        brushed = [value for value, label in wanted.items() if self.outputs[label].tag == "BrushLabels"]
        codes = dict(zip(brushed, encode_class_rle(values, brushed), strict=True))
        items = {}
        for value, label in wanted.items():
            shape: dict[str, object]
            if value in codes:
                shape = {"format": "rle", "rle": codes[value]}
            else:
                shape = {"imageDataURL": encode_bitmask(values == value)}
            items[value] = self._item(shape, label, values.shape, scores[value])
        return items

    def _item(self, value: Mapping[str, object], label: str, size: tuple[int, ...], score: float | None) -> Region:
        control = self.outputs[label]
        kind = control.tag.lower()
        height, width = size
        item: Region = {
            "id": uuid.uuid4().hex[:12],
            "from_name": control.name,
            "to_name": self.image,
            "type": kind,
            "origin": "prediction",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**value, kind: [label]},
        }
        if score is not None:
            item["score"] = score
        return item
