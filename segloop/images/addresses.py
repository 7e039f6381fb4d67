"""Addresses of images: how they are named in messages, compared and stripped of their signatures."""

from __future__ import annotations

import re

import httpx

from segloop.errors import ImageTooLarge

_SHOWN_CHARACTERS = 200
# Query parameters that sign a URL (AWS, Google, Azure, CloudFront): the file is the same without them.
_SIGNATURE = re.compile(
    r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id"
    r"|sig|se|sp|st|sr|sv|spr|sip|skoid|sktid|skt|ske|sks|skv",
    re.IGNORECASE,
)
_SIGNED = re.compile(r"[?&](x-amz-signature|x-goog-signature|signature|sig)=", re.IGNORECASE)


def describe(uri: str | httpx.URL) -> str:
    """An address for messages and logs: scheme, host and path, never a query (signatures) or a user (passwords)."""
    text = str(uri)
    if text[:5].lower() == "data:":
        return "data: URL"
    bare = re.sub(r"(?<=//)[^/?#]*@", "", re.split(r"[?#]", text, maxsplit=1)[0])
    shown = bare if len(bare) <= _SHOWN_CHARACTERS else f"{bare[:_SHOWN_CHARACTERS]}..."
    return shown if shown and shown.isprintable() else repr(shown)


def origin(url: httpx.URL) -> str:
    """Scheme, host and port of a URL; equal for equal origins (httpx leaves out a scheme's own port)."""
    return f"{url.scheme}://{url.netloc.decode('ascii').lower()}"


def port_of(url: httpx.URL) -> int:
    """The port of a URL, the scheme's own where it names none."""
    return url.port or (443 if url.scheme == "https" else 80)


def unsigned(url: httpx.URL) -> str:
    """The identity of the file at a URL: the URL without its signature, which is another one every time."""
    if not _SIGNED.search(str(url)):
        return str(url)
    kept = [(key, value) for key, value in url.params.multi_items() if not _SIGNATURE.fullmatch(key)]
    return str(url.copy_with(params=kept))


def too_large(name: str, max_bytes: int) -> ImageTooLarge:
    """The error for a file beyond `image_max_bytes`."""
    return ImageTooLarge(f"{name} is larger than SEGLOOP_IMAGE_MAX_BYTES={max_bytes}")
