"""Photos become pixels: limits, orientations, modes, and decoding at a fraction of the size."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from segloop.errors import ImageError, ImageTooLarge
from segloop.images import Blob, Header, Image, decode, read_header

LIMIT = 10**6
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Pillow.Image, format_: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> list[list[tuple[int, ...]]]:
    array = decode(data, max_pixels=LIMIT)
    assert array.dtype == np.uint8
    assert array.flags.writeable
    return [[tuple(int(value) for value in pixel) for pixel in row] for row in array]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0")) + png_chunk(b"IEND", b"")


def turned(orientation: int) -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return exif


def size(data: bytes) -> tuple[int, int]:
    header = read_header(data)
    return header.width, header.height


def photo(width: int, height: int) -> Pillow.Image:
    """Something like a photo: structure at every scale, sharp edges, a little noise."""
    rng = np.random.default_rng(0)
    image = rng.normal(128, 4, (height, width, 3)).astype(np.float32)
    for cells in (4, 16, 64, 256):
        coarse = rng.normal(0, 120 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(20):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        colour = [float(channel) for channel in rng.integers(0, 256, 3)]
        cv2.circle(image, centre, int(rng.integers(8, height // 4)), colour, -1, cv2.LINE_AA)
    return Pillow.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def image_of(data: bytes, name: str = "/data/upload/1/a.jpg") -> Image:
    return Image(Blob(data, hashlib.sha256(data).hexdigest()), max_pixels=10**7, name=name)


def shrunk(array: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA).astype(np.float64)


class TestDecode:
    # Stored pixels are [[red, green]]; the rows that a browser shows for each EXIF orientation.
    @pytest.mark.parametrize("format_", ["PNG", "TIFF"])
    @pytest.mark.parametrize(
        ("orientation", "shown"),
        [
            (1, [[RED, GREEN]]),
            (2, [[GREEN, RED]]),
            (3, [[GREEN, RED]]),
            (4, [[RED, GREEN]]),
            (5, [[RED], [GREEN]]),
            (6, [[RED], [GREEN]]),
            (7, [[GREEN], [RED]]),
            (8, [[GREEN], [RED]]),
            (9, [[RED, GREEN]]),
        ],
    )
    def test_orientation(self, format_: str, orientation: int, shown: list[list[tuple[int, ...]]]) -> None:
        image = Pillow.fromarray(np.array([[RED, GREEN]], np.uint8))
        data = encoded(image, format_, exif=turned(orientation))
        assert pixels(data) == shown
        assert size(data) == (len(shown[0]), len(shown))

    def test_orientation_of_jpeg(self) -> None:
        data = encoded(Pillow.new("RGB", (16, 8), RED), "JPEG", exif=turned(6))
        assert size(data) == (8, 16)
        assert decode(data, max_pixels=LIMIT).shape == (16, 8, 3)

    # CSS Images 3, image-orientation; looking for it would decode the whole file.
    def test_orientation_behind_the_pixels_is_ignored(self) -> None:
        data = encoded(Pillow.new("RGB", (2, 1), RED))
        end = png_chunk(b"IEND", b"")
        data = data.removesuffix(end) + png_chunk(b"eXIf", turned(6).tobytes().removeprefix(b"Exif\0\0")) + end
        assert size(data) == (2, 1)
        assert pixels(data) == [[RED, RED]]

    def test_orientation_of_xmp_is_ignored(self) -> None:
        data = encoded(Pillow.new("RGB", (2, 1), RED), "JPEG", xmp=b'<x tiff:Orientation="6"/>')
        assert size(data) == (2, 1)

    def test_broken_exif_is_ignored(self) -> None:
        data = encoded(Pillow.new("RGB", (2, 1), RED), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
        assert size(data) == (2, 1)
        assert pixels(data) == [[RED, RED]]

    @pytest.mark.parametrize(
        ("mode", "colour", "shown"),
        [
            ("1", 1, WHITE),
            ("L", 128, (128, 128, 128)),
            ("LA", (0, 0), WHITE),
            ("LA", (10, 255), (10, 10, 10)),
            ("RGB", RED, RED),
            ("RGBA", (255, 0, 0, 0), WHITE),
            ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
            ("I;16", 0xABCD, (0xAB, 0xAB, 0xAB)),
        ],
    )
    def test_modes(self, mode: str, colour: int | tuple[int, ...], shown: tuple[int, ...]) -> None:
        assert pixels(encoded(Pillow.new(mode, (1, 1), colour))) == [[shown]]

    def test_big_endian_16_bit_tiff(self) -> None:
        entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
        entries += [(277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 2)]
        packed = b"".join(
            struct.pack(">HHI", tag, kind, count)
            + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
            for tag, kind, count, value in entries
        )
        data = struct.pack(">2sHI", b"MM", 42, 10) + b"\xab\xcd" + struct.pack(">H", len(entries)) + packed + bytes(4)
        assert pixels(data) == [[(0xAB,) * 3]]

    def test_palette(self) -> None:
        image = Pillow.new("P", (2, 1))
        image.putpalette([*RED, *BLUE])
        image.putdata([0, 1])
        assert pixels(encoded(image)) == [[RED, BLUE]]
        assert pixels(encoded(image, transparency=1)) == [[RED, WHITE]]

    def test_transparent_colour_of_rgb(self) -> None:
        image = Pillow.fromarray(np.array([[RED, GREEN]], np.uint8))
        assert pixels(encoded(image, transparency=RED)) == [[WHITE, GREEN]]

    def test_cmyk(self) -> None:
        shown = pixels(encoded(Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))[0][0]
        assert np.abs(np.subtract(shown, RED)).max() <= 3

    def test_first_frame_of_an_animation(self) -> None:
        frames = [Pillow.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert pixels(data) == [[RED, RED], [RED, RED]]

    @pytest.mark.parametrize("mode", ["F", "I"])
    def test_pixels_without_a_look(self, mode: str) -> None:
        with pytest.raises(ImageError, match=f"mode {mode}.*convert it to 8 bits"):
            decode(encoded(Pillow.new(mode, (1, 1)), "TIFF"), max_pixels=LIMIT)

    @pytest.mark.parametrize("format_", ["WEBP", "TIFF", "AVIF"])
    def test_truncated_where_browsers_show_nothing(self, format_: str) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        data = encoded(Pillow.fromarray(noise), format_)
        with pytest.raises(ImageError, match=r"corrupt|not an image"):
            decode(data[: len(data) // 2], max_pixels=LIMIT)

    @pytest.mark.parametrize(
        ("data", "named"),
        [
            (b"", "an empty file"),
            (b" <!DOCTYPE html><p>", "a web page"),
            (b"<svg xmlns='...'/>", "an SVG"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "a file of"),
        ],
    )
    def test_not_an_image(self, data: bytes, named: str) -> None:
        with pytest.raises(ImageError, match=f"{named}.* is not an image"):
            size(data)

    @pytest.mark.parametrize("side", [1001, 12_000, 100_000])
    def test_pixel_limit_is_checked_on_the_header(self, side: int) -> None:
        with pytest.raises(ImageTooLarge):
            decode(png_header(side, side), max_pixels=LIMIT)

    def test_pixel_limit_is_inclusive(self) -> None:
        data = encoded(Pillow.new("RGB", (4, 4)))
        assert decode(data, max_pixels=16).shape == (4, 4, 3)
        with pytest.raises(ImageTooLarge, match=r"4 x 4 pixels.*SEGLOOP_IMAGE_MAX_PIXELS=15"):
            decode(data, max_pixels=15)

    @pytest.mark.parametrize(
        ("format_", "expected"),
        [("JPEG", ".jpg"), ("PNG", ".png"), ("TIFF", ".tif"), ("WEBP", ".webp"), ("BMP", ".bmp")],
    )
    def test_suffix(self, format_: str, expected: str) -> None:
        assert read_header(encoded(Pillow.new("RGB", (1, 1)), format_)).suffix == expected

    @given(st.data())
    def test_a_damaged_file_gives_pixels_or_an_image_error(self, data: st.DataObject) -> None:
        format_ = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]))
        whole = bytearray(encoded(Pillow.new("RGB", (5, 3), BLUE), format_))
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(ImageError):
            assert decode(bytes(whole), max_pixels=LIMIT).ndim == 3
            assert decode(bytes(whole), max_pixels=LIMIT, long_side=2).ndim == 3


@pytest.fixture(scope="module")
def large_photo() -> Pillow.Image:
    return photo(2101, 1577)


class TestReducedDecoding:
    @pytest.mark.parametrize(
        ("mode", "options"),
        [
            ("RGB", {}),
            ("RGB", {"progressive": True}),
            ("RGB", {"subsampling": "4:4:4"}),
            ("RGB", {"restart_marker_rows": 1}),
            ("L", {}),
            ("L", {"progressive": True}),
            ("CMYK", {}),
            ("CMYK", {"progressive": True}),
        ],
    )
    def test_resized_it_is_the_resized_image(
        self, large_photo: Pillow.Image, mode: str, options: dict[str, object]
    ) -> None:
        image = image_of(encoded(large_photo.convert(mode), "JPEG", quality=90, **options))
        reduced = image.reduced(512)
        assert reduced.shape == (394, 525, 3)
        assert (reduced.dtype, reduced.flags.writeable) == (np.uint8, True)
        difference = np.abs(shrunk(reduced, 512, 384) - shrunk(image.pixels, 512, 384))
        assert difference.mean() < 1
        assert np.quantile(difference, 0.99) < 16

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation(self, large_photo: Pillow.Image, orientation: int) -> None:
        image = image_of(encoded(large_photo, "JPEG", quality=90, exif=turned(orientation)))
        sideways = orientation > 4
        assert (image.width, image.height) == ((1577, 2101) if sideways else (2101, 1577))
        reduced = image.reduced(512)
        assert reduced.shape == ((525, 394, 3) if sideways else (394, 525, 3))
        assert reduced.flags.c_contiguous
        size = (384, 512) if sideways else (512, 384)
        assert np.abs(shrunk(reduced, *size) - shrunk(image.pixels, *size)).mean() < 1

    def test_the_first_of_several_pictures(self, large_photo: Pillow.Image) -> None:
        data = encoded(large_photo, "MPO", quality=90, save_all=True, append_images=[Pillow.new("RGB", (8, 8))])
        image = image_of(data)
        assert image.blob.header.format == "MPO"
        assert image.reduced(512).shape == (394, 525, 3)
        assert np.abs(shrunk(image.reduced(512), 512, 384) - shrunk(image.pixels, 512, 384)).mean() < 1

    @pytest.mark.parametrize(
        ("longest", "long_side", "expected"),
        [(4096, 512, 8), (4092, 512, 8), (4091, 512, 4), (4000, 512, 4), (1023, 512, 2), (1022, 512, 1), (511, 512, 1)],
    )
    def test_factor(self, longest: int, long_side: int, expected: int) -> None:
        for header in (Header(longest, 1, "JPEG"), Header(3, longest, "MPO")):
            assert header.reduction(long_side) == expected
        assert Header(longest, 100, "PNG").reduction(long_side) == 1

    @given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 80))
    def test_never_smaller_than_asked_for(self, width: int, height: int, long_side: int) -> None:
        data = encoded(Pillow.new("RGB", (width, height), BLUE), "JPEG")
        reduced = image_of(data).reduced(long_side)
        assert max(reduced.shape) >= min(long_side, max(width, height))
        assert np.abs(reduced.astype(int) - BLUE).max() <= 3

    @pytest.mark.parametrize("size", [(4001, 1), (1, 4001), (4001, 3)])
    def test_thin_images(self, size: tuple[int, int]) -> None:
        reduced = image_of(encoded(Pillow.new("L", size, 77), "JPEG")).reduced(500)
        assert max(reduced.shape) >= 500
        assert (reduced == 77).all()

    def test_pixel_limit_counts_the_whole_image(self) -> None:
        data = encoded(Pillow.new("L", (64, 64)), "JPEG")
        with pytest.raises(ImageTooLarge, match="64 x 64"):
            decode(data, max_pixels=64 * 64 - 1, long_side=8)

    @pytest.mark.parametrize("progressive", [False, True])
    def test_truncated(self, progressive: bool) -> None:
        data = encoded(photo(256, 256), "JPEG", progressive=progressive)
        part = data[: len(data) // 2]
        assert (decode(part, max_pixels=LIMIT, long_side=32) == decode(part, max_pixels=LIMIT)).all()


class TestImage:
    def test_what_the_header_says_needs_no_decoding(self) -> None:
        data = png_header(640, 480)
        image = image_of(data)
        assert (image.width, image.height, image.blob.suffix) == (640, 480, ".png")
        assert image.sha256 == hashlib.sha256(data).hexdigest()
        for pixels in (lambda: image.pixels, lambda: image.reduced(64)):
            with pytest.raises(ImageError, match=r"^/data/upload/1/a\.jpg: PNG image is truncated or corrupt"):
                pixels()

    def test_limit_and_format_are_checked_at_once(self) -> None:
        with pytest.raises(ImageTooLarge, match=r"^a: image of 4000 x 2501 pixels"):
            image_of(png_header(4000, 2501), "a")
        with pytest.raises(ImageError, match=r"^a: a web page is not an image"):
            image_of(b"<html>", "a")

    def test_pixels_are_decoded_once(self) -> None:
        image = image_of(encoded(photo(640, 480), "JPEG"))
        with ThreadPoolExecutor(8) as pool:
            arrays = list(pool.map(lambda _: image.pixels, range(16)))
        assert all(array is arrays[0] for array in arrays)
        assert arrays[0].shape == (480, 640, 3)

    def test_reduced_is_the_same_once_decoded(self) -> None:
        image = image_of(encoded(photo(640, 480), "JPEG"))
        before = image.reduced(100)
        assert before.shape == (120, 160, 3)
        assert image.pixels.shape == (480, 640, 3)
        assert np.array_equal(image.reduced(100), before)

    @pytest.mark.parametrize(("format_", "long_side"), [("PNG", 8), ("WEBP", 8), ("JPEG", 64), ("JPEG", 33)])
    def test_reduced_that_is_no_quicker_is_the_pixels(self, format_: str, long_side: int) -> None:
        image = image_of(encoded(Pillow.new("RGB", (64, 48), RED), format_))
        assert image.reduced(long_side) is image.pixels
        assert image.pixels.shape == (48, 64, 3)
