"""A server on this machine that stands for the publisher of weights."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from segloop.network.weights import published


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class Publisher:
    """A folder, and the address under which its files are served."""

    folder: Path
    url: str

    def publish(self, content: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
        """Publish a file as the weights `coco`; its name."""
        name = f"deeplabv3_resnet50_coco-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        (self.folder / name).write_bytes(content)
        monkeypatch.setitem(published._COCO, "deeplabv3_resnet50", name)
        return name


@contextmanager
def publisher(folder: Path) -> Iterator[Publisher]:
    """Serve a folder as long as the block runs."""
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Publisher(folder, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
