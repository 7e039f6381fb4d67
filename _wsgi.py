"""Composition root for gunicorn: settings, backend, application."""

from __future__ import annotations

import atexit

from segloop.backend import Backend
from segloop.logs import configure_logging
from segloop.settings import load_settings, share_cores
from segloop.web import create_app

share_cores()
settings = load_settings()
configure_logging(settings.log_level)
backend = Backend.from_settings(settings)
atexit.register(backend.close)
app = create_app(backend, settings)
