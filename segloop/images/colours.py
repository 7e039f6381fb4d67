"""A decoded image's pixels as a browser shows them: eight bits, sRGB, on white."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageCms

from segloop.errors import ImageError

_GREY = ("1", "L", "LA", "La")
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
#: The mode that a profile's colour space describes.
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
#: A profile that moves no colour by more than this is taken for sRGB itself, which most profiles are.
_UNSEEN = 2
#: Levels of each channel that profiles are tried on.
_LEVELS = 5
#: Profiles of so many bytes and below are kept, the latest few, with how they convert: those of printers have some 3 MB.
_REMEMBERED_BYTES = 1 << 22

_Conversion = tuple[str, ImageCms.ImageCmsTransform]
#: The value of PNG's gAMA chunk that stands for sRGB.
_SRGB_GAMMA = 0.45455


def to_rgb(image: Pillow.Image) -> npt.NDArray[np.uint8]:
    """The pixels of a loaded image, RGB uint8 (H, W, 3), writable.

    An ICC profile is followed if it fits the pixels and can be read, else a PNG's gamma. Of 16-bit greys the high byte
    is kept. Transparent pixels are white, and so is what a GIF's first frame leaves free.

    Raises:
        ImageError: the pixels have no defined look (float, 32-bit, LAB).
    """
    if image.mode in ("F", "I", "LAB"):
        raise ImageError(
            f"{image.format} image has pixels of mode {image.mode}, which have no defined look: convert it to 8 bits"
        )
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        pixels = np.array(_to_srgb(Pillow.fromarray((deep >> 8).astype(np.uint8)), image.info))
        pixels[deep == image.info.get("transparency", -1)] = 255
        return pixels
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        rgba = image.convert("RGBA")
        colours = rgba.getchannel("R") if image.mode in _GREY else rgba.convert("RGB")
        seen = _to_srgb(colours, image.info)
        seen.putalpha(rgba.getchannel("A"))
        canvas = Pillow.new("RGBA", image.size, "white")
        canvas.alpha_composite(seen)
        pixels = np.array(canvas.convert("RGB"))
    else:
        pixels = np.array(_to_srgb(image, image.info))
    frame: tuple[int, int, int, int] | None = getattr(image, "dispose_extent", None)
    if frame not in (None, (0, 0, *image.size)):
        left, top, right, bottom = frame
        free = np.ones(pixels.shape[:2], np.bool_)
        free[top:bottom, left:right] = False
        pixels[free] = 255
    return pixels


def _to_srgb(image: Pillow.Image, info: Mapping[Any, Any]) -> Pillow.Image:
    """An image without transparency, in sRGB: mode RGB, the image itself where nothing is to be done."""
    profile, gamma = info.get("icc_profile"), info.get("gamma")
    mode = "L" if image.mode in _GREY else image.mode if image.mode == "CMYK" else "RGB"
    if profile:
        found = _conversion(profile, mode)
        if found is not None:
            source, convert = found
            return convert.apply(image.convert(source))
    elif gamma and "srgb" not in info and abs(gamma / _SRGB_GAMMA - 1) > 0.01:
        return image.convert("RGB").point(_gamma_table(gamma) * 3)
    return image if image.mode == "RGB" else image.convert("RGB")


def _conversion(profile: bytes, mode: str) -> _Conversion | None:
    """How pixels of `mode` come to sRGB by an ICC profile: the mode to bring them to first, and the conversion.

    None where a browser shows them as they are: the profile describes other pixels, is broken, or is sRGB itself. The
    rendering intent is Chromium's, relative colorimetric.
    """
    return _remembered(profile, mode) if len(profile) <= _REMEMBERED_BYTES else _made(profile, mode)


def _made(profile: bytes, mode: str) -> _Conversion | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        source = _MODES.get(opened.profile.xcolor_space)
        if source is None or (source != mode and (source, mode) != ("RGB", "L")):
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        srgb = ImageCms.createProfile("sRGB")
        convert = ImageCms.buildTransform(opened, srgb, source, "RGB", renderingIntent=intent)
        levels = np.linspace(0, 255, _LEVELS).astype(np.uint8)
        channels = np.meshgrid(*[levels] * len(source), indexing="ij")
        tried = Pillow.merge(source, [Pillow.fromarray(channel.reshape(1, -1)) for channel in channels])
        moved = np.asarray(convert.apply(tried), np.int16) - np.asarray(tried.convert("RGB"), np.int16)
    except Exception:  # noqa: BLE001 - a browser passes over a profile that it cannot read, too
        return None
    return (source, convert) if np.abs(moved).max() > _UNSEEN else None


_remembered = lru_cache(maxsize=16)(_made)


def _gamma_table(gamma: float) -> list[int]:
    """The sRGB level of each level that a PNG's gamma says."""
    light = (np.arange(256) / 255) ** (1 / gamma)
    srgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return [int(level) for level in (srgb * 255).round()]
