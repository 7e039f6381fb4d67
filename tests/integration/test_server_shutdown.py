"""The server stops: requests under way are answered, and no client, application or lock keeps it."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.otlp import Collector
from tests.servers import APP, ROOT, SERVER, running, serving, started
from tests.waiting import PATIENCE_S, until

SLOW_TO_LOAD = """
import time
from pathlib import Path

Path(__file__).with_name("loading").touch()
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "to_all"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_what_was_begun_is_answered_when_the_server_stops(tmp_path: Path, signum: int, to_all: bool) -> None:
    with serving(tmp_path, APP) as server, ThreadPoolExecutor() as pool:
        slow = [pool.submit(httpx.get, f"{server.url}/slow", timeout=PATIENCE_S, trust_env=False) for _ in range(4)]
        sending = server.connect(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf")
        reading = server.connect(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
        begun = reading.recv(1000)
        until(lambda: len([*tmp_path.glob("begun-*")]) == len(slow), "all of them under way")
        assert server.answers()

        server.send(signum, to_all=to_all)
        until(lambda: not server.answers(), "no new connections")
        sending.sendall(b"half")
        (tmp_path / "go on").touch()

        assert {future.result().status_code for future in slow} == {200}
        assert received(sending).endswith(b"\r\n\r\nhalfhalf")
        assert len(begun + received(reading)) > 8 * 2**20
        assert server.process.wait(PATIENCE_S) == 0
        assert (tmp_path / "ended").exists(), "the application was told"
        assert "Unexpected" not in server.log


def received(connection: Any) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    while part := connection.recv(2**20):
        parts.append(part)
    connection.close()
    return b"".join(parts)


@pytest.mark.slow
def test_a_client_that_never_pauses_does_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    asked = threading.Event()

    def hammer(port: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as client:
            try:
                while True:
                    client.request("POST", "/", b"again")
                    assert client.getresponse().read() == b"again"
                    asked.set()
            except (OSError, http.client.HTTPException):
                pass

    with serving(tmp_path, APP) as server:
        busy = threading.Thread(target=hammer, args=(server.port,))
        busy.start()
        assert asked.wait(PATIENCE_S)
        server.send(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
        busy.join(PATIENCE_S)
        assert not busy.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "to_all"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_server_whose_application_is_loading_stops_at_once(tmp_path: Path, signum: int, to_all: bool) -> None:
    (tmp_path / "own_application.py").write_text(SLOW_TO_LOAD)
    # what does not stop is killed after so long, and this test is over before
    with started(tmp_path, (*SERVER, "own_application:app"), predict_deadline_s=10 * PATIENCE_S) as server:
        until((tmp_path / "loading").exists)
        server.send(signum, to_all=to_all)
        assert server.process.wait(PATIENCE_S) == 0


@pytest.mark.slow
def test_a_process_that_is_asked_to_stop_again_and_again_stops(tmp_path: Path) -> None:
    with serving(tmp_path, APP, predict_deadline_s=10 * PATIENCE_S) as server, ThreadPoolExecutor() as pool:
        [worker] = server.children()
        slow = pool.submit(httpx.get, f"{server.url}/slow", timeout=PATIENCE_S, trust_env=False)
        until(lambda: [*tmp_path.glob("begun-*")], "a request under way")
        for _ in range(5):
            os.kill(worker, signal.SIGTERM)
            time.sleep(0.05)  # several that come at once are one
        (tmp_path / "go on").touch()
        assert slow.result().status_code == 200
        until(lambda: worker not in server.children(), "its end")


#: In a process of its own: a signal that meets another handler than its own would end whoever runs the tests.
SIGNALLED_UNDER_ITS_LOCK = """
import signal, threading
from segloop.server import answer_signals_in_threads

lock, told = threading.Lock(), threading.Event()

def answer(*_):
    with lock:
        told.set()

signal.signal(signal.SIGTERM, answer)
answer_signals_in_threads()
with lock:  # as the main thread does when it begins to wait; in this thread the answer would wait for ever
    signal.raise_signal(signal.SIGTERM)
    assert not told.is_set()
told.wait()
"""


def test_a_signal_is_answered_that_comes_while_its_lock_is_held() -> None:
    subprocess.run([sys.executable, "-c", SIGNALLED_UNDER_ITS_LOCK], check=True, timeout=PATIENCE_S, cwd=ROOT)


@pytest.mark.slow
def test_a_held_body_delays_a_stop_no_longer_than_the_longest_prediction(tmp_path: Path) -> None:
    with serving(tmp_path, APP, predict_deadline_s=0.1) as server:
        held = server.connect(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf")
        assert server.answers()
        server.send(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
        held.close()


@pytest.mark.slow
def test_spans_of_the_last_requests_are_sent_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with running(tmp_path) as server:
        server.send(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
    assert collector.named("GET /health")
    collector.close()
