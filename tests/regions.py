"""Result items as Label Studio keeps them, and label configurations for them."""

from __future__ import annotations

from typing import Any

from segloop.label_config import LabelConfig, parse_label_config

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
