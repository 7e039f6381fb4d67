"""segloop's server as real processes, and connections of clients of every kind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from demo.programs import free_port
from demo.stack import clean_environment
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).resolve().parents[1]
SERVER = ("-m", "segloop.server")

#: An application whose answers take a while, and which notes its end.
APP = """
import time
import uuid
from pathlib import Path
from segloop.processes import at_end

FOLDER = Path(__file__).parent
at_end(lambda: (FOLDER / "ended").touch())

def app(environ, start_response):
    path, given = environ["PATH_INFO"], environ["wsgi.input"]
    if path == "/slow":
        (FOLDER / f"begun-{uuid.uuid4()}").touch()
        while not (FOLDER / "go on").exists():
            time.sleep(0.02)
    if path == "/nothing":
        start_response("204 No Content", [])
        return []
    if path == "/pieces":
        start_response("200 OK", [])
        return iter([b"one\\r\\n\\r\\n", b"two", b"", b"three"])
    if path == "/caller":
        start_response("200 OK", [])
        return [f"{environ['wsgi.url_scheme']} {environ['REMOTE_ADDR']}".encode()]
    if path == "/long":
        start_response("200 OK", [("Content-Length", str(8 * 2**20))])
        return [b"x" * (8 * 2**20)]
    body = given.read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Server:
    """A server on a loopback port: its first process, and what all of them wrote."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self.url = f"http://127.0.0.1:{port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def children(self) -> list[int]:
        """The processes that answer."""
        try:
            return [
                int(pid)
                for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ]
        except FileNotFoundError:
            return []

    def answers(self, timeout_s: float = 5) -> bool:
        """Whether `/health` is answered in time, on a connection of its own."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=timeout_s, trust_env=False).is_success
        return False

    def connect(self, *sent: bytes) -> socket.socket:
        """A connection over which something was sent."""
        made = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in sent:
            made.sendall(part)
        return made

    def send(self, signum: int, *, to_all: bool = False) -> None:
        """Send a signal to the first process, or to all, as a terminal does."""
        if to_all:
            os.killpg(self.process.pid, signum)
        else:
            self.process.send_signal(signum)


@contextmanager
def running(folder: Path, command: Sequence[str] = SERVER, **settings: object) -> Iterator[Server]:
    """A server that answers, with its data in a folder, which is on Python's path too; keyword arguments are settings."""
    with started(folder, command, **settings) as server:
        until(lambda: server.answers() or server.process.poll() is not None, "an answer")
        assert server.process.poll() is None, server.log
        yield server


@contextmanager
def serving(folder: Path, application: str, **settings: object) -> Iterator[Server]:
    """A server of an application that is given as text."""
    (folder / "own_application.py").write_text(application)
    with running(folder, (*SERVER, "own_application:app"), **settings) as server:
        yield server


@contextmanager
def started(folder: Path, command: Sequence[str] = SERVER, **settings: object) -> Iterator[Server]:
    """A server that may not answer yet."""
    port, log = free_port(), folder / "server.log"
    own = {"port": port, "host": "127.0.0.1", "data_dir": folder / "data", "weights": "none", **settings}
    environment = {
        **clean_environment(),
        **{f"SEGLOOP_{name.upper()}": str(value) for name, value in own.items()},
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        yield server
    finally:
        children = server.children()
        for pid in (process.pid, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
