"""Real servers, and clients that cost next to nothing themselves."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import segloop
from demo.programs import free_port
from demo.stack import clean_environment
from segloop.processes import terminate

ROOT = Path(segloop.__file__).resolve().parent.parent
#: What `segloop serve` becomes.
SEGLOOP = ("-m", "segloop.server", "_wsgi:app")
START_S, STOP_S, ANSWER_S = 90.0, 20.0, 100.0


class Server:
    """A server on a loopback port: a child process that ends with this one, and its log.

    `command` is what Python is called with; {port} in it is the port, which is SEGLOOP_PORT besides.
    """

    def __init__(self, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.log = folder / f"server-{self.port}.log"
        paths = os.pathsep.join(filter(None, (environment.get("PYTHONPATH"), str(ROOT))))
        self.environment = {
            **clean_environment(),
            **environment,
            "PYTHONPATH": paths,
            "SEGLOOP_PORT": str(self.port),
        }
        tie = [sys.executable, "-m", "segloop.processes", "SIGTERM", str(self.log.with_suffix(".lock")), sys.executable]
        self._command = [*tie, *(part.replace("{port}", str(self.port)) for part in command)]
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0

    def __enter__(self) -> Server:
        began = time.perf_counter()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self.environment, cwd=self.log.parent, stdout=log, stderr=log
            )
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() - began > START_S:
                self.__exit__()
                raise SystemExit(f"{self._command} did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)
        self.started_s = time.perf_counter() - began
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            terminate(process, STOP_S)

    @property
    def worker_pid(self) -> int:
        """The process that answers: the first one's only child."""
        assert self._process is not None
        master = self._process.pid
        return int(Path(f"/proc/{master}/task/{master}/children").read_text("ascii").split()[0])

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, RuntimeError):
            Connection(self.port).send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return True
        return False


def segloop_server(folder: Path, command: Sequence[str] = SEGLOOP, **settings: object) -> Server:
    """segloop alone, without a worker, with its data in `folder`/data; keyword arguments are settings."""
    own = {"data_dir": folder / "data", "host": "127.0.0.1", "weights": "none", "log_level": "WARNING", **settings}
    return Server(folder, command, {f"SEGLOOP_{name.upper()}": str(value) for name, value in own.items()})


class Connection:
    """A keep-alive connection, for requests that are made beforehand."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self._length: int | None = None  # of the body, once the head is here

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """What a selector waits for."""
        return self._socket.fileno()

    def send(self, request: bytes) -> bytes:
        """The body that a request is answered with.

        Raises:
            RuntimeError: the status is not 200.
        """
        self.ask(request)
        while (body := self.receive()) is None:
            pass
        return body

    def ask(self, request: bytes) -> None:
        """Send a request, whose answer `receive` will give."""
        self._received, self._length = bytearray(), None
        self._socket.sendall(request)

    def receive(self) -> bytes | None:
        """Wait for some of the answer; its body, once all of it is here.

        Raises:
            RuntimeError: the status is not 200.
        """
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._received += data
        if self._length is None:
            head, end, body = self._received.partition(b"\r\n\r\n")
            if not end:
                return None
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(self._received[: len(head) + 500].decode(errors="replace"))
            self._length = int(head.lower().partition(b"content-length:")[2].split(maxsplit=1)[0])
            self._received = body
        return bytes(self._received) if len(self._received) >= self._length else None


def post(route: str, body: Any) -> bytes:
    """A request with a JSON body."""
    data = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


@dataclass(frozen=True)
class Load:
    """What clients saw: each answer's time in milliseconds, and answers a second."""

    times_ms: tuple[float, ...]
    per_s: float

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.times_ms, percent))


def load(port: int, requests: Sequence[bytes], seconds: float) -> Load:
    """One client for each request, which it sends again and again, for about so many seconds.

    All clients are one thread, which costs a fraction of what a thread each would: the server has the other core.
    """
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        times_ms = []
        began = time.perf_counter()
        asked_at: dict[Connection, float] = {}
        asks = {stack.enter_context(Connection(port)): request for request in requests}
        for connection, request in asks.items():
            selector.register(connection, selectors.EVENT_READ, connection)
            asked_at[connection] = time.perf_counter()
            connection.ask(request)
        while asked_at:
            ready = selector.select(ANSWER_S)
            if not ready:
                raise TimeoutError(f"no answer for {ANSWER_S:.0f} s")
            for key, _ in ready:
                connection = key.data
                if connection.receive() is None:
                    continue
                now = time.perf_counter()
                times_ms.append((now - asked_at.pop(connection)) * 1000)
                if now < began + seconds:
                    asked_at[connection] = now
                    connection.ask(asks[connection])
    return Load(tuple(times_ms), len(times_ms) / (time.perf_counter() - began))


def paired_load(
    ours: tuple[int, Sequence[bytes]], theirs: tuple[int, Sequence[bytes]], seconds: float, rounds: int = 3
) -> tuple[Load, Load]:
    """Two servers (port and one request a client) loaded in turns; all times, and the median of the rounds' rates."""
    loads: tuple[list[Load], list[Load]] = ([], [])
    for _ in range(rounds):
        for (port, requests), found in zip((ours, theirs), loads, strict=True):
            found.append(load(port, requests, seconds))
    mine, other = (
        Load(tuple(ms for one in found for ms in one.times_ms), statistics.median(one.per_s for one in found))
        for found in loads
    )
    return mine, other
