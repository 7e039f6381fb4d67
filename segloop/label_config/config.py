"""What a label config says about segmentation: its images, its control tags, and the classes they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from segloop.label_config.variables import Repeat, flags_in, pages, resolve, with_flags

Preference = Literal["auto", "brush", "bitmask", "polygon"]

#: Control tags that predictions can be written with, by the preference that names each; auto takes this order.
OUTPUT_TAGS = {"brush": "BrushLabels", "bitmask": "BitmaskLabels", "polygon": "PolygonLabels"}

#: Control tags whose labels are classes: the regions of all of them are read from annotations.
SHAPE_TAGS = (*OUTPUT_TAGS.values(), "RectangleLabels", "EllipseLabels")


@dataclass(frozen=True)
class Label:
    """A label. `name` is what results carry: the alias, else the value. `background` is its colour, as CSS has it."""

    value: str
    name: str
    predicted_values: tuple[str, ...] = ()
    background: str = ""


@dataclass(frozen=True)
class Control:
    """A control tag with labels, and the object tags it points at. Names of repeated tags have the Repeater's flags."""

    name: str
    tag: str
    to_name: tuple[str, ...]
    labels: tuple[Label, ...]
    repeats: tuple[Repeat, ...] = ()

    def on(self, image: str) -> Control | None:
        """This tag, if it points at an image of that name; of a repeated tag, the one that does."""
        if image in self.to_name:
            return self
        for name in self.to_name if self.repeats else ():
            flags = flags_in(image, name, self.repeats)
            if flags is not None:
                return replace(self, name=with_flags(flags, self.name), to_name=(image,), repeats=())
        return None


@dataclass(frozen=True)
class ImageTag:
    """An Image tag. `key` is the task's data field, or a path of fields (`pages[0].url`), or a text with such fields as
    `$variables`; a list (`valueList`) holds several images. In a Repeater, name and key have its flags."""

    name: str
    key: str
    is_list: bool
    repeats: tuple[Repeat, ...] = ()


@dataclass(frozen=True)
class LabelConfig:
    """What a label config says about segmentation; control tags in the config's order, all object tags by name."""

    images: tuple[ImageTag, ...]
    controls: tuple[Control, ...]
    objects: tuple[tuple[str, tuple[Repeat, ...]], ...] = ()

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
        controls = [shown for control in self.controls if control.tag in tags and (shown := control.on(image))]
        controls.sort(key=lambda control: tags.index(control.tag))
        found = {label.name: control for control in reversed(controls) for label in control.labels}
        return {name: found[name] for name in self.classes if name in found}

    def addresses(self, data: Mapping[str, object]) -> Iterator[tuple[ImageTag, int | None, str]]:
        """The images of a task's `data` that something can be predicted on: their tag, their index in a list of
        images (else None), and their address. Repeated tags come once for each page. What is missing or no address is
        passed over."""
        for tag in self.images:
            for flags in pages(tag.repeats, data):
                page = ImageTag(with_flags(flags, tag.name), with_flags(flags, tag.key), tag.is_list) if flags else tag
                if not self.outputs(page.name):
                    continue
                value = resolve(data, page.key)
                for index, uri in enumerate(value if isinstance(value, list) else [value]):
                    if isinstance(uri, str) and uri.strip():
                        yield page, index if tag.is_list or isinstance(value, list) else None, uri

    def has_object(self, name: object) -> bool:
        """Whether a result can point at `name`: at an Image or another tag that shows data."""
        return isinstance(name, str) and any(
            flags_in(name, known, repeats) is not None if repeats else name == known for known, repeats in self.objects
        )

    @cached_property
    def _drawing(self) -> tuple[Control, ...]:
        return tuple(control for control in self.controls if control.tag != "KeyPointLabels")
