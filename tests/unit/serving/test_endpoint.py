"""The engine of a SageMaker endpoint against a real HTTP server that speaks InvokeEndpoint."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from segloop.errors import DeadlinePassed, EngineError, SettingsError
from segloop.serving.batching import Unbatched
from segloop.serving.endpoint import SageMakerEngine


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype.hasobject)
    return buffer.getvalue()


class Endpoint(ThreadingHTTPServer):
    """Answers with what `answers` has, in order, and then with the mean over channels, twice."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, bytes]] = []
        self.seen: list[tuple[str, str]] = []
        self.meeting: threading.Barrier | None = None


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers["X-Amzn-SageMaker-Custom-Attributes"]))
        if self.server.meeting is not None:
            self.server.meeting.wait(30)
        if self.server.answers:
            status, answer = self.server.answers.pop(0)
        else:
            batch = np.load(io.BytesIO(body), allow_pickle=False)
            status, answer = 200, npy(np.repeat(batch.mean(axis=1, keepdims=True), 2, axis=1))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def engine(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[SageMakerEngine]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{endpoint.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    engine = SageMakerEngine("street", "v3-0a1b2c3d", region="us-east-1", timeout_s=5, attempts=2)
    yield engine
    engine.close()


BATCH = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


def test_logits_come_back(endpoint: Endpoint, engine: SageMakerEngine) -> None:
    logits = engine.logits(BATCH)
    assert (logits.shape, logits.dtype) == ((2, 2, 4, 5), np.float32)
    np.testing.assert_array_equal(logits[:, 1], BATCH.mean(axis=1))
    assert endpoint.seen == [("/endpoints/street/invocations", "version=v3-0a1b2c3d")]


@pytest.mark.slow
def test_a_passing_error_is_tried_again(endpoint: Endpoint, engine: SageMakerEngine) -> None:
    endpoint.answers.append((503, b"busy"))
    assert engine.logits(BATCH).shape == (2, 2, 4, 5)


def test_tries_are_bounded(endpoint: Endpoint, engine: SageMakerEngine) -> None:
    endpoint.answers += [(503, b"busy")] * 5
    with pytest.raises(EngineError, match="the SageMaker endpoint street does not answer"):
        engine.logits(BATCH)
    assert len(endpoint.seen) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"hello", "no .npy"),
        (npy(np.array([{}], dtype=object)), "no .npy"),
        (npy(np.zeros((1, 2, 4, 5), np.float32)), r"\(1, 2, 4, 5\), not \(2, C"),
        (npy(np.zeros((2, 0, 4, 5), np.float32)), r"\(2, 0, 4, 5\)"),
        (npy(np.zeros((2, 2, 4, 5), np.int64)), "int64, not float32"),
    ],
)
def test_what_are_no_logits_is_refused(
    endpoint: Endpoint, engine: SageMakerEngine, answer: bytes, expected: str
) -> None:
    endpoint.answers.append((200, answer))
    with pytest.raises(EngineError, match=expected):
        engine.logits(BATCH)


def test_callers_ask_side_by_side(endpoint: Endpoint, engine: SageMakerEngine) -> None:
    """Two calls are under way at once: each is answered only when the other has arrived."""
    endpoint.meeting = threading.Barrier(2)
    batcher = Unbatched(engine)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda image: batcher.logits([image])[0], BATCH))
    np.testing.assert_array_equal(answers[1][0], BATCH[1].mean(axis=0))


@pytest.mark.slow
def test_nothing_is_asked_after_the_deadline(endpoint: Endpoint, engine: SageMakerEngine) -> None:
    with pytest.raises(DeadlinePassed):
        Unbatched(engine).logits(list(BATCH), time.monotonic() - 1)
    assert endpoint.seen == []


def test_a_region_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(SettingsError, match="SEGLOOP_SAGEMAKER_REGION"):
        SageMakerEngine("street", "v1")
