"""Request bodies: read and parsed within limits on memory, whatever they hold."""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
import orjson
from flask import Response, after_this_request, request
from werkzeug.exceptions import RequestEntityTooLarge

from segloop.errors import BadRequest, Busy, TooLarge

#: A body of more bytes is large: a process works on one such request at a time.
LARGE_BYTES: Final = 16 * 2**20
#: Largest memory of a parsed body besides its text, in bytes; about.
MAX_PARSED_BYTES: Final = 768 * 2**20
#: How long a large body waits for the one before it, in seconds, and when it should come again.
_PATIENCE_S: Final = 5.0
_RETRY_AFTER_S: Final = 10

# What CPython and orjson need, measured (3.11): a value's places in orjson's tree and in a list; a list or dict; a str.
_VALUE_BYTES, _CONTAINER_BYTES, _STRING_BYTES = 40, 64, 60
_CHUNK_BYTES = 2**17

_large = threading.BoundedSemaphore()


def read_json() -> object:
    """The JSON value of the current request's body.

    Raises:
        BadRequest: the body is not JSON.
        TooLarge: it would take more memory than `MAX_PARSED_BYTES`, or is large and in chunks of no declared length.
        Busy: another large body is under way.
        RequestEntityTooLarge: it has more bytes than Flask's MAX_CONTENT_LENGTH.
    """
    limit = request.max_content_length
    if request.content_length is None:
        limit = LARGE_BYTES if limit is None else min(limit, LARGE_BYTES)
        request.max_content_length = limit
    elif request.content_length > LARGE_BYTES and (limit is None or request.content_length <= limit):
        _wait_for_turn()
    data = request.get_data(cache=False)
    if request.content_length is None and limit is not None and len(data) >= limit:
        raise RequestEntityTooLarge  # of a chunked body, werkzeug gives what is within the limit, without a word
    if len(data) > LARGE_BYTES and takes_more(data, MAX_PARSED_BYTES):
        raise TooLarge("The body has too many values for one request: ask for fewer tasks at a time.")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from error


def takes_more(data: bytes, most_bytes: int) -> bool:
    """Whether JSON takes more than `most_bytes` bytes of memory once it is parsed, besides its text: about, and quickly."""
    weights = np.zeros(256, np.int64)
    weights[[*b",:"]], weights[[*b"{["]], weights[ord('"')] = _VALUE_BYTES, _CONTAINER_BYTES, _STRING_BYTES // 2
    needed = 0
    for start in range(0, len(data), _CHUNK_BYTES):
        chunk = np.frombuffer(data, np.uint8, min(_CHUNK_BYTES, len(data) - start), start)
        needed += int(np.bincount(chunk, minlength=256) @ weights)
        if needed > most_bytes:
            return True
    return False


def _wait_for_turn() -> None:
    """Wait for the turn of a large body, which lasts until the request is answered: what was parsed lives as long."""
    if not _large.acquire(timeout=_PATIENCE_S):
        raise Busy("Another large request is under way here; ask again in a moment.", retry_after_s=_RETRY_AFTER_S)

    @after_this_request
    def end(response: Response) -> Response:
        _large.release()
        return response
