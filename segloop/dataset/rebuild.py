"""Rebuilds a snapshot from its manifest: the same files, or a sentence that names the tasks that changed since."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from segloop.dataset.class_maps import Annotation, Drawer, majority, mask_file, nothing_known
from segloop.dataset.files import FOLDERS, Memory
from segloop.dataset.manifest import MANIFEST, Item, Manifest, load_manifest, write_manifest
from segloop.errors import ImageError, LabelStudioError, MaskError, SegloopError, TrainingError
from segloop.files import write_bytes
from segloop.label_config import LabelConfig, parse_label_config
from segloop.results import Canvas

if TYPE_CHECKING:
    from segloop.dataset.mirror import Mirror
    from segloop.images import Images

_NAMED: Final = 10


def rebuild(manifest: Manifest, mirror: Mirror, *, images: Images, dest: Path) -> Manifest:
    """Make the snapshot folder `dest` that a manifest describes, byte for byte.

    Files come from the mirror's objects; an image that is not there is fetched from its address again and must have
    the same content, and a mask is drawn again from its annotations, which must not have changed. The files are not
    added to the objects.

    Raises:
        TrainingError: images or annotations changed or went; the text names the tasks.
        LabelStudioError: Label Studio cannot be reached.
    """
    for name in FOLDERS:
        (dest / name).mkdir(parents=True, exist_ok=True)
    (dest / MANIFEST).unlink(missing_ok=True)
    builder = _Builder(manifest, mirror, images, dest)
    problems: dict[int, str] = {}
    for item in manifest.all_items():
        try:
            builder.image(item)
            builder.mask(item)
        except LabelStudioError:
            raise
        except SegloopError as error:
            problems.setdefault(item.task, str(error))
    if problems:
        named = "; ".join(f"task {task}: {reason}" for task, reason in list(problems.items())[:_NAMED])
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise TrainingError(f"the snapshot {manifest.hash[:12]} cannot be rebuilt: {named}{more}")
    write_manifest(dest, manifest)
    return load_manifest(dest)


class _Builder:
    def __init__(self, manifest: Manifest, mirror: Mirror, images: Images, dest: Path) -> None:
        self._config: LabelConfig = parse_label_config(manifest.label_config)
        self._drawer = Drawer(self._config, manifest.unlabelled)
        self._mirror = mirror
        self._objects = Memory(mirror).objects
        self._images = images
        self._dest = dest

    def image(self, item: Item) -> None:
        if self._objects.has(item.image):
            self._objects.link(item.image, self._dest)
            return
        address = item.address or self._address(item)
        if address is None:
            raise ImageError("the address of its image is not known any more")
        blob = self._images.load(address, item.task).blob
        if blob.sha256 != Path(item.image).stem:
            raise ImageError("the image at its address is another one now")
        write_bytes(self._dest / item.image, blob.bytes)

    def mask(self, item: Item) -> None:
        if self._objects.has(item.mask):
            self._objects.link(item.mask, self._dest)
            return
        canvas = Canvas(item.image_tag, item.height, item.width, item.item_index)
        maps = [self._drawer.draw(annotation, canvas).class_map for annotation in self._annotations(item)]
        name, png = mask_file(majority(maps) if maps else nothing_known(item.height, item.width))
        if name != item.mask:
            raise MaskError("its mask comes out differently: another version of segloop or of Pillow drew it")
        write_bytes(self._dest / name, png)

    def _annotations(self, item: Item) -> list[Annotation]:
        if not item.annotations:
            return []
        task = self._mirror.get(item.task)
        if task is None:
            raise MaskError("it is gone, or has no annotation any more")
        present = {one["id"]: one for one in task["annotations"]}
        found = []
        for reference in item.annotations:
            annotation = present.get(reference.id)
            if annotation is None:
                raise MaskError(f"its annotation {reference.id} was deleted")
            if annotation["updated_at"] != reference.updated_at:
                raise MaskError(f"its annotation {reference.id} was changed at {annotation['updated_at']}")
            found.append(annotation)
        return found

    def _address(self, item: Item) -> str | None:
        task = self._mirror.get(item.task)
        if task is None:
            return None
        for tag, index, address in self._config.addresses(task["data"]):
            if (tag.name, index) == (item.image_tag, item.item_index):
                return address
        return None
