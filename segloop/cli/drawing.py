"""What `segloop predict` draws: the classes over the image, and the class map itself."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]

#: Turn of the colour circle from one class to the next: the golden ratio puts neighbours far apart.
_TURN: Final = 0.618033988749895
_OPACITY: Final = 0.5


def class_colours(count: int) -> UInt8:
    """RGB of background, black, and of `count` classes, uint8 (count + 1, 3)."""
    hues = [(index * _TURN) % 1.0 for index in range(count)]
    colours = [(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(hue, 0.85, 1.0) for hue in hues)]
    return np.round(np.array(colours) * 255).astype(np.uint8)


def overlay(pixels: UInt8, class_map: UInt8, colours: UInt8) -> UInt8:
    """An image uint8 (H, W, 3) with the classes of its class map (H, W) over it; background stays as it is."""
    tinted = (pixels * (1 - _OPACITY) + colours[class_map] * _OPACITY).astype(np.uint8)
    return np.where((class_map > 0)[..., None], tinted, pixels)


def write_image(path: Path, pixels: UInt8) -> None:
    """Write an image as PNG."""
    from PIL import Image

    Image.fromarray(pixels).save(path, "PNG")


def write_class_map(path: Path, class_map: UInt8, colours: UInt8) -> None:
    """Write a class map as a PNG whose values are the classes (0 = background), with a palette to look at it by."""
    from PIL import Image

    image = Image.fromarray(class_map)
    image.putpalette(colours.tobytes())
    image.save(path, "PNG")
