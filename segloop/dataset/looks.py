"""What images show, whatever file they are in: a hash of the pixels, and an outline that tells near duplicates."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from segloop.errors import ImageError
from segloop.images import decode

#: Cells along each side of the small grey picture that an outline is taken of.
_CELLS: Final = 16
#: Grey levels that two neighbouring cells must differ by: less may be JPEG's own.
_LEAST_STEP: Final = 3.0
#: Steps that a picture must have: a flatter one (fog, an empty field) looks like many others.
_LEAST_STEPS: Final = 64
_BLOCK: Final = 2048
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS looks (file TEXT PRIMARY KEY, pixels TEXT, outline BLOB) WITHOUT ROWID"


@dataclass(frozen=True)
class Look:
    """A hash of an image's pixels and size, and its outline; that is empty where the image is too flat to have one."""

    pixels: str
    outline: bytes

    @classmethod
    def of(cls, pixels: npt.NDArray[np.uint8]) -> Look:
        """The look of RGB pixels, uint8 (H, W, 3)."""
        height, width = pixels.shape[:2]
        total = hashlib.sha256(f"{height} {width} ".encode())
        total.update(np.ascontiguousarray(pixels).data)
        return cls(total.hexdigest(), _outline(pixels))


class Looks:
    """The looks of image files, by their names, kept in the mirror's file: a file is decoded for it once.

    Those of files that are gone stay: a version may have been trained on one.

    Args:
        db: the mirror's; without one, nothing is known from before.
    """

    def __init__(self, db: sqlite3.Connection | None) -> None:
        self._db = db or sqlite3.connect(":memory:", isolation_level=None)
        self._db.execute(_SCHEMA)

    def keep(self, file: str, pixels: npt.NDArray[np.uint8]) -> None:
        """Note the look of a file whose pixels these are."""
        self._put(file, Look.of(pixels))

    def get(self, file: str) -> Look | None:
        """The look of a file, if it is known."""
        row = self._db.execute("SELECT pixels, outline FROM looks WHERE file = ?", (file,)).fetchone()
        return None if row is None else Look(*row)

    def find(self, folder: Path, file: str, max_pixels: int) -> Look:
        """The look of a file that lies in a folder."""
        known = self.get(file)
        if known is None:
            try:
                known = Look.of(decode((folder / file).read_bytes(), max_pixels=max_pixels))
            except ImageError:
                known = Look("", b"")  # it was decoded once, by another version or under other limits
            self._put(file, known)
        return known

    def _put(self, file: str, look: Look) -> None:
        self._db.execute("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", (file, look.pixels, look.outline))


def near_duplicates(outlines: Sequence[bytes], similarity: float) -> Iterator[tuple[int, int]]:
    """Pairs of places whose outlines are at least so similar: the share of the steps of both that they have in common."""
    places = [place for place, outline in enumerate(outlines) if outline]
    if not places:
        return
    packed = np.stack([np.frombuffer(outlines[place], np.uint8) for place in places])
    for first in range(0, len(places), _BLOCK):
        ours = np.unpackbits(packed[first : first + _BLOCK], axis=1).astype(np.float32)
        for second in range(first, len(places), _BLOCK):
            theirs = np.unpackbits(packed[second : second + _BLOCK], axis=1).astype(np.float32)
            common = ours @ theirs.T
            either = ours.sum(1)[:, None] + theirs.sum(1)[None] - common
            for one, other in np.argwhere(common >= similarity * either):
                if first + one < second + other:
                    yield places[first + one], places[second + other]


def _outline(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Where the picture gets lighter and darker, to the right and downward: 4 x 16 x 16 bits."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(grey, (_CELLS + 1, _CELLS + 1), interpolation=cv2.INTER_AREA)
    right, down = small[:-1, 1:] - small[:-1, :-1], small[1:, :-1] - small[:-1, :-1]
    steps = np.stack([right > _LEAST_STEP, right < -_LEAST_STEP, down > _LEAST_STEP, down < -_LEAST_STEP])
    return np.packbits(steps).tobytes() if np.count_nonzero(steps) >= _LEAST_STEPS else b""
