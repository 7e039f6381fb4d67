"""Images that need no network: in the address itself, or in a folder."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes

from segloop.errors import ImageError, ImageForbidden, ImageMissing, ImageUnavailable
from segloop.images.addresses import too_large

#: What the operating system says of a path where no such file can be read; all else is the fault of the disk or network.
_MISSING = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.ENXIO,
)


#: Escapes of a data: URL, at most. Base64 needs none, or one in thirty characters.
_MAX_ESCAPES = 2**20
#: Characters that are unescaped at a time.
_PIECE = 2**16
#: What the part before the comma ends with where the rest is base64.
_BASE64 = re.compile(r"; *base64\s*$", re.IGNORECASE)


def data_url(uri: str, max_bytes: int) -> bytes:
    """The bytes of a data: URL (RFC 2397), base64 or percent-encoded, read as browsers do (WHATWG's Fetch, data: URL processor):
    base64 may lack its padding.

    Raises:
        ImageTooLarge: more than `max_bytes` bytes.
        ImageError: malformed.
    """
    head, comma, body = uri.partition("#")[0].partition(",")
    if not comma:
        raise ImageError("data: URL without a comma")
    # However it is escaped, a byte takes at most 4 characters (base64 with each character escaped), or is too large.
    if len(body) > 4 * max_bytes or body.count("%") > _MAX_ESCAPES:
        raise too_large("data: URL", max_bytes)
    data = _unescaped(body)
    if _BASE64.search(head):
        data = data.translate(None, b" \t\n\r\f\v")
        if b"=" not in data:
            data += b"=" * (-len(data) % 4)
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ImageError(f"data: URL is not base64: {error}") from error
    if len(data) > max_bytes:
        raise too_large("data: URL", max_bytes)
    return data


def _unescaped(body: str) -> bytes:
    """The bytes of percent-encoded text; a piece at a time, as an object is made of each escape."""
    if "%" not in body:
        return body.encode("utf-8", "surrogatepass")
    data, start = bytearray(), 0
    while start < len(body):
        end = start + _PIECE
        cut = body.rfind("%", max(start + 1, end - 2), end)  # an escape of which a part would be in the next piece
        end = cut if cut > 0 and end < len(body) else end
        data += unquote_to_bytes(body[start:end].encode("utf-8", "surrogatepass"))
        start = end
    return bytes(data)


def read_below(folder: Path, relative: str, max_bytes: int) -> bytes:
    """The bytes of a regular file below a folder; links are followed as long as they stay inside.

    Raises:
        ImageForbidden: the path, or a link on it, leads out of the folder, or it is no regular file.
        ImageTooLarge: more than `max_bytes` bytes.
        ImageUnavailable: the folder is not there, or its disk fails.
        ImageMissing: there is no such file, or it cannot be read.
    """
    try:
        root = folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ImageUnavailable(f"SEGLOOP_IMAGE_FOLDER={folder} is not there: {error}") from error
    try:
        path = (root / relative.lstrip("/")).resolve()
        if not path.is_relative_to(root):
            raise ImageForbidden(f"{relative!r} leads out of SEGLOOP_IMAGE_FOLDER")
        # The path is resolved: a link here was put since. Without O_NONBLOCK a named pipe would block.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ImageForbidden(f"{relative!r} is not a file")
        with os.fdopen(handle, "rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        passes = isinstance(error, OSError) and error.errno not in _MISSING
        kind = ImageUnavailable if passes else ImageMissing
        raise kind(f"{relative!r} in SEGLOOP_IMAGE_FOLDER cannot be read: {reason}") from error
    if len(data) > max_bytes:
        raise too_large(repr(relative), max_bytes)
    return data
