"""The gallery of a version: the held-out images on which it does worst, as one file of its bundle.

gallery.zip holds gallery.json and, for each image, a JPEG and up to three class maps as transparent PNGs of its size:
`0-photo.jpg`, `0-truth.png`, `0-candidate.png` and, where a version was served then, `0-champion.png`.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from segloop.errors import RegistryError
from segloop.formats import IGNORED
from segloop.versions import describe_problem

GALLERY = "gallery.zip"
#: Images that are kept, and their longest side in pixels: a version's gallery stays below a megabyte or so.
MOST_IMAGES = 12
LONG_SIDE = 480

_INDEX = "gallery.json"
_MEMBER = re.compile(r"[0-9]{1,3}-(photo\.jpg|(truth|candidate|champion)\.png)", re.ASCII)
_MOST_BYTES = 8 * 2**20
_QUALITY = 82
#: How strongly a class covers the photo, 0 to 255.
_ALPHA = 150
#: Of Okabe and Ito's colours, which colour-blind people can tell apart, and more; for labels without one of their own.
_PALETTE = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#7f4fc9",
    "#8c564b",
    "#17becf",
)

UInt8 = NDArray[np.uint8]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class GalleryClass(_Frozen):
    """A class, and its colour #rrggbb."""

    name: str
    colour: str


class GalleryImage(_Frozen):
    """An image of a gallery: its task, its size in pixels, and the mIoUs of this image alone."""

    task: int
    width: int
    height: int
    miou: float | None
    champion_miou: float | None
    has_champion: bool


class GalleryIndex(_Frozen):
    """gallery.json: the images, the worst first."""

    classes: tuple[GalleryClass, ...]
    images: tuple[GalleryImage, ...]


@dataclass
class Entry:
    """A held-out image: RGB uint8 (H, W, 3), and class maps uint8 (H, W) of it. mIoUs are of this image alone; None
    where its truth has no class."""

    task: int
    photo: UInt8
    truth: UInt8
    candidate: UInt8
    miou: float | None
    champion: UInt8 | None = None
    champion_miou: float | None = None


def write_gallery(path: Path, entries: Sequence[Entry], classes: Sequence[str], colours: Mapping[str, str]) -> None:
    """Write a gallery; the same entries give the same bytes. `colours` are those of the label config."""
    palette = colours_of(classes, colours)
    images = [
        GalleryImage(
            task=entry.task,
            width=entry.photo.shape[1],
            height=entry.photo.shape[0],
            miou=entry.miou,
            champion_miou=entry.champion_miou,
            has_champion=entry.champion is not None,
        )
        for entry in entries
    ]
    legend = [GalleryClass(name=name, colour=palette[name]) for name in classes]
    index = GalleryIndex(classes=tuple(legend), images=tuple(images))
    part = path.with_name(f".{path.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        _put(archive, _INDEX, index.model_dump_json().encode())
        for number, entry in enumerate(entries):
            _put(archive, f"{number}-photo.jpg", _jpeg(entry.photo))
            maps = {"truth": entry.truth, "candidate": entry.candidate, "champion": entry.champion}
            for name, class_map in maps.items():
                if class_map is not None:
                    _put(archive, f"{number}-{name}.png", _overlay(class_map, list(palette.values())))
    part.replace(path)


def read_index(path: Path) -> GalleryIndex:
    """What gallery.json says.

    Raises:
        RegistryError: the file is no gallery.
    """
    try:
        return GalleryIndex.model_validate_json(_read(path, _INDEX))
    except ValidationError as error:
        raise RegistryError(f"{_INDEX} of {path.name}: {describe_problem(error)}") from error


def read_image(path: Path, name: str) -> bytes | None:
    """An image by its name in the file; None if there is none of it.

    Raises:
        RegistryError: the file is no gallery.
    """
    return _read(path, name) if _MEMBER.fullmatch(name) and name in _names(path) else None


def colours_of(classes: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """A colour #rrggbb for each class: the given one, if CSS knows it, else the next of ten."""
    return {name: _hex(given.get(name, "")) or _PALETTE[number % len(_PALETTE)] for number, name in enumerate(classes)}


@lru_cache(maxsize=1024)
def _hex(colour: str) -> str | None:
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(colour.strip())[:3]
    except ValueError:
        return None
    return f"#{red:02x}{green:02x}{blue:02x}"


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), data)  # with the time that ZIP begins at


def _names(path: Path) -> list[str]:
    with _opened(path) as archive:
        return archive.namelist()


def _read(path: Path, name: str) -> bytes:
    with _opened(path) as archive:
        try:
            if archive.getinfo(name).file_size > _MOST_BYTES:
                raise RegistryError(f"{name} of {path.name} is larger than {_MOST_BYTES} bytes")
            return archive.read(name)
        except (KeyError, zipfile.BadZipFile) as error:
            raise RegistryError(f"{path.name} has no {name}") from error


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise RegistryError(f"the gallery {path} cannot be read: {error}") from error


def _jpeg(photo: UInt8) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _overlay(class_map: UInt8, colours: Sequence[str]) -> bytes:
    """A class map as a PNG with a palette: background and ignored pixels are transparent, classes half transparent."""
    from PIL import Image

    classes = [int(colour[at : at + 2], 16) for colour in colours for at in (1, 3, 5)]
    image = Image.fromarray(np.where(class_map == IGNORED, 0, class_map).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, *classes])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes([0, *[_ALPHA] * len(colours)]), optimize=True)
    return buffer.getvalue()
