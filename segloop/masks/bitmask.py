"""The PNG data URL of Label Studio's BitmaskLabels.

The editor writes a canvas of black pixels on a transparent ground, and reads back the alpha channel alone
(regions/BitmaskRegion.jsx: `getImageSnapshotCanvas`, `composeMask`).
"""

from __future__ import annotations

import base64
import binascii
import io
import re

import numpy as np
from numpy.typing import NDArray

from segloop.errors import MaskError

_PREFIX = "data:image/png;base64,"
_PNG = b"\x89PNG\r\n\x1a\n"
_DATA_URL = re.compile(r"data:image/png(?:;[^,;]+)*;base64,", re.IGNORECASE)


def encode_bitmask(mask: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    """A mask as the data URL of an RGBA PNG: black, with the mask (uint8 alpha (H, W), or bool) for alpha."""
    from PIL import Image

    alpha = mask.view(np.uint8) * np.uint8(255) if mask.dtype == np.bool_ else mask
    rgba = np.zeros((*alpha.shape, 4), np.uint8)
    rgba[..., 3] = alpha
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG", compress_level=3)
    return _PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_bitmask(url: object, height: int, width: int) -> NDArray[np.uint8]:
    """The alpha channel of a PNG data URL: uint8 (height, width).

    A PNG of another size is scaled to the image (nearest pixel), if it has the same proportions. One that knows no
    transparency, which the editor never writes, is read by its lightness: black is outside.

    Raises:
        MaskError: not such a URL, not a whole PNG, of other proportions, or of more pixels than `most_pixels` says.
    """
    from PIL import Image

    data = _png(url)
    found_height, found_width = _png_size(data)
    if found_width * found_height > most_pixels(height, width):
        raise MaskError(f"a bitmask of {found_width}x{found_height} pixels is too large.")
    if not same_aspect((found_height, found_width), (height, width)):
        raise MaskError(f"a bitmask of {found_width}x{found_height} pixels does not fit an image of {width}x{height}.")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            mode = ("RGBA" if transparent else "L") if image.mode != "LA" else "LA"
            shown = image.convert(mode)
            alpha = np.asarray(shown.getchannel("A") if transparent else shown)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError) as error:
        raise MaskError("a bitmask's imageDataURL holds a PNG that cannot be decoded.") from error
    return resize_nearest(np.ascontiguousarray(alpha), height, width)


def bitmask_size(url: object) -> tuple[int, int]:
    """Height and width in pixels that the PNG of a data URL says it has.

    Raises:
        MaskError: not such a URL, or no PNG.
    """
    return _png_size(_png(url))


def most_pixels(height: int, width: int) -> int:
    """Pixels of a mask for an image of this size, at most, in the mask's own size: it may be larger, but not by any factor."""
    return max(height * width, min(max(1 << 25, 16 * height * width), 1 << 27))


def same_aspect(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether one size (height, width) is the other one scaled, but for rounding."""
    rounding = (max(one[0], other[0]) + max(one[1], other[1])) / 2
    return abs(one[1] * other[0] - one[0] * other[1]) <= rounding


def _png(url: object) -> bytes:
    match = _DATA_URL.match(url) if isinstance(url, str) else None
    if not isinstance(url, str) or not match:
        raise MaskError("a bitmask's imageDataURL must begin with data:image/png;base64,")
    try:
        data = base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise MaskError("a bitmask's imageDataURL is not valid base64.") from error
    if not data.startswith(_PNG) or len(data) < 24:
        raise MaskError("a bitmask's imageDataURL holds no PNG.")
    return data


def _png_size(data: bytes) -> tuple[int, int]:
    # The size stands in the first chunk of every PNG; it is checked before Pillow allocates anything.
    return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])


def resize_nearest(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The mask at another size: each pixel takes the value under its centre."""
    if mask.shape == (height, width):
        return mask
    rows = ((np.arange(height) + 0.5) * (mask.shape[0] / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (mask.shape[1] / width)).astype(np.int64)
    resized: NDArray[np.uint8] = mask[rows[:, None], columns]
    return resized
