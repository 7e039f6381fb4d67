"""The web server: granian with segloop's settings. `python -m segloop.server` runs it.

granian reads and writes connections in threads of its own, so a slow client holds no thread of Python's until its
request's head is complete and the application asks for the body. docs/adr/0013-web-server.md has what was measured.
"""

from __future__ import annotations

import importlib
import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from segloop.errors import SettingsError
from segloop.processes import die_with_parent
from segloop.settings import Settings, environment, forget_metrics, load_settings, share_metrics, update_environ
from segloop.telemetry.logs import configure_logging

logger = logging.getLogger("segloop.server")

APPLICATION = "_wsgi:app"

#: Where `_wsgi` is.
_ROOT = Path(__file__).resolve().parent.parent

#: granian's logger, as its documentation names it; it writes by segloop's own handler.
_LOGGER = "_granian"
#: Connections that one process takes at once. The others wait: a process may often open 1,024 files.
CONNECTIONS = 900
#: What a process that stops has more than the longest prediction, in seconds.
STOP_MARGIN_S = 20


def serve(settings: Settings, application: str = APPLICATION) -> None:
    """Be the server until SIGINT or SIGTERM, after which requests under way are answered. Call it in the main thread.

    `application` is a module and the name of a WSGI application in it, which the server's processes import.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    # `segloop up` takes the address from here, and does without a server of its own
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels

    configure_logging(settings.log_level, settings.log_format, settings.secrets)
    if not settings.has_password:
        logger.warning("No password is set (BASIC_AUTH_PASS), so segloop listens on the loopback interface only.")
    address, port = listening_address(settings)
    update_environ(environment(settings.model_copy(update={"port": port})))
    logging.getLogger(_LOGGER).addFilter(_is_fitting)
    # A forked process holds its parent's locks on files, which say that it still runs.
    multiprocessing.set_start_method("fork", force=True)
    server = Granian(
        application,
        address=address,
        port=port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=settings.workers,
        blocking_threads=settings.threads,
        backpressure=CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=math.ceil(settings.predict_deadline_s) + STOP_MARGIN_S,
        log_level=LogLevels(settings.log_level.lower()),
        log_dictconfig={"loggers": {_LOGGER: {"propagate": True}}},
    )
    # the address is this server's once it starts, so the folder of its metrics is too
    server.on_startup(partial(share_metrics, f"{socket.gethostname()}-{port}"))
    server.on_startup(answer_signals_in_threads)
    server.on_shutdown(forget_metrics)
    server.serve(target_loader=partial(_load, os.getpid()))


def listening_address(settings: Settings) -> tuple[str, int]:
    """The address and the port to listen on: the port that is set, or any free one for 0.

    Raises:
        SettingsError: the host has no address here, or the port is taken.
    """
    host = settings.bind_host
    try:
        family, _, _, _, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            found = probe.getsockname()
    except OSError as error:
        raise SettingsError(
            f"segloop cannot listen on {host}:{settings.port} ({error.strerror}): "
            "stop what uses that port, or set PORT to another one."
        ) from error
    return str(found[0]), int(found[1])


def answer_signals_in_threads() -> None:
    """Have what answers SIGINT and SIGTERM run in a thread of its own. Call it in the main thread.

    granian's answer sets a `threading.Event` that the main thread waits for. In the main thread, at the moment at which
    it begins to wait, that would wait for a lock that the main thread itself holds, and nothing would end the process.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        answer = signal.getsignal(signum)
        if callable(answer):
            signal.signal(signum, partial(_in_thread, answer))


def _in_thread(answer: Callable[[int, FrameType | None], object], signum: int, frame: FrameType | None) -> None:
    threading.Thread(target=answer, args=(signum, frame), name="signal", daemon=True).start()


def _load(parent_pid: int, application: str) -> Any:
    """The application, in the process that will serve it; it hears of callers and https from a proxy on this machine."""
    from granian.utils.proxies import wrap_wsgi_with_proxy_headers

    # A terminal sends Ctrl-C to every process; the first one tells the others.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    # granian's own handler comes after this, and that of the first process, which is inherited, stops nothing here.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_stop_at_first_signal, name="signal", daemon=True).start()
    die_with_parent(signal.SIGTERM, parent_pid)
    sys.path.insert(0, str(_ROOT))
    module, _, name = application.partition(":")
    return wrap_wsgi_with_proxy_headers(getattr(importlib.import_module(module), name), ["127.0.0.1", "::1"])


def _stop_at_first_signal() -> None:
    """Wait for SIGTERM, which every thread blocks, and have granian stop; before granian can, end the process.

    granian's answer may run once only: the third would wait, with the interpreter's lock, for what needs that lock. A
    parent that dies gives the signal once for each of its threads (prctl(2)), and who stops a service may send more.
    """
    signal.sigwait({signal.SIGTERM})
    answer = signal.getsignal(signal.SIGTERM)
    if callable(answer):
        answer(signal.SIGTERM, None)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def _is_fitting(record: logging.LogRecord) -> bool:
    """Whether a line of granian's is to be logged: not its advice to have about as many threads as cores.

    Most of segloop's threads wait: for a body, an image, the network.
    """
    return "Python threads" not in record.getMessage()


def main(arguments: list[str]) -> None:
    """Be the server of `arguments[0]`, or of segloop."""
    try:
        serve(load_settings(), *arguments[:1])
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
