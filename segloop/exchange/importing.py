"""A data set becomes annotated tasks of a project, in batches; a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from segloop.errors import DatasetError, ImageError, LabelConfigError
from segloop.exchange.datasets import Dataset, Example
from segloop.formats import IGNORED
from segloop.images import read_header
from segloop.label_config import ImageTag, LabelConfig, parse_label_config
from segloop.labelstudio import LabelStudio
from segloop.masks import encode_rle
from segloop.network.voc_classes import fold
from segloop.results import RegionWriter, Scene

logger = logging.getLogger(__name__)

#: The fields of a task's data that name its example, and its image by its bytes: what is there is not imported again.
SOURCE: Final = "source"
SOURCE_HASH: Final = "source_hash"
_BATCH: Final = 20
_BATCH_BYTES: Final = 64 * 2**20
_COLOURS: Final = ("#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#f0e442", "#8c8c94")


class Place(Protocol):
    """Where Label Studio finds the images: gives the address of each of a batch."""

    def __call__(self, examples: Sequence[Example]) -> list[str]: ...


def uploads(studio: LabelStudio, project_id: int) -> Place:
    """Images are uploaded to Label Studio."""

    def place(examples: Sequence[Example]) -> list[str]:
        files = [(example.image.name, example.image.read_bytes()) for example in examples]
        return studio.imports.upload(project_id, files)

    return place


def addresses(prefix: str) -> Place:
    """Images are below an address already, by their names in the data set: https, or a bucket, whose keys are as they are."""
    is_web = prefix.strip().lower().startswith(("http://", "https://", "/"))
    return lambda examples: [
        f"{prefix.strip().rstrip('/')}/{quote(one.name) if is_web else one.name}" for one in examples
    ]


def local_files(folder: str) -> Place:
    """Images are in a folder of Label Studio's local files."""
    root = folder.strip("/")
    return lambda examples: [f"/data/local-files/?d={quote(f'{root}/{one.name}')}" for one in examples]


@dataclass
class Imported:
    """What an import did: tasks made, examples that were there, classes by their label, and problems, a sentence each."""

    tasks: int = 0
    known: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """The project that is imported into, its label config, and the label that each class of the data set gets."""

    project_id: int
    config: LabelConfig
    image: ImageTag
    labels: dict[str, str]

    @property
    def key(self) -> str:
        """The field of a task's data that has the image."""
        return self.image.key

    def field(self, name: str) -> str:
        """A field of a task's data of that name; of another one where the image is in it."""
        return name if name != self.key else f"dataset_{name}"


def target_of(project_id: int, label_config: str, classes: Sequence[str]) -> Target:
    """The target of an import.

    Raises:
        DatasetError: the project's label config lacks a class (case, spaces and hyphens aside), or shows no single image.
    """
    try:
        config = parse_label_config(label_config)
    except LabelConfigError as error:
        replaced = "or have --set-config replace it by one with the data set's classes"
        raise DatasetError(f"project {project_id}: {str(error).rstrip('.')}; {replaced}") from error
    images = [one for one in config.images if not one.is_list and not one.repeats]
    if len(images) != 1 or not images[0].key.isidentifier():
        raise DatasetError(
            f"project {project_id} shows no single image: tasks can be imported into a config with one Image tag"
        )
    labels = _labels(config, images[0], classes)
    if len(labels) < len(classes):
        names = ", ".join(repr(name) for name in classes if name not in labels)
        raise DatasetError(
            f"the label config of project {project_id} has no brush, bitmask or polygon label {names}; add them, or have "
            "--set-config replace it by one that fits"
        )
    return Target(project_id, config, images[0], labels)


def _labels(config: LabelConfig, image: ImageTag, classes: Sequence[str]) -> dict[str, str]:
    """The label of each class that has one: of its very name (an alias or a value), or else of one that is written alike."""
    outputs = config.outputs(image.name)
    exact = {said: label for said, label in config.class_of.items() if label in outputs}
    alike = {fold(said): label for said, label in exact.items()}
    found = {name: exact.get(name) or alike.get(fold(name)) for name in classes}
    return {name: label for name, label in found.items() if label is not None}


def label_config_of(classes: Sequence[str]) -> str:
    """A label config with a brush label for each class."""
    labels = "".join(
        f"  <Label value={quoteattr(name)} background={quoteattr(_COLOURS[place % len(_COLOURS)])}/>\n"
        for place, name in enumerate(classes)
    )
    return f'<View><Image name="image" value="$image"/>\n<BrushLabels name="tag" toName="image">\n{labels}</BrushLabels></View>'


def import_dataset(
    dataset: Dataset, target: Target, studio: LabelStudio, place: Place | None, progress: Callable[[int, int], None]
) -> Imported:
    """Import the examples that the project does not have yet; one that cannot be read costs a sentence.

    Args:
        place: where the images are; None: everything is read, and nothing is imported.
        progress: told how many of how many examples are done.

    Raises:
        LabelStudioError: Label Studio refuses, or cannot be reached: another run goes on.
    """
    done = Imported(labels=dict(target.labels), problems=list(dataset.problems))
    known: dict[str, set[str]] = {}
    for data in studio.tasks.data(target.project_id):
        known.setdefault(str(data.get(target.field(SOURCE))), set()).add(str(data.get(target.field(SOURCE_HASH), "")))
    new = [example for example in dataset.examples if not _is_known(example, known)]
    done.known = len(dataset.examples) - len(new)
    seen = 0
    for batch in _batches(new):
        rows = []
        for example in batch:
            try:
                rows.append((example, task_of(example, dataset.classes, target)))
            except (DatasetError, ImageError, OSError) as error:
                done.problems.append(f"{example.name}: {error}")
        if place is None:
            done.tasks += len(rows)
        elif rows:
            for (_, task), address in zip(rows, place([example for example, _ in rows]), strict=True):
                task["data"][target.key] = address
            done.tasks += len(studio.imports.tasks(target.project_id, [task for _, task in rows]))
        seen += len(batch)
        progress(seen, len(new))
    return done


def task_of(example: Example, classes: Sequence[str], target: Target) -> dict[str, Any]:
    """The task of an example, without its image's address.

    Raises:
        DatasetError: its truth cannot be read, or is of another size than its image.
        ImageError: its image is none.
    """
    class_map = example.class_map()
    image = example.image.read_bytes()
    header = read_header(image)
    if (header.height, header.width) != class_map.shape:
        height, width = class_map.shape
        raise DatasetError(f"its mask has {width} x {height} pixels, the image {header.width} x {header.height}")
    writer = RegionWriter(target.config, target.image.name)
    scene = Scene(class_map, tuple(target.labels[name] for name in classes))
    regions: list[dict[str, Any]] = [{**region, "origin": "manual"} for region in writer.scene_regions(scene)]
    if (class_map == IGNORED).any():
        regions.append(_ignored(class_map, target))
    data = {target.field(SOURCE): example.name, target.field(SOURCE_HASH): _hash(image)}
    return {"data": data, "annotations": [{"result": regions}]}


def _is_known(example: Example, known: Mapping[str, set[str]]) -> bool:
    """Whether a project has an example: its name with the same image, or with one whose hash is not known.

    Another data set may have other images by the same names.
    """
    hashes = known.get(example.name, set())
    return "" in hashes or (bool(hashes) and _hash(example.image.read_bytes()) in hashes)


def _hash(image: bytes) -> str:
    """The beginning of an image file's SHA-256, short enough for people to look at."""
    return hashlib.sha256(image).hexdigest()[:16]


def _ignored(class_map: np.ndarray[Any, np.dtype[np.uint8]], target: Target) -> dict[str, Any]:
    """A region without a label: nothing is learnt from its pixels."""
    height, width = class_map.shape
    control = next(iter(target.config.outputs(target.image.name).values()))
    mask = np.where(class_map == IGNORED, np.uint8(255), np.uint8(0))
    return {
        "id": uuid.uuid4().hex[:12],
        "from_name": control.name,
        "to_name": target.image.name,
        "type": "brushlabels",
        "origin": "manual",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_rle(mask)},
    }


def _batches(examples: Sequence[Example]) -> Iterator[list[Example]]:
    batch: list[Example] = []
    size = 0
    for example in examples:
        size += example.image.stat().st_size
        if batch and (len(batch) == _BATCH or size > _BATCH_BYTES):
            yield batch
            batch, size = [], example.image.stat().st_size
        batch.append(example)
    if batch:
        yield batch
