"""Composition root of the web server: settings, backend, application."""

from __future__ import annotations

import logging

from segloop.backend import Backend
from segloop.processes import at_end
from segloop.settings import load_settings, misspelt_settings, share_cores
from segloop.telemetry import tracing
from segloop.telemetry.logs import configure_logging
from segloop.web import create_app
from segloop.web.exporter import start_exporting
from segloop.web.metrics import process_gauges

share_cores()
settings = load_settings()
configure_logging(settings.log_level, settings.log_format, settings.secrets)
for sentence in misspelt_settings():
    logging.getLogger("segloop").warning("%s", sentence)
tracing.start("segloop")
backend = Backend.from_settings(settings)
at_end(backend.close, tracing.stop)
app = create_app(backend, settings)
start_exporting(lambda: process_gauges(backend))
