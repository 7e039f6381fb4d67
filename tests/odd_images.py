"""Image files as they are found: turned, damaged, with colour profiles, and with metadata that says nonsense."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.icc_profiles import ADOBE_RGB, LINEAR_GREY, SWAPPED, padded

SHORT, LONG, RATIONAL = 3, 4, 5
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
EXIF_DIRECTORY, PIXEL_WIDTH, PIXEL_HEIGHT = 0x8769, 0xA002, 0xA003
#: What stands before EXIF data in a JPEG.
EXIF = b"Exif\0\0"

WIDTH, HEIGHT = 96, 64

#: Tag, type, count, and what the four bytes of the value hold.
Entry = tuple[int, int, int, bytes]


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Gradients and two patches: no two of its eight orientations are alike."""
    down, right = np.mgrid[0:height, 0:width]
    waves = 128 + 60 * np.sin(right / 9) + 40 * np.cos(down / 7)
    pixels = np.stack([right * 255 / (width - 1), down * 255 / (height - 1), waves], -1).clip(0, 255).astype(np.uint8)
    pixels[5:20, 8:30] = 250, 20, 20
    pixels[40:60, 60:90] = 10, 200, 40
    return Image.fromarray(pixels)


def see_through(image: Image.Image) -> Image.Image:
    """The image, more and more opaque to the right."""
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, 1))))
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image | None = None, **options: Any) -> bytes:
    return encoded(picture() if image is None else image, "JPEG", **{"quality": 90, **options})


def png(image: Image.Image | None = None, **options: Any) -> bytes:
    return encoded(picture() if image is None else image, "PNG", **options)


# -- EXIF


def directory(*entries: Entry, order: str = "<", start: int = 8, count: int | None = None, tail: bytes = b"") -> bytes:
    """An EXIF block of one directory of entries, which begins at `start`; `tail` follows."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    head = struct.pack(f"{order}H", len(entries) if count is None else count)
    return mark + struct.pack(f"{order}I", start) + bytes(start - 8) + head + body + bytes(4) + tail


def short(tag: int, value: int, order: str = "<", kind: int = SHORT, count: int = 1) -> Entry:
    return tag, kind, count, struct.pack(f"{order}HH", value, value if count == 2 else 0)


def long(tag: int, value: int, order: str = "<", kind: int = LONG) -> Entry:
    return tag, kind, 1, struct.pack(f"{order}I", value)


def turned(orientation: int, order: str = "<") -> bytes:
    """An EXIF block with an orientation."""
    return directory(short(ORIENTATION, orientation, order), order=order)


def odd_orientations() -> Iterator[tuple[str, bytes]]:
    """EXIF blocks that say "turn right" (6) in ways that browsers take, or do not."""
    yield "LONG", directory(long(ORIENTATION, 6))
    yield "LONG, big endian", directory(long(ORIENTATION, 6, ">"), order=">")
    yield "big endian", turned(6, ">")
    yield "two values", directory(short(ORIENTATION, 6, count=2))
    yield "no value", directory(short(ORIENTATION, 6, count=0))
    for name, kind in {"BYTE": 1, "ASCII": 2, "RATIONAL": 5, "UNDEFINED": 7, "SSHORT": 8, "SLONG": 9}.items():
        yield name, directory(short(ORIENTATION, 6, kind=kind))
    for value in (0, 9, 65535):
        yield f"out of range {value}", turned(value)
    yield "twice", directory(short(ORIENTATION, 6), short(ORIENTATION, 3))
    yield "twice, first out of range", directory(short(ORIENTATION, 9), short(ORIENTATION, 6))
    yield "directory elsewhere", directory(short(ORIENTATION, 6), start=20)
    yield "cut after the entry", turned(6)[:-4]
    yield "cut in the entry", turned(6)[:-8]
    yield "too many entries", directory(short(ORIENTATION, 6), count=50)
    yield "after a higher tag", directory(short(0x0132, 1), short(ORIENTATION, 6))
    yield "wrong magic", b"II+\0" + turned(6)[4:]
    yield "mixed byte order", b"II\0*" + turned(6)[4:]
    inner = turned(6)[8:]
    yield "in the EXIF directory", directory(long(EXIF_DIRECTORY, 26), tail=inner)
    yield "in the second directory", turned(6)[:8] + struct.pack("<HI", 0, 14) + inner
    yield "directory of itself", directory(long(EXIF_DIRECTORY, 8), short(ORIENTATION, 6))
    yield "directory beyond the end", directory(long(EXIF_DIRECTORY, 1 << 31), short(ORIENTATION, 6))
    yield "nothing", b""


def dense(dpi: tuple[int, int], size: tuple[int, int], unit: int = 2, order: str = "<", orientation: int = 1) -> bytes:
    """An EXIF block that says resolution and size."""
    at = 8 + 2 + 5 * 12 + 4
    values = struct.pack(f"{order}IIII", dpi[0], 1, dpi[1], 1)
    sizes = (long(PIXEL_WIDTH, size[0], order), long(PIXEL_HEIGHT, size[1], order))
    inner = directory(*sizes, order=order)[8:]
    return directory(
        short(ORIENTATION, orientation, order),
        (X_RESOLUTION, RATIONAL, 1, struct.pack(f"{order}I", at)),
        (Y_RESOLUTION, RATIONAL, 1, struct.pack(f"{order}I", at + 8)),
        short(RESOLUTION_UNIT, unit, order),
        long(EXIF_DIRECTORY, at + len(values), order),
        order=order,
        tail=values + inner,
    )


def jpeg_with(*segments: bytes, data: bytes | None = None) -> bytes:
    """A JPEG whose first APP1 segments these are."""
    data = jpeg() if data is None else data
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(one) + 2) + one for one in segments) + data[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(*chunks: bytes, data: bytes | None = None) -> bytes:
    """A PNG with more chunks before its pixels."""
    data = png() if data is None else data
    return data[:33] + b"".join(chunks) + data[33:]


def webp_with(exif: bytes) -> bytes:
    """A WebP with that EXIF chunk."""
    data = encoded(picture(), "WEBP", lossless=True, exif=b"x")
    body = data[12 : data.index(b"EXIF")] + b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def avif_with_exif_alone() -> bytes:
    """An AVIF whose EXIF says 6, and whose own properties say nothing."""
    named = struct.pack("<HHI", 0x0113, SHORT, 1)
    data = encoded(picture(), "AVIF", exif=directory(short(0x0113, 6)))
    assert data.count(named) == 1
    return data.replace(named, struct.pack("<HHI", ORIENTATION, SHORT, 1))


# -- files of every kind


def sixteen_bits(transparent: bool = False) -> bytes:
    grey = np.asarray(picture().convert("L")).astype(np.uint16) * 257
    grey += np.arange(WIDTH, dtype=np.uint16) * 3 % 200
    return png(Image.fromarray(grey), **({"transparency": int(grey[5, 5])} if transparent else {}))


def deep_png(channels: int) -> bytes:
    """A PNG of 16 bits a channel, whose low bytes differ from the high ones."""
    image = see_through(picture()) if channels == 4 else picture()
    deep = np.asarray(image).astype(">u2") * 256 + 77
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 6 if channels == 4 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def interlaced_png(image: Image.Image | None = None) -> bytes:
    """A PNG in the seven passes of Adam7."""
    pixels: NDArray[np.uint8] = np.asarray(picture() if image is None else image)
    height, width, _ = pixels.shape
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(b"\0" + row.tobytes() for x, y, right, down in passes for row in pixels[y::down, x::right])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def small_gif_frame(screen: tuple[int, int], at: tuple[int, int]) -> bytes:
    """A GIF of that screen whose only frame, 40 x 30 pixels, lies there."""
    data = bytearray(encoded(picture().resize((40, 30)).quantize(64), "GIF"))
    data[6:10] = struct.pack("<HH", *screen)
    frame = data.index(b"\x2c" + struct.pack("<HHHH", 0, 0, 40, 30))
    data[frame + 1 : frame + 5] = struct.pack("<HH", *at)
    return bytes(data)


def small_webp_frame() -> bytes:
    """An animated WebP of 96 x 64 pixels whose frames, 40 x 30 pixels, do not begin in its corner."""

    def three(number: int) -> bytes:
        return struct.pack("<I", number)[:3]

    def part(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    frame = encoded(picture().resize((40, 30)), "WEBP", lossless=True)[12:]
    placed = part(b"ANMF", three(10) + three(5) + three(39) + three(29) + three(60000) + b"\0" + frame)
    canvas = part(b"VP8X", b"\x12\0\0\0" + three(WIDTH - 1) + three(HEIGHT - 1))
    body = canvas + part(b"ANIM", b"\0\0\xff\xff\0\0") + placed + placed
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def animated(kind: str, **options: Any) -> bytes:
    first, second = picture(), picture().rotate(180)
    if kind == "GIF":
        first, second = first.quantize(64), second.quantize(64)
    return encoded(first, kind, save_all=True, append_images=[second, second], **{"duration": 60000, **options})


def as_ycck(data: bytes) -> bytes:
    """A CMYK JPEG whose Adobe segment says YCCK."""
    changed = bytearray(data)
    changed[data.index(b"Adobe") + 11] = 2
    return bytes(changed)


def whole_files() -> Iterator[tuple[str, bytes]]:
    """Files that are shown whole, each with its name."""
    for orientation in range(1, 9):
        yield f"JPEG, orientation {orientation}", jpeg_with(EXIF + turned(orientation))
        yield f"PNG, orientation {orientation}", png_with(chunk(b"eXIf", turned(orientation)))
        yield f"WebP, orientation {orientation}", webp_with(EXIF + turned(orientation))
        yield f"WebP without prefix, orientation {orientation}", webp_with(turned(orientation))
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        yield f"AVIF, orientation {orientation}", encoded(picture(), "AVIF", exif=exif.tobytes())
    for name, exif in odd_orientations():
        yield f"JPEG, orientation: {name}", jpeg_with(EXIF + exif)
        yield f"PNG, orientation: {name}", png_with(chunk(b"eXIf", exif))
    yield "AVIF with EXIF alone", avif_with_exif_alone()
    yield "JPEG with two prefixes", jpeg_with(EXIF + EXIF + turned(6))
    yield "JPEG without a prefix", jpeg_with(turned(6))
    yield "JPEG with another fill byte", jpeg_with(b"Exif\0X" + turned(6))
    yield "JPEG with two EXIF segments", jpeg_with(EXIF + turned(6), EXIF + turned(3))
    yield "JPEG whose first EXIF segment is broken", jpeg_with(EXIF + b"xx", EXIF + turned(6))
    yield "JPEG with XMP first", jpeg_with(b"http://ns.adobe.com/xap/1.0/\0<x/>", EXIF + turned(6))
    yield "PNG with a prefix", png_with(chunk(b"eXIf", EXIF + turned(6)))
    yield "PNG with two eXIf chunks", png_with(chunk(b"eXIf", turned(6)), chunk(b"eXIf", turned(3)))
    yield "PNG with eXIf after the pixels", png()[:-12] + chunk(b"eXIf", turned(6)) + png()[-12:]
    yield "JPEG of 144 dpi", jpeg_with(EXIF + dense((144, 144), (48, 32)))
    yield "JPEG of 144 dpi, big endian", jpeg_with(EXIF + dense((144, 144), (48, 32), order=">"))
    yield "JPEG of 144 dpi, turned", jpeg_with(EXIF + dense((144, 144), (48, 32), orientation=6))
    yield "JPEG of 72 x 144 dpi", jpeg_with(EXIF + dense((72, 144), (96, 32)))
    yield "JPEG of 36 dpi", jpeg_with(EXIF + dense((36, 36), (192, 128)))
    yield "JPEG of 144 dpi and another size", jpeg_with(EXIF + dense((144, 144), (50, 32)))
    yield "JPEG of 144 dots per cm", jpeg_with(EXIF + dense((144, 144), (48, 32), unit=3))
    yield "PNG of 144 dpi", png_with(chunk(b"eXIf", dense((144, 144), (48, 32))))
    yield "WebP of 144 dpi", webp_with(dense((144, 144), (48, 32)))
    yield from _modes()
    yield from _profiles()
    yield from _oddly_made()


def _modes() -> Iterator[tuple[str, bytes]]:
    colours, clear, palette = picture(), see_through(picture()), picture().quantize(64)
    yield "JPEG, 4:2:0, odd sides", jpeg(picture(97, 65), quality=75)
    yield "progressive JPEG", jpeg(progressive=True)
    yield "grey JPEG", jpeg(colours.convert("L"))
    yield "CMYK JPEG", jpeg(colours.convert("CMYK"))
    yield "YCCK JPEG", as_ycck(jpeg(colours.convert("CMYK")))
    yield "RGB JPEG", jpeg(keep_rgb=True)
    for mode in ("1", "L", "LA", "RGB", "RGBA"):
        yield f"PNG, {mode}", png((clear if mode.endswith("A") else colours).convert(mode))
    yield "PNG, palette", png(palette)
    yield "PNG, palette, one transparent", png(palette, transparency=5)
    yield "PNG, palette, half transparent", png(palette, transparency=bytes(range(0, 256, 4)))
    yield "PNG, RGB with a transparent colour", png(transparency=(250, 20, 20))
    yield "PNG, grey with a transparent level", png(colours.convert("L"), transparency=80)
    yield "PNG, grey of 16 bits", sixteen_bits()
    yield "PNG, grey of 16 bits, one transparent", sixteen_bits(transparent=True)
    yield "PNG, RGB of 16 bits", deep_png(3)
    yield "PNG, RGBA of 16 bits", deep_png(4)
    yield "PNG, interlaced", interlaced_png()
    yield "GIF", encoded(palette, "GIF")
    yield "GIF, not interlaced", encoded(palette, "GIF", interlace=0)
    yield "GIF, one transparent", encoded(palette, "GIF", transparency=5)
    yield "BMP", encoded(colours, "BMP")
    yield "BMP, palette", encoded(palette, "BMP")
    yield "BMP, 1 bit", encoded(colours.convert("1"), "BMP")
    yield "WebP", encoded(colours, "WEBP", quality=90)
    yield "WebP, RGBA", encoded(clear, "WEBP", lossless=True)
    yield "AVIF", encoded(colours, "AVIF")
    for kind in ("GIF", "WEBP", "PNG"):
        yield f"animated {kind}", animated(kind)
    yield "animated PNG with another default image", animated("PNG", default_image=True)
    yield "MPO", encoded(colours, "MPO", save_all=True, append_images=[colours.rotate(180)])


def _profiles() -> Iterator[tuple[str, bytes]]:
    colours, grey = picture(), picture().convert("L")
    for name, icc in {"Adobe RGB": ADOBE_RGB, "swapped": SWAPPED}.items():
        yield f"JPEG, {name}", jpeg(icc_profile=icc)
        yield f"PNG, {name}", png(icc_profile=icc)
        yield f"PNG, palette, {name}", png(colours.quantize(64), icc_profile=icc)
        yield f"PNG, RGBA, {name}", png(see_through(colours), icc_profile=icc)
        yield f"WebP, {name}", encoded(colours, "WEBP", lossless=True, icc_profile=icc)
        yield f"AVIF, {name}", encoded(colours, "AVIF", icc_profile=icc)
        yield f"grey PNG, {name}", png(grey, icc_profile=icc)
        yield f"CMYK JPEG, {name}", jpeg(colours.convert("CMYK"), icc_profile=icc)
    for megabytes in (3, 9):
        yield f"PNG, a profile of {megabytes} MB", png(colours, icc_profile=padded(SWAPPED, megabytes * 10**6))
        text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(megabytes * 10**6)))
        yield f"PNG, a text of {megabytes} MB", png_with(text, data=png(colours))
    yield "grey PNG, linear", png(grey, icc_profile=LINEAR_GREY)
    yield "grey PNG with alpha, linear", png(see_through(colours).convert("LA"), icc_profile=LINEAR_GREY)
    yield "grey JPEG, linear", jpeg(grey, icc_profile=LINEAR_GREY)
    yield "JPEG, grey profile", jpeg(icc_profile=LINEAR_GREY)
    yield "JPEG, broken profile", jpeg(icc_profile=b"garbage" * 30)
    yield "PNG, gamma 1", png_with(chunk(b"gAMA", struct.pack(">I", 100000)))
    yield "PNG, gamma 1 and sRGB", png_with(chunk(b"sRGB", b"\0"), chunk(b"gAMA", struct.pack(">I", 100000)))
    yield "PNG, gamma of sRGB", png_with(chunk(b"gAMA", struct.pack(">I", 45455)))


def _oddly_made() -> Iterator[tuple[str, bytes]]:
    data = png()
    broken = chunk(b"gAMA", struct.pack(">I", 100000))[:-4] + b"oops"
    yield "PNG with a broken chunk that is not needed", png_with(broken)
    yield "PNG with a wrong checksum of pixels", data[:-16] + b"oops" + data[-12:]
    yield "PNG without an end", data[:-12]
    yield "JPEG with fill bytes", jpeg()[:2] + b"\xff\xff\xff" + jpeg()[2:]
    yield "JPEG with more behind it", jpeg() + b"more" * 50
    yield "GIF with a small frame", small_gif_frame((96, 64), (20, 10))
    yield "GIF with a frame beyond its screen", small_gif_frame((96, 64), (80, 50))
    yield "GIF with a screen smaller than its frame", small_gif_frame((10, 10), (0, 0))
    yield "animated WebP with a small frame", small_webp_frame()


def damaged_files() -> Iterator[tuple[str, bytes]]:
    """Files that are cut short or overwritten from some place on."""
    kinds: dict[str, Callable[[], bytes]] = {
        "JPEG": lambda: jpeg(picture(192, 128)),
        "JPEG, 4:4:4": lambda: jpeg(picture(192, 128), subsampling=0),
        "grey JPEG": lambda: jpeg(picture(192, 128).convert("L")),
        "CMYK JPEG": lambda: jpeg(picture(192, 128).convert("CMYK")),
        "turned JPEG": lambda: jpeg_with(EXIF + turned(6), data=jpeg(picture(192, 128))),
        "JPEG, Adobe RGB": lambda: jpeg(picture(192, 128), icc_profile=ADOBE_RGB),
        "progressive JPEG": lambda: jpeg(picture(192, 128), progressive=True),
        "PNG": lambda: png(picture(192, 128)),
        "PNG, RGBA": lambda: png(see_through(picture(192, 128))),
        "PNG, palette": lambda: png(picture(192, 128).quantize(64)),
        "PNG, interlaced": lambda: interlaced_png(picture(192, 128)),
        "GIF": lambda: encoded(picture(192, 128).quantize(64), "GIF"),
        "GIF, not interlaced": lambda: encoded(picture(192, 128).quantize(64), "GIF", interlace=0),
        "BMP": lambda: encoded(picture(192, 128), "BMP"),
    }
    for kind, make in kinds.items():
        data = make()
        for name, cut in {"1 byte": 1, "2 bytes": 2, "20 bytes": 20}.items():
            yield f"{kind}, less {name}", data[:-cut]
        for share in (0.9, 0.75, 0.5, 0.3):
            yield f"{kind}, {share:.0%} of it", data[: int(share * len(data))]
        yield f"{kind}, then zeros", data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
