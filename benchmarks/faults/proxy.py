"""A proxy before an S3 server that fails as it is told, on a free loopback port."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

#: What a request meets: nothing, an error of the server, a slow answer, a connection that is reset, no answer at all,
#: half an answer, or a change that is made and whose answer is lost.
Mode = Literal["well", "500", "503", "slow", "reset", "hanging", "cut", "lost answer"]

#: Seconds that an answer takes when the server is slow.
SLOW_S = 2.0
_HOPS = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on, and fails by its `mode`."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.mode: Mode = "well"
        self.requests = 0
        self.released = threading.Event()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def failing(self, mode: Mode) -> Iterator[None]:
        """Fail in this way for as long as the block takes."""
        self.released.clear()
        self.mode = mode
        try:
            yield
        finally:
            self.mode = "well"
            self.released.set()

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that break are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _answer(self) -> None:
        proxy = self.server
        proxy.requests += 1
        mode, body = proxy.mode, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if mode in ("500", "503"):
            return self._send(int(mode), {}, b"")
        if mode == "hanging":
            proxy.released.wait()
            return self._break()
        if mode == "reset":
            return self._break()
        if mode == "slow":
            time.sleep(SLOW_S)
        upstream = http.client.HTTPConnection(proxy.target, timeout=60)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOPS}
            length = answer.headers["Content-Length"]
        finally:
            upstream.close()
        if mode == "lost answer" and self.command in ("PUT", "POST", "DELETE"):
            return self._break()
        if self.command == "HEAD" and length is not None:
            headers["Content-Length"] = length
        return self._send(answer.status, headers, content, cut=mode == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815 - names of http.server

    def _send(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut and content:
            self._break()

    def _break(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in http.server
        """Nothing."""


@contextmanager
def running_proxy(target: str) -> Iterator[FaultyProxy]:
    """A proxy before the server at an address, for as long as the block takes."""
    proxy = FaultyProxy(target)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.released.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()
