"""gunicorn's configuration: `gunicorn -c python:segloop.web.gunicorn_conf _wsgi:app`."""

from __future__ import annotations

import sys
from typing import Any

from segloop.settings import load_settings
from segloop.web.auth import is_loopback

_settings = load_settings()

bind = f"{_settings.bind_host}:{_settings.port}"
worker_class = "segloop.web.lingering.LingeringWorker"
workers = _settings.workers
threads = _settings.threads
timeout = 120
graceful_timeout = 100
keepalive = 30
accesslog = None
control_socket_disable = True
loglevel = _settings.log_level.lower()


def on_starting(server: Any) -> None:
    """Without a password, refuse to listen anywhere but on loopback, whatever the command line says."""
    if _settings.has_password:
        return
    for address in server.cfg.address:
        if isinstance(address, tuple) and not is_loopback(address[0]):
            sys.exit(f"Refusing to listen on {address[0]} without a password: set BASIC_AUTH_PASS, or bind 127.0.0.1.")
    server.log.warning("No password is set (BASIC_AUTH_PASS), so segloop listens on the loopback interface only.")
