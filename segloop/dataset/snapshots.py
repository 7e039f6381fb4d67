"""Takes snapshots: one annotation per task, drawn as a class map beside the original image file."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segloop.dataset.manifest import MANIFEST, AnnotationRef, Item, Manifest, Skipped, Split
from segloop.dataset.splits import SplitStore, assign_splits
from segloop.errors import ImageError, LabelStudioError, MaskError, NothingToTrain, SegloopError
from segloop.label_config import LabelConfig, parse_label_config
from segloop.results import IGNORED, annotation_class_map
from segloop.settings import Settings

_log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]


class File(Protocol):
    """An image file."""

    @property
    def bytes(self) -> bytes:
        """What it holds."""

    @property
    def sha256(self) -> str:
        """Of what it holds, in hex."""

    @property
    def suffix(self) -> str:
        """Of its name, such as `.jpg`."""


class SourceImage(Protocol):
    """An image as `segloop.images` loads it."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), RGB, upright."""

    @property
    def blob(self) -> File:
        """The file that it was decoded from."""


class Images(Protocol):
    """Where images come from."""

    def load(self, uri: str, task_id: int | None) -> SourceImage:
        """The image at `uri`; ImageError if there is none to be had."""


def current_annotation(annotations: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The annotation of a task that counts: of those not skipped, ground truth before others, then the newest."""
    submitted = [annotation for annotation in annotations if not annotation.get("was_cancelled")]

    def rank(annotation: Mapping[str, Any]) -> tuple[bool, datetime, int]:
        updated_at = datetime.fromisoformat(annotation["updated_at"])
        return bool(annotation.get("ground_truth")), updated_at, annotation["id"]

    return max(submitted, key=rank, default=None)


def snapshot(
    project: str,
    tasks: Iterable[Mapping[str, Any]],
    label_config: str,
    *,
    images: Images,
    splits: SplitStore,
    dest: Path,
    settings: Settings,
    progress: Progress | None = None,
) -> Manifest:
    """Freeze labelled tasks as a snapshot folder `dest`; its manifest is written last.

    Each task gives its current annotation (see `current_annotation`). One without regions means "all background",
    or nothing where `settings.unlabelled` is "ignore". A task whose annotation or image cannot be used is left
    out and reported under `skipped`.

    Args:
        project: key of the project.
        tasks: `{"id", "data", "annotations"}` each, as `LabelStudio.labelled_tasks` gives them.
        splits: where the project's split is kept.
        progress: told `{"phase": "snapshot", "step", "steps", "message"}` after each task.

    Raises:
        LabelConfigError: the label config cannot be used.
        NothingToTrain: there is no task to train on, or none to hold out.
        LabelStudioError: Label Studio cannot be reached.
    """
    # The beginning, so that whoever asks for changes since then misses none that came while tasks were read.
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    config = parse_label_config(label_config)
    folder = _Folder(dest)
    items: list[Item] = []
    skipped: list[Skipped] = []
    steps = {"steps": len(tasks)} if isinstance(tasks, Sized) else {}
    for step, task in enumerate(tasks, start=1):
        try:
            drawn = _draw(task, config, images, settings)
        except LabelStudioError:
            raise
        except SegloopError as error:
            skipped.append(Skipped(task=task["id"], reason=str(error)))
        except Exception as error:  # noqa: BLE001 - one bad task never costs the others
            _log.exception("project %s: task %s is left out of the snapshot", project, task["id"])
            skipped.append(Skipped(task=task["id"], reason=f"{type(error).__name__}: {error}"))
        else:
            items += [folder.keep(one) for one in drawn]
        if progress is not None:
            progress({"phase": "snapshot", "step": step, **steps, "message": f"{step} tasks read"})
    for left_out in skipped:
        _log.warning("project %s: task %s is left out of the snapshot: %s", project, left_out.task, left_out.reason)
    assigned = _sticky(project, {item.task for item in items}, splits, settings.val_fraction)
    if len(set(assigned.values())) < 2:
        raise NothingToTrain(_too_few(project, len(assigned), skipped))
    manifest = Manifest(
        project=project,
        created_at=created_at,
        label_config=label_config,
        classes=config.classes,
        unlabelled=settings.unlabelled,
        items=tuple(item.model_copy(update={"split": assigned[item.task]}) for item in sorted(items, key=_order)),
        skipped=tuple(skipped),
    )
    manifest = manifest.model_copy(update={"hash": manifest.digest()})
    folder.finish(manifest)
    return manifest


@dataclass(frozen=True)
class _Drawn:
    """An image of a task with its class map, uint8 (H, W)."""

    task: int
    image_tag: str
    item_index: int | None
    annotation: AnnotationRef
    source: SourceImage
    class_map: NDArray[np.uint8]


def _draw(task: Mapping[str, Any], config: LabelConfig, images: Images, settings: Settings) -> list[_Drawn]:
    annotation = current_annotation(task["annotations"])
    if annotation is None:
        raise MaskError("it has no annotation that was not skipped")
    result = annotation["result"]
    ref = AnnotationRef(id=annotation["id"], updated_at=annotation["updated_at"])
    addresses = list(config.addresses(task["data"]))
    if not addresses:
        raise ImageError("its data has no image that the label config names")
    drawn = []
    for tag, index, uri in addresses:
        source = images.load(uri, task["id"])
        height, width = source.pixels.shape[:2]
        regions = [region for region in result if index is None or (region.get("item_index") or 0) == index]
        class_map = annotation_class_map(regions, config, tag.name, height, width, config.classes, settings.unlabelled)
        # An image with nothing but ignored pixels teaches nothing.
        if (class_map != IGNORED).any():
            drawn.append(_Drawn(task["id"], tag.name, index, ref, source, class_map))
    if not drawn:
        raise MaskError(f"annotation {ref.id} labels no pixel, and unlabelled pixels are ignored")
    return drawn


def _sticky(project: str, tasks: set[int], store: SplitStore, val_fraction: float) -> dict[int, Split]:
    known = store.load()
    assigned = assign_splits(project, tasks, known, val_fraction)
    if assigned.keys() - known.keys():
        store.save({**known, **assigned})
    return assigned


def _too_few(project: str, tasks: int, skipped: list[Skipped]) -> str:
    left_out = f"; {len(skipped)} more were left out (task {skipped[0].task}: {skipped[0].reason})" if skipped else ""
    return (
        f"project {project} has {tasks} tasks with usable annotations{left_out}: "
        "label more, because training needs at least one task to learn from and another one to be held out"
    )


def _order(item: Item) -> tuple[int, str, int]:
    return item.task, item.image_tag, item.item_index or 0


class _Folder:
    """A snapshot folder being written: files are named by content, the manifest comes last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        for name in ("images", "masks"):
            (path / name).mkdir(parents=True, exist_ok=True)
        # A folder counts as a snapshot by its manifest.
        (path / MANIFEST).unlink(missing_ok=True)

    def keep(self, drawn: _Drawn) -> Item:
        """Write an image and its mask; their item, not split yet."""
        buffer = io.BytesIO()
        Image.fromarray(drawn.class_map).save(buffer, "PNG")
        png = buffer.getvalue()
        image = f"images/{drawn.source.blob.sha256}{drawn.source.blob.suffix}"
        mask = f"masks/{hashlib.sha256(png).hexdigest()}.png"
        self._write(image, drawn.source.blob.bytes)
        self._write(mask, png)
        height, width = drawn.class_map.shape
        return Item(
            task=drawn.task,
            image_tag=drawn.image_tag,
            item_index=drawn.item_index,
            annotations=(drawn.annotation,),
            image=image,
            mask=mask,
            width=width,
            height=height,
            split="train",
        )

    def finish(self, manifest: Manifest) -> None:
        """Remove what an earlier attempt left behind, and write the manifest."""
        wanted = {self._path / name for item in manifest.items for name in (item.image, item.mask)}
        for name in ("images", "masks"):
            for file in (self._path / name).iterdir():
                if file not in wanted:
                    file.unlink()
        self._write(MANIFEST, manifest.text().encode())

    def _write(self, name: str, data: bytes) -> None:
        path = self._path / name
        if path.exists():
            return
        temporary = path.with_name(f".{uuid4().hex}")
        temporary.write_bytes(data)
        temporary.replace(path)
