"""One dict, as HTML or as JSON."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Final

import orjson
from flask import Response, render_template, request

from segloop.web.json_response import reply

_MINUTE_S: Final = 60


def show(template: str, page: Mapping[str, object]) -> Response:
    """A page as JSON, where that is asked for, or as HTML; 304 where the caller has it already.

    Its ETag is made of the dict and of the minute, because pages say how long ago something was.
    """
    as_json = wants_json()
    tagged = orjson.dumps([page, request.full_path, as_json, minute()])
    tag = hashlib.sha256(tagged).hexdigest()[:32]
    if request.if_none_match.contains(tag):
        response = Response(status=304)
    else:
        response = reply(page) if as_json else Response(render_template(template, **page))
    response.vary.add("Accept")
    response.set_etag(tag)
    return response


def wants_json() -> bool:
    """Whether the caller asks for JSON: `?format=json`, or an Accept header that prefers it."""
    if "format" in request.args:
        return request.args["format"] == "json"
    return request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"


def minute() -> int:
    """The current minute since the epoch: a page that says how long ago something was is kept no longer."""
    return int(time.time() // _MINUTE_S)
