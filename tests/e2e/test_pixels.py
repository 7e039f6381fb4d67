"""Images as Chromium shows them: `decode` against the canvas, for every kind of file that people have."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

from segloop.errors import ImageError
from segloop.images import decode, read_header
from tests.e2e.browser import chromium, new_page
from tests.odd_images import damaged_files, encoded, jpeg, picture, png, see_through, whole_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Levels by which libjpeg, skcms and Chromium's blending may round otherwise.
ROUNDING = 2
#: Pixels that a browser makes smaller or larger are compared by their mean: it has filters of its own.
SCALING = 5
#: Where a damaged file ends, decoders go on to other pixels: the last row of blocks of a JPEG, the last data of a GIF.
LAST_ROWS = 18

_SHOW = """async data => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    const image = new Image();
    const url = URL.createObjectURL(new Blob([bytes]));
    const shown = await new Promise(done => {
        image.onload = () => done(true);
        image.onerror = () => done(false);
        image.src = url;
    });
    const canvas = Object.assign(document.createElement('canvas'), {
        width: image.naturalWidth, height: image.naturalHeight,
    });
    if (shown) canvas.getContext('2d').drawImage(image, 0, 0);
    URL.revokeObjectURL(url);
    return shown ? canvas.toDataURL('image/png') : null;
}"""


class Shown(NamedTuple):
    """What Chromium shows: colours on white, uint8 (H, W, 3), and where something is, bool (H, W)."""

    pixels: NDArray[np.uint8]
    there: NDArray[np.bool_]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as browser:
        page = new_page(browser)
        page.goto("about:blank")
        yield page


def shown(page: Page, data: bytes) -> Shown | None:
    url: Any = page.evaluate(_SHOW, base64.b64encode(data).decode())
    if url is None:
        return None
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return Shown(np.asarray(white.convert("RGB")), np.asarray(image)[..., 3] > 0)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int16]:
    return np.abs(one.astype(np.int16) - other).max(axis=2)


def test_whole_files_are_decoded_as_chromium_shows_them(page: Page) -> None:
    wrong = []
    for name, data in whole_files():
        chromium_shows = shown(page, data)
        assert chromium_shows is not None, name
        own, header = decode(data, max_pixels=10**6), read_header(data)
        assert own.shape[:2] == (header.height, header.width), name
        if own.shape != chromium_shows.pixels.shape:
            wrong.append(f"{name}: {own.shape}, not {chromium_shows.pixels.shape}")
            continue
        apart = difference(own, chromium_shows.pixels)
        scaled = "dpi" in name
        if apart.mean() > SCALING if scaled else apart.max() > ROUNDING:
            wrong.append(f"{name}: {apart.mean():.2f} levels in the mean, {apart.max()} at most")
    assert not wrong, "\n".join(wrong)


def test_damaged_files_are_decoded_as_far_as_chromium_shows_them(page: Page) -> None:
    wrong = []
    for name, data in damaged_files():
        chromium_shows = shown(page, data)
        assert chromium_shows is not None, name
        own = decode(data, max_pixels=10**6)
        if own.shape != chromium_shows.pixels.shape:
            wrong.append(f"{name}: {own.shape}, not {chromium_shows.pixels.shape}")
            continue
        apart = difference(own, chromium_shows.pixels)
        # A turned picture has its rows upright.
        rows = np.count_nonzero((apart > ROUNDING).any(axis=0 if "turned" in name else 1))
        if rows > LAST_ROWS:
            wrong.append(f"{name}: {rows} rows differ by up to {apart.max()} levels")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_a_format_that_chromium_shows_nothing_of_before_it_is_whole_is_refused(page: Page, kind: str) -> None:
    data = encoded(picture(), kind)[:-20]
    chromium_shows = shown(page, data)
    assert chromium_shows is not None
    assert not chromium_shows.there.any()
    with pytest.raises(ImageError, match="corrupt"):
        decode(data, max_pixels=10**6)


# -- what docs/labels.md says of the differences


def test_the_last_blocks_of_a_jpeg_are_read_though_chromium_leaves_them_out(page: Page) -> None:
    data = jpeg(picture(192, 128))
    chromium_shows = shown(page, data[:-2])
    assert chromium_shows is not None
    assert not chromium_shows.there[-1].any()
    assert difference(decode(data[:-2], max_pixels=10**6), decode(data, max_pixels=10**6)).max() == 0


def test_chromium_shows_no_tiff_and_segloop_no_icon(page: Page) -> None:
    tiff, icon = encoded(picture(), "TIFF"), encoded(picture(64, 64), "ICO")
    assert shown(page, tiff) is None
    assert difference(decode(tiff, max_pixels=10**6), np.asarray(picture())).max() == 0
    assert shown(page, icon) is not None
    with pytest.raises(ImageError, match="not an image"):
        decode(icon, max_pixels=10**6)


def test_what_shines_through_an_avif_differs_a_little(page: Page) -> None:
    data = encoded(see_through(picture()), "AVIF", quality=100)
    chromium_shows = shown(page, data)
    assert chromium_shows is not None
    own = decode(data, max_pixels=10**6)
    assert own.shape == chromium_shows.pixels.shape
    assert difference(own, chromium_shows.pixels).max() < 32
    assert difference(own, decode(png(see_through(picture())), max_pixels=10**6)).mean() < 4
