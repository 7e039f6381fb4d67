"""Image files to pixels, as Chromium shows them: upright, eight bits, sRGB, on white."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import PngImagePlugin, UnidentifiedImageError

from segloop.errors import ImageError, ImageTooLarge
from segloop.images.colours import to_rgb
from segloop.images.damaged import JPEG, PROFILE_BYTES, Damaged, without_chunks_passed_over
from segloop.images.exif import ORIENTATION, natural_size, of_png, read_exif, split_jpeg
from segloop.images.parts import check_parts

#: Formats that are opened. Others of Pillow's start programs (EPS) or are no images people label (PDF).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# Pillow's own limit is one million bytes, and holds for colour profiles too: some that people have are larger.
PngImagePlugin.MAX_TEXT_CHUNK = PROFILE_BYTES

#: Longest side of an image, in pixels: no browser shows a longer one, and no JPEG can have it.
MAX_SIDE = 65_535

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}
# libjpeg decodes fewer coefficients of each 8 x 8 block for these; others of its scales have no fast code.
_REDUCTIONS = (8, 4, 2)
_SIDEWAYS = (5, 6, 7, 8)
# What undoes each EXIF orientation (EXIF 2.3, tag 274): for the sideways ones, after rows and columns are swapped.
_LEFT_RIGHT, _TOP_BOTTOM, _BOTH = 1, 0, -1  # cv2.flip
_FLIPS = {2: _LEFT_RIGHT, 3: _BOTH, 4: _TOP_BOTTOM, 6: _LEFT_RIGHT, 7: _BOTH, 8: _TOP_BOTTOM}


@dataclass(frozen=True)
class Header:
    """What an image file says of itself: width and height in pixels as they are shown (after its EXIF orientation, and
    its EXIF resolution where browsers follow it), and its format; `stored_px` is how many pixels it holds, if that is known."""

    width: int
    height: int
    format: str
    stored_px: int = field(default=0, compare=False)

    @property
    def suffix(self) -> str:
        """The file name suffix of the format, such as ".jpg"."""
        return _SUFFIXES.get(self.format, f".{self.format.lower()}")

    @property
    def decoded_px(self) -> int:
        """How many pixels there are at some time while it is decoded: those that it holds, or those that are shown."""
        return max(self.width * self.height, self.stored_px)

    def reduction(self, long_side: int) -> int:
        """By how much `decode` divides the sides when it is asked for a long side of `long_side` pixels: 1, 2, 4, 8."""
        if self.format not in JPEG:
            return 1
        longest = max(self.width, self.height)
        return next((factor for factor in _REDUCTIONS if _rounded(longest / factor) >= long_side), 1)

    def check(self, max_pixels: int) -> None:
        """Raise ImageTooLarge for more than `max_pixels` pixels, or a side of more than MAX_SIDE."""
        if max(self.width, self.height) > MAX_SIDE:
            raise ImageTooLarge(f"image of {self.width} x {self.height} pixels has a side of more than {MAX_SIDE}")
        if self.width * self.height > max_pixels:
            raise ImageTooLarge(
                f"image of {self.width} x {self.height} pixels is larger than SEGLOOP_IMAGE_MAX_PIXELS={max_pixels}"
            )


def decode(data: bytes, *, max_pixels: int, long_side: int | None = None) -> npt.NDArray[np.uint8]:
    """The first frame of an image file as Chromium shows it: RGB in sRGB, uint8 (H, W, 3), writable, upright.

    Transparency is composited on white; of 16-bit greys the high byte is kept. Of a damaged file the part that a browser
    would show is decoded, and the rest is white.

    Args:
        long_side: in pixels. A JPEG is decoded at a half, a quarter or an eighth (sides rounded), which is several
            times faster, as long as its long side stays at least that; all else at full size.

    Raises:
        ImageTooLarge: the header declares more than `max_pixels` pixels; nothing was decoded then.
        ImageError: not an image, so damaged that browsers show nothing of it, or of a pixel type without a defined
            look (float, 32-bit).
    """
    file = _open(data)
    file.header.check(max_pixels)
    Header(*file.image.size, file.header.format).check(max_pixels)
    as_stored = file.natural_size == file.image.size
    try:
        image = file.image
        if image.info.get("default_image"):  # of an animated PNG: the picture for those who show no animation
            image.seek(1)
        if long_side is not None and as_stored:
            image = _reduced(image, file.header.reduction(long_side))
        image.load()
    except Exception as error:  # noqa: BLE001 - a broken file makes Pillow raise anything, up to struct.error
        pixels = _shown(file, error)
    else:
        pixels = to_rgb(image)
    pixels = _upright(pixels, file.orientation)
    if as_stored:
        return pixels
    natural = file.header.width, file.header.height
    return np.asarray(cv2.resize(pixels, natural, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def read_header(data: bytes) -> Header:
    """The header of an image file.

    Raises:
        ImageError: not an image.
    """
    return _open(data).header


def allow_pixels(max_pixels: int) -> None:
    """Raise Pillow's own limit, which is process-wide and warns at 89 megapixels, to a larger one; never lower it."""
    if Pillow.MAX_IMAGE_PIXELS is not None:
        Pillow.MAX_IMAGE_PIXELS = max(Pillow.MAX_IMAGE_PIXELS, max_pixels)


@dataclass(frozen=True)
class _File:
    """An open image, with the EXIF fields that browsers follow in its format, and the data it was opened from."""

    image: Pillow.Image
    exif: Mapping[int, float]
    data: bytes

    @property
    def orientation(self) -> int:
        return int(self.exif.get(ORIENTATION, 1))

    @property
    def natural_size(self) -> tuple[int, int]:
        """Of the image before it is turned upright."""
        return natural_size(self.exif, *self.image.size) if self.image.format in JPEG else self.image.size

    @property
    def header(self) -> Header:
        width, height = self.natural_size
        if self.orientation in _SIDEWAYS:
            width, height = height, width
        return Header(width, height, self.image.format or "", self.image.width * self.image.height)


def _open(data: bytes) -> _File:
    check_parts(data)
    exif, data = split_jpeg(data)
    try:
        try:
            image = Pillow.open(io.BytesIO(data), formats=FORMATS)
        except (UnidentifiedImageError, ValueError):
            data = without_chunks_passed_over(data)
            image = Pillow.open(io.BytesIO(data), formats=FORMATS)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"image declares too many pixels: {error}") from error
    except UnidentifiedImageError:
        raise ImageError(f"{_describe(data)} is not an image (of {', '.join(FORMATS)})") from None
    except Exception as error:  # as in decode
        raise ImageError(f"image header is corrupt: {error}") from error
    # Not image.getexif(): it decodes a whole PNG to look behind its pixels, and follows XMP. Browsers do neither, and
    # follow nothing in WebP. Pillow turns a TIFF upright itself, and says in EXIF what an AVIF's own properties say.
    if image.format == "PNG":
        exif = of_png(data)
    elif image.format == "AVIF":
        exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    return _File(image, read_exif(exif), data)


def _describe(data: bytes) -> str:
    head = data[:256].lstrip().lower()
    if not data:
        return "an empty file"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if head.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML document"
    return f"a file of {len(data)} bytes"


def _shown(file: _File, error: Exception) -> npt.NDArray[np.uint8]:
    """What can be seen of a damaged file, as stored."""
    try:
        pixels = Damaged(file.data, FORMATS, to_rgb).shown()
    except ImageError:
        raise
    except Exception:  # noqa: BLE001 - as in decode
        pixels = None
    if pixels is None:
        raise ImageError(f"{file.header.format} image is truncated or corrupt: {error}") from error
    return pixels


def _reduced(image: Pillow.Image, factor: int) -> Pillow.Image:
    drafted = image.draft(None, (max(1, image.width // factor), max(1, image.height // factor))) if factor > 1 else None
    if drafted is None:
        return image
    # Pillow rounds up: the last row and column may lie mostly beyond the image, which would stretch it when resized.
    _, (_, _, width, height) = drafted
    return image.crop((0, 0, _rounded(width), _rounded(height)))


def _rounded(side: float) -> int:
    return max(1, int(side + 0.5))


def _upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    if orientation in _SIDEWAYS:
        pixels = np.asarray(cv2.transpose(pixels), dtype=np.uint8)
    if orientation in _FLIPS:
        pixels = np.asarray(cv2.flip(pixels, _FLIPS[orientation]), dtype=np.uint8)
    return pixels
