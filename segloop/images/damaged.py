"""Files that are cut short or broken in the middle: what a browser would still show of them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageFile

JPEG = ("JPEG", "MPO")

_HUFFMAN_TABLES, _SCAN, _END_OF_JPEG = b"\xff\xc4", b"\xff\xda", b"\xff\xd9"
_BLOCK_PX = 8
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
#: The largest colour profile of a PNG that is followed, in bytes. Chromium follows one of 9 MB; those of printers have some 3.
PROFILE_BYTES: Final = 32_000_000
#: Rows and columns between the pixels of the first pass of an interlaced PNG or GIF.
_COARSEST_PX = 8
#: Pixels that are spread at a time: each takes some thirty bytes meanwhile.
_SPREAD_PX = 1 << 20

Rgb = npt.NDArray[np.uint8]


class Damaged:
    """A file that cannot be decoded whole; `to_rgb` gives a loaded image's pixels."""

    def __init__(self, data: bytes, formats: tuple[str, ...], to_rgb: Callable[[Pillow.Image], Rgb]) -> None:
        self._data = data
        self._formats = formats
        self._to_rgb = to_rgb

    def shown(self) -> Rgb | None:
        """RGB, uint8 (H, W, 3), as stored: what is there, on white as Chromium shows it. None where it shows nothing,
        because no pixel can be had, or because the format gives none before the file is whole."""
        image = self._open(self._data)
        if image.format in JPEG:
            return self._shown_jpeg()
        if image.format not in ("PNG", "GIF", "BMP"):
            return None
        written = self._written()
        if not written.any():
            return None
        interlaced = image.info.get("interlace") or (image.format == "GIF" and _is_interlaced_gif(image))
        pixels = self._to_rgb(self._loaded_onto(0))
        if interlaced:
            return _spread(pixels, written)
        pixels[~written] = 255
        return pixels

    def _shown_jpeg(self) -> Rgb:
        """A JPEG whose end is put back: libjpeg then gives the last blocks too, but makes up those that are missing."""
        image = self._ended()
        pixels = self._to_rgb(image)
        if self._data.count(_SCAN) == 1:  # the scans of others, such as progressive ones, have all rows each
            # libjpeg holds back rows until the blocks below are there: the file ends within the row of blocks that
            # follows those of which rows came out.
            height = _BLOCK_PX * max(vertical for _, _, vertical, _ in image.layer)  # type: ignore[attr-defined]
            rows = int(self._written().all(axis=1).sum())
            pixels[(-(-rows // height) + 1) * height :] = 255
        return pixels

    def _ended(self) -> ImageFile.ImageFile:
        """The JPEG with an end, loaded; where it was cut within the tables or the header of a scan, without these."""
        ends = len(self._data), self._data.rfind(_HUFFMAN_TABLES), self._data.rfind(_SCAN)
        for end in ends:
            with suppress(Exception):  # the next end may do; the last one's error is the file's
                image = self._open(self._data[:end] + _END_OF_JPEG)
                image.load()
                return image
        raise OSError("no scan of it is whole")

    def _open(self, data: bytes) -> ImageFile.ImageFile:
        return Pillow.open(io.BytesIO(data), formats=self._formats)

    def _loaded_onto(self, level: int) -> Pillow.Image:
        """The image, decoded as far as it goes onto pixels of that level."""
        image = self._open(self._data)
        bands = len(image.getbands())
        image.im = Pillow.new(image.mode, image.size, level if bands == 1 else (level,) * bands).im
        with suppress(Exception):  # that it cannot be decoded whole is known
            image.load()
        image.tile = []  # or the next look at its pixels would begin anew
        return image

    def _written(self) -> npt.NDArray[np.bool_]:
        """The pixels that the decoder reaches, bool (H, W): those that do not depend on what was there before."""
        return np.asarray(self._channel(0) == self._channel(1))

    def _channel(self, level: int) -> npt.NDArray[Any]:
        """The first channel, decoded as far as it goes onto that level: (H, W)."""
        image = self._loaded_onto(level)
        return np.asarray(image if len(image.getbands()) == 1 else image.getchannel(0))


def without_chunks_passed_over(data: bytes) -> bytes:
    """A PNG without the chunks that browsers pass over: ancillary ones whose checksum is wrong, texts, which Pillow refuses
    beyond a size (Photoshop and ComfyUI write megabytes), and colour profiles of more than PROFILE_BYTES. Other files as they
    are."""
    if not data.startswith(_PNG_SIGNATURE):
        return data
    kept, at = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 4 : end - 4]
        is_whole = not kind[:1].islower() or zlib.crc32(body) == int.from_bytes(data[end - 4 : end])
        if is_whole and kind not in _PNG_TEXTS and (kind != b"iCCP" or _is_small_profile(body)):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _is_small_profile(chunk: bytes) -> bool:
    """Whether an iCCP chunk (its type, a name, 0, the method, deflated data) has a profile that can be read in bounds."""
    _, _, rest = chunk.partition(b"\0")
    try:
        return len(zlib.decompressobj().decompress(rest[1:], PROFILE_BYTES + 1)) <= PROFILE_BYTES
    except zlib.error:
        return False


def _is_interlaced_gif(image: ImageFile.ImageFile) -> bool:
    arguments = image.tile[0].args  # bits, whether interlaced, the transparent colour
    return isinstance(arguments, tuple) and bool(arguments[1])


def _spread(pixels: Rgb, written: npt.NDArray[np.bool_]) -> Rgb:
    """An interlaced image of which later passes are missing: each pixel takes the nearest to its left and above."""
    spread = np.empty_like(pixels)
    step = max(_SPREAD_PX // pixels.shape[1], _COARSEST_PX)
    for top in range(0, len(pixels), step):
        begin = max(top - _COARSEST_PX, 0)  # what lies farther above shows nowhere below
        part = np.s_[begin : top + step]
        spread[top : top + step] = _spread_rows(pixels[part], written[part])[top - begin :]
    return spread


def _spread_rows(pixels: Rgb, written: npt.NDArray[np.bool_]) -> Rgb:
    rows, columns = np.arange(len(pixels))[:, None], np.arange(pixels.shape[1])
    left = np.maximum.accumulate(np.where(written, columns, -_COARSEST_PX), axis=1)
    above = np.maximum.accumulate(np.where(columns - left < _COARSEST_PX, rows, -_COARSEST_PX), axis=0)
    spread: Rgb = pixels[above, left[above, columns]]
    spread[rows - above >= _COARSEST_PX] = 255
    return spread
