"""Colours: profiles and gammas come to sRGB, what is transparent comes on white. See also e2e/test_pixels.py."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageCms

from segloop.images import decode
from segloop.images.colours import _conversion
from tests.icc_profiles import ADOBE_RGB, LINEAR_GREY, SWAPPED, cmyk_profile, padded
from tests.odd_images import animated, chunk, encoded, jpeg, picture, png, png_with, see_through, small_gif_frame

RED, WHITE = (255, 0, 0), (255, 255, 255)


def shown(data: bytes) -> tuple[int, ...]:
    """The one colour of an image."""
    pixels = decode(data, max_pixels=10**6)
    assert (pixels == pixels[0, 0]).all()
    return tuple(int(level) for level in pixels[0, 0])


def plain(colour: object, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (8, 8), colour)  # type: ignore[arg-type]


def near(one: tuple[int, ...], other: tuple[int, ...], levels: int = 2) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= levels


# Adobe RGB (1998), by its definition: (128, 128, 128) is the same grey, and the green of (0, 255, 0) is out of sRGB;
# (102, 153, 102) has the linear values .1329, .3248, .1329.
@pytest.mark.parametrize(("colour", "wanted"), [((128, 128, 128), (128, 128, 128)), ((102, 153, 102), (64, 154, 100))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_adobe_rgb_comes_to_srgb(kind: str, colour: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    assert near(shown(encoded(plain(colour), kind, icc_profile=ADOBE_RGB, **options)), wanted, 7)


def test_a_profile_holds_for_every_mode_of_its_space() -> None:
    swapped = (0, 255, 0)
    assert near(shown(png(plain(RED), icc_profile=SWAPPED)), swapped)
    assert near(shown(png(plain((*RED, 255), "RGBA"), icc_profile=SWAPPED)), swapped)
    assert near(shown(png(plain((*RED, 0), "RGBA"), icc_profile=SWAPPED)), WHITE)
    assert near(shown(png(plain(RED).quantize(2), icc_profile=SWAPPED)), swapped)
    assert near(shown(png(plain(RED).quantize(2), transparency=0, icc_profile=SWAPPED)), WHITE)


def test_a_grey_profile_holds_for_greys_alone() -> None:
    linear = round(255 * (1.055 * (128 / 255) ** (1 / 2.4) - 0.055))
    assert near(shown(png(plain(128, "L"), icc_profile=LINEAR_GREY)), (linear,) * 3)
    assert near(shown(png(plain((128, 255), "LA"), icc_profile=LINEAR_GREY)), (linear,) * 3)
    deep = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    assert near(shown(png(deep, icc_profile=LINEAR_GREY)), (linear,) * 3)
    assert shown(png(plain((128, 128, 128)), icc_profile=LINEAR_GREY)) == (128, 128, 128)


def test_a_profile_of_inks() -> None:
    unprofiled = decode(jpeg(picture().convert("CMYK")), max_pixels=10**6).astype(int)
    profiled = decode(jpeg(picture().convert("CMYK"), icc_profile=cmyk_profile()), max_pixels=10**6)
    assert np.abs(profiled - unprofiled).mean() > 20
    other = decode(jpeg(picture().convert("CMYK"), icc_profile=ADOBE_RGB), max_pixels=10**6)
    assert (other == unprofiled).all()


@pytest.mark.parametrize("icc", [b"garbage" * 30, b"x", ADOBE_RGB[:200]])
def test_a_broken_profile_is_passed_over(icc: bytes) -> None:
    assert shown(png(plain((10, 200, 30)), icc_profile=icc)) == (10, 200, 30)


def test_srgb_itself_costs_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert _conversion(srgb, "RGB") is None
    assert _conversion(ADOBE_RGB, "RGB") is not None


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ([(b"gAMA", struct.pack(">I", 100000))], 188),
        ([(b"gAMA", struct.pack(">I", 45455))], 128),
        ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))], 128),
        ([(b"gAMA", struct.pack(">I", 0))], 128),
    ],
)
def test_the_gamma_of_a_png(chunks: list[tuple[bytes, bytes]], wanted: int) -> None:
    data = png_with(*(chunk(*one) for one in chunks), data=png(plain((128, 128, 128))))
    assert near(shown(data), (wanted,) * 3, 1)


def test_a_transparent_grey_of_16_bits() -> None:
    deep = np.full((8, 8), 0x1234, np.uint16)
    deep[0, 0] = 0x1200
    pixels = decode(png(Image.fromarray(deep), transparency=0x1200), max_pixels=10**6)
    assert (pixels[0, 0] == 255).all()
    assert (pixels[1:] == 0x12).all()


def test_a_profile_is_followed_in_what_is_decoded_smaller() -> None:
    data = jpeg(picture(640, 480), icc_profile=SWAPPED)
    small = decode(data, max_pixels=10**6, long_side=80)
    assert small.shape == (60, 80, 3)
    patch = tuple(int(level) for level in small[1, 2])  # red as it was encoded
    assert near(patch, (20, 250, 20), 12)


def test_what_a_small_frame_of_a_gif_leaves_free_is_white() -> None:
    pixels = decode(small_gif_frame((96, 64), (20, 10)), max_pixels=10**6)
    assert pixels.shape == (64, 96, 3)
    inside = np.zeros((64, 96), np.bool_)
    inside[10:40, 20:60] = True
    assert (pixels[~inside] == 255).all()
    assert (pixels[inside] == decode(small_gif_frame((40, 30), (0, 0)), max_pixels=10**6).reshape(-1, 3)).all()


def test_the_default_image_of_an_animated_png_is_not_its_first_frame() -> None:
    whole, second = (decode(png(one), max_pixels=10**6) for one in (picture(), picture().rotate(180)))
    assert (decode(animated("PNG"), max_pixels=10**6) == whole).all()
    assert (decode(animated("PNG", default_image=True), max_pixels=10**6) == second).all()


def test_transparency_is_white_for_every_mode() -> None:
    clear = see_through(picture())
    expected = decode(png(clear), max_pixels=10**6)
    assert (expected[:, 0] == 255).all()
    lossless = decode(encoded(clear, "WEBP", lossless=True), max_pixels=10**6)
    assert np.abs(lossless.astype(int) - expected).max() <= 2


def test_large_profiles_are_not_kept() -> None:
    """Sixteen of the largest that are followed would take half a gigabyte, for good."""
    data = encoded(picture(), "PNG", icc_profile=padded(SWAPPED, 8_000_000))
    tracemalloc.start()
    try:
        wanted = decode(encoded(picture(), "PNG", icc_profile=SWAPPED), max_pixels=10**6)
        before, _ = tracemalloc.get_traced_memory()
        found = decode(data, max_pixels=10**6)
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert (found == wanted).all()
    assert kept < 1_000_000
