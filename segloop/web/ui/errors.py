"""Errors of the status page: a page that can be read, or JSON, with the right status."""

from __future__ import annotations

import logging

from flask import Blueprint, Response, render_template, request
from werkzeug.exceptions import HTTPException

from segloop.errors import ModelRemoved, QueueUnavailable, RegistryError, SegloopError, Unauthorized, VersionNotFound
from segloop.web.json_response import reply
from segloop.web.ui.responses import wants_json
from segloop.web.ui.security import add_headers

logger = logging.getLogger(__name__)

_TITLES = {
    400: "Bad request",
    401: "Sign in",
    403: "Forbidden",
    404: "Not found",
    409: "The project changed meanwhile",
    503: "Not available now",
}


def show_errors(pages: Blueprint) -> None:
    """Have every error of these pages shown."""
    pages.register_error_handler(SegloopError, _known)
    pages.register_error_handler(HTTPException, _http)
    pages.register_error_handler(Exception, _unknown)


def _known(error: SegloopError) -> Response:
    status = error.http_status
    if isinstance(error, RegistryError) and not isinstance(error, VersionNotFound | ModelRemoved):
        status = 503
    if status >= 500:
        logger.error("%s: %s", type(error).__name__, error)
    response = _page(str(error), status)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Basic realm="segloop"'
    if isinstance(error, QueueUnavailable | RegistryError) and status == 503:
        response.headers["Retry-After"] = "5"
    return response


def _http(error: HTTPException) -> Response:
    return _page(str(error.description or error.name), error.code or 500)


def _unknown(error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error)
    return _page("An unexpected error; the log of the backend has it.", 500)


def _page(message: str, status: int) -> Response:
    title = _TITLES.get(status, "An error")
    if wants_json():
        response = reply({"error": message}, status)
    else:
        body = render_template(
            "error.html", page="error", title=title, message=message, status=status, path=request.path
        )
        response = Response(body, status=status)
    return add_headers(response)
