"""The application factory: routes, authentication, and errors as JSON."""

from __future__ import annotations

import logging
from functools import partial

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from segloop.backend import Backend
from segloop.errors import Busy, SegloopError
from segloop.settings import Settings
from segloop.telemetry import tracing
from segloop.web.auth import guard
from segloop.web.health_routes import operations
from segloop.web.refusals import RefusalLog, close_after_refusal, put_into_address, refusal
from segloop.web.request_log import Observed
from segloop.web.routes import protocol
from segloop.web.ui import ui

logger = logging.getLogger(__name__)

#: Largest request body, in bytes: a selection of thousands of tasks with their predictions stays below it.
MAX_BODY_BYTES = 256 * 2**20

#: When to ask again while something that segloop needs is away, in seconds.
RETRY_AFTER_S = 5


def create_app(backend: Backend, settings: Settings) -> Flask:
    """The Flask application over a backend."""
    app = Flask("segloop", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    if tracing.is_on():
        tracing.instrument(app)
    app.before_request(guard(settings))
    app.after_request(put_into_address)
    app.after_request(close_after_refusal)
    app.register_blueprint(protocol(backend))
    app.register_blueprint(operations(backend, settings))
    app.register_blueprint(ui(backend, settings))
    log = RefusalLog()
    app.register_error_handler(SegloopError, partial(_known_error, log))
    app.register_error_handler(HTTPException, partial(_http_error, log))
    app.register_error_handler(Exception, _unknown_error)
    plain = [rule.rule for rule in app.url_map.iter_rules() if not rule.arguments]
    folders = {"/" + rule.rule[1:].partition("/")[0] for rule in app.url_map.iter_rules() if rule.arguments}
    app.wsgi_app = Observed(app.wsgi_app, plain, folders, access_log=settings.access_log)  # type: ignore[method-assign]
    return app


def _known_error(log: RefusalLog, error: SegloopError) -> Response:
    if isinstance(error, Busy):
        logger.warning("%s", error)
    elif error.http_status >= 500:
        logger.error("%s: %s", type(error).__name__, error)
    else:
        log.note(str(error), error.http_status)
    response = refusal(str(error), error.http_status)
    if error.http_status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="segloop"'
    if error.http_status == 503:
        response.headers["Retry-After"] = str(error.retry_after_s if isinstance(error, Busy) else RETRY_AFTER_S)
    return response


def _http_error(log: RefusalLog, error: HTTPException) -> Response:
    text, status = str(error.description), error.code or 500
    if error.description == type(error).description:  # werkzeug's own sentence, which names no kind of error
        text = f"{error.name}: {text}"
    log.note(text, status)
    response = refusal(text, status)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _unknown_error(error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error)
    return refusal("An unexpected error; the log of the backend has it.", 500)
