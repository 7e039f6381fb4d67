"""The routes that operators ask: `/metrics`, `/ready` and `/openapi.json`."""

from __future__ import annotations

from flask import Blueprint, Response, request

from segloop.backend import Backend
from segloop.errors import BadRequest
from segloop.settings import Settings
from segloop.web.json_response import reply
from segloop.web.metrics import Metrics
from segloop.web.openapi import description
from segloop.web.readiness import READY, Readiness


def operations(backend: Backend, settings: Settings) -> Blueprint:
    """`/metrics`, in Prometheus's text format or OpenMetrics; `/ready`: 200, or 503 and what is not ready."""
    routes = Blueprint("operations", __name__)
    readiness = Readiness(backend)
    numbers = Metrics(backend, settings, readiness)

    @routes.get("/metrics")
    def metrics() -> Response:
        body, content_type = numbers.text(request.headers.get("Accept", ""))
        return Response(body, content_type=content_type)

    @routes.get("/ready")
    def ready() -> Response:
        asked = request.args.getlist("part")
        if unknown := set(asked) - set(readiness.parts):
            raise BadRequest(f"part is {min(unknown)!r}; the parts are {', '.join(readiness.parts)}.")
        state = readiness.state(asked)
        is_ready = all(text == READY for text in state.values())
        response = reply({"ready": is_ready, "parts": state}, 200 if is_ready else 503)
        response.headers["Cache-Control"] = "no-store"
        return response

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return reply(description())

    return routes
