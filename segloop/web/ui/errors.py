"""Errors of the status page, as pages that can be read."""

from __future__ import annotations

from typing import Final

from flask import Response, render_template, request

from segloop.web.ui.responses import wants_json

_TITLES: Final = {
    400: "Bad request",
    401: "Sign in",
    403: "Forbidden",
    404: "Not found",
    409: "The project changed meanwhile",
    503: "Not available now",
}


def as_page(response: Response) -> Response:
    """An error, which segloop.web.app answers with JSON, as a page, unless JSON is what the caller asks for."""
    status = response.status_code
    if status >= 400 and not wants_json():
        title, message = _TITLES.get(status, "An error"), (response.get_json() or {}).get("error", "")
        response.mimetype = "text/html"
        response.set_data(
            render_template("error.html", page="error", title=title, message=message, status=status, path=request.path)
        )
    return response
