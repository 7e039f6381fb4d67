"""gunicorn's configuration: `gunicorn -c python:segloop.web.gunicorn_conf _wsgi:app`."""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

from segloop.settings import load_settings, metrics_folder, share_metrics
from segloop.web.auth import is_loopback

_settings = load_settings()

bind = f"{_settings.bind_host}:{_settings.port}"
worker_class = "segloop.web.gunicorn_worker.Worker"
workers = _settings.workers
threads = _settings.threads
timeout = 120
graceful_timeout = 100
keepalive = 30
accesslog = None
control_socket_disable = True
loglevel = _settings.log_level.lower()
logger_class = "segloop.web.gunicorn_log.Logger"


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
    share_metrics(_settings.data_dir.absolute() / "metrics" / "-".join((socket.gethostname(), *ports)))


def child_exit(server: Any, worker: Any) -> None:
    """Forget the gauges of a process that ended; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    if folder := metrics_folder():
        mark_process_dead(worker.pid, folder)  # type: ignore[no-untyped-call]


def post_worker_init(worker: Any) -> None:
    """Leave Ctrl-C to gunicorn's first process, which tells the others.

    A terminal sends it to all of them, and one that ends before the first process knows would be started again.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
