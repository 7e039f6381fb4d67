"""Label configs: which images a project shows, which control tags segment them, and which classes they have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from segloop.errors import LabelConfigError

Preference = Literal["auto", "brush", "bitmask", "polygon"]

#: Control tags that predictions can be written with, by the preference that names each; auto takes this order.
OUTPUT_TAGS = {"brush": "BrushLabels", "bitmask": "BitmaskLabels", "polygon": "PolygonLabels"}

#: Control tags whose labels are classes: the regions of all of them are read from annotations.
SHAPE_TAGS = (*OUTPUT_TAGS.values(), "RectangleLabels", "EllipseLabels")

#: Tags that draw a region without naming it; the labels then come from a Labels tag.
_BARE_SHAPE_TAGS = ("Brush", "Bitmask", "Polygon", "Rectangle", "Ellipse")

#: Tags that show data and that a control tag can point at.
_OBJECT_TAGS = (
    *("Image", "Audio", "AudioPlus", "Chat", "HyperText", "List", "Paragraphs"),
    *("Pdf", "Ranker", "Table", "Text", "TimeSeries", "Video"),
)

#: Class maps are uint8 with 0 for background and 255 for ignored pixels.
MAX_CLASSES = 254

_KNOWN_TAGS = {
    tag.lower(): tag for tag in (*_OBJECT_TAGS, *SHAPE_TAGS, *_BARE_SHAPE_TAGS, "Labels", "KeyPointLabels", "Label")
}


@dataclass(frozen=True)
class Label:
    """A label. `name` is what results carry: the alias, else the value. `background` is its colour, as CSS has it."""

    value: str
    name: str
    predicted_values: tuple[str, ...] = ()
    background: str = ""


@dataclass(frozen=True)
class Control:
    """A control tag with labels, and the object tags it points at."""

    name: str
    tag: str
    to_name: tuple[str, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class ImageTag:
    """An Image tag. `key` is the task's data field, or a path of fields (`pages[0].url`); a list (`valueList`)
    holds several images."""

    name: str
    key: str
    is_list: bool


@dataclass(frozen=True)
class LabelConfig:
    """What a label config says about segmentation; control tags in the config's order."""

    images: tuple[ImageTag, ...]
    controls: tuple[Control, ...]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels of all tags that draw on an image, in the config's order, each once."""
        return tuple(dict.fromkeys(label.name for control in self._drawing for label in control.labels))

    @cached_property
    def predicted_values(self) -> MappingProxyType[str, tuple[str, ...]]:
        """For each class, the names a model may use for it: the attribute `predicted_values`, comma-separated."""
        values: dict[str, dict[str, None]] = {name: {} for name in self.classes}
        for control in self._drawing:
            for label in control.labels:
                values[label.name].update(dict.fromkeys(label.predicted_values))
        return MappingProxyType({name: tuple(found) for name, found in values.items()})

    @cached_property
    def colours(self) -> MappingProxyType[str, str]:
        """The colours of the classes that have one, as the config writes them."""
        labels = [label for control in reversed(self._drawing) for label in reversed(control.labels)]
        return MappingProxyType({label.name: label.background for label in labels if label.background})

    @cached_property
    def class_of(self) -> MappingProxyType[str, str]:
        """The class that a label in a result means: its name, or, as the editor accepts, its value."""
        values = {label.value: label.name for control in reversed(self._drawing) for label in reversed(control.labels)}
        return MappingProxyType({**values, **{name: name for name in self.classes}})

    def outputs(self, image: str, preference: Preference = "auto") -> dict[str, Control]:
        """The control tag that each class is predicted with on an image; classes that only rectangles,
        ellipses or bare tags have are left out.

        Each label goes to the first tag that has it: of brush, bitmask and polygon in this order, the preferred
        one moved to the front; among tags of one kind, in the config's order.
        """
        order = sorted(OUTPUT_TAGS, key=lambda kind: kind != preference)
        tags = [OUTPUT_TAGS[kind] for kind in order]
        controls = [control for control in self.controls if image in control.to_name and control.tag in tags]
        controls.sort(key=lambda control: tags.index(control.tag))
        found = {label.name: control for control in reversed(controls) for label in control.labels}
        return {name: found[name] for name in self.classes if name in found}

    def addresses(self, data: Mapping[str, object]) -> Iterator[tuple[ImageTag, int | None, str]]:
        """The images of a task's `data` that something can be predicted on: their tag, their index in a list of
        images (else None), and their address. What is missing or no address is passed over."""
        for tag in self.images:
            if not self.outputs(tag.name):
                continue
            value = _field(data, tag.key)
            for index, uri in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(uri, str) and uri.strip():
                    yield tag, index if tag.is_list or isinstance(value, list) else None, uri

    @cached_property
    def _drawing(self) -> tuple[Control, ...]:
        return tuple(control for control in self.controls if control.tag != "KeyPointLabels")


#: Every request carries its project's label config: those of this length and below are read once, the latest few of them.
_REMEMBERED_CHARACTERS = 1 << 16


def parse_label_config(xml: str) -> LabelConfig:
    """Read a label config. Tags and attributes are told without regard to case, as the editor does; tags that
    have nothing to do with segmentation (choices, text areas, per-region or not, styles, ...) are passed over.

    Labels of a `Labels` tag are classes too where a bare `Brush`, `Bitmask`, `Polygon`, `Rectangle` or `Ellipse`
    draws on the same image: annotations made so can be read, but predictions need one of OUTPUT_TAGS.

    Raises:
        LabelConfigError: empty, not XML, no Image tag, no output tag with labels on an image, or too many classes.
    """
    if not isinstance(xml, str) or not xml.strip():
        raise LabelConfigError("The label config is empty; save a labeling interface in the project's settings.")
    return _remembered(xml) if len(xml) <= _REMEMBERED_CHARACTERS else _parse(xml)


def _parse(xml: str) -> LabelConfig:
    try:
        root = fromstring(xml.lstrip("\ufeff").strip(), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise LabelConfigError(f"The label config is not XML that can be read: {_reason(error)}.") from error
    nodes = [(_KNOWN_TAGS[tag], node) for node in root.iter() if (tag := _tag(node)) in _KNOWN_TAGS]
    objects = {name for tag, node in nodes if tag in _OBJECT_TAGS and (name := _attributes(node).get("name"))}
    images = tuple(image for tag, node in nodes if tag == "Image" and (image := _image(node)))
    if not images:
        raise LabelConfigError(
            'The label config has no Image tag; add one such as <Image name="image" value="$image"/>.'
        )
    on_image = {image.name for image in images}
    controls = []
    bare: set[str] = set()
    for tag, node in nodes:
        if tag in _OBJECT_TAGS or tag == "Label":
            continue
        pointed = tuple(name for name in _to_name(node, objects) if name in on_image)
        if tag in _BARE_SHAPE_TAGS:
            bare.update(pointed)
        elif pointed and (name := _attributes(node).get("name")):
            controls.append(Control(name, tag, pointed, _labels(node)))
    used = tuple(control for control in controls if control.tag != "Labels" or bare.intersection(control.to_name))
    config = LabelConfig(images, used)
    _check(config)
    return config


_remembered = lru_cache(maxsize=64)(_parse)


def _field(data: Mapping[str, object], key: str) -> object:
    """The field `key` of a task's data: by that very name, else as a path such as `pages[0].url`."""
    if key in data:
        return data[key]
    value: object = data
    for name in re.findall(r"[^.\[\]]+", key):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _check(config: LabelConfig) -> None:
    output = [control for control in config.controls if control.tag in OUTPUT_TAGS.values()]
    if not output:
        raise LabelConfigError(
            "The label config has no BrushLabels, BitmaskLabels or PolygonLabels tag for an image; add one whose "
            "toName is the Image tag's name."
        )
    if not any(control.labels for control in output):
        raise LabelConfigError(
            f"The {output[0].tag} tag {output[0].name!r} of the label config has no labels; add Label tags to it."
        )
    if len(config.classes) > MAX_CLASSES:
        raise LabelConfigError(
            f"The label config has {len(config.classes)} labels; at most {MAX_CLASSES} can be told apart."
        )


def _tag(node: Element) -> str:
    """The tag without its namespace, in lower case; comments have a function for a tag."""
    return node.tag.rpartition("}")[2].lower() if isinstance(node.tag, str) else ""


def _attributes(node: Element) -> dict[str, str]:
    return {name.lower(): value for name, value in node.attrib.items()}


def _image(node: Element) -> ImageTag | None:
    attributes = _attributes(node)
    name = attributes.get("name")
    source = attributes.get("valuelist") or attributes.get("value")
    return ImageTag(name, source.strip().lstrip("$"), bool(attributes.get("valuelist"))) if name and source else None


def _to_name(node: Element, objects: set[str]) -> tuple[str, ...]:
    """What a control tag points at. Without toName the editor takes the only object tag there is."""
    to_name = _attributes(node).get("toname")
    if not to_name:
        return tuple(objects) if len(objects) == 1 else ()
    return tuple(name.strip() for name in to_name.split(","))


def _labels(node: Element) -> tuple[Label, ...]:
    labels: dict[str, Label] = {}
    for label in _label_tags(node):
        attributes = _attributes(label)
        value = attributes.get("value") or (label.text or "").strip()
        name = attributes.get("alias") or value
        if name:
            predicted = (part.strip() for part in attributes.get("predicted_values", "").split(","))
            known = tuple(part for part in predicted if part)
            labels.setdefault(name, Label(value or name, name, known, attributes.get("background", "")))
    return tuple(labels.values())


def _label_tags(node: Element) -> Iterator[Element]:
    return (child for child in node.iter() if _tag(child) == "label")


def _reason(error: Exception) -> str:
    if isinstance(error, DefusedXmlException):
        return "it declares a DTD or entities, which are not allowed"
    return str(error)
