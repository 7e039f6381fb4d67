"""Image files of more parts than an image has: made to take minutes or memory before a pixel is there.

Pillow walks through headers in Python and unpacks the tables of a TIFF, libjpeg goes over all pixels for each scan: a small
file may keep a thread, and all others with it, for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice, repeat
from typing import Final, Literal

from PIL.JpegImagePlugin import MARKER

from segloop.errors import ImageError

#: Segments, chunks or blocks of a file, and bytes of nothing between them, at most: 100 megapixels in chunks of a few kB have 20,000.
MAX_PARTS: Final = 1 << 17
#: Scans of a progressive JPEG, at most: encoders write some ten.
MAX_SCANS: Final = 100
#: Values of a TIFF's table, at most: 100 megapixels in tiles of 16 x 16 have 400,000.
MAX_VALUES: Final = 1 << 19

_FILL, _SCAN, _END = 0xFF, 0xDA, 0xD9
_PROGRESSIVE: Final = (0xC2, 0xCA)
#: Markers of a JPEG after which Pillow reads no length; 0 is none, but a 255 of data.
_ALONE: Final = frozenset({0, *(code & 255 for code, (_, _, handler) in MARKER.items() if handler is None)})
#: What ends the data of a scan.
_NEXT_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_GIF_EXTENSION, _GIF_COMMENT, _GIF_IMAGE, _GIF_END = 0x21, 0xFE, 0x2C, 0x3B
_NETSCAPE: Final = b"NETSCAPE2.0"
#: The tags of TIFF 6.0 and its supplements whose values are read with the header, and the type that is text.
_TIFF_TAGS: Final = range(254, 533)
_TEXT: Final = 2


def check_parts(data: bytes) -> None:
    """Refuse a file of more parts than an image has.

    Raises:
        ImageError: it has more than MAX_PARTS, MAX_SCANS or MAX_VALUES.
    """
    parts = next((read for start, read in _FORMATS.items() if data.startswith(start)), None)
    if parts is not None:
        found = list(islice(parts(data), MAX_PARTS + 1))
        if len(found) > MAX_PARTS or found.count(_SCAN) > MAX_SCANS:
            raise ImageError("the file has more parts than any image, and would take minutes to read")
    if data.startswith((b"II", b"MM")) and _values(data) > MAX_VALUES:
        raise ImageError("the TIFF file has a table of more values than any image")


def _of_jpeg(data: bytes) -> Iterator[int]:
    """The markers of a JPEG up to its end, or to the one scan of a sequential one, and 0 for each byte between them.

    As Pillow finds them before the first scan, whatever the format says.
    """
    at, is_progressive, has_scan = 2, False, False
    while at < len(data):
        start = data.find(b"\xff", at)
        if not 0 <= start < len(data) - 1:
            yield from repeat(0, len(data) - at)
            return
        yield from repeat(0, start - at)
        marker = data[start + 1]
        yield marker
        is_progressive |= marker in _PROGRESSIVE
        has_scan |= marker == _SCAN
        if has_scan and (marker == _END or not is_progressive):
            return
        if marker == _FILL:
            at = start + 1
        elif marker in _ALONE:
            at = start + 2
        else:
            at = start + 2 + max(int.from_bytes(data[start + 2 : start + 4]), 2)
        if marker == _SCAN:
            after = _NEXT_MARKER.search(data, at)
            at = after.start() if after else len(data)


def _of_png(data: bytes) -> Iterator[int]:
    """0 for each chunk of a PNG."""
    at = 8
    while at < len(data):
        yield 0
        at += 12 + int.from_bytes(data[at : at + 4])


def _of_gif(data: bytes) -> Iterator[int]:
    """0 for each block of a GIF, and for each byte that belongs to none, before its first image."""
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 128 else 0)
    while at < len(data) and data[at] not in (_GIF_IMAGE, _GIF_END):
        yield 0
        if data[at] != _GIF_EXTENSION:
            at += 1
            continue
        # so many blocks may be empty and end nothing, by Pillow's way to read them
        spared = 0 if data[at + 1 : at + 2] == bytes([_GIF_COMMENT]) else 1 + (data[at + 3 : at + 14] == _NETSCAPE)
        at += 2
        while at < len(data):
            yield 0
            size = data[at]
            at += 1 + size
            if size == 0 and spared <= 0:
                break
            spared -= 1


_FORMATS: Final[dict[bytes, Callable[[bytes], Iterator[int]]]] = {
    b"\xff\xd8": _of_jpeg,
    b"\x89PNG\r\n\x1a\n": _of_png,
    b"GIF8": _of_gif,
}


def _values(data: bytes) -> int:
    """The most values of a table in the first directory of a TIFF that are read with its header."""
    order: Literal["little", "big"] = "little" if data.startswith(b"I") else "big"
    is_big = data[2:3] == b"\x2b"
    word, count_bytes, entry = (8, 8, 20) if is_big else (4, 2, 12)

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    start = number(8 if is_big else 4, word)
    entries = number(start, count_bytes)
    if entries > MAX_VALUES:
        return entries
    begin = start + count_bytes
    end = min(begin + entries * entry, len(data))
    return max(
        (
            number(at + 4, word)
            for at in range(begin, end, entry)
            if number(at, 2) in _TIFF_TAGS and number(at + 2, 2) != _TEXT
        ),
        default=0,
    )
