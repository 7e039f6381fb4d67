"""What a refused request is told, so that the sentence reaches the person in front of Label Studio.

Of a `/setup` that failed, Label Studio 1.23 shows "400 Client Error: REASON for url: ADDRESS" and never the body. The
sentence is therefore the reason phrase of the answer's status line. granian sends the standard phrase whatever an
application says, so under it Label Studio is sent on to an address that has the sentence, with 307: it posts the same
body there, and the same check refuses it again. What that address says is never read, so nobody can have segloop say
something by a link.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from flask import Response, request

from segloop.web.json_response import reply

logger = logging.getLogger(__name__)

#: How Label Studio names itself: `heartex/1.23.2`.
_LABEL_STUDIO: Final = "heartex/"
#: Longest reason phrase, in characters.
LONGEST: Final = 300
#: What may stand in a path as it is, so that the sentence stays readable there.
_PLAIN: Final = "/:,;'()=!*+@$"
#: Requests of Label Studio's whose refusal is logged: it shows the person little of it, or nothing.
_LOGGED: Final = frozenset(("/setup", "/predict", "/webhook", "/train"))
#: At most one line in so many seconds for the same route and status: whoever may ask must not fill a disk.
_LOG_EVERY_S: Final = 10.0


def refusal(text: str, status: int) -> Response:
    """An error as JSON, with its sentence in the status line too."""
    response = reply({"error": text}, status)
    response.status = f"{status} {reason_phrase(text) or HTTPStatus(status).phrase}"
    return response


def reason_phrase(text: str) -> str:
    """A sentence as a status line can carry it: one line of ASCII, of bounded length, without markup.

    Label Studio puts what it shows into a page, so tags such as `<Image>` lose their brackets.
    """
    plain = re.sub(r"[<>]", "", text).encode("ascii", "replace").decode()
    plain = re.sub(r"[\x00-\x20\x7f]+", " ", plain).strip()
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 3].rstrip()}..."


def put_into_address(response: Response) -> Response:
    """Send Label Studio's refused `/setup` on to the address that says why, where the server drops the reason phrase."""
    if (
        response.status_code < 400
        or request.path != "/setup"
        or request.environ.get("SERVER_SOFTWARE") != "Granian"
        or not request.user_agent.string.startswith(_LABEL_STUDIO)
    ):
        return response
    sentence = response.status.partition(" ")[2].rstrip(".").replace('"', "'")
    path = quote(re.sub(r"/+", "/", re.sub(r"\s+", "-", sentence)).strip("/"), safe=_PLAIN)
    # relative to the request's address: a proxy may have put a folder before it
    return Response(status=307, headers={"Location": f"setup/{path}"})


def close_after_refusal(response: Response) -> Response:
    """Announce that the connection ends when a request with a body is refused.

    Most refusals come before the body is read. granian then closes the connection, and a client that was not told
    would send its next request into it and see a broken pipe.
    """
    if response.status_code >= 300 and ("Content-Length" in request.headers or "Transfer-Encoding" in request.headers):
        response.headers["Connection"] = "close"
    return response


class RefusalLog:
    """Logs refused requests of Label Studio's, with no more of them than what segloop answers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: dict[tuple[str, int], tuple[float, int]] = {}

    def note(self, text: str, status: int) -> None:
        """Log the refusal of the current request, unless one like it was logged a moment ago."""
        if request.path not in _LOGGED:
            return
        key, now = (request.path, status), time.monotonic()
        with self._lock:
            last, left_out = self._logged.get(key, (-_LOG_EVERY_S, 0))
            is_due = now - last >= _LOG_EVERY_S
            self._logged[key] = (now, 0) if is_due else (last, left_out + 1)
        if is_due:
            more = f" ({left_out} more like it since the last line)" if left_out else ""
            logger.warning("%s refused with %d: %s%s", request.path, status, text, more)
