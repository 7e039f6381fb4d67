"""Files that are made of so many parts that reading their headers, or their scans, would take minutes or gigabytes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import pytest
from PIL import Image

from segloop.errors import ImageError
from segloop.images import decode, read_header
from segloop.images.parts import MAX_PARTS, MAX_SCANS, MAX_VALUES, check_parts
from tests.odd_images import animated, chunk, damaged_files, encoded, odd_orientations, picture, png_with, whole_files

MANY = MAX_PARTS + 1
_START = b"\xff\xd8"


def gif_with(blocks: bytes) -> bytes:
    data = encoded(picture().convert("P"), "GIF")
    begin = 13 + (3 << (data[10] & 7) + 1)
    return data[:begin] + blocks + data[begin:]


def tiff_of_strips(count: int, *, big: bool = False) -> bytes:
    """A TIFF of 64 x 64 grey pixels, of which so many strips of a byte's address are said to be there."""
    fields = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: count, 277: 1, 278: 1, 279: 64}
    head, entry, number = (16, "<HHQQ", "<Q") if big else (8, "<HHII", "<H")
    size = head + struct.calcsize(number) + len(fields) * struct.calcsize(entry) + 8
    start = b"II+\0\x08\0\0\0" + struct.pack("<Q", head) if big else b"II*\0" + struct.pack("<I", head)
    entries = (
        struct.pack(entry, tag, 1, count, size) if tag == 273 else struct.pack(entry, tag, 4, 1, value)
        for tag, value in fields.items()
    )
    return (start + struct.pack(number, len(fields)) + b"".join(entries)).ljust(size, b"\0") + b"\x08" * count


def progressive(more_scans: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    data = encoded(picture(), "JPEG", progressive=True)
    begin = data.rfind(b"\xff\xda")
    return data[:-2] + data[begin:-2] * more_scans + data[-2:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: _START + b"\xff" * MANY,
        lambda: _START + b"\0" * MANY,
        lambda: _START + b"\xff\xfe\0\x02" * MANY,
        lambda: _START + b"\xff\xd9" + b"\xff" * MANY,
        lambda: _START + b"\xff\xf0\xff\xff" * (MANY // 2),
        lambda: _START + b"\xff\xe1\0\0" * MANY,
        lambda: png_with(chunk(b"abCd", b"") * MANY),
        lambda: png_with() + chunk(b"IDAT", b"") * MANY,
        lambda: gif_with(b"!\xfe" + b"\x01x" * MANY + b"\0"),
        lambda: gif_with(b"!\x01\0\x01x" + b"\x01x" * MANY + b"\0"),
        lambda: gif_with(b"!\xff\x0bNETSCAPE2.0\0" + b"\x01x" * MANY + b"\0"),
        lambda: gif_with(b"\0" * MANY),
        lambda: tiff_of_strips(MAX_VALUES + 1),
        lambda: tiff_of_strips(MAX_VALUES + 1, big=True),
        lambda: progressive(MAX_SCANS),
    ],
)
def test_files_of_too_many_parts(make: Callable[[], bytes]) -> None:
    data = make()
    with pytest.raises(ImageError, match="than any image"):
        read_header(data)
    with pytest.raises(ImageError, match="than any image"):
        decode(data, max_pixels=10**8)


def test_what_encoders_write_is_read() -> None:
    for _, data in (*whole_files(), *odd_orientations(), *damaged_files()):
        check_parts(data)
    for kind in ("GIF", "PNG", "WEBP"):
        check_parts(animated(kind))
    assert decode(tiff_of_strips(64), max_pixels=10**8).shape == (64, 64, 3)
    assert decode(progressive(20), max_pixels=10**8).shape == (picture().height, picture().width, 3)


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_header_that_is_cut_short(cut: int) -> None:
    for kind in ("JPEG", "PNG", "GIF", "TIFF"):
        check_parts(encoded(picture(), kind)[:cut])


def test_a_photo_that_a_film_follows_is_no_file_of_many_scans() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", progressive=True)
    check_parts(buffer.getvalue() + b"\xff\xda\0\x02" * 10 * MAX_SCANS)
