"""EXIF as Chromium follows it: which orientations and resolutions count, in which formats. See also e2e/test_pixels.py."""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.errors import ImageError, ImageTooLarge
from segloop.images import decode, read_header
from segloop.images.exif import read_exif
from tests.odd_images import (
    EXIF,
    EXIF_DIRECTORY,
    HEIGHT,
    ORIENTATION,
    WIDTH,
    avif_with_exif_alone,
    chunk,
    dense,
    directory,
    jpeg,
    jpeg_with,
    long,
    odd_orientations,
    png,
    png_with,
    short,
    turned,
    webp_with,
)

UPRIGHT, SIDEWAYS = (WIDTH, HEIGHT), (HEIGHT, WIDTH)
#: Of the odd ways to say "turn right", those that Chromium understands.
UNDERSTOOD = {
    "big endian",
    "twice",
    "twice, first out of range",
    "directory elsewhere",
    "cut after the entry",
    "too many entries",
    "after a higher tag",
    "in the EXIF directory",
    "directory of itself",
    "directory beyond the end",
}


def size(data: bytes) -> tuple[int, int]:
    header = read_header(data)
    assert decode(data, max_pixels=10**6).shape == (header.height, header.width, 3)
    return header.width, header.height


@pytest.mark.parametrize(("name", "exif"), list(odd_orientations()))
def test_odd_orientations(name: str, exif: bytes) -> None:
    wanted = SIDEWAYS if name in UNDERSTOOD else UPRIGHT
    assert size(jpeg_with(EXIF + exif)) == wanted
    assert size(png_with(chunk(b"eXIf", exif))) == wanted


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_webp_is_not_followed(orientation: int) -> None:
    for prefix in (b"", EXIF):
        data = webp_with(prefix + turned(orientation))
        assert size(data) == UPRIGHT
        assert (decode(data, max_pixels=10**6) == decode(webp_with(b""), max_pixels=10**6)).all()


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (jpeg_with(EXIF + turned(6)), SIDEWAYS),
        (jpeg_with(EXIF + turned(6, ">")), SIDEWAYS),
        (jpeg_with(b"Exif\0X" + turned(6)), SIDEWAYS),
        (jpeg_with(EXIF + EXIF + turned(6)), UPRIGHT),
        (jpeg_with(turned(6)), UPRIGHT),
        (jpeg_with(b"EXIF\0\0" + turned(6)), UPRIGHT),
        (jpeg_with(EXIF + turned(6), EXIF + turned(3)), SIDEWAYS),
        (jpeg_with(EXIF + turned(1), EXIF + turned(6)), UPRIGHT),
        (jpeg_with(EXIF + b"xx", EXIF + turned(6)), UPRIGHT),
        (jpeg_with(b"http://ns.adobe.com/xap/1.0/\0<x/>", EXIF + turned(6)), SIDEWAYS),
        (jpeg()[:-2] + jpeg_with(EXIF + turned(6))[2:80] + b"\xff\xd9", UPRIGHT),
        (png_with(chunk(b"eXIf", turned(6))), SIDEWAYS),
        (png_with(chunk(b"eXIf", EXIF + turned(6))), UPRIGHT),
        (png_with(chunk(b"eXIf", turned(6)), chunk(b"eXIf", turned(3))), SIDEWAYS),
        (png()[:-12] + chunk(b"eXIf", turned(6)) + png()[-12:], UPRIGHT),
        (avif_with_exif_alone(), UPRIGHT),
    ],
)
def test_which_exif_block_counts(data: bytes, wanted: tuple[int, int]) -> None:
    assert size(data) == wanted


@pytest.mark.parametrize(
    ("exif", "wanted"),
    [
        (dense((144, 144), (48, 32)), (48, 32)),
        (dense((144, 144), (48, 32), order=">"), (48, 32)),
        (dense((144, 144), (48, 32), orientation=6), (32, 48)),
        (dense((144, 144), (32, 48), orientation=6), SIDEWAYS),
        (dense((72, 144), (96, 32)), (96, 32)),
        (dense((36, 36), (192, 128)), (192, 128)),
        (dense((100, 100), (69, 46)), (69, 46)),
        (dense((72, 72), UPRIGHT), UPRIGHT),
        (dense((144, 144), (50, 32)), UPRIGHT),
        (dense((144, 144), (48, 32), unit=3), UPRIGHT),
        (dense((100000, 100000), (0, 0)), UPRIGHT),
        (dense((0, 0), (48, 32)), UPRIGHT),
    ],
)
def test_a_jpeg_is_as_large_as_its_resolution_says(exif: bytes, wanted: tuple[int, int]) -> None:
    assert size(jpeg_with(EXIF + exif)) == wanted
    assert size(png_with(chunk(b"eXIf", exif))) in (UPRIGHT, SIDEWAYS)


def test_pixels_of_a_jpeg_of_high_density_are_means() -> None:
    whole = decode(jpeg(), max_pixels=10**6).astype(np.float64)
    dense_one = decode(jpeg_with(EXIF + dense((144, 144), (48, 32))), max_pixels=10**6)
    means = whole.reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(dense_one - means).max() <= 1


def test_the_limit_holds_for_the_stored_and_for_the_shown_size() -> None:
    smaller, larger = (jpeg_with(EXIF + dense((dpi, dpi), size)) for dpi, size in ((144, (48, 32)), (36, (192, 128))))
    decode(smaller, max_pixels=WIDTH * HEIGHT)
    with pytest.raises(ImageTooLarge, match="96 x 64"):
        decode(smaller, max_pixels=WIDTH * HEIGHT - 1)
    decode(larger, max_pixels=192 * 128)
    with pytest.raises(ImageTooLarge, match="192 x 128"):
        decode(larger, max_pixels=192 * 128 - 1)


@given(
    st.binary(max_size=60), st.sampled_from([b"", turned(6), directory(long(EXIF_DIRECTORY, 8))]), st.integers(0, 60)
)
def test_any_bytes_are_read(noise: bytes, block: bytes, at: int) -> None:
    block = block[:at] + noise + block[at:]
    assert 1 <= read_exif(block).get(ORIENTATION, 1) <= 8
    assert size(jpeg_with(EXIF + block)) in (UPRIGHT, SIDEWAYS)


@given(st.lists(st.integers(0, 20), max_size=4), st.sampled_from("<>"))
def test_the_first_valid_orientation_counts(values: list[int], order: str) -> None:
    fields = read_exif(directory(*(short(ORIENTATION, value, order) for value in values), order=order))
    assert fields.get(ORIENTATION) == next((value for value in values if 1 <= value <= 8), None)


@given(st.binary(max_size=40))
def test_a_jpeg_with_any_segments_is_opened_or_refused(noise: bytes) -> None:
    with suppress(ImageError):
        assert read_header(b"\xff\xd8" + noise + jpeg()[2:]).format in ("JPEG", "MPO")


def test_a_segment_longer_than_the_file() -> None:
    with pytest.raises(ImageError):
        read_header(b"\xff\xd8\xff\xe1" + struct.pack(">H", 65535) + EXIF + turned(6))
