"""Reads the XML of label configs, and refuses those that nothing can be predicted with, each with its reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from segloop.errors import LabelConfigError
from segloop.label_config.config import OUTPUT_TAGS, SHAPE_TAGS, Control, ImageTag, Label, LabelConfig
from segloop.label_config.variables import Repeat, has_variable, key_of

#: Class maps are uint8 with 0 for background and 255 for ignored pixels.
MAX_CLASSES = 254

#: Tags that draw a region without naming it; the labels then come from a Labels tag.
_BARE_SHAPE_TAGS = ("Brush", "Bitmask", "Polygon", "Rectangle", "Ellipse", "MagicWand")

#: Tags that may say what a region is in other ways than by labels; a refusal names them.
_CHOICE_TAGS = ("Choices", "Taxonomy")

#: Tags that show data and that a control tag can point at.
_OBJECT_TAGS = (
    *("Image", "Audio", "AudioPlus", "Chat", "HyperText", "List", "Paragraphs"),
    *("Pdf", "Ranker", "Table", "Text", "TimeSeries", "Video"),
)

_FIRST_INDEX_FLAG = "{{idx}}"

_CONTROL_TAGS = (*SHAPE_TAGS, *_BARE_SHAPE_TAGS, "Labels", "KeyPointLabels")
_KNOWN_TAGS = {tag.lower(): tag for tag in (*_OBJECT_TAGS, *_CONTROL_TAGS, *_CHOICE_TAGS, "Label", "Repeater")}

#: Every request carries its project's label config: those of this length and below are read once, the latest few of them.
_REMEMBERED_CHARACTERS = 1 << 16


def parse_label_config(xml: str) -> LabelConfig:
    """Read a label config. Tags and attributes are told without regard to case, as the editor does; tags that
    have nothing to do with segmentation (choices, text areas, per-region or not, styles, ...) are passed over.

    Labels of a `Labels` tag are classes too where a bare `Brush`, `Bitmask`, `Polygon`, `Rectangle` or `Ellipse`
    draws on the same image: annotations made so can be read, but predictions need one of OUTPUT_TAGS. Tags in a
    Repeater stand for those of each page of a task, so their names must hold its index.

    Raises:
        LabelConfigError: empty, not XML, no Image tag, no output tag with labels on an image, too many classes, labels
            that each task has of its own, or a Repeater whose tags have no names of their own.
    """
    if not isinstance(xml, str) or not xml.strip():
        raise LabelConfigError("The label config is empty; save a labeling interface in the project's settings.")
    return _remembered(xml) if len(xml) <= _REMEMBERED_CHARACTERS else _parse(xml)


def _parse(xml: str) -> LabelConfig:
    try:
        root = fromstring(xml.lstrip("\ufeff").strip(), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        is_refused = isinstance(error, DefusedXmlException)
        reason = "it declares a DTD or entities, which are not allowed" if is_refused else error
        raise LabelConfigError(f"The label config is not XML that can be read: {reason}.") from error
    nodes = list(_nodes(root))
    objects = {node.name: node.repeats for node in nodes if node.tag in _OBJECT_TAGS and node.name}
    images = tuple(image for node in nodes if node.tag == "Image" and (image := _image(node)))
    if not images:
        raise LabelConfigError(
            'The label config has no Image tag; add one such as <Image name="image" value="$image"/>.'
        )
    on_image = {image.name for image in images}
    controls = []
    pointing = [
        (node, pointed)
        for node in nodes
        if node.tag in (*_CONTROL_TAGS, *_CHOICE_TAGS)
        and (pointed := tuple(name for name in _to_name(node, objects) if name in on_image))
    ]
    bare: set[str] = set()
    for node, pointed in pointing:
        if node.tag in _BARE_SHAPE_TAGS:
            bare.update(pointed)
        elif node.tag not in _CHOICE_TAGS and node.name:
            controls.append(Control(node.name, node.tag, pointed, _labels(node.element), node.repeats))
    used = tuple(control for control in controls if control.tag != "Labels" or bare.intersection(control.to_name))
    config = LabelConfig(images, used, tuple(objects.items()))
    _check_repeats(config, objects)
    _check(config, [node for node, _ in pointing])
    return config


_remembered = lru_cache(maxsize=64)(_parse)


@dataclass(frozen=True)
class _Node:
    """A tag that is known here: its name as it is written there, its attributes, and the Repeaters around it."""

    tag: str
    name: str
    value: str
    attributes: defaultdict[str, str]
    element: Element
    repeats: tuple[Repeat, ...]


def _nodes(root: Element) -> Iterator[_Node]:
    """The known tags, in the config's order; without recursion, as a config may be nested thousands deep."""
    left: list[tuple[Element, tuple[Repeat, ...]]] = [(root, ())]
    while left:
        element, repeats = left.pop()
        tag, attributes = _KNOWN_TAGS.get(_tag(element)), _attributes(element)
        if tag == "Repeater":
            repeats += (Repeat(attributes["on"].strip(), attributes["indexflag"] or _FIRST_INDEX_FLAG),)
        elif tag is not None:
            yield _Node(tag, attributes["name"], attributes["value"], attributes, element, repeats)
        left.extend((child, repeats) for child in reversed(element))


def _check(config: LabelConfig, pointing: Sequence[_Node]) -> None:
    output = [control for control in config.controls if control.tag in OUTPUT_TAGS.values()]
    if not output:
        raise LabelConfigError(
            "The label config has no BrushLabels, BitmaskLabels or PolygonLabels tag for an image; add one whose "
            f"toName is the Image tag's name.{_drawn_otherwise(pointing)}"
        )
    if not any(control.labels for control in output):
        dynamic = next((node for node in pointing if node.tag in OUTPUT_TAGS.values() and "$" in node.value), None)
        if dynamic is not None:
            raise LabelConfigError(
                f"The {dynamic.tag} tag {dynamic.name!r} of the label config has no labels of its own: it takes them "
                f"from each task's data (value={dynamic.value!r}), but a network has the same classes for all tasks; "
                "write them as Label tags."
            )
        raise LabelConfigError(
            f"The {output[0].tag} tag {output[0].name!r} of the label config has no labels; add Label tags to it."
        )
    named_by_task = next((name for name in config.classes if has_variable(name)), None)
    if named_by_task is not None:
        raise LabelConfigError(
            f"The label {named_by_task!r} of the label config has another name in each task, as it holds a variable, but a "
            "network has the same classes for all tasks; write its name out, or give it an alias."
        )
    if len(config.classes) > MAX_CLASSES:
        raise LabelConfigError(
            f"The label config has {len(config.classes)} labels; at most {MAX_CLASSES} can be told apart."
        )


def _drawn_otherwise(pointing: Sequence[_Node]) -> str:
    """How regions get their classes in a config without output tags, for the refusal; empty where none are drawn."""
    drawing = next((node for node in pointing if node.tag in _BARE_SHAPE_TAGS), None)
    naming = next((node for node in pointing if node.tag in (*_CHOICE_TAGS, "Labels")), None)
    if drawing is None:
        return ""
    drawn = f" Its {drawing.tag} tag {drawing.name!r} draws regions"
    if naming is None:
        return f"{drawn} that have no class."
    dynamic = f" and from each task's data (value={naming.value!r})" if "$" in naming.value else ""
    return f"{drawn} whose class comes from the {naming.tag} tag {naming.name!r}{dynamic}: these cannot be predicted."


def _check_repeats(config: LabelConfig, objects: Mapping[str, Sequence[Repeat]]) -> None:
    """Refuse a Repeater whose pages have other labels each, or tags that cannot be told apart."""
    for image in config.images:
        for repeat in image.repeats:
            if repeat.flag not in image.name:
                raise LabelConfigError(
                    f"The label config repeats the Image tag {image.name!r} under one name; put {repeat.flag} into it, such "
                    f"as {image.name}_{repeat.flag}."
                )
    for control in config.controls:
        around = dict.fromkeys((*control.repeats, *(repeat for name in control.to_name for repeat in objects[name])))
        for repeat in around:
            names = control.name, *control.to_name
            if repeat not in control.repeats or not all(repeat.flag in name for name in names):
                raise LabelConfigError(
                    f"The {control.tag} tag {control.name!r} of the label config, for {', '.join(control.to_name)}, is not "
                    f"repeated as its image is; put it into the image's Repeater, and {repeat.flag} into its name and toName."
                )
            if any(repeat.flag in label.name for label in control.labels):
                raise LabelConfigError(
                    f"The {control.tag} tag {control.name!r} of the label config has other labels on each page of its "
                    f"Repeater, but a network has the same classes for all; write labels without {repeat.flag}."
                )


def _tag(node: Element) -> str:
    """The tag without its namespace, in lower case; comments have a function for a tag."""
    return node.tag.rpartition("}")[2].lower() if isinstance(node.tag, str) else ""


def _attributes(node: Element) -> defaultdict[str, str]:
    """The attributes by their names in lower case; one that is missing is empty."""
    return defaultdict(str, {name.lower(): value for name, value in node.attrib.items()})


def _image(node: _Node) -> ImageTag | None:
    name, listed = node.name, node.attributes["valuelist"]
    # A tag's text stands for its value, as in the editor.
    source = listed or node.value or (node.element.text or "").strip()
    return ImageTag(name, key_of(source), bool(listed), node.repeats) if name and source else None


def _to_name(node: _Node, objects: Collection[str]) -> tuple[str, ...]:
    """What a control tag points at. Without toName the editor takes the only object tag there is."""
    to_name = node.attributes["toname"]
    if not to_name:
        return tuple(objects) if len(objects) == 1 else ()
    return tuple(name.strip() for name in to_name.split(","))


def _labels(node: Element) -> tuple[Label, ...]:
    labels: dict[str, Label] = {}
    for label in (child for child in node.iter() if _tag(child) == "label"):
        attributes = _attributes(label)
        value = attributes["value"] or (label.text or "").strip()
        name = attributes["alias"] or value
        if name:
            predicted = (part.strip() for part in attributes["predicted_values"].split(","))
            known = tuple(part for part in predicted if part)
            labels.setdefault(name, Label(value or name, name, known, attributes["background"]))
    return tuple(labels.values())
