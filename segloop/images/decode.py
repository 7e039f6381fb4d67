"""Image files to pixels, as a browser shows them: upright, eight bits, on white."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from segloop.errors import ImageError, ImageTooLarge

#: Formats that are opened. Others of Pillow's start programs (EPS) or are no images people label (PDF).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
# What undoes each EXIF orientation (EXIF 2.3, tag 274).
_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}


def decode(data: bytes, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """The first frame of an image file as RGB, uint8 (H, W, 3), writable, after its EXIF orientation.

    Transparency is composited on white; of 16-bit greys the high byte is kept.

    Raises:
        ImageTooLarge: the header declares more than `max_pixels` pixels; nothing was decoded then.
        ImageError: not an image, truncated, corrupt, or of a pixel type without a defined look (float, 32-bit).
    """
    image = _open(data)
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"image of {image.width} x {image.height} pixels is larger than SEGLOOP_IMAGE_MAX_PIXELS={max_pixels}"
        )
    try:
        orientation = _orientation(image)
        image.load()
        upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
        return _rgb(upright)
    except ImageError:
        raise
    except Exception as error:  # a broken file makes Pillow raise anything, up to struct.error
        raise ImageError(f"{image.format} image is truncated or corrupt: {error}") from error


def size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of an image file after its EXIF orientation, read from its header.

    Raises:
        ImageError: not an image.
    """
    image = _open(data)
    return (image.height, image.width) if _orientation(image) in _SIDEWAYS else (image.width, image.height)


def suffix(data: bytes) -> str:
    """The file name suffix of an image file's format, such as ".jpg".

    Raises:
        ImageError: not an image.
    """
    name = _open(data).format or ""
    return _SUFFIXES.get(name, f".{name.lower()}")


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
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - a browser ignores broken EXIF data too
        return 1


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
    return np.array(image.convert("RGB"))
