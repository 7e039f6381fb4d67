"""JSON responses."""

from __future__ import annotations

import orjson
from flask import Response


def reply(body: object, status: int = 200) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(body), status=status, content_type="application/json")
