"""A thread of the server waits a moment for a connection's next request, at nobody's cost: on real gunicorn."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from demo.stack import free_port
from segloop.web.lingering import LingeringWorker

APP = """
import threading
def app(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
WAIT_S = 30


@contextmanager
def server(folder: Path, threads: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    (folder / "echo.py").write_text(APP)
    port = free_port()
    options = ["-k", "segloop.web.lingering.LingeringWorker", "--threads", str(threads), "--keep-alive", "30"]
    bound = ["--bind", f"127.0.0.1:{port}", "--no-control-socket", "--pythonpath", str(folder)]
    with subprocess.Popen([sys.executable, "-m", "gunicorn", *options, *bound, "echo:app"]) as process:
        try:
            await_listening(port)
            yield port, process
        finally:
            process.terminate()
            process.wait(WAIT_S)


def await_listening(port: int) -> None:
    for _ in range(int(WAIT_S / 0.1)):
        with closing(socket.socket()) as one:
            one.settimeout(0.1)
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.1)
    pytest.fail("gunicorn did not start")


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)


def echo(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    connection.request("POST", "/", body)
    return connection.getresponse().read()


def test_requests_that_follow_at_once_and_ones_that_take_their_time_are_answered(tmp_path):
    with server(tmp_path, threads=4) as (port, _), closing(connect(port)) as client:
        for number in range(60):
            assert echo(client, b"%d" % number) == b"%d" % number
            if number % 20 == 0:
                threading.Event().wait(0.05)


def test_requests_sent_before_an_answer_was_read_are_all_answered(tmp_path):
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n%03d"
    with server(tmp_path, threads=2) as (port, _), socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        client.sendall(b"".join(request % number for number in range(20)))
        received = b""
        while b"\r\n\r\n019" not in received:
            received += client.recv(65536)
    assert received.count(b"HTTP/1.1 200") == 20


def test_a_client_that_never_pauses_keeps_the_only_thread_from_nobody(tmp_path):
    ended = threading.Event()

    def hammer(port: int) -> None:
        with closing(connect(port)) as client:
            while not ended.is_set():
                echo(client, b"again")

    with server(tmp_path, threads=1) as (port, _):
        busy = threading.Thread(target=hammer, args=(port,))
        busy.start()
        try:
            with closing(connect(port)) as other:
                assert [echo(other, b"%d" % number) for number in range(10)] == [b"%d" % number for number in range(10)]
        finally:
            ended.set()
            busy.join()


def test_a_client_that_never_pauses_does_not_keep_the_server_from_stopping(tmp_path):
    asked = threading.Event()

    def hammer(port: int) -> None:
        with closing(connect(port)) as client:
            try:
                while True:
                    echo(client, b"again")
                    asked.set()
            except (OSError, http.client.HTTPException):
                pass

    with server(tmp_path, threads=2) as (port, process):
        busy = threading.Thread(target=hammer, args=(port,))
        busy.start()
        assert asked.wait(WAIT_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        busy.join(WAIT_S)
        assert not busy.is_alive()


@pytest.mark.parametrize(
    ("changes", "sent", "follows"),
    [
        ({}, b"GET", True),
        ({}, b"", False),
        ({"alive": False}, b"GET", False),
        ({"waiting": 1}, b"GET", False),
        ({"is_http2": True}, b"GET", False),
        ({"read_ahead": b"GET"}, b"GET", False),
    ],
)
def test_when_a_thread_stays_with_its_connection(changes, sent, follows):
    given = {"alive": True, "waiting": 0, "is_http2": False, "read_ahead": b"", **changes}
    queue = SimpleNamespace(qsize=lambda: given["waiting"])
    worker = SimpleNamespace(alive=given["alive"], tpool=SimpleNamespace(_work_queue=queue))
    unreader = SimpleNamespace(buf=SimpleNamespace(getvalue=lambda: given["read_ahead"]))
    client, sock = socket.socketpair()
    with closing(client), closing(sock):
        client.sendall(sent)
        conn = SimpleNamespace(sock=sock, is_http2=given["is_http2"], parser=SimpleNamespace(unreader=unreader))
        assert LingeringWorker._follows(worker, conn) is follows
