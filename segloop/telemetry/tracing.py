"""Traces with OpenTelemetry, by the standard variables OTEL_*; off unless these ask for it and the extra `otel` is there."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from segloop import __version__
from segloop.settings import prefer_stable_span_names, trace_exporter
from segloop.telemetry import notes
from segloop.telemetry.logs import as_logged

if TYPE_CHECKING:
    from flask import Flask
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)

#: How long the end of a job waits until its spans are sent, in milliseconds.
_FLUSH_MS = 5000

#: What the extra `otel` installs, each after the package that it is in.
_PACKAGES = (
    "opentelemetry",
    "opentelemetry.sdk",
    "opentelemetry.instrumentation",
    "opentelemetry.instrumentation.flask",
)

_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def start(service: str) -> bool:
    """Trace this process from now on, if the variables OTEL_* ask for it; whether it is traced.

    `service` is the service's name unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES give another. Call it after a
    fork, not before: what sends the spans is a thread.
    """
    global _provider, _tracer
    kind = trace_exporter()
    if not kind:
        return False
    if any(find_spec(name) is None for name in _PACKAGES):
        logger.warning("OTEL_* asks for traces, but OpenTelemetry is not installed: pip install 'segloop[otel]'.")
        return False
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

    own = Resource({"service.name": service, "service.version": __version__})
    # what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins
    _provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    if kind == "console":
        _provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("segloop", __version__)
    notes.make_spans(_span)
    return True


def is_on() -> bool:
    """Whether this process is traced."""
    return _tracer is not None


def stop() -> None:
    """Send what is left, and trace no more."""
    global _provider, _tracer
    notes.make_spans(None)
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None


def instrument(app: Flask) -> None:
    """Have each request of an application be a span, below that of the caller where it sends `traceparent`.

    It is OpenTelemetry's own instrumentation of Flask, by the stable conventions for HTTP. No query, no body.
    """
    from flask import request
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    def forget_the_query() -> None:
        for name in ("RAW_URI", "REQUEST_URI"):
            request.environ.pop(name, None)

    def describe(span: Span, environ: Mapping[str, Any]) -> None:
        span.set_attribute("url.path", environ["PATH_INFO"])
        span.set_attribute("segloop.request_id", notes.REQUEST_ID.get())

    prefer_stable_span_names()
    app.before_request(forget_the_query)
    FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
        app, request_hook=describe, tracer_provider=_provider, enable_commenter=False
    )


@contextmanager
def job_span(kind: str, job_id: str, project: str = "") -> Iterator[None]:
    """The span of a job, in the process that runs it alone; sent when it ends."""
    if not start("segloop-worker") or _tracer is None or _provider is None:
        yield
        return
    try:
        with _span(kind, {"segloop.job_id": job_id, "segloop.project": project}):
            yield
    finally:
        _provider.force_flush(_FLUSH_MS)
        stop()


@contextmanager
def _span(name: str, attributes: Mapping[str, str] | None = None) -> Iterator[None]:
    """A span below the current one. What it tells of an error is what the log would: no query, no secret."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except Exception as error:
            _record(span, error)
            raise


def _record(span: Span, error: Exception) -> None:
    from opentelemetry.trace import Status, StatusCode

    message, trace = as_logged(str(error)), as_logged("".join(traceback.format_exception(error)))
    span.record_exception(error, {"exception.message": message, "exception.stacktrace": trace})
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {message}"))
