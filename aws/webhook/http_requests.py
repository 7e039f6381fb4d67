"""HTTP with urllib: limited in time and size, and without redirects, which would take secrets to other addresses."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException

ANSWER_BYTES = 32 * 2**20


class Failed(Exception):
    """No answer, or one of 3xx to 5xx. `status` is 0 where there is none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def request(
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    timeout_s: float,
    most: int = ANSWER_BYTES,
) -> bytes:
    """The body of an answer to GET, or to POST where there is a body; `most` bytes of it at the most.

    Raises:
        Failed: there is none, or it was cut short; the text has the address without its query.
    """
    asked = urllib.request.Request(url, body, dict(headers))  # noqa: S310 - the template allows http(s)
    about = f"{asked.get_method()} {url.partition('?')[0]}"
    try:
        with _opener.open(asked, timeout=timeout_s) as response:
            answer: bytes = response.read(most)
            # http.client takes the end of the connection for that of the answer
            if len(answer) < most and response.length:
                raise Failed(f"{about} ends {response.length} bytes before its end")
            return answer
    except urllib.error.HTTPError as error:
        with error:
            raise Failed(f"{about} answers {error.code}", error.code) from None
    except (OSError, ValueError, HTTPException) as error:
        raise Failed(f"{about} does not answer: {error}") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)
