"""Turns a task into items: its images as files, the annotations that count as class maps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from segloop.dataset.class_maps import Drawer, counting_annotations, majority, mask_file, reference
from segloop.dataset.files import KnownImage, Memory, Objects
from segloop.dataset.manifest import Item, Skipped
from segloop.dataset.mirror import content_of
from segloop.errors import ImageError, MaskError
from segloop.formats import IGNORED
from segloop.label_config import LabelConfig
from segloop.settings import Settings

if TYPE_CHECKING:
    from segloop.images import Images

Task = Mapping[str, Any]

#: How drawings are made; another number has everything drawn anew.
_DRAWING: Final = 1


class Taker:
    """Turns tasks into items whose files lie in the snapshot folder."""

    def __init__(
        self,
        config: LabelConfig,
        label_config: str,
        images: Images,
        settings: Settings,
        memory: Memory | None,
        dest: Path,
    ) -> None:
        self._config = config
        self._images = images
        self._settings = settings
        self._drawer = Drawer(config, settings.unlabelled)
        self._memory = memory
        self._objects = Objects(dest) if memory is None else memory.objects
        self._dest = dest
        self._rules = [_DRAWING, label_config, settings.unlabelled, settings.annotators]

    def take(self, task: Task) -> tuple[list[Item], list[Skipped]]:
        """The items of a task, not split yet, and what of it was left out."""
        number = task["id"]
        if self._memory is None:
            taken = self._draw(task)
        else:
            key = self._key(task)
            known = self._memory.drawn(number, key)
            if known is None:
                self._memory.forget_drawn(number)
                known = self._draw(task)
                self._memory.keep_drawn(number, key, *known)
            taken = known
        for item in taken[0]:
            self._objects.link(item.image, self._dest)
            self._objects.link(item.mask, self._dest)
        return taken

    def _key(self, task: Task) -> str:
        """Names all that a task's drawings depend upon."""
        content = task["content"] if "content" in task else content_of(task["annotations"])
        return hashlib.sha256(orjson.dumps([*self._rules, content, task["data"]])).hexdigest()

    def _draw(self, task: Task) -> tuple[list[Item], list[Skipped]]:
        counting = counting_annotations(task["annotations"], self._settings.annotators)
        if not counting:
            raise MaskError("it has no annotation that was not skipped")
        places = [(tag.name, index, uri) for tag, index, uri in self._config.addresses(task["data"])]
        if not places:
            raise ImageError("its data has no image that the label config names")
        images = [self._image(task["id"], *place) for place in places]
        sizes = [(tag, index, i.width, i.height) for (tag, index, _), i in zip(places, images, strict=True)]
        good, problems = [], []
        for annotation, drawn in self._drawer.usable(counting, sizes):
            if isinstance(drawn, MaskError):
                problems.append((annotation, drawn))
            else:
                good.append((annotation, drawn))
        if not good:
            raise problems[0][1]
        references = tuple(reference(annotation) for annotation, _ in good)
        items = []
        for place, ((tag, index, uri), image) in enumerate(zip(places, images, strict=True)):
            class_map = majority([maps[place] for _, maps in good])
            # An image with nothing but ignored pixels teaches nothing.
            if (class_map != IGNORED).any():
                mask, png = mask_file(class_map)
                self._objects.put(mask, png)
                items.append(
                    Item(
                        task=task["id"],
                        image_tag=tag,
                        item_index=index,
                        annotations=references,
                        image=image.file,
                        mask=mask,
                        width=image.width,
                        height=image.height,
                        split="train",
                        address=_lasting(uri),
                    )
                )
        if not items:
            numbers = ", ".join(str(one.id) for one in references)
            raise MaskError(f"annotation {numbers} labels no pixel, and unlabelled pixels are ignored")
        return items, [
            Skipped(task=task["id"], reason=f"annotation {annotation.get('id')}: {error}")
            for annotation, error in problems
        ]

    def _image(self, number: int, tag: str, index: int | None, address: str) -> KnownImage:
        known = None if self._memory is None else self._memory.image(number, tag, index, address)
        if known is not None:
            return known
        source = self._images.load(address, number)
        height, width = source.pixels.shape[:2]
        image = KnownImage(f"images/{source.blob.sha256}{source.blob.suffix}", width, height)
        self._objects.put(image.file, source.blob.bytes)
        if self._memory is not None:
            self._memory.keep_image(number, tag, index, address, image)
        return image


def _lasting(address: str) -> str | None:
    """An address to keep with a version: none that is the image itself, and none that may be signed."""
    scheme = address.strip().partition(":")[0].lower()
    return None if scheme == "data" or (scheme in ("http", "https") and "?" in address) else address
