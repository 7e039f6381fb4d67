"""ICC profiles of version 2.4, for images in RGB, grey and CMYK."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np


def profile(space: bytes, **tags: bytes) -> bytes:
    """An ICC profile of version 2.4; the names of tags have four letters."""
    head, body = b"", b""
    described = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = {"desc": described, "cprt": b"text\0\0\0\0x\0", "wtpt": xyz(0.9642, 1, 0.8249), **tags}
    for name, value in tags.items():
        head += name.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    connection = b"Lab " if space == b"CMYK" else b"XYZ "
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    start = (
        b"lcms\x02\x40\0\0" + kind + space + connection + bytes(12) + b"acsp" + bytes(28) + xyz(0.9642, 1, 0.8249)[8:]
    )
    whole = start.ljust(124, b"\0") + struct.pack(">I", len(tags)) + head + body
    return struct.pack(">I", len(whole) + 4) + whole


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(red: Sequence[float], green: Sequence[float], blue: Sequence[float], gamma: float = 2.2) -> bytes:
    curves = dict.fromkeys(("rTRC", "gTRC", "bTRC"), curve(gamma))
    return profile(b"RGB ", rXYZ=xyz(*red), gXYZ=xyz(*green), bXYZ=xyz(*blue), **curves)


ADOBE_RGB = rgb_profile((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
#: sRGB, with red and green in each other's place.
SWAPPED = rgb_profile((0.3851, 0.7169, 0.0971), (0.4361, 0.2225, 0.0139), (0.1431, 0.0606, 0.7141))
LINEAR_GREY = profile(b"GRAY", kTRC=curve(1))


def padded(icc: bytes, more: int) -> bytes:
    """A profile with so many bytes more, that no tag points to."""
    return (len(icc) + more).to_bytes(4, "big") + icc[4:] + bytes(more)


def cmyk_profile() -> bytes:
    """Inks that nobody has, by a table of two levels each."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = [
        (round(255 * (1 - k) * (1 - 0.3 * c - 0.3 * m - 0.1 * y)), 128 + 60 * c - 60 * m, 128 + 50 * y)
        for c, m, y, k in corners
    ]
    unit = b"".join(struct.pack(">i", 65536 * one) for one in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    levels = bytes(range(256))
    lut = b"mft1\0\0\0\0\4\3\2\0" + unit + levels * 4 + bytes(np.array(table, np.uint8).ravel()) + levels * 3
    return profile(b"CMYK", A2B0=lut)
