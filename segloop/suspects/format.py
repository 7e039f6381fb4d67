"""Suspected labels as files of a version: suspects.json, and suspects.zip with a photo of each image. Their only reader
and their only writer."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segloop.errors import RegistryError
from segloop.files import write_bytes
from segloop.versions import describe_problem

SUSPECTS: Final = "suspects.json"
PHOTOS: Final = "suspects.zip"
#: Pieces of a version, at most, the most suspected; of one image, at most; and images that they may be of.
MOST_PIECES: Final = 200
MOST_OF_IMAGE: Final = 5
MOST_IMAGES: Final = 100
#: Points of an outline, at most.
MOST_POINTS: Final = 400
#: What a class map's 0 is called.
BACKGROUND_NAME: Final = "Background"

_PHOTO = re.compile(r"[0-9]{1,4}\.jpg", re.ASCII)
_MOST_BYTES: Final = 4 * 2**20
_MOST_PHOTO_BYTES: Final = 2**20
_QUALITY: Final = 80

Share = Annotated[float, Field(ge=0, le=1)]
#: Polygons in pixels of the photo, each x, y, x, y, ...
Outline = Annotated[
    tuple[Annotated[tuple[int, ...], Field(max_length=2 * MOST_POINTS)], ...], Field(max_length=MOST_POINTS)
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class SuspectImage(_Frozen):
    """An image with suspected labels.

    Attributes:
        annotations: ids of the annotations that its label was drawn from.
        mask: sha256 in hex of the label's class map: another label has another one.
        width, height: of its photo, in pixels; `full_width` and `full_height` are the image's own.
        held_out: whether the version itself judged it; otherwise a head of a fold without it.
        quality: see `segloop.suspects.confident.label_quality`.
    """

    task: int
    image_tag: str
    item_index: int | None = None
    annotations: tuple[int, ...]
    mask: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
    width: Annotated[int, Field(ge=1, le=4096)]
    height: Annotated[int, Field(ge=1, le=4096)]
    full_width: Annotated[int, Field(ge=1, le=10**6)]
    full_height: Annotated[int, Field(ge=1, le=10**6)]
    held_out: bool
    quality: Share


class Suspect(_Frozen):
    """A piece of a label that is suspected.

    Attributes:
        image: its place in `Suspects.images`.
        labelled, seen: the class that people gave it, and the one that the network sees there.
        area: share of the image.
        margin: by how much the class seen is more probable, the mean over the piece.
        score: what suspects are ordered by.
        box: left, top, width and height as shares of the image.
        piece, label, network: outlines of the piece, of what is labelled there, and of what the network sees there.
    """

    image: Annotated[int, Field(ge=0)]
    labelled: str
    seen: str
    area: Share
    margin: Share
    score: Share
    box: tuple[Share, Share, Share, Share]
    piece: Outline
    label: Outline
    network: Outline


class Judged(_Frozen):
    """How many images were judged: held-out ones by the version, and training ones by heads of folds, of so many."""

    held_out: int = 0
    held_out_of: int = 0
    training: int = 0
    training_of: int = 0


class Suspects(_Frozen):
    """suspects.json: the labels that disagree most with a network that never saw them, the worst first."""

    format: Literal[1] = 1
    judged: Judged
    images: Annotated[tuple[SuspectImage, ...], Field(max_length=MOST_IMAGES)]
    suspects: Annotated[tuple[Suspect, ...], Field(max_length=MOST_PIECES)]

    def image_of(self, suspect: Suspect) -> SuspectImage:
        """The image that a suspect is of."""
        return self.images[suspect.image]


def write_suspects(bundle: Path, suspects: Suspects, photos: Iterable[NDArray[np.uint8]]) -> None:
    """Put suspects and the photos of their images, RGB uint8 (H, W, 3), into a bundle folder; suspects.json comes last.

    The same suspects give the same bytes, as a version's name comes from its files.
    """
    part = bundle / f".{PHOTOS}.part"
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for number, photo in enumerate(photos):
            archive.writestr(zipfile.ZipInfo(f"{number}.jpg"), _jpeg(photo))  # with the time that ZIP begins at
    part.replace(bundle / PHOTOS)
    write_bytes(bundle / SUSPECTS, suspects.model_dump_json().encode())


def read_suspects(file: Path) -> Suspects:
    """What a suspects.json says.

    Raises:
        RegistryError: it cannot be read, or is none.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise RegistryError(f"{file} is larger than {_MOST_BYTES} bytes")
        found = Suspects.model_validate_json(file.read_bytes())
    except OSError as error:
        raise RegistryError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RegistryError(f"{file}: {describe_problem(error)}") from error
    if any(one.image >= len(found.images) for one in found.suspects):
        raise RegistryError(f"{file}: a suspect is of an image that is not listed")
    return found


def read_photo(file: Path, name: str) -> bytes | None:
    """The JPEG of an image by its name in suspects.zip; None if there is none of it.

    Raises:
        RegistryError: the file cannot be read.
    """
    if not _PHOTO.fullmatch(name):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            if name not in archive.namelist():
                return None
            if archive.getinfo(name).file_size > _MOST_PHOTO_BYTES:
                raise RegistryError(f"{name} of {file.name} is larger than {_MOST_PHOTO_BYTES} bytes")
            return archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        raise RegistryError(f"{file} cannot be read: {error}") from error


def _jpeg(photo: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
