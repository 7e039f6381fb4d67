"""Servers on loopback whose answers a test sets, one of them in Label Studio's place, and a source of images that asks it."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from segloop.images import ImageSource
from segloop.settings import Settings

TOKEN = {"Authorization": "Token label-studio-secret"}


def png(colour: tuple[int, int, int] = (1, 2, 3)) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (3, 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        answer = self.server.answers.get(self.path.partition("?")[0])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if answer is None:
                self.reply(404)
            else:
                answer(self)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers by path, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    @property
    def credentials(self) -> list[str | None]:
        return [headers.get("authorization") for _, headers in self.requests]

    def handle_error(self, *_: Any) -> None:
        pass


def ok(body: bytes = PNG, **headers: str) -> Answer:
    return lambda handler: handler.reply(200, body, **headers)


def to(location: str, status: int = 302) -> Answer:
    return lambda handler: handler.reply(status, location=location)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def label_studio() -> Iterator[Server]:
    with serving() as server:
        yield server


class Key:
    def headers(self) -> dict[str, str]:
        return dict(TOKEN)


Make = Callable[..., ImageSource]


@pytest.fixture
def make(label_studio: Server, tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def build(**settings: Any) -> ImageSource:
            settings = {"label_studio_url": label_studio.url, "image_timeout_s": 5.0, **settings}
            source = ImageSource(Settings(_env_file=None, **settings), Key(), tmp_path / "cache")
            stack.callback(source.close)
            return source

        yield build
