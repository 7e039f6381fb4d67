"""Turns a task into items: its images as files, the annotations that count as class maps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from segloop.accepted import by_people
from segloop.dataset.class_maps import Drawer, counting_annotations, majority, mask_file, nothing_known, reference
from segloop.dataset.content import content_of
from segloop.dataset.files import Built, KnownImage, Memory, Objects
from segloop.dataset.image_waits import ImageWaits, Place, host_of
from segloop.dataset.looks import Looks
from segloop.dataset.manifest import AnnotationRef, Item, Manifest, Skipped
from segloop.dataset.notes import Note
from segloop.dataset.splits import SplitStore
from segloop.errors import ImageError, MaskError
from segloop.formats import IGNORED
from segloop.label_config import parse_label_config
from segloop.results import Canvas
from segloop.settings import Settings

if TYPE_CHECKING:
    from segloop.images import Images

Task = Mapping[str, Any]

#: How drawings are made; another number has everything drawn anew.
_DRAWING: Final = 2


@dataclass(frozen=True)
class SnapshotInputs:
    """What a snapshot of a project is made from, besides its tasks.

    Attributes:
        project: its key.
        splits: where its split is kept.
        accepted: tasks whose annotation segloop made of its own pre-label: they are on the training side.
        unannotated: tasks without annotations, `{"id", "data"}` each, whose images are to be learnt from besides.
        learnt: the served version's training set: what it was trained on is not held out, wherever it comes from now.
        memory: what earlier snapshots found; with it, only what changed is fetched, decoded and drawn.
    """

    project: str
    label_config: str
    images: Images
    splits: SplitStore
    settings: Settings
    memory: Memory | None = None
    learnt: Manifest | None = None
    accepted: frozenset[int] = frozenset()
    unannotated: Iterable[Task] = ()


class ItemBuilder:
    """Builds the items of tasks, whose files lie in the snapshot folder `dest`.

    Attributes:
        waits: the images that could not be had now.
        looks: what the images show.

    Raises:
        LabelConfigError: the label config cannot be used.
    """

    def __init__(self, inputs: SnapshotInputs, dest: Path) -> None:
        settings = inputs.settings
        self.config = parse_label_config(inputs.label_config)
        self._images, self._annotators, self._memory = inputs.images, settings.annotators, inputs.memory
        self._drawer = Drawer(self.config, settings.unlabelled)
        self._objects = Objects(dest) if inputs.memory is None else inputs.memory.objects
        self._dest = dest
        self.waits = ImageWaits(None if inputs.memory is None else inputs.memory.db, 3600 * settings.image_wait_hours)
        self.looks = Looks(None if inputs.memory is None else inputs.memory.db)
        self._rules = [_DRAWING, inputs.label_config, settings.unlabelled, settings.annotators]

    def build(self, task: Task) -> Built:
        """The items of a task, not split yet, and what of it was left out."""
        number = task["id"]
        if self._memory is None:
            built = self._draw(task)
        else:
            key = self._key(task)
            known = self._memory.drawn(number, key)
            if known is None:
                self._memory.forget_drawn(number)
                known = self._draw(task)
                self._memory.keep_drawn(number, key, known)
            built = known
        self._link(built.items)
        return built

    def unannotated(self, task: Task) -> list[Item]:
        """The items of a task without annotations: nothing of their images is known.

        Raises:
            ImageError: an image cannot be used, or not now.
        """
        items = []
        for tag, index, uri in self.config.addresses(task["data"]):
            place = (tag.name, index, uri)
            image = self._image(task["id"], *place)
            items.append(self._item(task["id"], place, image, nothing_known(image.height, image.width), ()))
        self._link(items)
        return items

    def _key(self, task: Task) -> str:
        """Names all that a task's drawings depend upon."""
        content = task["content"] if "content" in task else content_of(task["annotations"])
        return hashlib.sha256(orjson.dumps([*self._rules, content, task["data"]])).hexdigest()

    def _draw(self, task: Task) -> Built:
        # whatever a person says comes before what segloop accepted
        annotations = by_people(task["annotations"]) or task["annotations"]
        counting = counting_annotations(annotations, self._annotators)
        if not counting:
            raise MaskError("it has no annotation that was not skipped")
        places = [(tag.name, index, uri) for tag, index, uri in self.config.addresses(task["data"])]
        if not places:
            raise ImageError("its data has no image that the label config names")
        images = [self._image(task["id"], *place) for place in places]
        canvases = [Canvas(tag, i.height, i.width, index) for (tag, index, _), i in zip(places, images, strict=True)]
        good, skipped = [], []
        for annotation, drawn in self._drawer.usable(counting, canvases):
            if isinstance(drawn, MaskError):
                skipped.append(Skipped(task=task["id"], reason=f"annotation {annotation.get('id')}: {drawn}"))
            else:
                good.append((annotation, drawn))
        if not good:
            raise MaskError(skipped[0].reason)
        references = tuple(reference(annotation) for annotation, _ in good)
        items = []
        for number, (place, image) in enumerate(zip(places, images, strict=True)):
            class_map = majority([drawn.class_maps[number] for _, drawn in good])
            # An image with nothing but ignored pixels teaches nothing.
            if (class_map != IGNORED).any():
                items.append(self._item(task["id"], place, image, class_map, references))
        if not items:
            numbers = ", ".join(str(one.id) for one in references)
            raise MaskError(
                f"annotation {numbers} labels no pixel that can be learnt: all are ignored, or of unknown labels"
            )
        notes = [Note.of(task["id"], problem) for _, drawn in good for problem in drawn.problems]
        return Built(items, skipped, notes)

    def _item(
        self,
        task: int,
        place: tuple[str, int | None, str],
        image: KnownImage,
        class_map: NDArray[np.uint8],
        annotations: tuple[AnnotationRef, ...],
    ) -> Item:
        """An item of an image at a place (tag, index, address) of a task; its class map becomes a file."""
        tag, index, address = place
        mask, png = mask_file(class_map)
        self._objects.put(mask, png)
        return Item(
            task=task,
            image_tag=tag,
            item_index=index,
            annotations=annotations,
            image=image.file,
            mask=mask,
            width=image.width,
            height=image.height,
            split="train",
            address=_lasting(address),
        )

    def _link(self, items: Iterable[Item]) -> None:
        for item in items:
            self._objects.link(item.image, self._dest)
            self._objects.link(item.mask, self._dest)

    def _image(self, number: int, tag: str, index: int | None, address: str) -> KnownImage:
        known = None if self._memory is None else self._memory.image(number, tag, index, address)
        if known is not None:
            return known
        with self.waits.fetching(Place(number, tag, index, host_of(address))):
            source = self._images.load(address, number)
        height, width = source.pixels.shape[:2]
        image = KnownImage(f"images/{source.blob.sha256}{source.blob.suffix}", width, height)
        self._objects.put(image.file, source.blob.bytes)
        self.looks.keep(image.file, source.pixels)
        if self._memory is not None:
            self._memory.keep_image(number, tag, index, address, image)
        return image


def _lasting(address: str) -> str | None:
    """An address to keep with a version: none that is the image itself, and none that may be signed."""
    scheme = address.strip().partition(":")[0].lower()
    return None if scheme == "data" or (scheme in ("http", "https") and "?" in address) else address
