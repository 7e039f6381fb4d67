"""What a data set is, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segloop.errors import DatasetError
from segloop.formats import BACKGROUND, IGNORED
from segloop.images.decode import FORMATS

UInt8 = NDArray[np.uint8]
#: A pixel's colour to its class's value.
Colours = Mapping[tuple[int, int, int], int]

#: Files that are taken for images.
IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
MOST_CLASSES: Final = IGNORED - 1
#: Numbers and colours that a message shows.
_SHOWN: Final = 6


@dataclass(frozen=True)
class Example:
    """An image and its truth.

    Attributes:
        name: the image's path in the data set, with slashes: the same in every run.
        image: its file.
        class_map: reads the truth, uint8 (H, W): 0 background, i + 1 the class i, 255 ignored. Raises DatasetError.
    """

    name: str
    image: Path
    class_map: Callable[[], UInt8]


@dataclass(frozen=True)
class Dataset:
    """Classes in their order, images, and what of the data set was left out, a sentence each."""

    classes: tuple[str, ...]
    examples: Sequence[Example]
    problems: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if len(self.classes) > MOST_CLASSES:
            raise DatasetError(f"the data set has {len(self.classes)} classes; segloop takes up to {MOST_CLASSES}")
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise DatasetError(f"the data set names the class {twice!r} twice")


def read_indices(file: Path, values: Mapping[int, int]) -> UInt8:
    """The class map of a mask whose pixels are numbers (grey or palette); those that `values` lacks are ignored.

    Raises:
        DatasetError: it cannot be read, its pixels are colours, or it shows no class, and numbers that nobody named.
    """
    image = _opened(file)
    if image.mode not in ("L", "P", "1", "I") and not image.mode.startswith("I;16"):
        raise DatasetError(f"{file} holds colours ({image.mode}), not class numbers")
    numbers = np.asarray(image)
    class_map = _mapped(numbers, values)
    if not _shows_a_class(class_map):
        found = np.unique(numbers).tolist()
        if strange := [number for number in found if number not in values]:
            raise DatasetError(_nameless(file, "numbers", strange, sorted(values)))
    return class_map


def read_colours(file: Path, colours: Colours) -> UInt8:
    """The class map of a mask whose classes are colours (RGB, or a palette's); those that `colours` lacks are ignored.

    Raises:
        DatasetError: it cannot be read, or it shows no class, and colours that nobody named.
    """
    pixels = np.asarray(_opened(file).convert("RGB")).astype(np.uint32)
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    found, places = np.unique(codes, return_inverse=True)
    known = {(red << 16) | (green << 8) | blue: value for (red, green, blue), value in colours.items()}
    values = np.array([known.get(int(code), IGNORED) for code in found], np.uint8)
    if not _shows_a_class(values) and (strange := [code for code in found.tolist() if code not in known]):
        triples = [(code >> 16, code >> 8 & 255, code & 255) for code in strange]
        raise DatasetError(_nameless(file, "colours", triples, list(colours)))
    return values[places].reshape(codes.shape)


def _mapped(numbers: NDArray[Any], values: Mapping[int, int]) -> UInt8:
    """The values of numbers of 8, 16 or 32 bits, uint8 of their shape; IGNORED for those that have none."""
    if numbers.dtype.itemsize <= 2:
        lookup = np.array([values.get(number, IGNORED) for number in range(1 << 16)], np.uint8)
        return lookup[numbers.astype(np.uint16)]
    found, places = np.unique(numbers, return_inverse=True)
    return np.array([values.get(number, IGNORED) for number in found.tolist()], np.uint8)[places].reshape(numbers.shape)


def _shows_a_class(values: UInt8) -> bool:
    return bool(((values != BACKGROUND) & (values != IGNORED)).any())


def _nameless(file: Path, what: str, found: Sequence[object], named: Sequence[object]) -> str:
    """Why a mask is no mask of these classes: one of 0 and 255 beside names for 0 and 1, or colours that JPEG blurred."""
    shown, known = (
        ", ".join(map(str, some[:_SHOWN])) + (", ..." if len(some) > _SHOWN else "") for some in (found, named)
    )
    return f"{file} shows no class: its {what} {shown} have no name, and those that have one are {known}"


def values_of(numbers: Mapping[int, str]) -> tuple[tuple[str, ...], dict[int, int]]:
    """The classes of named numbers in their order, and the value of each number; "background" is no class."""
    classes, values = [], {}
    for number, name in sorted(numbers.items()):
        if name.casefold() == "background":
            values[number] = BACKGROUND
        elif name.casefold() in ("void", "ignore", "ignored", "unlabeled", "unlabelled"):
            values[number] = IGNORED
        else:
            classes.append(name)
            values[number] = len(classes)
    return tuple(classes), values


def images_in(folder: Path) -> list[Path]:
    """The image files below a folder, by name.

    Raises:
        DatasetError: there is no such folder.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder")
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


def lines_of(file: Path) -> list[str]:
    """The lines of a text in UTF-8, with a byte order mark or without.

    Raises:
        DatasetError: it cannot be read, or is of another encoding.
    """
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read as UTF-8: {error}") from error


def _opened(file: Path) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)  # for others, whatever the file's name, Pillow starts programs
        image.load()
    except Exception as error:  # Pillow raises anything, up to struct.error
        raise DatasetError(f"{file} cannot be read as a mask: {error}") from error
    return image
