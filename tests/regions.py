"""Result items as Label Studio keeps them, label configurations for them, and what is read of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from segloop.label_config import LabelConfig, parse_label_config
from segloop.masks import encode_rle
from segloop.results import Canvas, Drawing, annotation_class_map, draw_annotation

LABELS = '<Label value="Road"/><Label value="Straße am See" alias="See"/><Label value="Tree"/>'
CLASSES = ("Road", "See", "Tree")


def config_of(*tags: str, extra: str = "") -> LabelConfig:
    controls = "".join(f'<{tag} name="{tag[:5].lower()}" toName="image">{LABELS}</{tag}>' for tag in tags)
    images = '<Image name="image" value="$image"/><Image name="other" value="$other"/>'
    return parse_label_config(f"<View>{images}{controls}{extra}</View>")


BRUSH = config_of("BrushLabels")
ALL = config_of("BrushLabels", "PolygonLabels", "BitmaskLabels", "RectangleLabels", "EllipseLabels")


def item(
    kind: str, value: dict[str, Any], label: str | None = "Road", ident: str = "r1", **more: Any
) -> dict[str, Any]:
    named = {} if label is None else {kind: [label]}
    return {"id": ident, "from_name": "x", "to_name": "image", "type": kind, "value": {**value, **named}, **more}


def brush_item(mask: np.ndarray, label: str | None = "Road", ident: str = "r1", **more: Any) -> dict[str, Any]:
    sizes = {"original_height": mask.shape[0], "original_width": mask.shape[1], **more}
    return item("brushlabels", {"format": "rle", "rle": encode_rle(mask)}, label, ident, **sizes)


def rectangle(
    x: float, y: float, width: float, height: float, label: str = "Road", ident: str = "r1"
) -> dict[str, Any]:
    return item("rectanglelabels", {"x": x, "y": y, "width": width, "height": height, "rotation": 0}, label, ident)


def drawn(
    *items: Any, height: int = 4, width: int = 5, config: LabelConfig = ALL, unlabelled: Any = "background"
) -> Drawing:
    return draw_annotation(list(items), config, Canvas("image", height, width), CLASSES, unlabelled)


def painted(
    *items: Any, height: int = 4, width: int = 5, config: LabelConfig = ALL, unlabelled: Any = "background"
) -> np.ndarray:
    return annotation_class_map(list(items), config, Canvas("image", height, width), CLASSES, unlabelled)
