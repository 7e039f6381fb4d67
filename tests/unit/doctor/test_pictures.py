"""Checks of images in S3, against a bucket that one site may read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from segloop.doctor.pictures import s3_cors
from segloop.labelstudio.entries import StorageEntry, TaskEntry
from segloop.settings import Settings
from tests.toys import BRUSH

PUBLIC = "https://labels.example.org"


@pytest.fixture
def bucket() -> Iterator[str]:
    """The address of an image that pages of PUBLIC alone may read, as S3 answers by the rules of a bucket."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if self.headers["Origin"] == PUBLIC:
                self.send_header("Access-Control-Allow-Origin", PUBLIC)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/a.png"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "public_url", "status"),
    [
        ("http://label-studio.internal:8080", f"{PUBLIC}/studio", "ok"),
        (PUBLIC, "", "ok"),
        (PUBLIC, "http://localhost:8080", "failure"),
    ],
)
def test_a_bucket_is_read_by_pages_as_people_reach_them(bucket: str, url: str, public_url: str, status: str) -> None:
    api = SimpleNamespace(url=url, tasks=SimpleNamespace(resolve=lambda task, uri: bucket))
    storages = [StorageEntry(bucket="streets", presign=True)]
    task = TaskEntry(id=1, data={"image": "s3://streets/a.png"})
    settings = Settings(label_studio_url=url, label_studio_public_url=public_url)
    found = s3_cors(settings, api, storages, BRUSH, task)  # type: ignore[arg-type]
    assert found.status == status
    assert (public_url or url).removesuffix("/studio") in found.text
