"""A small HTTP server that answers as Label Studio does, and a client of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from segloop.labelstudio import Credentials, LabelStudio

Answer = Callable[["Request"], tuple[int, Any]]


class Request:
    """What the fake was asked."""

    def __init__(self, method: str, path: str, authorization: str | None, body: Any) -> None:
        parts = urlsplit(path)
        self.method = method
        self.path = parts.path
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.authorization = authorization
        self.body = body


class FakeLabelStudio:
    """Answers `"METHOD /path"` with what a test puts into `routes`, and keeps every request."""

    def __init__(self) -> None:
        self.routes: dict[str, Answer | tuple[int, Any]] = {}
        self.requests: list[Request] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                request = Request(self.command, self.path, self.headers.get("Authorization"), body)
                fake.requests.append(request)
                answer = fake.routes.get(f"{request.method} {request.path}", (404, {"detail": "Not found."}))
                status, reply = answer(request) if callable(answer) else answer
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - names that http.server calls

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def asked(self, method: str, path: str) -> list[Request]:
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def fake() -> Iterator[FakeLabelStudio]:
    server = FakeLabelStudio()
    yield server
    server.close()


@pytest.fixture
def studio(fake: FakeLabelStudio) -> Iterator[LabelStudio]:
    label_studio = LabelStudio(fake.url, Credentials(fake.url, SecretStr("0123456789abcdef")))
    yield label_studio
    label_studio.close()
