"""Settings for gunicorn, by which `gunicorn -c python:segloop.web.gunicorn_conf _wsgi:app` serves segloop too.

segloop's own server is granian (segloop/server.py): here each connection that sends slowly holds a thread.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

from segloop.settings import is_loopback, load_settings, share_metrics
from segloop.telemetry.logs import formatter

_settings = load_settings()

bind = f"{_settings.bind_host}:{_settings.port}"
worker_class = "gthread"
workers = _settings.workers
threads = _settings.threads
timeout = 120
graceful_timeout = 100
keepalive = 30
control_socket_disable = True
loglevel = _settings.log_level.lower()
logconfig_dict = {
    "formatters": {"segloop": {"()": lambda: formatter(_settings.log_format, _settings.secrets)}},
    "handlers": {"segloop": {"class": "logging.StreamHandler", "formatter": "segloop"}},
    "root": {},
    "loggers": {
        name: {"handlers": ["segloop"], "propagate": False, "level": _settings.log_level}
        for name in ("gunicorn.error", "gunicorn.access")
    },
}


def on_starting(server: Any) -> None:
    """Without a password, refuse to listen anywhere but on loopback, whatever the command line says."""
    if _settings.has_password:
        return
    for address in server.cfg.address:
        if isinstance(address, tuple) and not is_loopback(address[0]):
            sys.exit(f"Refusing to listen on {address[0]} without a password: set BASIC_AUTH_PASS, or bind 127.0.0.1.")
    server.log.warning("No password is set (BASIC_AUTH_PASS), so segloop listens on the loopback interface only.")


def when_ready(server: Any) -> None:
    """The address is this server's, so the folder of its metrics is too; its processes are started after this."""
    ports = [str(address[1]) for address in server.cfg.address if isinstance(address, tuple)]
    share_metrics("-".join((socket.gethostname(), *ports)))


def post_worker_init(worker: Any) -> None:
    """Leave Ctrl-C to gunicorn's first process, which tells the others.

    A terminal sends it to all of them; one that gets it twice may wait for itself (gthread.handle_quit of 27.0.1).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
