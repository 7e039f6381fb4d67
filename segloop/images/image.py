"""Images and the files that they come from; nothing is decoded before it is asked for."""

from __future__ import annotations

import builtins
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from segloop.errors import ImageError
from segloop.images.decode import Header, decode, read_header
from segloop.telemetry.notes import Stage


@dataclass(frozen=True)
class Blob:
    """An image file: its bytes, and their SHA-256 as hex."""

    bytes: builtins.bytes
    sha256: str

    @cached_property
    def header(self) -> Header:
        """What the file says of itself, read once; ImageError where it is no image."""
        return read_header(self.bytes)

    @property
    def suffix(self) -> str:
        """A suffix for file names, such as ".jpg"."""
        return self.header.suffix


class Image:
    """An image that is decoded when its pixels are asked for. Thread-safe.

    Args:
        max_pixels: limit on width times height.
        name: what errors begin with.

    Raises:
        ImageTooLarge: the header declares more than `max_pixels` pixels.
        ImageError: the file is no image.
    """

    def __init__(self, blob: Blob, *, max_pixels: int, name: str) -> None:
        self.blob = blob
        self._max_pixels = max_pixels
        self._name = name
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._decoding = threading.Lock()
        with naming(name):
            blob.header.check(max_pixels)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes, as hex."""
        return self.blob.sha256

    @property
    def width(self) -> int:
        """In pixels, after EXIF orientation."""
        return self.blob.header.width

    @property
    def height(self) -> int:
        """In pixels, after EXIF orientation."""
        return self.blob.header.height

    @property
    def decoded_px(self) -> int:
        """How many pixels are in memory when it is decoded at its full size: more than are shown, where EXIF scales it down."""
        return self.blob.header.decoded_px

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """RGB, uint8 (H, W, 3), after EXIF orientation; decoded at the first use, and kept.

        Raises:
            ImageError: as in `decode`.
        """
        with self._decoding:
            if self._pixels is None:
                self._pixels = self._decode(None)
            return self._pixels

    def reduced(self, long_side: int) -> npt.NDArray[np.uint8]:
        """RGB, uint8 (h, w, 3), no smaller than asked for, at the least cost: what a network's input is resized from.

        That is `pixels` where the file's format has no quicker way; of a JPEG, its half, quarter or eighth (sides rounded)
        whose long side is still at least `long_side` pixels. These are not kept, and are the same whether or not `pixels` are
        decoded already: what a network says of an image does not depend on what else was asked of it.

        Raises:
            ImageError: as in `decode`.
        """
        if self.blob.header.reduction(long_side) == 1:
            return self.pixels
        return self._decode(long_side)

    def _decode(self, long_side: int | None) -> npt.NDArray[np.uint8]:
        with naming(self._name), Stage("decode"):
            return decode(self.blob.bytes, max_pixels=self._max_pixels, long_side=long_side)


class Images(Protocol):
    """Where the images of tasks come from; `ImageSource` is the real one."""

    def load(self, uri: str, task_id: int | None) -> Image:
        """The image at an address, in a task if that is known; ImageError where it cannot be had."""


def blob_of(data: bytes, name: str) -> Blob:
    """The file of these bytes.

    Raises:
        ImageError: it is no image; the text begins with `name`.
    """
    blob = Blob(data, hashlib.sha256(data).hexdigest())
    with naming(name):
        _ = blob.header  # the error of what is no image
    return blob


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of an image before the message of an ImageError."""
    try:
        yield
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from error
