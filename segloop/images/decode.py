"""Image files to pixels, as a browser shows them: upright, eight bits, on white."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from segloop.errors import ImageError, ImageTooLarge

#: Formats that are opened. Others of Pillow's start programs (EPS) or are no images people label (PDF).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}
_JPEG = ("JPEG", "MPO")
# libjpeg decodes fewer coefficients of each 8 x 8 block for these; others of its scales have no fast code.
_REDUCTIONS = (8, 4, 2)
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
# What undoes each EXIF orientation (EXIF 2.3, tag 274): for the sideways ones, after rows and columns are swapped.
_LEFT_RIGHT, _TOP_BOTTOM, _BOTH = 1, 0, -1  # cv2.flip
_FLIPS = {2: _LEFT_RIGHT, 3: _BOTH, 4: _TOP_BOTTOM, 6: _LEFT_RIGHT, 7: _BOTH, 8: _TOP_BOTTOM}


@dataclass(frozen=True)
class Header:
    """What an image file says of itself: width and height in pixels after its EXIF orientation, and its format."""

    width: int
    height: int
    format: str

    @property
    def suffix(self) -> str:
        """The file name suffix of the format, such as ".jpg"."""
        return _SUFFIXES.get(self.format, f".{self.format.lower()}")

    def reduction(self, long_side: int) -> int:
        """By how much `decode` divides the sides when it is asked for a long side of `long_side` pixels: 1, 2, 4, 8."""
        if self.format not in _JPEG:
            return 1
        longest = max(self.width, self.height)
        return next((factor for factor in _REDUCTIONS if _rounded(longest / factor) >= long_side), 1)

    def check(self, max_pixels: int) -> None:
        """Raise ImageTooLarge for more than `max_pixels` pixels."""
        if self.width * self.height > max_pixels:
            raise ImageTooLarge(
                f"image of {self.width} x {self.height} pixels is larger than SEGLOOP_IMAGE_MAX_PIXELS={max_pixels}"
            )


def decode(data: bytes, *, max_pixels: int, long_side: int | None = None) -> npt.NDArray[np.uint8]:
    """The first frame of an image file as RGB, uint8 (H, W, 3), writable, after its EXIF orientation.

    Transparency is composited on white; of 16-bit greys the high byte is kept.

    Args:
        long_side: in pixels. A JPEG is decoded at a half, a quarter or an eighth (sides rounded), which is several
            times faster, as long as its long side stays at least that; all else at full size.

    Raises:
        ImageTooLarge: the header declares more than `max_pixels` pixels; nothing was decoded then.
        ImageError: not an image, truncated, corrupt, or of a pixel type without a defined look (float, 32-bit).
    """
    image = _open(data)
    orientation = _orientation(image)
    header = _header(image, orientation)
    header.check(max_pixels)
    try:
        if long_side is not None:
            image = _reduced(image, header.reduction(long_side))
        image.load()
        return _upright(_rgb(image), orientation)
    except ImageError:
        raise
    except Exception as error:  # a broken file makes Pillow raise anything, up to struct.error
        raise ImageError(f"{header.format} image is truncated or corrupt: {error}") from error


def read_header(data: bytes) -> Header:
    """The header of an image file.

    Raises:
        ImageError: not an image.
    """
    image = _open(data)
    return _header(image, _orientation(image))


def allow_pixels(max_pixels: int) -> None:
    """Raise Pillow's own limit, which is process-wide and warns at 89 megapixels, to a larger one; never lower it."""
    if Pillow.MAX_IMAGE_PIXELS is not None:
        Pillow.MAX_IMAGE_PIXELS = max(Pillow.MAX_IMAGE_PIXELS, max_pixels)


def _open(data: bytes) -> Pillow.Image:
    try:
        return Pillow.open(io.BytesIO(data), formats=FORMATS)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"image declares too many pixels: {error}") from error
    except UnidentifiedImageError:
        raise ImageError(f"{_describe(data)} is not an image (of {', '.join(FORMATS)})") from None
    except Exception as error:  # as in decode
        raise ImageError(f"image header is corrupt: {error}") from error


def _describe(data: bytes) -> str:
    head = data[:256].lstrip().lower()
    if not data:
        return "an empty file"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if head.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML document"
    return f"a file of {len(data)} bytes"


def _orientation(image: Pillow.Image) -> int:
    if image.format == "TIFF":  # Pillow turns these upright itself
        return 1
    # Not image.getexif(): it decodes a whole PNG to look behind its pixels, and follows XMP. Browsers do neither.
    exif = Pillow.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - a browser ignores broken EXIF data too
        return 1


def _header(image: Pillow.Image, orientation: int) -> Header:
    width, height = (image.height, image.width) if orientation in _SIDEWAYS else image.size
    return Header(width, height, image.format or "")


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


def _rgb(image: Pillow.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        high = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(high[..., np.newaxis], 3, axis=2)
    if image.mode in ("F", "I", "LAB"):
        raise ImageError(
            f"{image.format} image has pixels of mode {image.mode}, which have no defined look: convert it to 8 bits"
        )
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Pillow.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        image = canvas
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))  # convert copies even then
