"""What surrounds every request: its id, its time, and its line in the access log."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from segloop.telemetry.notes import REQUEST_ID, note

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("segloop.access")

_HEADER: Final = "X-Request-Id"
#: Ids that are taken over from a caller; any other could forge lines of a log.
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
#: Methods that have a series of their own.
_METHODS: Final = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))


class Observed:
    """A WSGI application whose requests are noted, and answered with X-Request-Id: the caller's, or a new one.

    Args:
        routes: paths that have a series each; of others only the first part counts (`/ui`), if it is one of `folders`.
        access_log: log a line a request.
    """

    def __init__(
        self,
        application: WSGIApplication,
        routes: Iterable[str],
        folders: Iterable[str] = (),
        *,
        access_log: bool = False,
    ) -> None:
        self._application = application
        self._routes = frozenset(routes)
        self._folders = frozenset(folders)
        self._access_log = access_log
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        began = perf_counter()
        given = environ.get("HTTP_X_REQUEST_ID")
        request_id = given if given is not None and _ID.fullmatch(given) else f"{self._prefix}-{next(self._numbers):x}"
        status = "500"

        def start(line: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
            nonlocal status
            status = line[:3]
            headers.append((_HEADER, request_id))
            return start_response(line, headers, *exc_info)

        token = REQUEST_ID.set(request_id)
        try:
            return self._application(environ, start)
        finally:
            seconds = perf_counter() - began
            method = environ["REQUEST_METHOD"]
            known = method if method in _METHODS else "other"
            note("request", (known, self._route(environ["PATH_INFO"]), status), seconds)
            if self._access_log:
                self._log(environ, method, status, seconds)
            REQUEST_ID.reset(token)

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        folder = "/" + path[1:].partition("/")[0]
        return folder if folder in self._folders else "other"

    def _log(self, environ: WSGIEnvironment, method: str, status: str, seconds: float) -> None:
        # without the query, which may hold what is nobody's business
        path, caller = environ["PATH_INFO"], environ.get("REMOTE_ADDR", "")
        milliseconds = round(seconds * 1000, 2)
        logger.info(
            "%s %r %s %.2f ms",
            caller,
            f"{method} {path}",
            status,
            milliseconds,
            extra={
                "method": method,
                "path": path,
                "status": int(status),
                "duration_ms": milliseconds,
                "caller": caller,
            },
        )
