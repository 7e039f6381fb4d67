"""Pascal VOC: JPEGImages, SegmentationClass, and lists in ImageSets/Segmentation; VOC's own classes or a labelmap.txt."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from segloop.errors import DatasetError
from segloop.exchange.datasets.base import (
    Dataset,
    Example,
    images_in,
    lines_of,
    read_colours,
    read_indices,
    values_of,
)
from segloop.network.voc_classes import VOC_CLASSES


def read_voc(root: Path, split: str = "") -> Dataset:
    """The images of a VOC folder that have a mask; with a split, those that its list names. A name is the file's path below
    its folder, without the suffix: CVAT keeps the folders that images came in.

    Masks hold VOC's class numbers (255 is ignored). With a `labelmap.txt`, as CVAT writes it (`name:r,g,b:parts:actions`), they
    are read by colour.

    Raises:
        DatasetError: it is no such folder, or has no such list.
    """
    images, known = _by_name(root / "JPEGImages"), _by_name(root / "SegmentationClass")
    labelmap = root / "labelmap.txt"
    if labelmap.is_file():
        named = _labelmap(labelmap)
        classes, values = values_of(dict(enumerate(named)))
        colours = {colour: values[number] for number, colour in enumerate(named.values())}
        read = partial(read_colours, colours=colours)
    else:
        classes, values = values_of(dict(enumerate(["background", *VOC_CLASSES])))
        read = partial(read_indices, values=values)
    wanted = _listed(root, split, known) if split else sorted(known)
    problems = [
        f"{name} has no image" if name in known else f"{name} has no mask"
        for name in wanted
        if name not in images or name not in known
    ]
    examples = [
        Example(images[name].relative_to(root).as_posix(), images[name], partial(read, known[name]))
        for name in wanted
        if name in images and name in known
    ]
    return Dataset(classes, examples, tuple(problems))


def _by_name(folder: Path) -> dict[str, Path]:
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in images_in(folder)}


def _listed(root: Path, split: str, known: Collection[str]) -> list[str]:
    """The names in a list: each line whole, CVAT's quotes around those with spaces aside, or else its first word."""
    file = root / "ImageSets" / "Segmentation" / f"{Path(split).name}.txt"
    if not file.is_file():
        raise DatasetError(f"there is no list {file}")
    lines = (line.strip() for line in lines_of(file) if line.strip())
    return [name if (name := line.strip('"')) in known else line.split()[0] for line in lines]


def _labelmap(file: Path) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    for line in lines_of(file):
        name, _, rest = line.partition(":")
        if not name.strip() or line.lstrip().startswith("#"):
            continue
        try:
            red, green, blue = (int(word) for word in rest.split(":")[0].split(","))
        except ValueError as error:
            raise DatasetError(f"{file}, line {line!r}: expected name:r,g,b:parts:actions") from error
        found[name.strip()] = (red, green, blue)
    return found
