"""Files that are cut short: what is there is decoded, the rest is white. See also e2e/test_pixels.py."""

from __future__ import annotations

import zlib
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segloop.errors import ImageError
from segloop.images import decode, read_header
from segloop.images.damaged import PROFILE_BYTES
from tests.icc_profiles import SWAPPED, padded
from tests.odd_images import EXIF, chunk, encoded, interlaced_png, jpeg, jpeg_with, picture, png, png_with, turned

LIMIT = 10**6
WIDTH, HEIGHT = 192, 128
BLOCKS = 16


def pixels(data: bytes) -> NDArray[np.uint8]:
    return decode(data, max_pixels=LIMIT)


def large() -> Image.Image:
    return picture(WIDTH, HEIGHT)


def rows_as_in(whole: NDArray[np.uint8], part: NDArray[np.uint8]) -> int:
    """How many rows from the top are those of the whole image."""
    same = (whole == part).all(axis=(1, 2))
    return int(np.argmin(same)) if not same.all() else len(same)


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_whole(cut: int, mode: str, progressive: bool) -> None:
    data = jpeg(large().convert(mode), progressive=progressive)
    assert (pixels(data[:-cut]) == pixels(data)).all()
    assert read_header(data[:-cut]) == read_header(data)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.95])
def test_what_a_jpeg_lacks_is_white(subsampling: str, share: float) -> None:
    data = jpeg(large(), subsampling=subsampling)
    whole, part = pixels(data), pixels(data[: int(share * len(data))])
    there = rows_as_in(whole, part)
    assert there > (share - 0.3) * HEIGHT
    assert (part[there + BLOCKS + 2 :] == 255).all()


def test_more_of_a_jpeg_shows_more() -> None:
    data = jpeg(large())
    whole = pixels(data)
    shown = [rows_as_in(whole, pixels(data[:end])) for end in range(len(data) // 2, len(data), 97)]
    assert all(earlier <= later for earlier, later in pairwise(shown))
    assert shown[0] > 0
    assert shown[-1] >= HEIGHT - BLOCKS - 2


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75, 0.9])
def test_a_progressive_jpeg_lacks_detail_but_no_rows(share: float) -> None:
    data = jpeg(large(), progressive=True)
    whole = pixels(data).astype(int)
    part = pixels(data[: int(share * len(data))])
    assert np.abs(part - whole).mean() < 12


def test_a_progressive_jpeg_may_end_anywhere() -> None:
    data = jpeg(large(), progressive=True)
    first_scan = data.index(b"\xff\xda")
    for end in range(first_scan + 200, len(data), 61):
        assert pixels(data[:end]).shape == (HEIGHT, WIDTH, 3)


def test_a_turned_jpeg_is_white_where_its_last_rows_would_be() -> None:
    data = jpeg(large())
    turned_one = pixels(jpeg_with(EXIF + turned(6), data=data[: len(data) // 2]))
    assert turned_one.shape == (WIDTH, HEIGHT, 3)
    assert (turned_one == np.rot90(pixels(data[: len(data) // 2]), -1)).all()
    assert (turned_one[:, 0] == 255).all()


@pytest.mark.parametrize(
    "data",
    [
        png(large()),
        png(large().convert("RGBA")),
        png(large().convert("L")),
        png(large().quantize(64)),
        png(Image.fromarray(np.asarray(large().convert("L")).astype(np.uint16) * 257)),
        encoded(large(), "BMP"),
        encoded(large().quantize(64), "GIF", interlace=0),
    ],
    ids=["PNG RGB", "PNG RGBA", "PNG L", "PNG P", "PNG I;16", "BMP", "GIF"],
)
def test_the_rows_that_are_there_are_shown(data: bytes) -> None:
    whole, part = pixels(data), pixels(data[: len(data) // 2])
    if data.startswith(b"BM"):  # from the bottom up
        whole, part = whole[::-1], part[::-1]
    there = rows_as_in(whole, part)
    assert HEIGHT / 5 < there < HEIGHT * 3 / 4
    assert (part[there + 4 :] == 255).all()


@pytest.mark.parametrize(
    ("data", "block"), [(interlaced_png(large()), 8), (encoded(large().quantize(64), "GIF"), 8)], ids=["PNG", "GIF"]
)
def test_an_interlaced_image_without_its_last_passes_is_coarse(data: bytes, block: int) -> None:
    whole = pixels(data)
    coarse = pixels(data[: len(data) * 2 // 5])
    assert (coarse[::block, ::block] == whole[::block, ::block]).mean() > 0.95
    assert not (coarse == 255).all(axis=2).any()
    assert 0 < np.abs(coarse.astype(int) - whole).mean() < 20


def test_a_png_whose_end_or_checksum_is_missing_is_whole() -> None:
    data = png(large())
    for damaged in (data[:-12], data[:-16], data[:-16] + b"oops" + data[-12:]):
        assert (pixels(damaged) == pixels(data)).all()


def test_an_ancillary_chunk_with_a_wrong_checksum_is_passed_over() -> None:
    broken = chunk(b"gAMA", b"\0\1\x86\xa0")[:-4] + b"oops"
    assert (pixels(png_with(broken)) == pixels(png())).all()
    with pytest.raises(ImageError, match="not an image"):
        pixels(png()[:29] + b"oops" + png()[33:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "large_one",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(PROFILE_BYTES + 1))),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(PROFILE_BYTES + 1))),
        chunk(b"tEXt", b"workflow\0" + b"x" * (65 * 2**20)),
        chunk(b"iCCP", b"too large\0\0" + zlib.compress(bytes(PROFILE_BYTES + 1))),
        chunk(b"iCCP", b"not deflated\0\0oops"),
    ],
    ids=lambda data: data[4:30].decode("latin1"),
)
def test_a_text_or_profile_beyond_what_pillow_reads_is_passed_over(large_one: bytes) -> None:
    data = png(large())
    behind = data[:-12] + large_one + data[-12:]
    for odd in (png_with(large_one, data=data), behind):
        assert read_header(odd) == read_header(data)
        assert (pixels(odd) == pixels(data)).all()


def test_a_colour_profile_of_megabytes_is_followed() -> None:
    """Pillow's own limit for one is a million bytes."""
    with_small, with_large = (png(large(), icc_profile=one) for one in (SWAPPED, padded(SWAPPED, 3_000_000)))
    assert (pixels(with_small) != pixels(png(large()))).any()
    assert (pixels(with_large) == pixels(with_small)).all()


@pytest.mark.parametrize(
    ("data", "pixels_at"),
    [(jpeg(), b"\xff\xda"), (png(), b"IDAT"), (encoded(large().quantize(64), "GIF"), b"\x2c\0\0\0\0")],
    ids=["JPEG", "PNG", "GIF"],
)
def test_a_file_without_pixels_is_refused(data: bytes, pixels_at: bytes) -> None:
    with pytest.raises(ImageError, match=r"truncated|corrupt|not an image"):
        pixels(data[: data.index(pixels_at) + 12])


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_an_interlaced_image_is_the_same_however_many_rows_are_spread_at_a_time(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = interlaced_png(picture(101, 97))
    data = whole[: int(len(whole) * share)]
    found = []
    for at_a_time in (1, 2000, 1 << 20):
        monkeypatch.setattr("segloop.images.damaged._SPREAD_PX", at_a_time)
        found.append(decode(data, max_pixels=10**6))
    assert (found[0] == found[2]).all()
    assert (found[1] == found[2]).all()
