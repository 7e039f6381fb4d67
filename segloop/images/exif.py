"""The EXIF fields that change how a browser shows an image, read as strictly as Chromium reads them.

EXIF 2.3 says which type each field has. Chromium (Skia's SkExif) takes no other one, and takes one value only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

ORIENTATION: Final = 0x0112
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_EXIF_DIRECTORY = 0x8769

_SHORT, _LONG, _RATIONAL = 3, 4, 5
_KINDS: Final[dict[int, tuple[int, ...]]] = {
    ORIENTATION: (_SHORT,),
    _X_RESOLUTION: (_RATIONAL,),
    _Y_RESOLUTION: (_RATIONAL,),
    _RESOLUTION_UNIT: (_SHORT,),
    _PIXEL_WIDTH: (_SHORT, _LONG),
    _PIXEL_HEIGHT: (_SHORT, _LONG),
    _EXIF_DIRECTORY: (_LONG,),
}
_ENTRY_BYTES = 12
_START_OF_JPEG, _APP1 = b"\xff\xd8", b"\xe1"
#: The scan with the pixels, the end of the file, and the end of the data.
_END_OF_HEADER = (b"\xda", b"\xd9", b"")
#: Markers that stand alone, and the byte that may fill up before a marker.
_WITHOUT_LENGTH = (b"\x01", b"\xff", *(bytes([marker]) for marker in range(0xD0, 0xD9)))
_INCH = 2
_CSS_DPI = 72

Order = Literal["little", "big"]


def read_exif(tiff: bytes) -> dict[int, float]:
    """The fields of an EXIF block that are known here and valid, by tag; none where it is no EXIF block.

    `tiff` begins with the byte order. Of a field that stands there twice, the first valid one counts.
    """
    order: Order | None = {b"II*\0": "little", b"MM\0*": "big"}.get(tiff[:4])  # type: ignore[assignment]
    fields: dict[int, float] = {}
    if order is not None:
        _read_directory(tiff, order, int.from_bytes(tiff[4:8], order), fields)
    return fields


def split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """The EXIF block of a JPEG, empty where there is none, and the file without it.

    The first one counts, if it comes before the pixels. So Pillow, which warns of broken ones, sees none.
    """
    if not data.startswith(_START_OF_JPEG):
        return b"", data
    blocks, kept, begin, at = [], [], 0, 2
    while data[at : at + 1] == b"\xff" and (marker := data[at + 1 : at + 2]) not in _END_OF_HEADER:
        if marker in _WITHOUT_LENGTH:
            at += 1 if marker == b"\xff" else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == _APP1 and data[at + 4 : at + 9] == b"Exif\0":  # the byte behind that fills up
            blocks.append(data[at + 10 : end])
            kept.append(data[begin:at])
            begin = end
        at = end
    return (blocks[0], b"".join([*kept, data[begin:]])) if blocks else (b"", data)


def of_png(data: bytes) -> bytes:
    """The EXIF block of a PNG: the first one, if it comes before the pixels."""
    at = 8
    while at < len(data) and (kind := data[at + 4 : at + 8]) not in (b"IDAT", b"IEND"):
        size = int.from_bytes(data[at : at + 4])
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + size]
        at += 12 + size
    return b""


def natural_size(fields: Mapping[int, float], width: int, height: int) -> tuple[int, int]:
    """The size in CSS pixels at which Chromium shows a JPEG of `width` x `height` pixels, before it is turned upright.

    It is another one where the fields agree that the image has more than 72 pixels an inch (as screenshots of
    displays of high density may): then the editor counts in these larger pixels.
    """
    across, down, unit = (fields.get(tag, 0) for tag in (_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT))
    if unit != _INCH or not across or not down:
        return width, height
    size = int(width * _CSS_DPI / across + 0.5), int(height * _CSS_DPI / down + 0.5)
    agreed = int(fields.get(_PIXEL_WIDTH, 0)), int(fields.get(_PIXEL_HEIGHT, 0))
    return size if size == agreed and min(size) > 0 else (width, height)


def _read_directory(tiff: bytes, order: Order, start: int, fields: dict[int, float], nested: bool = False) -> None:
    count = int.from_bytes(tiff[start : start + 2], order)
    begin = start + 2
    end = min(begin + count * _ENTRY_BYTES, len(tiff) - _ENTRY_BYTES + 1)
    for at in range(begin, end, _ENTRY_BYTES):
        tag, kind = int.from_bytes(tiff[at : at + 2], order), int.from_bytes(tiff[at + 2 : at + 4], order)
        if kind not in _KINDS.get(tag, ()) or int.from_bytes(tiff[at + 4 : at + 8], order) != 1:
            continue
        value = _value(tiff, order, kind, at + 8)
        if tag == _EXIF_DIRECTORY and not nested:
            _read_directory(tiff, order, int(value), fields, nested=True)
        elif tag != ORIENTATION or 1 <= value <= 8:
            fields.setdefault(tag, value)


def _value(tiff: bytes, order: Order, kind: int, at: int) -> float:
    if kind != _RATIONAL:
        return int.from_bytes(tiff[at : at + (2 if kind == _SHORT else 4)], order)
    at = int.from_bytes(tiff[at : at + 4], order)
    above, below = int.from_bytes(tiff[at : at + 4], order), int.from_bytes(tiff[at + 4 : at + 8], order)
    return above / below if below else 0
