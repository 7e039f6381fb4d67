"""A folder of images and one of PNG masks: class numbers (grey or palette), or colours, with a file that names them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from segloop.errors import DatasetError
from segloop.exchange.datasets.base import (
    Colours,
    Dataset,
    Example,
    images_in,
    lines_of,
    read_colours,
    read_indices,
    values_of,
)

#: What a mask's name may have after its image's.
_ENDINGS: Final = ("", "_mask", "-mask", "_label", "_labels", "_seg", "_L")


def read_masks(masks: Path, images: Path, names: Path) -> Dataset:
    """The images below a folder that have a mask of the same path, but for its suffix or an ending such as `_mask`.

    Args:
        names: a text file, a class a line: `7 Road` (number and name), `128 64 128 Road` (colour and name), or names alone,
            which are numbered from 0. `background` and `void` are no classes; numbers and colours without a name are ignored.

    Raises:
        DatasetError: a folder or the file is missing, or the file is none of names.
    """
    numbers, colours = read_names(names)
    labels = numbers or dict(enumerate(name for name, _ in colours))
    classes, values = values_of(labels)
    by_colour: Colours = {colour: values[number] for number, (_, colour) in enumerate(colours)}
    known = {file.relative_to(masks).with_suffix("").as_posix(): file for file in images_in(masks)}
    examples, problems = [], []
    files = images_in(images)
    found = {file: _mask_of(file.relative_to(images), file, known) for file in files}
    taken = set(found.values())
    for file in files:
        name, mask = file.relative_to(images), found[file]
        if mask is not None:
            read = partial(read_colours, mask, by_colour) if colours else partial(read_indices, mask, values)
            examples.append(Example(name.as_posix(), file, read))
        elif file not in taken:
            problems.append(f"{name} has no mask in {masks}")
    return Dataset(classes, examples, tuple(problems))


def _mask_of(name: Path, file: Path, known: Mapping[str, Path]) -> Path | None:
    """The mask of an image by its name; where images and masks are in one folder, no image is its own."""
    stem = name.with_suffix("").as_posix()
    return next((known[stem + ending] for ending in _ENDINGS if known.get(stem + ending, file) != file), None)


def read_names(file: Path) -> tuple[dict[int, str], list[tuple[str, tuple[int, int, int]]]]:
    """Numbers with their names, or names with their colours; the other is empty."""
    lines = [line for line in lines_of(file) if line.strip() and not line.lstrip().startswith("#")]
    rows = [line.replace("\t", " ").split() for line in lines]
    numbers: dict[int, str] = {}
    colours: list[tuple[str, tuple[int, int, int]]] = []
    for place, row in enumerate(rows):
        leading = next((count for count, word in enumerate(row) if not word.isdecimal()), len(row))
        name = " ".join(row[leading:])
        if not name or leading not in (0, 1, 3):
            raise DatasetError(f"{file}, line {' '.join(row)!r}: write `7 Road`, `128 64 128 Road`, or `Road`")
        if leading == 3:
            red, green, blue = (int(word) for word in row[:3])
            colours.append((name, (red, green, blue)))
        else:
            numbers[int(row[0]) if leading else place] = name
    if not rows or (numbers and colours):
        raise DatasetError(f"the file of names {file} has {'both numbers and colours' if rows else 'no names'}")
    return numbers, colours
